"""Models that hear at another rate than 16 kHz, as on telephones: their times, by file, batch and stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")

import engine  # noqa: E402
from engine.errors import AudioTooShortError, AudioValueError  # noqa: E402
from export.acoustic.pretrained import load_pretrained  # noqa: E402
from export.acoustic.wav2vec2 import build_wav2vec2, run_torch  # noqa: E402
from export.verification.audio_cases import speech_like  # noqa: E402
from tests.parity.test_export_wav2vec2 import TOKENS, make_model, save_checkpoint  # noqa: E402

RATE, FRAME_S = 8_000, 320 / 8_000
DURATION_S = 4.0
GREEDY = engine.DecodingOptions(vad_filter=False, beam_width=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A telephone model as optimum-cli would write it, beside its checkpoint."""
    folder = save_checkpoint(tmp_path_factory.mktemp("telephone") / "model")
    extractor = {"do_normalize": True, "sampling_rate": RATE, "feature_size": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    onnx.save(build_wav2vec2(make_model("wav2vec2-base"))[0], folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> engine.SpeechTranslator:
    return engine.load(str(folder), device="cpu", threads=1)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "call.wav"
    soundfile.write(path, speech_like(round(DURATION_S * RATE), RATE), RATE, "PCM_16")
    return path


def decode_slowly(logits: Any) -> list[tuple[str, float, float]]:
    """Words of the best path, with the times of their first and last frame."""
    words: list[tuple[str, float, float]] = []
    text, start, end, before = "", 0, 0, -1
    logits = logits.copy()
    logits[:, 1:4] = -np.inf  # <s>, </s> and <unk>, which are no text
    for frame, token in enumerate([*logits.argmax(-1), TOKENS.index("|")]):
        if token == before:
            end = frame if token > 4 and text else end
            continue
        before = token
        if token > 4:
            start = start if text else frame
            text, end = text + TOKENS[token], frame
        elif TOKENS[token] == "|" and text:
            words.append((text, start * FRAME_S, (end + 1) * FRAME_S))
            text = ""
    return words


def test_export_takes_the_rate_of_the_checkpoint(folder: Path) -> None:
    config = load_pretrained(str(folder)).config
    assert config.features.sample_rate == RATE
    assert config.samples_per_frame == 320


def test_file_has_the_words_and_times_of_the_original_at_its_own_rate(
    model: engine.SpeechTranslator, recording: Path
) -> None:
    assert model.acoustic.frame_s == pytest.approx(FRAME_S)
    found = model.transcribe(str(recording), options=GREEDY)
    assert found.duration_s == pytest.approx(DURATION_S, abs=0.01)
    audio = model.load_audio(str(recording))
    waveform = soxr.resample(audio, 16_000, RATE)
    values = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    original = run_torch(make_model("wav2vec2-base"), values[None])[0]
    log_probs = model.compute_log_probs(model.compute_features(audio))
    assert (log_probs.argmax(-1) == original.argmax(-1)).mean() > 0.95  # random weights have near ties
    want = decode_slowly(log_probs)
    got = [(word.text, word.start_s, word.end_s) for word in found.words]
    assert [text for text, _, _ in got] == [text for text, _, _ in want]
    np.testing.assert_allclose([w[1:] for w in got], [w[1:] for w in want], atol=FRAME_S + 1e-6)
    assert 0.9 * DURATION_S < got[-1][2] <= DURATION_S


def test_telephone_speech_reaches_the_encoder_as_it_was_recorded(
    model: engine.SpeechTranslator, recording: Path
) -> None:
    """Decoding goes by way of 16 kHz: what a telephone passes is the same afterwards."""
    rng = np.random.default_rng(0)
    spectrum = rng.standard_normal(4 * RATE // 2 + 1) + 1j * rng.standard_normal(4 * RATE // 2 + 1)
    hertz = np.fft.rfftfreq(4 * RATE, 1 / RATE)
    spectrum[(hertz < 300) | (hertz > 3_400)] = 0
    call = np.fft.irfft(spectrum)
    call = (0.3 * call / np.abs(call).max()).astype(np.float32)
    got = model.compute_features(model.load_audio(call, sample_rate=RATE))
    want = (call - call.mean()) / np.sqrt(call.var() + 1e-7)
    assert len(got) == len(want)
    inside = slice(400, -400)
    assert np.linalg.norm(got[inside] - want[inside]) < 2e-3 * np.linalg.norm(want[inside])


def test_batch_and_pieces_of_a_file_give_the_same(model: engine.SpeechTranslator, recording: Path) -> None:
    alone = model.transcribe(str(recording), options=GREEDY)
    for found in model.transcribe_batch([str(recording)] * 2, options=GREEDY):
        assert isinstance(found, engine.Transcript)
        assert found.words == alone.words
    samples, _ = soundfile.read(recording, dtype="float32")
    assert model.transcribe(samples, RATE, options=GREEDY).words == alone.words
    searched = model.transcribe(str(recording))
    assert searched.words and searched.words[-1].end_s <= DURATION_S


@pytest.mark.parametrize("rate", [RATE, 16_000, 44_100])
def test_stream_of_any_rate_has_the_times_of_the_recording(model: engine.SpeechTranslator, rate: int) -> None:
    silence = np.zeros(rate, np.float32)
    waveform = np.concatenate([silence, speech_like(2 * rate, rate), silence])
    stream = model.open_stream(sample_rate=rate, options=engine.DecodingOptions(beam_width=1))
    events = list(stream.run(np.array_split(waveform, 17)))
    words = [
        word for event in events if event.kind == "final" and event.segment for word in event.segment.words
    ]
    assert words
    assert 0.5 < words[0].start_s < 1.5
    assert 2.4 < words[-1].end_s < 3.5
    assert stream.position_s == pytest.approx(4.0)


def test_limits_count_in_seconds_of_audio(model: engine.SpeechTranslator) -> None:
    assert model.acoustic.min_samples == 800  # 50 ms, in samples of 16 kHz
    with pytest.raises(AudioTooShortError, match=r"799 samples \(50 ms\)"):
        model.compute_features(np.zeros(799, np.float32))
    assert len(model.compute_features(np.zeros(800, np.float32))) == 400
    with pytest.raises(AudioValueError, match="not finite"):
        model.compute_features(np.full(16_000, np.nan, np.float32))
