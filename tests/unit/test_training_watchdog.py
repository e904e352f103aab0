"""Each way a training run can die, told to the watchdog as figures."""

import math

import pytest

from training.common.watchdog import StepReport, Watchdog


def feed(watchdog, n_steps, first=0, **figures):
    for step in range(first, first + n_steps):
        finding = watchdog.check(StepReport(step, **{"loss": 2.0, "grad_norm": 1.0, **figures}))
        if finding is not None:
            return finding
    return None


def test_a_healthy_run_is_left_alone():
    assert feed(Watchdog(patience=5, warmup=10), 500, blank_ratio=0.7) is None


@pytest.mark.parametrize("figures", [{"loss": math.nan}, {"loss": math.inf}, {"grad_norm": math.nan}])
def test_overflow_goes_back_to_the_last_good_checkpoint(figures):
    finding = feed(Watchdog(), 1, **figures)
    assert finding.action == "rollback"
    assert "learning rate" in finding.message


def test_the_fourth_rollback_stops_the_run():
    watchdog = Watchdog(max_rollbacks=3)
    actions = [feed(watchdog, 1, loss=math.nan).action for _ in range(4)]
    assert actions == ["rollback"] * 3 + ["stop"]


def test_a_loss_of_zero_is_no_success():
    finding = feed(Watchdog(patience=5), 20, loss=0.0, n_infinite=0)
    assert finding.action == "stop"
    assert "more text than frames" in finding.message


def test_vanishing_gradients_stop_the_run():
    finding = feed(Watchdog(patience=5), 20, grad_norm=1e-9)
    assert finding.action == "stop"
    assert "nothing is learned" in finding.message


def test_the_blank_only_plateau_is_normal_during_warm_up_and_called_out_behind_it():
    watchdog = Watchdog(patience=5, warmup=50)
    assert feed(watchdog, 50, blank_ratio=1.0) is None
    finding = feed(watchdog, 10, first=50, blank_ratio=1.0)
    assert finding.action == "stop"
    assert "blank" in finding.message


def test_one_bad_batch_is_no_explosion_but_a_row_of_them_is():
    watchdog = Watchdog(patience=30, warmup=10)
    assert feed(watchdog, 40) is None
    assert feed(watchdog, 1, first=40, loss=90.0) is None
    assert feed(watchdog, 5, first=41) is None
    assert feed(watchdog, 5, first=46, loss=90.0).action == "rollback"


def test_waiting_for_data_is_a_warning():
    assert feed(Watchdog(patience=5), 10, wait_share=0.3).action == "warn"


def test_lost_throughput_is_a_warning_and_one_slow_step_is_not():
    watchdog = Watchdog(patience=5)
    assert feed(watchdog, 40, audio_per_s=100.0) is None
    assert feed(watchdog, 2, first=40, audio_per_s=10.0) is None
    assert feed(watchdog, 10, first=42, audio_per_s=80.0) is None
    finding = feed(watchdog, 10, first=52, audio_per_s=20.0)
    assert finding.action == "warn" and "20.0 s of audio" in finding.message


def test_infinite_losses_are_counted_aloud():
    assert "2 clips" in feed(Watchdog(), 1, n_infinite=2).message
