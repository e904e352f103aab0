"""A stand-in for a loaded model: says what it is told to say, and works for as long as it is told to."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from engine.errors import AudioDecodeError
from engine.types import DecodingOptions, Hypothesis, Segment, Transcript, Translation

SENTENCES = (
    ("Das hat schon meine Großmutter gesagt.", "My grandmother used to say that."),
    ("Heute ist schönes Wetter in Berlin.", "The weather is nice in Berlin today."),
    ("Der Zug fährt um acht Uhr ab.", "The train leaves at eight o'clock."),
    ("Wir haben den Schlüssel nicht gefunden.", "We did not find the key."),
    ("Am Abend gehen die Kinder nach Hause.", "In the evening the children go home."),
    ("Kannst du mir bitte das Salz geben?", "Could you please pass me the salt?"),
)


class FakeTranslator:
    """Has the methods of engine.pipeline.SpeechTranslator that the benchmark calls."""

    def __init__(
        self, answers: dict[str, tuple[str, str]], work: Callable[[float], object] | None = None
    ) -> None:
        self.answers, self.work = answers, work or (lambda duration_s: None)
        self.bundle = SimpleNamespace(has=lambda role: role != "punctuation", name="fake")
        self.translator = object()
        self.signature = "model:fake|threads:1"
        self.has_language_model = True
        self.calls: list[str] = []
        self.texts = dict(answers.values())
        self.decoder = SimpleNamespace(decode=self._decode_n_best)

    def choose_passes(self, options: DecodingOptions) -> int:
        return options.passes or 1

    def load_audio(self, source: str) -> np.ndarray:
        with wave.open(str(source)) as file:
            return np.zeros(file.getnframes(), np.float32)

    def detect_speech(self, waveform: np.ndarray) -> list[tuple[float, float]]:
        return [(0.0, len(waveform) / 16_000)]

    def compute_features(self, waveform: np.ndarray) -> np.ndarray:
        return waveform[None]

    def compute_log_probs(self, features: np.ndarray) -> np.ndarray:
        return features[0][:, None]

    def _decode_n_best(self, log_probs: np.ndarray, beam_width: int | None, n_best: int) -> list[Hypothesis]:
        """The reading of a clip is told by its length; a wrong one comes first."""
        german = SENTENCES[len(log_probs) // 16_000 - 1][0]
        return [Hypothesis(text, (), 0.0, 0.0, 0.0) for text in ("falsch", german)][:n_best]

    def transcribe(self, source: Any, *, options: DecodingOptions | None = None) -> Transcript:
        name = Path(source).name
        self.calls.append(name)
        if self.answers[name][0] == "BROKEN":
            raise AudioDecodeError(f"{name} is not audio")
        duration_s = len(self.load_audio(source)) / 16_000
        self.work(duration_s)
        stages = {"audio": 0.001, "features": 0.002, "encoder": 0.1, "decode": 0.01}
        return Transcript((Segment(self.answers[name][0], 0.0, duration_s),), duration_s, stages_s=stages)

    def translate(self, source: Any, *, options: DecodingOptions | None = None) -> Translation:
        transcript = self.transcribe(source)
        english = self.answers[Path(source).name][1]
        stages = {**transcript.stages_s, "translate": 0.05}
        return Translation((Segment(english, 0.0, transcript.duration_s),), transcript, stages_s=stages)

    def translate_transcript(
        self, transcript: Transcript, options: DecodingOptions | None = None
    ) -> Translation:
        english = self.translate_text([segment.text for segment in transcript.segments])
        segments = [replace(s, text=text) for s, text in zip(transcript.segments, english, strict=True)]
        return Translation(tuple(segments), transcript)

    def translate_text(self, texts: list[str], options: DecodingOptions | None = None) -> list[str]:
        return [self.texts.get(text, "?") for text in texts]


def write_wav(path: Path, duration_s: float, sample_rate: int = 16_000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(bytes(2 * int(duration_s * sample_rate)))


def write_data(folder: Path, n: int = 6, jsonl: bool = False) -> tuple[Path, dict[str, tuple[str, str]]]:
    """A manifest with silent audio of 1 to 6 s, and the perfect answers by file name."""
    answers, rows = {}, []
    for index in range(n):
        german, english = SENTENCES[index % len(SENTENCES)]
        name = f"clip{index:02d}.wav"
        write_wav(folder / name, 1.0 + index % 6)
        answers[name] = (german.lower().strip(".?"), english)
        rows.append((name, german, english, "anger" if index % 2 else "joy"))
    if jsonl:
        path = folder / "manifest.jsonl"
        keys = ("audio_filepath", "text", "translation", "emotion")
        lines = [json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False) for row in rows]
    else:
        path = folder / "manifest.tsv"
        lines = ["path\ttext_de\ttext_en\temotion", *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, answers
