"""What optimum, transformers, pyctcdecode and kenlm answered (`make interop --record`), without them."""

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases as the other packages got them."""
    made = tmp_path_factory.mktemp("cases")
    for kind in ("emissions", "emissions_pieces"):
        cases.write_emissions(made, kind)
    words = sorted(set((FIXTURES / "tiny.txt").read_text(encoding="utf-8").split()))
    (made / "tiny.words").write_text("\n".join(words), encoding="utf-8")
    (made / "tiny.probing.bin").symlink_to(FIXTURES / "tiny.probing.bin")
    return made


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


@pytest.mark.parametrize("setting", cases.SETTINGS)
@pytest.mark.parametrize("kind", ["letters", "pieces"])
def test_beams_scores_and_word_frames_are_pyctcdecodes(
    facts: Any, folder: Path, kind: str, setting: str
) -> None:
    name = "emissions" if kind == "letters" else "emissions_pieces"
    wanted = facts["decoding"][f"{kind} {setting}"]
    case = cases.make_case(name, labels_of(name), setting)
    found = ours.decode_case(folder, case, "pyctcdecode")[: len(wanted)]
    cut = [beams[: len(theirs)] for beams, theirs in zip(found, wanted, strict=True)]
    limit = compare.NARROW_SHARE - 0.1 if "narrow" in setting else 1.0  # of twelve, one may differ
    require(compare.compare_beams(f"{kind} {setting}", cut, wanted, limit))


def test_scores_of_words_are_the_kenlm_packages(facts: Any) -> None:
    text = (FIXTURES / "tiny.txt").read_text(encoding="utf-8").split()
    sentences = cases.make_sentences(text)
    assert len(facts["kenlm"]) == 5
    for name, wanted in facts["kenlm"].items():
        scores = ours.score_sentences(FIXTURES / name, sentences[: len(wanted)])
        for got, want in zip(scores, wanted, strict=True):
            np.testing.assert_allclose(got, want, atol=compare.KENLM_LIMIT)


def test_wav2vec2_processor_with_lm_reads_the_same(facts: Any, folder: Path) -> None:
    logits = np.load(FACTS / "logits.npz")
    decoder = ours.build_ctcdecoder(list(cases.LETTERS), FIXTURES / "tiny.probing.bin", merging="pyctcdecode")
    for clip, text, offsets, acoustic, score in facts["processor"]:
        best = decoder.decode_beams(logits[f"tiny.{clip}"], beam_width=64)[0]
        assert best.text == text
        assert (best.logit_score, best.lm_score) == pytest.approx((acoustic, score), abs=0.03)
        frames = [[word, *frames] for word, frames in best.text_frames]
        assert [word for word, *_ in frames] == [word for word, *_ in offsets]
