"""The gate proved: a planted slowdown and a planted loss are caught, the same code never fails.

Three kinds of time. Simulated: `engine-bench gate` from its command line to its exit code, on a clock that
only work moves. Recorded: real runs of the embedded model, a process each, on a core of their own, on one
that others wanted from the tenth run on, and on one that others wanted most of the time. (The latter two
were in view when the gate's intervals were chosen, the first was recorded afterwards;
tests/reference/record_gate_runs.py made them.) Live: `pytest -m timing`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_fake import FakeTranslator, write_data

import engine
from benchmarks.cli import main
from benchmarks.gate import SHARED_CORE, judge, verdict_of
from benchmarks.measures import stages
from benchmarks.measures.reference import PARTS, Clock
from benchmarks.measures.speed import CLOCKS, waiting_share

DATA = Path(__file__).resolve().parents[1] / "data" / "bench"
RECORDED = {
    "free_core": 12,
    "half_shared_core": 20,
    "shared_core": 20,
}  # pairs of runs that follow each other
N_RUNS = 20
SLOWER = 1.10
WORK_PER_SECOND = 10  # rounds of real work for a second of audio
WORK_S = 0.01  # simulated work for a second of audio
PASS, REGRESSION, UNDECIDED = 0, 1, 2


class Machine:
    """A simulated computer: its speed differs by run and drifts within one, and each job is noisy."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._clock, self._level = Clock(0.0, 0.0), 1.0

    def restart(self) -> None:
        """Another machine, or the same one at another frequency."""
        self._level = float(np.exp(self._random.normal(0, 0.15)))

    def now(self) -> Clock:
        return self._clock

    def work(self, seconds: float) -> None:
        self._level *= float(np.exp(self._random.normal(0, 0.002)))
        cpu_s = seconds * self._level * float(np.exp(self._random.normal(0, 0.02)))
        wall_s = cpu_s * (1 + float(self._random.exponential(0.002)))
        self._clock = Clock(self._clock.wall_s + wall_s, self._clock.cpu_s + cpu_s)

    def run(self) -> dict[str, Clock]:
        """Stands in for benchmarks.measures.reference.ReferenceKernel.run."""
        parts = {}
        for name in PARTS:
            start = self.now()
            self.work(0.001)
            parts[name] = self.now() - start
        return parts


class GateRunner:
    """Runs `engine-bench gate` on a stand-in for the model."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.manifest, self.answers = write_data(folder, 12)
        self.baseline = folder / "baseline.json"
        self.monkeypatch = monkeypatch

    def run(
        self,
        *arguments: str,
        work: Callable[[float], object],
        answers: dict[str, tuple[str, str]] | None = None,
    ) -> int:
        fake = FakeTranslator(answers or self.answers, work)
        self.monkeypatch.setattr(engine, "load", lambda model=None, **options: fake, raising=False)
        common = [
            "--data",
            str(self.manifest),
            "--quiet",
            "--device",
            "cpu",
            "--baseline",
            str(self.baseline),
        ]
        return main(["gate", *common, *arguments])


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GateRunner:
    monkeypatch.setattr(stages, "REFERENCE_RUNS", 1)  # these clips are short
    return GateRunner(tmp_path, monkeypatch)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Machine:
    found = Machine(getattr(request, "param", 0))
    monkeypatch.setattr(stages, "now", found.now)
    monkeypatch.setattr(stages, "ReferenceKernel", lambda: found)
    return found


def simulated(machine: Machine, factor: float = 1.0) -> Callable[[float], None]:
    machine.restart()
    return lambda duration_s: machine.work(WORK_S * duration_s * factor)


@pytest.mark.parametrize("machine", range(10), indirect=True)
def test_simulated_ten_percent_are_caught_on_another_speed_of_the_machine(
    gate: GateRunner, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate.run("--update", work=simulated(machine)) == 0
    assert gate.run(work=simulated(machine, SLOWER)) == REGRESSION
    assert "REGRESSION" in capsys.readouterr().out


def test_simulated_same_code_passes_twenty_times(gate: GateRunner, machine: Machine) -> None:
    assert gate.run("--update", work=simulated(machine)) == 0
    codes = [gate.run(work=simulated(machine)) for _ in range(N_RUNS)]
    assert codes.count(REGRESSION) == 0
    assert codes.count(PASS) >= N_RUNS - 2


def test_a_planted_point_of_wer_is_caught_beside_a_speed_that_is_fine(
    gate: GateRunner, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    gate.manifest, gate.answers = write_data(gate.manifest.parent, 96)
    assert gate.run("--update", "--repeats", "2", work=simulated(machine)) == 0
    worse = dict(gate.answers)
    for name in list(worse)[::12][:6]:  # 6 of 624 words: 0.96 points
        german, english = worse[name]
        worse[name] = (german.rsplit(" ", 1)[0], english)
    assert gate.run(work=simulated(machine), answers=worse) == REGRESSION
    assert re.search(r"WER +\+0\.96 points", capsys.readouterr().out)
    assert gate.run("--max-wer-increase", "0.02", work=simulated(machine), answers=worse) == PASS


def recorded(name: str) -> list[dict[str, Any]]:
    """Result files of the recorded runs, as far as the gate reads them."""
    with np.load(DATA / f"{name}.npz") as arrays:
        times = {clock: arrays[f"{clock}_s"].astype(float) for clock in CLOCKS}
        parts = {clock: arrays[f"reference_{clock}_s"].astype(float) for clock in CLOCKS}
        signature = str(arrays["signature"])
    n_runs, _, n = times["cpu"].shape
    return [
        {
            "task": "transcribe", "data": {"digest": "d"}, "settings": {}, "environment": {"cpu": "one"},
            "signature": signature, "failures": [],
            "utterances": [_row(times, parts, run, index) for index in range(n)],
        }
        for run in range(n_runs)
    ]  # fmt: skip


def _row(times: dict[str, Any], parts: dict[str, Any], run: int, index: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": str(index), "word_errors": [0, 0, 0, 1]}
    for clock in CLOCKS:
        row[f"{clock}_s"] = times[clock][run, :, index].tolist()
        row[f"reference_{clock}_s"] = dict(zip(PARTS, parts[clock][run, :, :, index].tolist(), strict=True))
    return row


def slowed(result: dict[str, Any], factor: float) -> dict[str, Any]:
    rows = [
        {**row, **{f"{clock}_s": [factor * value for value in row[f"{clock}_s"]] for clock in CLOCKS}}
        for row in result["utterances"]
    ]
    return {**result, "utterances": rows}


def decide(name: str, factor: float) -> list[tuple[str, bool]]:
    """Each recorded run against the one before it, with a planted change; and whether both had the core."""
    found = []
    for before, after in itertools.pairwise(recorded(name)):
        waiting = max(waiting_share(run["utterances"]) for run in (before, after))
        found.append((verdict_of(judge(slowed(after, factor), before)), waiting < SHARED_CORE))
    return found


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_runs_of_the_same_code_never_fail(name: str) -> None:
    verdicts = [verdict for verdict, _ in decide(name, 1.0)]
    assert len(verdicts) == RECORDED[name]
    assert verdicts.count("regression") == 0


@pytest.mark.parametrize(("name", "pairs"), [("free_core", 12), ("half_shared_core", 8)])
def test_recorded_ten_percent_are_caught_where_the_core_was_free(name: str, pairs: int) -> None:
    verdicts = [verdict for verdict, free in decide(name, SLOWER) if free]
    assert len(verdicts) == pairs
    assert verdicts.count("regression") >= 0.9 * pairs  # of the others it cannot tell, and says so
    same = [verdict for verdict, free in decide(name, 1.0) if free]
    assert same.count("pass") >= 0.9 * pairs


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_ten_percent_pass_nowhere(name: str) -> None:
    assert "pass" not in [verdict for verdict, _ in decide(name, SLOWER)]


def busy_work(factor: float) -> Callable[[float], None]:
    """Real work in proportion to the audio, of other kinds than the reference kernel's."""
    matrix = np.random.default_rng(0).standard_normal((48, 48)).astype(np.float32)
    table = np.random.default_rng(1).integers(0, 1 << 12, 1 << 12)

    def work(duration_s: float) -> None:
        for _ in range(round(duration_s * factor * WORK_PER_SECOND)):
            np.einsum("ij,jk->ik", matrix, matrix)
            np.cumsum(table[table % len(table)])

    return work


@pytest.mark.timing
def test_live_ten_percent_are_caught(gate: GateRunner) -> None:
    for repeats in ("5", "15"):  # more often while the machine is too noisy to tell, as a user would
        gate.run("--update", "--repeats", repeats, work=busy_work(1.0))
        code = gate.run(work=busy_work(SLOWER))
        if code != UNDECIDED:
            assert code == REGRESSION
            return
    pytest.skip("this machine is too noisy to time anything")


@pytest.mark.timing
def test_live_same_code_never_fails_in_twenty_runs(gate: GateRunner) -> None:
    gate.run("--update", "--repeats", "3", work=busy_work(1.0))
    codes = [gate.run(work=busy_work(1.0)) for _ in range(N_RUNS)]
    assert codes.count(REGRESSION) == 0
