"""The benchmark of graph rewrites: both forms of a block compute the same, or it is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("onnx")

from benchmarks.errors import PeerError
from benchmarks.kernels.graph_rewrites import main, measure, rewrites

NAMES = tuple(rewrites(0.1))


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_of_a_block_compute_the_same(name: str) -> None:
    found = measure(rewrites(0.5)[name], rounds=1)
    assert found["plain_ms"] > 0
    assert found["ours_ms"] > 0


def test_a_form_that_computes_something_else_is_not_timed() -> None:
    rewrite = rewrites(0.1)[NAMES[0]]
    broken = dataclasses.replace(
        rewrite, plain=lambda graph, value: graph.op("Neg", rewrite.ours(graph, value))
    )
    with pytest.raises(PeerError, match="differ by 2"):
        measure(broken, rounds=1)


def test_the_table_holds_every_block_and_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rewrites.json"
    assert main(["--seconds", "0.2", "--rounds", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert set(report["rewrites"]) == set(NAMES)
    assert report["commit"]
    for figures in report["rewrites"].values():
        assert (Path(__file__).parents[2] / figures["file"]).is_file()
    assert capsys.readouterr().out.count("->") == len(NAMES)
