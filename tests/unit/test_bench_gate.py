"""The gate catches what is planted, by its size, and leaves the same code alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_fake import FakeTranslator, write_data

import engine
from benchmarks.cli import main
from benchmarks.errors import BaselineError
from benchmarks.gate import Limits, _speed_verdict, judge, load_result, verdict_of
from benchmarks.measures import stages
from benchmarks.measures.bootstrap import Interval
from benchmarks.measures.metrics import scorer_signature
from benchmarks.measures.reference import PARTS
from benchmarks.measures.speed import CLOCKS, Slowdown, noise_floor, pass_times


def result(
    errors: np.ndarray, times: np.ndarray, reference: float | np.ndarray = 0.001, **changes: Any
) -> dict[str, Any]:
    """A result file with word errors [n] of 10 words each, and times [n_passes, n] in seconds."""
    reference = np.broadcast_to(reference, times.shape)
    rows = [
        {
            "id": f"u{i}",
            "word_errors": [int(errors[i]), 0, 0, 10],
            **{f"{clock}_s": times[:, i].tolist() for clock in CLOCKS},
            **{f"reference_{clock}_s": dict.fromkeys(PARTS, reference[:, i].tolist()) for clock in CLOCKS},
        }
        for i in range(len(errors))
    ]
    base = {
        "schema_version": 1, "signature": "x", "task": "transcribe", "data": {"digest": "d"}, "failures": [],
        "settings": {"threads": 1}, "environment": {"cpu": "one"}, "utterances": rows,
    }  # fmt: skip
    return {**base, **changes}


def timed(random: np.random.Generator, n: int = 60, passes: int = 5, noise: float = 0.03) -> np.ndarray:
    lengths = np.random.default_rng(7).uniform(0.1, 0.6, n)
    drift = np.exp(random.normal(0, noise / 4, (passes, 1)))
    return lengths * drift * np.exp(random.normal(0, noise, (passes, n)))


def verdicts(now: dict[str, Any], then: dict[str, Any], **limits: float) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in judge(now, then, Limits(**limits))}


def test_many_decisions_on_simulated_noise() -> None:
    random = np.random.default_rng(0)
    errors = random.binomial(10, 0.15, 60)
    false_alarms = caught = 0
    for _ in range(80):
        base = result(errors, timed(random))
        false_alarms += verdict_of(judge(result(errors, timed(random)), base)) == "regression"
        caught += verdict_of(judge(result(errors, 1.10 * timed(random)), base)) == "regression"
    assert false_alarms <= 1
    assert caught >= 78


def test_a_point_of_wer_is_caught_and_scattered_changes_are_not() -> None:
    random = np.random.default_rng(4)
    base_errors = random.binomial(10, 0.1, 172)
    times = timed(random, 172)
    base = result(base_errors, times)
    worse = base_errors.copy()
    worse[random.choice(172, 18, replace=False)] += 1  # 18 of 1,720 words
    assert verdicts(result(worse, times), base)["WER"] == "regression"
    scattered = base_errors + random.permutation(np.repeat([1, -1, 0], [20, 20, 132]))
    assert verdicts(result(np.maximum(scattered, 0), times), base)["WER"] == "pass"
    assert verdicts(result(worse, times), base, max_wer_increase=0.02)["WER"] == "pass"


def test_texts_normalised_in_another_way_are_not_compared() -> None:
    random = np.random.default_rng(6)
    errors, times = random.binomial(10, 0.1, 30), timed(random, 30)
    base = result(errors, times, signature="model:x|norm:lower+num2words+letters|jiwer:4.0.0")
    now = result(errors, times, signature=f"model:x|{scorer_signature()}")
    with pytest.raises(BaselineError, match=r"text normaliser de-spoken/\d+, baseline lower\+num2words"):
        judge(now, base)
    assert verdicts(now, now)["WER"] == "pass"


def test_a_bleu_loss_is_caught() -> None:
    random = np.random.default_rng(5)
    times, errors = timed(random, 40), np.zeros(40, dtype=int)
    base, now = result(errors, times), result(errors, times)
    for row, other in zip(base["utterances"], now["utterances"], strict=True):
        row["bleu_counts"] = [8, 6, 4, 3, 10, 9, 8, 7, 10, 10]
        other["bleu_counts"] = [7, 5, 3, 2, 10, 9, 8, 7, 10, 10]
    assert verdicts(now, base)["BLEU"] == "regression"
    assert verdicts(base, base)["BLEU"] == "pass"


def test_a_machine_twice_as_slow_is_no_regression() -> None:
    random = np.random.default_rng(6)
    errors = np.zeros(60, dtype=int)
    base = result(errors, timed(random))
    assert verdict_of(judge(result(errors, 2 * timed(random), reference=0.002), base)) == "pass"
    assert verdict_of(judge(result(errors, 2.2 * timed(random), reference=0.002), base)) == "regression"


def test_a_reference_whose_parts_disagree_decides_nothing() -> None:
    random = np.random.default_rng(6)
    errors = np.zeros(60, dtype=int)
    base, now = result(errors, timed(random)), result(errors, 1.1 * timed(random))
    for row in now["utterances"]:
        for clock in CLOCKS:
            slow = dict.fromkeys(("stream", "sort"), [0.0013] * 5)
            row[f"reference_{clock}_s"] = {**row[f"reference_{clock}_s"], **slow}
    assert verdict_of(judge(now, base)) == "undecided"
    assert verdict_of(judge(now, now)) == "pass"


def test_one_pass_has_no_noise_floor_and_decides_nothing() -> None:
    random = np.random.default_rng(6)
    errors = np.zeros(60, dtype=int)
    base = result(errors, timed(random, passes=1))
    assert verdict_of(judge(result(errors, 1.5 * timed(random, passes=1)), base)) == "undecided"


def test_another_processor_gets_more_room_and_is_named() -> None:
    random = np.random.default_rng(6)
    errors = np.zeros(60, dtype=int)
    base = result(errors, timed(random))
    other = result(errors, 1.2 * timed(random), environment={"cpu": "two"})
    findings = judge(other, base)
    assert verdict_of(findings) == "pass"
    assert "(other processor)" in findings[-1].allowed
    assert verdict_of(judge(other, base, Limits(machine_tolerance=0.0))) == "regression"


def test_a_processor_of_the_same_name_with_other_vector_units_is_another() -> None:
    random = np.random.default_rng(6)
    errors = np.zeros(60, dtype=int)
    one, two = ({"cpu": "AMD EPYC", "vector_units": units} for units in (["avx2", "avx512_vnni"], ["avx2"]))
    base = result(errors, timed(random), environment=one, signature="model:x|acoustic:int8,kernels|cpu:a")
    slower = result(errors, 1.2 * timed(random), environment=two, signature=base["signature"])
    assert verdict_of(judge(slower, base)) == "pass"
    assert verdict_of(judge({**slower, "environment": one}, base)) == "regression"
    old = {**base, "environment": {"cpu": "AMD EPYC"}}  # a baseline that does not know
    assert verdict_of(judge(slower, old)) == "regression"


def test_other_arithmetic_on_another_processor_is_no_regression_and_no_pass() -> None:
    random = np.random.default_rng(6)
    errors = np.zeros(60, dtype=int)
    base = result(errors, timed(random), signature="model:x|acoustic:int8,kernels|cpu:a")
    names = {"signature": "model:x|acoustic:int8,onnxruntime|cpu:b", "environment": {"cpu": "b"}}
    findings = judge(result(errors, 3 * timed(random), **names), base)
    assert verdict_of(findings) == "undecided"
    assert findings[-1].change == "the model uses other arithmetic on this processor"
    same_cpu = result(errors, 3 * timed(random), signature=names["signature"])
    assert verdict_of(judge(same_cpu, base)) == "regression"  # kernels that are off by mistake are caught


def test_another_instruction_set_level_is_no_regression_and_no_pass() -> None:
    random = np.random.default_rng(6)
    errors = np.zeros(60, dtype=int)
    high, low = ({"cpu": "AMD EPYC", "level": level} for level in ("avx512", "avx2"))
    base = result(errors, timed(random), environment=high, signature="model:x|acoustic:int8,kernels|cpu:a")
    lower = result(errors, 3 * timed(random), environment=low, signature=base["signature"])
    findings = judge(lower, base)
    assert verdict_of(findings) == "undecided"
    assert findings[-1].change == "another instruction set level than the baseline's avx512"
    assert verdict_of(judge({**lower, "environment": high}, base)) == "regression"
    worse = result(errors + 3, timed(random), environment=low, signature=base["signature"])
    assert verdict_of(judge(worse, base)) == "regression"  # results are the same on every level
    unknown = {**base, "environment": {"cpu": "AMD EPYC"}}
    assert verdict_of(judge(lower, unknown)) == "regression"


def test_a_slowdown_that_chance_explains_is_no_regression() -> None:
    ratio = Interval(1.053, 1.0091, 1.0984)  # seen with the same code: beyond the limit, and above 1 at 95 %
    assert _speed_verdict(Slowdown("cpu", ratio, 0.039, 0.0), 0.05) == "undecided"
    surer = Interval(1.053, 1.030, 1.077)
    assert _speed_verdict(Slowdown("cpu", surer, 0.01, 0.0), 0.05) == "regression"


def test_too_noisy_to_tell_is_neither_passed_nor_failed() -> None:
    random = np.random.default_rng(8)
    errors = np.zeros(60, dtype=int)
    base = result(errors, timed(random))
    wild = timed(random) * np.array([[0.8], [1.4], [1.1], [0.9], [1.2]])
    assert verdict_of(judge(result(errors, wild), base)) == "undecided"


def test_a_sleep_shows_in_wall_time_only_and_is_caught() -> None:
    random = np.random.default_rng(11)
    errors = np.zeros(60, dtype=int)
    base, now = result(errors, timed(random)), result(errors, timed(random))
    for row in now["utterances"]:
        row["wall_s"] = [1.12 * value for value in row["wall_s"]]
    found = verdicts(now, base)
    assert (found["CPU time"], found["wall time"]) == ("pass", "regression")


def test_wall_time_is_not_judged_where_others_had_the_core() -> None:
    random = np.random.default_rng(12)
    errors = np.zeros(60, dtype=int)
    base, now = result(errors, timed(random)), result(errors, timed(random))
    for row in now["utterances"]:
        row["wall_s"] = [3 * value for value in row["wall_s"]]
        row["reference_wall_s"] = {name: [2 * v for v in t] for name, t in row["reference_wall_s"].items()}
    findings = judge(now, base)
    assert [finding.verdict for finding in findings[-2:]] == ["pass", "undecided"]
    assert "other programs had the core for 100 % of the time" in findings[-1].change
    assert verdict_of(findings) == "pass"


def test_a_file_that_fails_only_now_is_a_regression() -> None:
    random = np.random.default_rng(9)
    errors, times = np.zeros(20, dtype=int), timed(random, 20)
    base = result(errors, times)
    now = result(errors, times, failures=[{"id": "u3", "error": "x"}])
    assert verdicts(now, base)["failed files"] == "regression"
    assert verdicts(now, {**base, "failures": now["failures"]})["failed files"] == "pass"


def test_drift_within_a_run_cancels_in_units_of_the_reference() -> None:
    random = np.random.default_rng(10)
    slope = np.linspace(1.0, 1.6, 5 * 60).reshape(5, 60)
    rows = result(np.zeros(60, dtype=int), timed(random) * slope, 0.001 * slope)["utterances"]
    floor = noise_floor(pass_times(rows, "cpu"))
    assert floor is not None
    assert floor < 0.03
    assert noise_floor(pass_times(rows, "cpu")[:1]) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"task": "translate"}, "task transcribe, baseline translate"),
        ({"data": {"digest": "e"}}, "other audio or references"),
        ({"settings": {"threads": 2}}, "threads 1, baseline 2"),
        ({"signature": "x|reference:old/1"}, "reference kernel none, baseline old/1"),
        ({"utterances": []}, "0 utterances in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, Any], expected: str) -> None:
    now = result(np.zeros(8, dtype=int), timed(np.random.default_rng(0), 8))
    with pytest.raises(BaselineError, match=expected):
        judge(now, {**now, **change})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no result file"),
        ("{", "cannot be read"),
        ("[]", "lacks schema_version"),
        ("{}", "lacks schema_version"),
    ],
)
def test_files_that_are_no_result_are_refused(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "b.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BaselineError, match=expected):
        load_result(path)


def test_a_result_of_another_schema_is_refused(tmp_path: Path) -> None:
    now = result(np.zeros(8, dtype=int), timed(np.random.default_rng(0), 8), schema_version=99)
    (tmp_path / "b.json").write_text(json.dumps(now))
    with pytest.raises(BaselineError, match="schema version 99"):
        load_result(tmp_path / "b.json")


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    _, answers = write_data(tmp_path, 6)
    monkeypatch.setattr(stages, "REFERENCE_RUNS", 1)
    monkeypatch.setattr(engine, "load", lambda model=None, **options: FakeTranslator(answers), raising=False)
    path = tmp_path / "baseline.json"
    assert run_gate(path, "--update", "--repeats", "2") == 0
    return path


def run_gate(baseline: Path, *arguments: str) -> int:
    data = str(baseline.parent / "manifest.tsv")
    return main(
        ["gate", "--baseline", str(baseline), "--data", data, "--quiet", "--device", "cpu", *arguments]
    )


def test_a_result_measured_before_can_be_judged(baseline: Path) -> None:
    assert run_gate(baseline, "--current", str(baseline), "--max-slowdown", "100") == 0


def test_a_baseline_holds_the_command_that_made_it(baseline: Path) -> None:
    command = load_result(baseline)["command"]
    assert command.startswith(f"engine-bench gate --baseline {baseline.name} --data ")


def test_without_a_baseline_the_gate_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_gate(tmp_path / "baseline.json") == 2
    assert "make one with --update" in capsys.readouterr().err
