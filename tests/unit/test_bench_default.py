"""The embedded bundle against its committed baseline: what our own continuous integration gates."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gate import load_result
from benchmarks.run import EXAMPLES

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / "benchmarks" / "baselines" / "de-en-base.json"


def make_gate(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """`make gate` with something else in the place of engine-bench."""
    for name, text in (("python", "exit 0"), ("engine-bench", script)):
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    (folder / ".runtime").touch()
    command = ["make", "--silent", "-C", str(ROOT), "gate", f"VENV={folder}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("code", "fails", "says"), [(0, False, ""), (1, True, ""), (2, False, "not a failure")]
)
def test_only_a_regression_fails_continuous_integration(
    tmp_path: Path, code: int, fails: bool, says: str
) -> None:
    answer = make_gate(tmp_path, f'echo "$@"; exit {code}')
    assert bool(answer.returncode) is fails
    assert "gate --baseline benchmarks/baselines/de-en-base.json" in answer.stdout
    assert says in answer.stdout


@pytest.mark.levels
def test_the_embedded_bundle_is_no_worse_than_its_baseline(tmp_path: Path) -> None:
    bench = f'exec "{sys.executable}" -m benchmarks.cli "$@" --repeats 2'
    answer = make_gate(tmp_path, bench)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "WER" in answer.stdout


def test_continuous_integration_runs_the_gate() -> None:
    assert "make gate" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_baseline_carries_its_circumstances() -> None:
    baseline = load_result(BASELINE)
    assert baseline["settings"]["data"] is None
    assert baseline["settings"]["threads"] == 1  # the same on a machine with more cores
    assert "commit:" in baseline["signature"]
    assert baseline["command"].startswith("engine-bench gate")
    assert (ROOT / EXAMPLES[0] / "manifest.tsv").is_file()
