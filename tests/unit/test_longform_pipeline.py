"""The whole recogniser over audio of known text: long, streamed, in batches, cancelled, served."""

from __future__ import annotations

import threading
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile

import engine
from engine.errors import AudioDecodeError, CancelledError, EngineError
from engine.runtime.cancel import CancelToken

pytest.importorskip("onnx", reason="builds a graph: needs the extra [export]")

from tests.reference.tone_bundle import spell, write_tone_bundle

SENTENCES = ("guten morgen frau müller", "das wetter ist heute schön", "wir fahren nach köln am rhein")
TEXT = " ".join(SENTENCES)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> engine.SpeechTranslator:
    return engine.load(
        str(write_tone_bundle(tmp_path_factory.mktemp("model") / "tones")), device="cpu", threads=2
    )


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    return spell("." + ".".join(SENTENCES) + ".")


def test_text_words_and_times(recogniser: engine.SpeechTranslator, waveform: np.ndarray) -> None:
    result = recogniser.transcribe(waveform)
    assert result.text == TEXT
    assert [segment.text for segment in result.segments] == list(SENTENCES)
    assert result.duration_s == pytest.approx(len(waveform) / 16_000)
    first = result.segments[0].words[0]
    assert first.start_s == pytest.approx(1.54, abs=0.05)
    assert first.end_s == pytest.approx(1.54 + 5 * 0.12, abs=0.08)
    assert first.confidence > 0.9
    assert set(result.stages_s) >= {"audio", "features", "encoder", "decode"}


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "ogg"])
def test_files_of_any_rate(
    recogniser: engine.SpeechTranslator, waveform: np.ndarray, form: str, tmp_path: Path
) -> None:
    path = tmp_path / f"speech.{form}"
    samples = np.interp(np.arange(0, len(waveform), 16 / 44.1), np.arange(len(waveform)), waveform)
    soundfile.write(path, np.stack([samples, samples], axis=1), 44_100)
    assert recogniser.transcribe(path).text == TEXT


def letters(text: str) -> str:
    """Letters without spaces or doubles: tones never pause, so a cut may fall inside one."""
    return "".join(letter for letter, _ in groupby(text.replace(" ", "")))


def test_minutes_of_speech_without_a_pause(recogniser: engine.SpeechTranslator) -> None:
    seen: list[tuple[float, float]] = []
    long = spell(" ".join([TEXT] * 8))
    result = recogniser.transcribe(long, progress=lambda *at: seen.append(at))
    assert len(long) > 60 * 16_000
    assert letters(result.text) == letters(TEXT * 8)
    assert seen == sorted(seen)
    assert len(seen) > 5
    assert all(len(segment.words) <= 40 for segment in result.segments)


def test_streaming_ends_with_the_same_words(
    recogniser: engine.SpeechTranslator, waveform: np.ndarray
) -> None:
    partials = list(recogniser.stream(np.array_split(waveform, 60)))
    offline = recogniser.transcribe(waveform)
    assert partials[-1].stable_text == TEXT
    assert partials[-1].tentative_text == ""
    for got, want in zip(partials[-1].segments, offline.segments, strict=True):
        assert got.start_s == pytest.approx(want.start_s, abs=0.021)
        assert got.text == want.text
    assert any(partial.tentative_text for partial in partials)


def test_one_bad_file_in_a_batch(
    recogniser: engine.SpeechTranslator, waveform: np.ndarray, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    results = list(recogniser.transcribe_batch([waveform, bad, waveform]))
    assert isinstance(results[1], AudioDecodeError)
    assert [r.text for r in results if not isinstance(r, EngineError)] == [TEXT, TEXT]


def test_silence_and_noise_say_nothing(recogniser: engine.SpeechTranslator) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 80_000).astype(np.float32)
    for samples in (np.zeros(80_000, np.float32), noise):
        assert recogniser.transcribe(samples).segments == ()


def test_threads_do_not_disturb_each_other(recogniser: engine.SpeechTranslator) -> None:
    texts = [f"{sentence} {name}" for sentence in SENTENCES for name in ("eins", "zwei")]
    results: dict[str, str] = {}

    def work(text: str) -> None:
        results[text] = recogniser.transcribe(spell("." + text)).text

    threads = [threading.Thread(target=work, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {text: text for text in texts}


def test_a_cancelled_call_ends_and_the_next_one_works(
    recogniser: engine.SpeechTranslator, waveform: np.ndarray
) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        recogniser.transcribe(waveform, cancel=cancel)
    assert recogniser.transcribe(waveform).text == TEXT


def test_it_is_served(recogniser: engine.SpeechTranslator, waveform: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra [serve]")
    pytest.importorskip("httpx", reason="needs httpx")
    from starlette.testclient import TestClient

    from engine.serve import create_app

    path = tmp_path / "speech.flac"
    soundfile.write(path, waveform, 16_000)
    with TestClient(create_app(recogniser)) as client:
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/v1/models").json()["data"][0]["id"] == "tones"
        fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
        response = client.post("/v1/audio/transcriptions", files={"file": path.read_bytes()}, data=fields)
        assert response.json()["text"] == TEXT
        assert len(response.json()["words"]) == len(TEXT.split())
        refused = client.post("/v1/audio/translations", files={"file": path.read_bytes()})
        assert refused.status_code == 400
        assert "cannot translate" in refused.json()["error"]["message"]
