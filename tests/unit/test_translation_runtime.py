"""The translator's options, guards, progress and cancellation, on a model with random weights."""

from __future__ import annotations

import shutil
import threading

import pytest

from engine.bundle.folder import open_bundle
from engine.errors import (
    BundleSchemaError,
    CancelledError,
    ModelCapabilityError,
    ModelError,
    OptionError,
    TranslationError,
)
from engine.runtime.cancel import CancelToken
from engine.translation.search import padded_length
from engine.translation.tokenizer import Tokenizer, clean_text
from engine.translation.translator import Translator, longest_run, plan_batches, trim_loops
from engine.types import RuntimeOptions
from tests.reference.tiny_marian import SENTENCES, bundle_folder, checkpoint

pytest.importorskip("torch")
VARIANT = {"activation": "swish", "logits_bias": True, "seed": 1}


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator(open_bundle(bundle_folder("int8", **VARIANT)), RuntimeOptions(device="cpu", threads=1))


def test_a_result_for_every_text_in_order(translator: Translator) -> None:
    texts = ["", *SENTENCES, "  ", SENTENCES[0]]
    results = translator.translate_paragraphs(texts)
    assert len(results) == len(texts)
    assert results[0].text == results[-2].text == ""
    assert results[1] == results[-1]
    assert all(0.0 <= result.confidence <= 1.0 for result in results)


def test_n_best_is_sorted_and_distinct(translator: Translator) -> None:
    for hypotheses in translator.translate(SENTENCES, beam_size=4, n_best=4):
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)
    best = translator.translate(SENTENCES, beam_size=4, n_best=1)
    assert [h[0] for h in translator.translate(SENTENCES, beam_size=4, n_best=4)] == [h[0] for h in best]


def test_a_wider_beam_finds_no_worse_score_without_length_penalty(translator: Translator) -> None:
    narrow = translator.translate(SENTENCES, beam_size=2, length_penalty=0.0)
    wide = translator.translate(SENTENCES, beam_size=16, length_penalty=0.0)
    better = sum(w[0].score >= n[0].score - 1e-4 for n, w in zip(narrow, wide, strict=True))
    assert better >= len(SENTENCES) - 1  # beam search is no exact search


@pytest.mark.parametrize(
    "options",
    [{"beam_size": 0}, {"beam_size": 1000}, {"n_best": 2, "beam_size": 1}, {"n_best": 0},
     {"length_penalty": 9.0}, {"length_penalty": float("nan")}],
)  # fmt: skip
def test_options_out_of_range_are_refused(translator: Translator, options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="expected"):
        translator.translate(["Guten Morgen"], **options)


def test_bytes_and_long_sentences_are_refused_with_the_fix(translator: Translator) -> None:
    with pytest.raises(TranslationError, match="decode"):
        translator.translate([b"Guten Morgen"])
    with pytest.raises(TranslationError, match="translate_paragraphs"):
        translator.translate(["haus " * 300])


def test_progress_ends_at_the_total(translator: Translator) -> None:
    calls: list[tuple[float, float]] = []
    translator.translate(SENTENCES, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(SENTENCES), len(SENTENCES))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_cancelled_before_and_during_the_call(translator: Translator) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        translator.translate(SENTENCES, cancel=token)
    later = CancelToken()
    timer = threading.Timer(0.05, later.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        translator.translate([f"Der Hund {i} sucht {i + 1} den Garten" for i in range(3000)], cancel=later)
    timer.join()
    assert translator.translate(["Guten Morgen"])  # unharmed


def test_a_bundle_without_a_translator_is_refused() -> None:
    bundle = open_bundle(bundle_folder("int8", **VARIANT))
    object.__setattr__(bundle, "manifest", type(bundle.manifest)(1, "x", "y", []))
    with pytest.raises(ModelCapabilityError):
        Translator(bundle)


def test_batches_hold_one_padded_length_each() -> None:
    lengths = [3, 9, 4, 17, 1, 8, 4, 25]
    batches = plan_batches(lengths, 2)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) <= 2 and len({padded_length(lengths[i]) for i in batch}) == 1 for batch in batches)


@pytest.mark.parametrize(
    ("text", "most", "trimmed"),
    [
        ("no no no no no no", 3, "no no no"),
        ("the cat sat the cat sat the cat sat on", 2, "the cat sat the cat sat on"),
        ("a b c d", 3, "a b c d"),
        ("", 3, ""),
        ("ha " * 5000, 3, "ha ha ha"),
    ],
)
def test_loops_are_cut(text: str, most: int, trimmed: str) -> None:
    assert trim_loops(text, most) == trimmed


def test_a_refrain_is_not_taken_for_a_loop() -> None:
    refrain = "Ich gehe heute in die große Stadt und kaufe dort Brot."  # 11 words; 8 in English
    most = longest_run(" ".join([refrain] * 6))
    english = " ".join(["I go to town and buy some bread."] * 6)
    assert most == 6 and trim_loops(english, most) == english


def test_longest_run() -> None:
    assert longest_run("") == 1
    assert longest_run("Nein, nein, nein!") == 3
    assert longest_run("auf und ab und auf und ab und auf und ab") == 2


def test_clean_text_keeps_words_only() -> None:
    assert clean_text("a\x00b\tc\u2028d\ud800") == "a b c d?"
    assert clean_text("  Grüße \n") == "Grüße"
    assert clean_text("e\u0301") == "é"


def test_tokenizer_round_trip_folds_the_source_case_only() -> None:
    folder = checkpoint(**VARIANT)
    files = [(folder / name).read_bytes() for name in ("source.spm", "target.spm")]
    import json

    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer(*files, vocabulary)
    assert tokenizer.encode(["Guten Morgen"]) == tokenizer.encode(["guten morgen"])
    assert tokenizer.decode(tokenizer.encode(["guten morgen"])[0]) == "guten morgen"
    assert tokenizer.decode([tokenizer.unk_id, vocabulary["<pad>"], vocabulary["</s>"]]) == ""
    assert tokenizer.vocab_size == len(vocabulary)


@pytest.mark.parametrize("damage", [b"", b"not a model", b"\x0a\xff\xff"])
def test_damaged_tokenizer_files_are_typed_errors(damage: bytes) -> None:
    with pytest.raises(ModelError):
        Tokenizer(damage, None, None)


def test_vocabulary_with_holes_is_refused(tmp_path) -> None:
    model = (checkpoint(**VARIANT) / "source.spm").read_bytes()
    with pytest.raises(BundleSchemaError):
        Tokenizer(model, None, {"<unk>": 0, "a": 7})
    with pytest.raises(BundleSchemaError):
        Tokenizer(model, None, {"a": 0})
    shutil.rmtree(tmp_path, ignore_errors=True)
