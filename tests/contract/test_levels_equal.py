"""Every instruction set level computes the same bits; without one, results are near those."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from engine.kernels.vector import levels

for package in ("torch", "transformers", "onnx"):
    pytest.importorskip(package)

from tests.reference.level_outputs import write_inputs  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LOWER = levels.available()[:-1]
NO_BF16 = "avx512 without bfloat16"  # Ice Lake
Outputs = Mapping[str, np.ndarray]


class Runs:
    """Results by level, each computed once, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_inputs(folder)
        self.done: dict[str, Outputs] = {}

    def __getitem__(self, level: str) -> Outputs:
        if level not in self.done:
            out = self.folder / f"{level}.npz"
            name, _, without = level.partition(" without ")
            lacking = [levels.BF16_FEATURE] if without else []
            program = [sys.executable, "-m", "tests.reference.level_outputs", str(self.folder), str(out)]
            environment = {**os.environ, levels.VARIABLE: name}
            done = subprocess.run(
                [*program, *lacking], cwd=ROOT, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            with np.load(out) as found:
                self.done[level] = dict(found)
        return self.done[level]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("levels"))


def others() -> list[str]:
    """What is compared with this processor's highest level."""
    has_bf16 = levels.host_features().get(levels.BF16_FEATURE, False)
    return [*LOWER, *([NO_BF16] if "avx512" in levels.available() and has_bf16 else [])]


def differing(found: Outputs, wanted: Outputs) -> list[str]:
    """Names of results that are not the same bits."""
    names = found.keys() - {"level"}
    return sorted(name for name in names if found[name].tobytes() != wanted[name].tobytes())


@pytest.mark.skipif(not LOWER, reason="this processor has one instruction set level at most")
@pytest.mark.timeout(900)  # kernels of a level that nobody has run yet are compiled
@pytest.mark.parametrize("level", others())
def test_levels_compute_the_same_bits(runs: Runs, level: str) -> None:
    highest = levels.available()[-1]
    assert json.loads(str(runs[highest]["level"]))[0] == highest
    assert json.loads(str(runs[level]["level"]))[0] == level.split()[0]
    assert level == NO_BF16 or runs[level].keys() == runs[highest].keys()
    assert sum(name.startswith("tiny encoder") for name in runs[level]) == 10
    assert all(np.isfinite(value).all() for name, value in runs[level].items() if "encoder" in name)
    assert differing(runs[level], runs[highest]) == []


@pytest.mark.skipif(not levels.available(), reason="this processor has no instruction set level")
@pytest.mark.timeout(900)
def test_without_a_level_features_and_decoder_are_near(runs: Runs) -> None:
    plain, highest = runs[levels.NONE], runs[levels.available()[-1]]
    assert set(plain) == {name for name in highest if name.startswith(("log-mel", "decoder", "level"))}
    for name in set(plain) - {"level"}:
        if "text" in name:
            np.testing.assert_array_equal(plain[name], highest[name])
        else:
            np.testing.assert_allclose(plain[name], highest[name], rtol=1e-5, atol=2e-5)
