"""The cascade, link by link: what each variant translates, and how punctuation is put back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_fake import SENTENCES, FakeTranslator, write_data

import engine
from benchmarks.cli import main
from benchmarks.data.manifest import Utterance, read_manifest
from benchmarks.measures.systems import EngineSystem
from benchmarks.studies.cascade import consensus, variants
from benchmarks.studies.restore import from_reference, sentence_case, write_like
from engine.types import DecodingOptions, Segment, Transcript, Translation

VARIANTS = [
    "gold", "gold_plain", "as_tuned", "greedy", "beam_no_lm", "sentence_case", "punctuation_oracle",
    "mt_greedy", "nbest_consensus", "nbest_oracle",
]  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTranslator:
    _, answers = write_data(tmp_path, 6)
    translator = FakeTranslator(answers)
    for german, english in SENTENCES:
        translator.texts |= {german: english, german.lower().strip(".?"): english}
    translator.texts["falsch"] = "wrong"
    monkeypatch.setattr(engine, "load", lambda model=None, **options: translator, raising=False)
    return translator


def test_every_variant_has_a_figure_and_its_difference(
    tmp_path: Path, fake: FakeTranslator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    perfect = FakeTranslator.translate

    def translate(
        self: FakeTranslator, source: Any, *, options: DecodingOptions | None = None
    ) -> Translation:
        result = perfect(self, source)
        worse = options is not None and options.beam_width == 1
        return Translation((Segment("What?", 0.0, 1.0),), result.source) if worse else result

    fake.answers["clip00.wav"] = (fake.answers["clip00.wav"][0], "My mother said it.")
    monkeypatch.setattr(FakeTranslator, "translate", translate)
    out, data = tmp_path / "out.json", str(tmp_path / "manifest.tsv")
    assert main(["--data", data, "--json", str(out), "--quiet", "--device", "cpu", "--cascade"]) == 0
    cascade = json.loads(out.read_text(encoding="utf-8"))["cascade"]
    bleu = {row["name"]: row["bleu"] for row in cascade["variants"]}
    assert list(bleu) == VARIANTS
    assert bleu["gold"] == bleu["nbest_oracle"] == bleu["punctuation_oracle"] == pytest.approx(100.0)
    assert bleu["greedy"] < bleu["as_tuned"] < bleu["gold"]
    assert cascade["cost_of_recognition"]["value"] == pytest.approx(bleu["gold"] - bleu["as_tuned"])
    (greedy,) = (row for row in cascade["variants"] if row["name"] == "greedy")
    assert greedy["bleu_difference"]["value"] == pytest.approx(bleu["greedy"] - bleu["as_tuned"])
    assert greedy["bleu_difference"]["interval"][1] < 0
    assert "recognition costs" in capsys.readouterr().out


def test_a_bundle_without_a_language_model_has_no_row_for_one(fake: FakeTranslator) -> None:
    fake.has_language_model = False
    assert "beam_no_lm" not in variants(EngineSystem(None, "translate"))


def test_a_punctuation_model_has_rows_with_and_without_it(
    tmp_path: Path, fake: FakeTranslator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[DecodingOptions | None] = []
    perfect = FakeTranslator.translate
    monkeypatch.setattr(fake.bundle, "has", lambda role: True)
    monkeypatch.setattr(fake, "punctuate", lambda text: f"{text.capitalize()}.", raising=False)
    monkeypatch.setattr(
        FakeTranslator,
        "translate",
        lambda self, source, options=None: (asked.append(options), perfect(self, source))[1],
    )
    items, found = read_manifest(tmp_path / "manifest.tsv"), variants(EngineSystem(None, "translate"))
    assert [german for german, _ in found["gold_restored"](items)][1] == "Heute ist schönes wetter in berlin."
    found["no_punctuation"](items)
    assert all(options is not None and not options.punctuation for options in asked)


def test_readings_are_made_once_for_both_uses(tmp_path: Path, fake: FakeTranslator) -> None:
    calls: list[int] = []
    decode = fake.decoder.decode
    fake.decoder.decode = lambda *a, **k: (calls.append(1), decode(*a, **k))[1]
    items, found = read_manifest(tmp_path / "manifest.tsv"), variants(EngineSystem(None, "translate"))
    assert found["nbest_oracle"](items) == list(SENTENCES)
    found["nbest_consensus"](items)
    assert len(calls) == 6


def test_the_consensus_is_what_most_readings_say() -> None:
    texts = [
        "The dog sleeps here.",
        "A dog is sleeping here.",
        "The dog sleeps here now.",
        "Tax forms, please!",
    ]
    assert consensus(texts, Utterance("a", Path("a"), "x")) in (0, 2)
    assert consensus(["", "yes"], Utterance("a", Path("a"), "x")) == 1


def transcript(*texts: str) -> Transcript:
    return Transcript(tuple(Segment(text, i, i + 1.0) for i, text in enumerate(texts)), float(len(texts)))


def test_sentence_case_touches_only_the_ends() -> None:
    restored = sentence_case(transcript("über den fluss", "", "ja"))
    assert [segment.text for segment in restored.segments] == ["Über den fluss.", "", "Ja."]


def test_right_words_take_the_reference_s_form_and_wrong_ones_stay() -> None:
    reference = "Am Sonntag, sagte er, kommt Frau Müllers E-Mail um 8 Uhr!"
    heard = "am sonntag sagte er kommt frau millers e mail um acht uhr".split()
    assert " ".join(write_like(reference, heard)) == (
        "Am Sonntag, sagte er, kommt Frau millers e mail um 8 Uhr!"
    )
    assert write_like("Nein.", []) == []
    assert write_like("Nein.", ["doch"]) == ["doch"]


def test_segments_keep_their_words() -> None:
    restored = from_reference("Guten Tag. Wie geht's, Anna?")(transcript("guten tag", "wie gehts anna"))
    assert [segment.text for segment in restored.segments] == ["Guten Tag.", "Wie geht's, Anna?"]
