"""What optimum, transformers and kenlm answered (benchmarks.peers.interop --record), without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentencepiece")

from benchmarks.peers.interop import cases, compare, ours

FACTS = Path(__file__).resolve().parents[1] / "data" / "interop"
FIXTURES = cases.FIXTURES


@pytest.fixture(scope="module")
def facts() -> Any:
    return json.loads((FACTS / "facts.json").read_text(encoding="utf-8"))


def labels_of(kind: str) -> list[str]:
    labels: bytes = np.load(FIXTURES / f"{kind}.npz")["labels"].tobytes()
    return labels.decode().split("\n")


def require(rows: list[compare.Row]) -> None:
    assert rows
    assert [row for row in rows if not row.agrees] == []


@pytest.mark.parametrize("name", ["tiny", "pieces"])
def test_folder_of_optimum_computes_and_reads_what_transformers_does(facts: Any, name: str) -> None:
    settings = cases.list_models(labels_of("emissions_pieces"))[name]
    logits, greedy = np.load(FACTS / "logits.npz"), facts["greedy"][name]
    waveforms = {clip: values for clip, values in cases.make_waveforms().items() if clip in greedy}
    theirs = {clip: logits[f"{name}.{clip}"] for clip in waveforms}
    assert any(greedy.values())
    require(compare.compare_exported(name, FACTS / name, settings, waveforms, theirs, greedy))


def test_beams_are_pyctcdecodes(facts: Any, tmp_path: Path) -> None:
    """Text, both scores and the borders of words, on a few utterances of every case."""
    decoding, _ = cases.write_decoding(tmp_path, len(next(iter(facts["decoding"].values()))))
    assert len(decoding) == 10 and decoding.keys() == facts["decoding"].keys()
    for name, wanted in facts["decoding"].items():
        found = ours.decode_case(tmp_path, decoding[name], "pyctcdecode")
        best = [beams[:1] for beams in found], [beams[:1] for beams in wanted]
        require(compare.compare_beams(name, *best, 0.9 if "narrow" in name else 1.0))


def test_scores_of_words_are_the_kenlm_packages(facts: Any) -> None:
    text = (FIXTURES / "tiny.txt").read_text(encoding="utf-8").split()
    sentences = cases.make_sentences(text)
    assert len(facts["kenlm"]) == 5
    for name, wanted in facts["kenlm"].items():
        scores = ours.score_sentences(FIXTURES / name, sentences[: len(wanted)])
        for got, want in zip(scores, wanted, strict=True):
            np.testing.assert_allclose(got, want, atol=compare.KENLM_LIMIT)
