"""Capitals and marks: what is learnt from text, what the graph says, and what the runtime writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from engine.bundle.folder import open_bundle, write_bundle  # noqa: E402
from engine.errors import BundleError, ModelCapabilityError  # noqa: E402
from engine.output import punctuation  # noqa: E402
from engine.output.punctuation import MARKS, N_BUCKETS, N_PIECES, Punctuator, hash_pieces  # noqa: E402
from engine.text import normalize_text  # noqa: E402
from engine.types import Word  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.punctuation import export_punctuation  # noqa: E402
from training.cli import main  # noqa: E402
from training.punctuation import command as trainer  # noqa: E402
from training.punctuation.data import IGNORED, batches, misspell, read_tagged, tag_sentence  # noqa: E402
from training.punctuation.model import load_tagger  # noqa: E402

NOUNS = ("Hund", "Garten", "Baum", "Zug", "Vogel", "Brief", "Tisch", "Wagen", "Apfel", "Berg")
VERBS = ("sieht", "sucht", "findet", "kennt", "malt", "trägt", "liebt", "holt")


def sentences(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        one, two = rng.choice(NOUNS, 2)
        verb = rng.choice(VERBS)
        made.append(
            str(rng.choice([f"Der {one} {verb} den {two}.", f"{verb.title()} der {one} den {two}?",
                            f"Der {one} {verb}, was der {two} {verb}."]))
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marks")
    text = folder / "text.txt"
    text.write_text("\n".join(sentences(4000)) + "\n", encoding="utf-8")
    few = folder / "few.txt"
    few.write_text("\n".join(sentences(300)) + "\n", encoding="utf-8")
    options = [
        "punctuation",
        str(text),
        "--out",
        str(folder / "out"),
        "--max-steps",
        "60",
        "--batch-words",
        "384",
        "--test",
        str(few),
    ]
    assert main(options) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def punctuator(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Punctuator:
    graph = tmp_path_factory.mktemp("graph") / "marks.onnx"
    figures = export_punctuation(checkpoint, graph)
    assert figures["mark_agreement"] >= 0.99
    assert not list(graph.parent.glob(".*"))
    folder = graph.parent / "bundle"
    return Punctuator(
        open_bundle(write_bundle(folder, name="m", licence="x", files={"punctuation": graph}, card=""))
    )


def test_it_learns_sentences_and_nouns(punctuator: Punctuator) -> None:
    words = "der hund sieht den garten findet der zug den berg der vogel holt was der baum holt".split()
    text = " ".join(punctuator.punctuate(words))
    assert text == "Der Hund sieht den Garten. Findet der Zug den Berg? Der Vogel holt, was der Baum holt."


def test_words_with_times_keep_them(punctuator: Punctuator) -> None:
    words = [Word("der", 0.0, 0.1, 0.9), Word("hund", 0.2, 0.4, 0.8), Word("holt", 0.5, 0.6, 0.7)]
    found = punctuator.punctuate_words(words)
    assert [word.text for word in found] == ["Der", "Hund", "holt."]
    assert [(w.start_s, w.end_s, w.confidence) for w in found] == [
        (w.start_s, w.end_s, w.confidence) for w in words
    ]


word_lists = st.lists(st.text("abcdefghijklmnopqrstuvwxyzäöüß", min_size=1, max_size=12), max_size=60)


@given(word_lists)
@settings(max_examples=100, deadline=None)
def test_no_word_is_added_lost_or_respelled(punctuator: Punctuator, words: list[str]) -> None:
    found = punctuator.punctuate(words)
    assert [text.rstrip("".join(MARKS)).lower() for text in found] == words
    assert not found or found[-1][-1] in ".?!"


def test_a_long_text_is_tagged_in_parts_with_the_same_result(
    punctuator: Punctuator, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = " ".join(sentences(200)).lower().replace(".", "").replace("?", "").replace(",", "").split()
    whole = punctuator.punctuate(words)
    monkeypatch.setattr(punctuation, "MAX_WORDS", 70)
    assert punctuator.punctuate(words) == whole


@pytest.mark.parametrize("word", ["", "🙂", "…", "x" * 10_000, "\x00", "привет"])
def test_strange_words_pass(punctuator: Punctuator, word: str) -> None:
    found = punctuator.punctuate(["der", word, "holt"])
    assert len(found) == 3
    assert found[1].rstrip("".join(MARKS)).lower() == word


def test_pieces_are_buckets() -> None:
    for word in ("a", "haus", "donaudampfschifffahrt", ""):
        assert len(hash_pieces(word)) == N_PIECES
        assert all(0 <= piece < N_BUCKETS for piece in hash_pieces(word))


@pytest.mark.parametrize(
    ("line", "words", "cases", "marks"),
    [
        ("Heute regnet es.", "heute regnet es", "100", "  ."),
        ("Er sagte: „Geht's?“", "er sagte gehts", "101", " :?"),
        ("Die E-Mail kam – aus den USA!", "die e mail kam aus den usa", "1110002", "   ,  !"),
        ("Ja, Café; nein …", None, "", ""),
        ("Das kostet 5 Euro.", None, "", ""),
        ("Dr. Müller kommt.", None, "", ""),
        ("Überschrift ohne Ende", None, "", ""),
        ("ALLES GROSS GESCHRIEBEN HIER.", None, "", ""),
        ("", None, "", ""),
    ],
)
def test_tagging_a_sentence(line: str, words: str | None, cases: str, marks: str) -> None:
    found = tag_sentence(line)
    if words is None:
        assert found is None
        return
    assert found is not None
    assert found[0] == words.split()
    assert "".join(map(str, found[1])) == cases
    assert "".join(MARKS[mark] or " " for mark in found[2]) == marks


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_line_is_tagged_or_left_out(line: str) -> None:
    found = tag_sentence(line)
    if found is not None:
        assert len({len(part) for part in found}) == 1
        assert all(normalize_text(word) == word for word in found[0])


def test_a_pass_holds_every_word_once(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences(300)), encoding="utf-8")
    text = read_tagged([path])
    seen = np.zeros(len(MARKS), np.int64)
    for batch in batches(text, 200, 0.5, np.random.default_rng(1)):
        assert batch.pieces.shape[:2] == batch.mask.shape == batch.cases.shape
        assert ((batch.marks == IGNORED) == ~batch.mask).all()
        assert batch.mask.numel() <= 200 or len(batch.mask) == 1
        seen += np.bincount(batch.marks[batch.mask].numpy(), minlength=len(MARKS))
    assert (seen == np.bincount(text.marks, minlength=len(MARKS))).all()


def test_misspelling_is_one_letter_and_always_the_same() -> None:
    for word in ("a", "haus", "straße"):
        assert misspell(word) == misspell(word) != ""
        assert abs(len(misspell(word)) - len(word)) <= 1


def test_a_run_goes_on_where_it_ended(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences(2000)), encoding="utf-8")
    text = read_tagged([path])
    config = trainer.TrainingConfig(minutes=1e9, batch_words=500, warmup_steps=1)
    trainer.fit(text, replace(config, max_steps=3), tmp_path)
    trainer.fit(text, replace(config, max_steps=6), tmp_path)
    progress = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]
    assert progress["step"] == 6
    assert progress["batch"] == 6


def test_scores_by_mark() -> None:
    counts = np.zeros((len(MARKS), len(MARKS)), int)
    counts[2, 2], counts[2, 0], counts[0, 2], counts[0, 0] = 6, 2, 4, 88
    scores = trainer.mark_scores(counts)
    assert scores["."] == {"precision": 0.6, "recall": 0.75, "f1": 0.6667}


def test_what_is_no_such_model_is_refused(tmp_path: Path, punctuator: Punctuator) -> None:
    with pytest.raises(ModelCapabilityError):
        Punctuator(open_bundle(write_bundle(tmp_path / "none", name="n", licence="x", files={}, card="")))
    with pytest.raises(ExportError, match="engine-train punctuation"):
        export_punctuation(tmp_path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
    (tmp_path / "config.json").write_text('{"architecture": "Other"}', encoding="utf-8")
    with pytest.raises(ValueError, match="expected PunctuationTagger"):
        load_tagger(tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    files = {"punctuation": tmp_path / "bad.onnx"}
    with pytest.raises(BundleError):
        Punctuator(open_bundle(write_bundle(tmp_path / "bad", name="n", licence="x", files=files, card="")))


def test_text_that_cannot_be_learnt_from_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Das kostet 5 Euro.\n", encoding="utf-8")
    assert main(["punctuation", str(path), "--out", str(tmp_path / "out")]) == 1
    assert "no usable sentence" in caplog.text
