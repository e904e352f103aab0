"""The translation so far, of the embedded model: it grows to what a call without it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from engine.jobs.partials import PartialTranslations
from engine.types import Translation, TranslationHypothesis, Word

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "audio"


def test_a_translation_grows_to_the_whole(translator: Any) -> None:
    pause = np.zeros(40_000, np.float32)
    clips = [soundfile.read(EXAMPLES / f"{name}.flac", dtype="float32") for name in ("visit", "station")]
    assert {rate for _, rate in clips} == {16_000}
    waveform = np.concatenate([part for clip, _ in clips for part in (clip, pause)])
    told: list[Translation] = []
    result = translator.translate(waveform, 16_000, partial=told.append)
    assert result == translator.translate(waveform, 16_000)
    assert result.stages_s["translate"] > 0
    assert [len(each.segments) for each in told] == [1, 2]
    assert told[0].segments == result.segments[:1]
    assert told[0].source.segments == result.source.segments[:1]
    assert told[-1].segments == result.segments


def test_a_segment_is_translated_once() -> None:
    asked: list[list[str]] = []

    def translate(texts: list[str]) -> list[TranslationHypothesis]:
        asked.append(texts)
        return [TranslationHypothesis(text.upper(), 0.0, 0.5) for text in texts]

    told: list[Translation] = []
    partial = PartialTranslations(translate, told.append)
    words = [Word(text, float(10 * i), 10 * i + 1.0, 1.0) for i, text in enumerate(["eins", "zwei", "eins"])]
    for n in range(4):
        partial(words[:n])
    assert asked == [[], ["eins"], ["zwei"], []]
    assert [each.text for each in told] == ["", "EINS", "EINS ZWEI", "EINS ZWEI EINS"]
    assert told[-1].duration_s == 21.0
