"""Weights of large models in a mapped file: the same values, and memory only while they are read."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from export.acoustic.mapped import map_weights  # noqa: E402
from export.acoustic.source import AcousticSource  # noqa: E402
from export.errors import ExportError  # noqa: E402

M_MMAP_THRESHOLD = -3


def resident_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


class Odd(torch.nn.Module):
    """Parameters and buffers of several types and sizes, one empty, one shared, one normed by weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(7, 3), torch.nn.Linear(3, 7)
        self.second.weight = torch.nn.Parameter(torch.rand(7, 3).T.contiguous().T)  # not contiguous
        self.tied = self.first
        self.normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(2, 4, 3))
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("short", torch.rand(3, 2).to(torch.bfloat16))
        self.register_buffer("none", torch.zeros(0, 3))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.second(self.tied(values)) * self.count + self.flags.sum() + self.normed.weight.sum()


def test_values_and_results_stay_the_same_also_after_they_were_let_go() -> None:
    model = Odd().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    values = torch.rand(5, 7)
    with torch.inference_mode():
        want = model(values)
        let_go = map_weights(model)
        for _ in range(2):
            torch.testing.assert_close(model(values), want)
            let_go()
    assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == {
        name: tensor.dtype for name, tensor in before.items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_weights_take_memory_only_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = torch.nn.Linear(4096, 8192)  # 128 MB
    let_go = map_weights(model)
    assert list(tmp_path.iterdir()) == []  # the file has no name
    small = resident_mb()
    total = float(model.weight.detach().sum())
    assert resident_mb() > small + 100
    let_go()
    assert resident_mb() < small + 20
    assert float(model.weight.detach().sum()) == total


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc"
)
@pytest.mark.parametrize("large", [False, True])
def test_freed_memory_is_given_back(large: bool) -> None:
    """Arrays of 1 MB, every second of which is freed: the heap between them stays with the process else."""
    default = next(each.default for each in dataclasses.fields(AcousticSource) if each.name == "let_go")
    let_go = map_weights(torch.nn.Linear(3, 4)) if large else default
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 25)  # what glibc comes to by itself
    arrays = [np.ones(1 << 17) for _ in range(200)]
    full = resident_mb()
    del arrays[::2]
    let_go()
    assert resident_mb() < full - 70, len(arrays)


def test_a_disk_that_takes_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(3, 4)
    before = model.weight.detach().clone()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ExportError, match=r"temporary file of the weights.*GB of free space.*TMPDIR"):
        map_weights(model)
    assert torch.equal(model.weight, before)
