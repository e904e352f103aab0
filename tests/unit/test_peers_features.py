"""The comparison of features: kernels and a peer in turn, and features that are not the right ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.errors import WrongOutputError
from benchmarks.kernels import features
from benchmarks.protocol.driver import Driver, LocalSystem

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def test_kernels_and_peers_take_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "features.json"
    arguments = ["--seconds", "1", "--rounds", "2", "--peers", "transformers", "librosa", "--json", str(out)]
    assert features.main([*arguments, "--peer_python", "librosa=/no/such/python"]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    committed = json.loads((RESULTS / "features.json").read_text(encoding="utf-8"))
    assert set(committed) <= set(report)
    assert {"log-mel, engine", "log-mel, transformers", "fbank, engine"} <= set(report["cpu_ms"])
    assert all(row["median"] >= row["best"] > 0 for row in report["cpu_ms"].values())
    assert report["peers"][0].startswith("name:mel-features|transformers:")
    assert "cannot be started" in report["left_out"]["librosa"]
    assert "left out: librosa" in capsys.readouterr().out


def test_other_features_are_not_timed() -> None:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)
    driver = Driver(
        {
            "log-mel, right": LocalSystem(lambda inputs: {"features": features.numpy_log_mel(waveform)}),
            "log-mel, louder": LocalSystem(lambda inputs: {"features": features.numpy_log_mel(waveform * 9)}),
            "fbank, shorter": LocalSystem(lambda inputs: {"features": np.zeros((80, 5), np.float32)}),
        }
    )
    assert list(features.measure(driver, waveform, 1)) == ["log-mel, right"]
    assert "relative error" in driver.lost["log-mel, louder"]
    assert "(80, 5)" in driver.lost["fbank, shorter"]
    with pytest.raises(WrongOutputError, match="finite"):
        features.check("fbank", {"features": np.full((80, 5), np.nan)}, np.zeros((80, 5)))


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(SystemExit):
        features.parse(["--peer_python", "nobody=/x"])
