"""A transcript depends on its recording alone: not on the batch, the threads, or what was run before."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnx")

import engine
from engine.acoustic.model import AcousticModel
from engine.types import DecodingOptions
from export.acoustic.pretrained import export_pretrained
from export.acoustic.source import ExportOptions
from export.verification.audio_cases import mix_noise, speech_like
from tests.parity.test_export_wav2vec2 import save_checkpoint

KINDS = {"group norm": "wav2vec2-base", "layer norm": "wav2vec2-large-lv60, XLSR-53, XLS-R"}
LENGTHS_S = (0.4, 1.0, 1.7, 3.0, 3.0, 6.0, 9.0)  # a batch of seven, two of one length
GREEDY = DecodingOptions(beam_width=1, vad_filter=False)


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """The folder of a kind in a precision, exported when it is first asked for."""

    @functools.cache
    def checkpoint(kind: str) -> Path:
        return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint", KINDS[kind])

    @functools.cache
    def bundle(kind: str, precision: str) -> str:
        options: Any = ExportOptions(precision, min_agreement=0.3, allow_slower=True, sensitivity=False)
        folder = tmp_path_factory.mktemp("bundle") / precision
        export_pretrained(str(checkpoint(kind)), folder, options)
        return str(folder)

    return bundle


def recordings() -> list[np.ndarray]:
    """Clean and noisy, loud and soft."""
    waves = [speech_like(int(s * 16_000), 16_000, seed) for seed, s in enumerate(LENGTHS_S)]
    noises = ("white", "red")
    return [
        mix_noise(w, noises[i % 2], 10.0 if i % 3 else None, i) * 0.5 ** (i % 4) for i, w in enumerate(waves)
    ]


def texts(results: Iterator[Any]) -> list[tuple[str, tuple[Any, ...]]]:
    return [(result.text, result.words) for result in results]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.levels)])
@pytest.mark.parametrize("kind", KINDS)
def test_transcripts_do_not_depend_on_batch_order_or_threads(
    bundle_of: Callable[[str, str], str], kind: str, precision: str
) -> None:
    waves = recordings()
    single = engine.load(bundle_of(kind, precision), device="cpu", threads=1)
    alone = [texts(iter([single.transcribe(wave, options=GREEDY)]))[0] for wave in waves]
    assert len({text for text, _ in alone}) > len(waves) // 2  # they say different things
    for threads in (1, 2, 7):
        model = engine.load(bundle_of(kind, precision), device="cpu", threads=threads)
        for size in (1, 2, 7):
            found = []
            for start in range(0, len(waves), size):
                found += texts(model.transcribe_batch(waves[start : start + size], options=GREEDY))
            assert found == alone
        wide = [model.transcribe(wave, options=GREEDY).text for wave in waves]  # all threads on one region
        assert wide == [text for text, _ in alone]
        assert texts(model.transcribe_batch(waves[::-1], options=GREEDY)) == alone[::-1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_calls_as_on_a_gpu_change_rounding_at_most(
    bundle_of: Callable[[str, str], str], kind: str, precision: str
) -> None:
    """fp16 bundles pad under a mask; fp32 ones share calls between equal lengths only."""
    model = engine.load(bundle_of(kind, precision), device="cpu", threads=1)
    features = [model.compute_features(wave) for wave in recordings()]
    together = model.acoustic.compute_log_probs_batch(features)
    for array, found in zip(features, together, strict=True):
        alone = model.compute_log_probs(array)
        assert found.shape == alone.shape
        np.testing.assert_allclose(found, alone, atol=5e-3 if precision == "fp16" else 1e-4)


def test_a_long_recording_in_shared_calls_has_the_transcript_of_single_ones(
    bundle_of: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waveform = speech_like(70 * 16_000, 16_000)
    model = engine.load(bundle_of("group norm", "fp32"), device="cpu", threads=2)
    expected = model.transcribe(waveform, options=GREEDY)
    monkeypatch.setattr(AcousticModel, "batches", property(lambda self: True))
    done: list[float] = []
    found = model.transcribe(waveform, options=GREEDY, progress=lambda at, total: done.append(at / total))
    assert found.text == expected.text
    assert [(s.start_s, s.end_s) for s in found.segments] == [(s.start_s, s.end_s) for s in expected.segments]
    assert set(found.stages_s) == set(expected.stages_s)
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_files_in_shared_calls_have_the_transcripts_of_single_ones(
    bundle_of: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files as on a GPU, among them an empty one and one that is no audio."""
    model = engine.load(bundle_of("layer norm", "fp16"), device="cpu", threads=2)
    sources: list[Any] = [*recordings(), np.zeros(0, np.float32), tmp_path / "missing.wav"]
    expected = list(model.transcribe_batch(sources, options=GREEDY))
    monkeypatch.setattr(AcousticModel, "batches", property(lambda self: True))
    found = list(model.transcribe_batch(sources, options=GREEDY))
    for one, other in zip(expected, found, strict=True):
        assert type(one) is type(other)
        if isinstance(one, engine.EngineError):
            assert str(one) == str(other)
            continue
        assert other.text == one.text
        assert [(s.start_s, s.end_s) for s in other.segments] == [(s.start_s, s.end_s) for s in one.segments]
        assert other.duration_s == one.duration_s
        assert other.stages_s["audio"] >= 0
