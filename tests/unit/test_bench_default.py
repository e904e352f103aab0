"""The embedded bundle against its committed baseline: what our own continuous integration gates."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.gate import load_result
from benchmarks.run import EXAMPLES

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / "benchmarks" / "baselines" / "de-en-mini.json"


def test_the_embedded_bundle_is_no_worse_than_its_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    # Test machines are shared: quality must hold, and speed must not collapse or could not be told (2).
    code = main(["gate", "--baseline", str(BASELINE), "--repeats", "2", "--max-slowdown", "0.5", "--quiet"])
    assert code in (0, 2), capsys.readouterr().out


def test_the_baseline_carries_its_circumstances() -> None:
    baseline = load_result(BASELINE)
    assert baseline["settings"]["data"] is None
    assert "commit:" in baseline["signature"]
    assert (ROOT / EXAMPLES[0] / "manifest.tsv").is_file()
