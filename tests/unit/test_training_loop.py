"""The common training loop on a model of a few weights: nothing broken is saved, nothing is trained twice."""

import json
import os
import signal
import threading

import pytest

torch = pytest.importorskip("torch")

from training.common.checkpoint import (  # noqa: E402
    CheckpointError,
    LastCheckpoints,
    LastFolders,
    NumberedCheckpoints,
    read_newest,
    replace_folder,
)
from training.common.finite import find_nonfinite, walk_tensors  # noqa: E402
from training.common.loop import TrainingLoop  # noqa: E402
from training.common.ranks import Ranks  # noqa: E402
from training.common.trainable import Figures, Limits  # noqa: E402
from training.common.watchdog import TrainingStopped, Watchdog  # noqa: E402

N_ROWS = 6


class Regression(TrainingLoop):
    """Learns a line with dropout; row `bad` of the data is NaN."""

    def __init__(self, folder, max_steps=8, seed=0, bad=-1, width=4, rate=0.05, store=None):
        self.max_steps, self.seed, self.rate, self.seen = max_steps, seed, rate, []
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width), torch.nn.Dropout(0.5)]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(width, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        self.rows = torch.randn(N_ROWS, 3, generator=torch.Generator().manual_seed(1))
        if bad >= 0:
            self.rows[bad] = torch.nan
        super().__init__(
            model, [optimizer], store or LastCheckpoints(folder / "state.pt"), Watchdog(patience=5, warmup=0),
            Ranks(torch.device("cpu")),
        )  # fmt: skip

    @property
    def limits(self):
        return Limits(self.max_steps, save_every=2)

    def groups(self):
        epoch, first = self.position.epoch, self.position.batch
        while True:
            for batch in range(first, N_ROWS // 2):
                yield epoch, batch, [2 * batch, 2 * batch + 1]
            epoch, first = epoch + 1, 0

    def _set_rates(self):
        for group in self.optimizers[0].param_groups:
            group["lr"] = self.rate * self.position.rate

    def compute(self, data):
        kept = [row for row in data if f"row {row}" not in self.excluded]
        self.seen.append(kept)
        return self._add([*kept, *kept])  # batch norm wants two rows

    def _add(self, rows):
        loss = (self.model(self.rows[rows]) - self.rows[rows].sum(1, keepdim=True)).square().mean()
        self.backward(loss)
        return Figures(float(loss.detach()))

    def find_bad(self, data):
        return [f"row {row}" for row in data if not torch.isfinite(torch.tensor(self._add([row, row]).loss))]

    def identity(self):
        return {"seed": self.seed}

    def conditions(self):
        return {"learning_rate": self.rate}


def same_weights(left, right):
    return all(torch.equal(value, right.model.state_dict()[name])
               for name, value in left.model.state_dict().items())  # fmt: skip


def test_a_resumed_run_has_the_same_data_and_the_same_dropout(tmp_path):
    straight = Regression(tmp_path / "a")
    straight.run()
    first = Regression(tmp_path / "b", max_steps=4)
    first.run()
    torch.rand(17)  # the next start is in another random state
    second = Regression(tmp_path / "b")
    second.run()
    assert first.seen + second.seen == straight.seen
    assert same_weights(straight, second)
    assert second.position.step == 8


def test_a_bad_row_is_named_left_out_and_costs_one_step(tmp_path, caplog):
    run = Regression(tmp_path, max_steps=12, bad=3)
    run.run()
    assert run.excluded == {"row 3"} and "row 3" in caplog.text
    assert run.position.step == 12 and run.position.rate == 1.0 and run.watchdog.rollbacks == 0
    assert run.seen.count([2, 3]) == 1 and run.seen.count([2]) == 3
    assert find_nonfinite(walk_tensors(run.model.state_dict())) == []  # batch norm's means included
    again = Regression(tmp_path, max_steps=15, bad=3)
    again.run()
    assert [2, 3] not in again.seen


def test_weights_that_break_in_a_step_are_never_saved(tmp_path):
    """The step before the save makes a weight infinite: the state before it is gone back to."""
    run = Regression(tmp_path, max_steps=6)
    honest, hurt = run.after_update, []

    def hurting():
        honest()
        if run.position.step == 3 and not hurt:
            hurt.append(True)
            with torch.no_grad():
                run.model[3].weight[0, 0] = torch.inf

    run.after_update = hurting
    saved = []
    write = run.store.save
    run.store.save = lambda state: saved.append(find_nonfinite(walk_tensors(state))) or write(state)
    run.run()
    assert hurt and saved and not any(saved)
    assert run.position.step == 6 and run.position.rate == 0.5


def test_a_broken_optimiser_state_is_found_before_it_reaches_the_weights(tmp_path, caplog):
    run = Regression(tmp_path, max_steps=6)
    honest, hurt = run.compute, []

    def hurting(data):
        if run.position.step == 3 and not hurt:
            hurt.append(True)
            run.optimizers[0].state[run.model[0].weight]["exp_avg"].fill_(torch.nan)
        return honest(data)

    run.compute = hurting
    run.run()
    assert "optimizer 0" in caplog.text and "exp_avg" in caplog.text
    assert run.position.step == 6 and find_nonfinite(walk_tensors(run.optimizers[0].state_dict())) == []


def test_a_run_that_never_has_a_finite_gradient_is_stopped_and_the_sound_state_stands(tmp_path):
    sound = Regression(tmp_path, max_steps=4)
    sound.run()
    run = Regression(tmp_path, max_steps=400)
    run.rows.fill_(torch.nan)
    run.find_bad = lambda data: []
    run.watchdog.max_skipped = 3
    with pytest.raises(TrainingStopped, match="rollback number 4"):
        run.run()
    for name in ("state.pt", "state.old.pt"):
        state = torch.load(tmp_path / name, weights_only=True)
        assert find_nonfinite(walk_tensors(state)) == []
        assert torch.equal(state["model"]["0.weight"], sound.model[0].weight)


@pytest.mark.parametrize("kind", ["files", "folders", "numbered"])
def test_a_cut_checkpoint_gives_way_to_the_sound_one_before_it(tmp_path, caplog, kind):
    stores = {
        "files": lambda: LastCheckpoints(tmp_path / "state.pt"),
        "folders": lambda: LastFolders(tmp_path / "checkpoint"),
        "numbered": lambda: NumberedCheckpoints(tmp_path / "many", 1),
    }  # fmt: skip
    Regression(tmp_path, max_steps=4, store=stores[kind]()).run()  # saved at steps 2 and 4
    newest = stores[kind]().find()[0]
    file = newest / "state.pt" if newest.is_dir() else newest
    file.write_bytes(file.read_bytes()[:200])
    run = Regression(tmp_path, max_steps=4, store=stores[kind]())
    assert run.resume() and run.position.step == 2
    assert "truncated or damaged" in caplog.text and "the one before it is used" in caplog.text
    sound = stores[kind]().find()
    assert len(sound) == 1  # the damaged one is out of the row, and does not push the sound one out
    sound_file = sound[0] / "state.pt" if sound[0].is_dir() else sound[0]
    sound_file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_newest(stores[kind](), "cpu")


def test_another_seed_or_model_is_refused_and_another_rate_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    Regression(tmp_path, max_steps=2).run()
    with pytest.raises(CheckpointError, match="seed was 0, is 1"):
        Regression(tmp_path, seed=1).resume()
    with pytest.raises(CheckpointError, match=r"7 tensors have other sizes: 0\.bias was \(4,\), is \(5,\)"):
        Regression(tmp_path, width=5).resume()
    assert Regression(tmp_path, rate=0.01).resume()
    assert "learning_rate was 0.05, is 0.01" in caplog.text


def test_ctrl_c_finishes_the_step_saves_and_interrupts(tmp_path):
    run = Regression(tmp_path, max_steps=100)
    honest = run.compute

    def interrupted(data):
        if run.position.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(data)

    run.compute = interrupted
    with pytest.raises(KeyboardInterrupt):
        run.run()
    again = Regression(tmp_path, max_steps=100)
    assert again.resume() and again.position.step == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    run = Regression(tmp_path, max_steps=100)
    honest = run.compute

    def interrupted(data):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return honest(data)

    run.compute = interrupted
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert not (tmp_path / "state.pt").exists()


def test_a_run_in_another_thread_needs_no_signals(tmp_path):
    run = Regression(tmp_path, max_steps=2)
    thread = threading.Thread(target=run.run)
    thread.start()
    thread.join(60)
    assert run.position.step == 2


def test_time_ends_a_run(tmp_path):
    run = Regression(tmp_path)
    kind = type(run)
    limited = type("Limited", (kind,), {"limits": property(lambda self: Limits(0, max_minutes=0.05 / 60))})
    run = limited(tmp_path)
    run.run()
    assert 0.05 <= run.position.minutes * 60 < 5.0 and run.position.step > 1


def test_only_the_last_numbered_checkpoints_stay(tmp_path):
    store = NumberedCheckpoints(tmp_path / "many", 3)
    Regression(tmp_path, max_steps=10, store=store).run()
    assert [path.name for path in store.find()] == [f"step_{step:08d}.pt" for step in (10, 8, 6)]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    replace_folder(tmp_path / "model", lambda part: (part / "a").write_text("1"))

    def failing(part):
        (part / "a").write_text("2")
        raise OSError("disk full")

    with pytest.raises(OSError):
        replace_folder(tmp_path / "model", failing)
    assert (tmp_path / "model" / "a").read_text() == "1"
    replace_folder(tmp_path / "model", lambda part: (part / "b").write_text("3"))
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_large_finite_numbers_are_finite_and_names_lead_to_the_tensor():
    content = {
        "a": [torch.full((4,), 3e38)],
        "b": {"c": torch.tensor([1.0, torch.nan])},
        "d": torch.tensor(3),
    }
    assert find_nonfinite(walk_tensors(content)) == ["b.c"]
    assert json.dumps([name for name, _ in walk_tensors(content)]) == '["a[0]", "b.c", "d"]'
    weight = torch.nn.Parameter(torch.zeros(400, 400))  # an optimiser's key; as text it takes milliseconds
    assert [name for name, _ in walk_tensors({weight: {"momentum": weight}}, "o")] == ["o.0.momentum"]
