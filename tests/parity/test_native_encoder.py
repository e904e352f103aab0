"""Exported encoders by the engine's own kernels, against torch and against onnxruntime."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import jiwer
import numpy as np
import pytest

from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)
for package in ("torch", "transformers", "onnx"):
    pytest.importorskip(package)

import engine  # noqa: E402
from engine.errors import AudioLimitError, AudioShapeError, AudioTooShortError, CancelledError, LayoutError  # noqa: E402
from engine.kernels.encoder.waveform import CHUNK_FRAMES  # noqa: E402
from engine.native.encoder import NativeEncoder  # noqa: E402
from engine.native.workers import Workers  # noqa: E402
from engine.runtime.cancel import CancelToken  # noqa: E402
from tests.reference.tiny_encoders import (  # noqa: E402
    BEYOND_THE_KERNELS,
    LOG_MEL,
    WAVEFORM,
    TinyEncoder,
    features_for,
    log_mel_encoder,
    waveform_encoder,
)

pytestmark = pytest.mark.levels

MIN_SAMPLES, SAMPLES_PER_FRAME = 400, 320
# The shortest, one sample more, a frame more, chunks of frames and their neighbours, 1 s, 5.3 s.
LENGTHS = [
    MIN_SAMPLES,
    MIN_SAMPLES + 1,
    MIN_SAMPLES + SAMPLES_PER_FRAME,
    MIN_SAMPLES + SAMPLES_PER_FRAME * (CHUNK_FRAMES - 1),
    MIN_SAMPLES + SAMPLES_PER_FRAME * CHUNK_FRAMES,
    16_000,
    84_800,
]
MEL_FRAMES = [1, 2, 3, 61, 62, 64, 66, 96, 98, 533]  # half of them: blocks of 12, 32 and 48, and odd ones
WIDEST_FP32, WIDEST_INT8 = 0.02, 0.06  # relative L2 error of the logits
KINDS = {
    **dict.fromkeys(WAVEFORM, (waveform_encoder, "input_values", LENGTHS)),
    **dict.fromkeys(LOG_MEL, (log_mel_encoder, "input_features", MEL_FRAMES)),
}


def tiny(kind: str) -> TinyEncoder:
    return KINDS[kind][0](kind)


@cache
def native(kind: str, precision: str) -> NativeEncoder:
    return NativeEncoder(tiny(kind).graphs[precision], integers=precision == "int8")


def features_of(kind: str, n: int, seed: int = 3) -> np.ndarray:
    return features_for(KINDS[kind][1], n, seed)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_equal_torch_at_every_length(kind: str) -> None:
    assert native(kind, "int8").input_name == KINDS[kind][1]
    for n in KINDS[kind][2]:
        features = features_of(kind, n)
        wanted = tiny(kind).reference(features)
        assert error(native(kind, "fp32").run(features), wanted) < WIDEST_FP32, n
        assert error(native(kind, "int8").run(features), wanted) < WIDEST_INT8, n


@pytest.mark.parametrize("kind", ["layer norm", "sinks"])
def test_int8_graph_in_bfloat16_is_nearer_than_in_integers(kind: str) -> None:
    features = features_of(kind, KINDS[kind][2][-1])
    wanted = tiny(kind).reference(features)
    floats = NativeEncoder(tiny(kind).graphs["int8"], integers=False)
    assert error(floats.run(features), wanted) < error(native(kind, "int8").run(features), wanted)


def test_the_tiny_graphs_have_what_the_large_ones_have() -> None:
    for kind in KINDS:
        assert b"feed_outliers" in tiny(kind).graphs["int8"]
    assert b"MatMulIntegerToFloat" in tiny("layer norm").graphs["int8"]
    assert b"DynamicQuantizeLSTM" in tiny("lstm").graphs["int8"]


@pytest.mark.parametrize("kind", BEYOND_THE_KERNELS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_other_kinds_are_left_to_onnxruntime(kind: str, precision: str) -> None:
    with pytest.raises(LayoutError):
        NativeEncoder(log_mel_encoder(kind).graphs[precision])


@pytest.mark.parametrize("kind", ["group norm", "stable layer norm", "odd taps", *LOG_MEL])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_threads_and_repetition_change_no_bit(kind: str, precision: str) -> None:
    encoder, features = native(kind, precision), features_of(kind, KINDS[kind][2][-1])
    before = features.copy()
    alone = encoder.run(features)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(encoder.run(features, threads=threads), alone)
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize("kind", ["group norm", "sinks"])
def test_callers_at_once_get_what_they_get_in_turn(kind: str) -> None:
    encoder = native(kind, "int8")
    inputs = [features_of(kind, n, seed) for seed, n in enumerate(KINDS[kind][2] * 2)]
    alone = [encoder.run(features) for features in inputs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda features: encoder.run(features, threads=2), inputs))
    for left, right in zip(alone, together, strict=True):
        np.testing.assert_array_equal(left, right)


class CancelledAt(CancelToken):
    """Cancels itself when it is looked at for the nth time."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.left = nth

    def raise_if_cancelled(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.cancel()
        super().raise_if_cancelled()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["group norm", "sinks"])
def test_cancelled_calls_raise_and_the_next_one_is_right(kind: str, threads: int) -> None:
    encoder, features = native(kind, "int8"), features_of(kind, KINDS[kind][2][-2])
    wanted = encoder.run(features)
    counted = CancelledAt(1000)
    encoder.run(features, threads, counted)
    n_looks = 1000 - counted.left
    assert n_looks >= 2 * len(encoder.layers)
    for nth in range(1, n_looks + 1):
        with pytest.raises(CancelledError):
            encoder.run(features, threads, CancelledAt(nth))
    np.testing.assert_array_equal(encoder.run(features, threads, CancelToken()), wanted)


def test_a_call_ends_soon_after_another_thread_cancels_it() -> None:
    encoder, cancel = native("group norm", "int8"), CancelToken()
    features = np.random.default_rng(0).standard_normal(30 * 16_000).astype(np.float32)
    timer = threading.Timer(0.01, cancel.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        for _ in range(1000):
            encoder.run(features, 1, cancel)
    timer.join()


def test_features_that_a_graph_does_not_take_are_refused() -> None:
    waveform, mel = native("group norm", "int8"), native("lstm", "int8")
    for n_samples in (0, 1, MIN_SAMPLES - 1):
        with pytest.raises(AudioTooShortError, match=f"{n_samples} samples"):
            waveform.run(np.zeros(n_samples, np.float32))
    with pytest.raises(AudioShapeError):
        waveform.run(np.zeros((1, 800), np.float32))
    for shape in ((80,), (79, 10), (128, 10), (1, 80, 9)):
        with pytest.raises(AudioShapeError):
            mel.run(np.zeros(shape, np.float32))
    with pytest.raises(AudioTooShortError):
        mel.run(np.zeros((80, 0), np.float32))
    assert mel.run(np.zeros((80, 3000), np.float32)).shape == (1500, mel.vocab_size)
    with pytest.raises(AudioLimitError, match="at most 3000"):
        mel.run(np.zeros((80, 3001), np.float32))


def test_features_of_other_types_and_layouts_are_converted() -> None:
    features = features_of("lstm", 100)
    wanted = native("lstm", "int8").run(features)
    strided = np.tile(features, (1, 2))[:, :100]
    for other in (features.astype(np.float64), np.asfortranarray(features), strided):
        np.testing.assert_array_equal(native("lstm", "int8").run(other), wanted)


@pytest.mark.parametrize(
    ("count", "n_items", "multiple"), [(1, 7, 3), (2, 7, 3), (3, 1, 5), (4, 100, 1), (5, 9, 2)]
)
def test_workers_cover_every_item_once(count: int, n_items: int, multiple: int) -> None:
    parts: list[tuple[int, int, int]] = []
    with Workers(count) as workers:
        workers.share(n_items, multiple, lambda *part: parts.append(part))
    parts.sort(key=lambda part: part[1])
    covered = [item for _, start, end in parts for item in range(start, end)]
    assert covered == list(range(n_items))
    assert all(start % multiple == 0 for _, start, _ in parts)
    assert len({worker for worker, _, _ in parts}) == len(parts) <= count


def test_workers_become_fewer_where_others_want_the_cores() -> None:
    token, counts = CancelToken(), []
    with Workers(4, token) as workers:
        for cores in (None, 4, 2, 9, 1, 0):
            token.cores = cores
            parts: list[tuple[int, int, int]] = []
            workers.share(40, 4, lambda *part, parts=parts: parts.append(part))
            counts.append(len(parts))
            assert sorted(i for _, start, end in parts for i in range(start, end)) == list(range(40))
    assert counts == [4, 4, 2, 4, 1, 1]


@pytest.mark.parametrize("kind", ["group norm", "lstm"])
def test_an_utterance_is_the_same_bits_while_its_cores_become_fewer(kind: str) -> None:
    class Leaving(CancelToken):
        cores: int | None = 5

        def raise_if_cancelled(self) -> None:
            self.cores = max(1, (self.cores or 1) - 1)

    encoder, features, token = native(kind, "int8"), features_of(kind, KINDS[kind][2][-1]), Leaving()
    np.testing.assert_array_equal(encoder.run(features, 5, token), encoder.run(features))
    assert token.cores == 1


def test_an_error_in_a_part_reaches_the_caller_when_all_parts_have_ended() -> None:
    ended = threading.Event()

    def job(worker: int, start: int, end: int) -> None:
        if worker == 0:
            raise ValueError("worker 0")
        ended.wait(0.05)
        ended.set()

    with Workers(2) as workers, pytest.raises(ValueError, match="worker 0"):
        workers.share(2, 1, job)
    assert ended.is_set()
    with Workers(2) as workers, pytest.raises(ZeroDivisionError):
        workers.share(2, 1, lambda worker, start, end: 1 // (1 - worker))


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, engine.SpeechTranslator]]:
    yield {name: engine.load(device="cpu", backend=name, threads=2) for name in ("kernels", "onnxruntime")}


def test_the_default_bundle_says_the_same_by_both_backends(
    backends: dict[str, engine.SpeechTranslator], examples: list[dict[str, str]]
) -> None:
    kernels, reference = backends["kernels"], backends["onnxruntime"]
    assert kernels.acoustic.encoder.backend == "kernels"
    assert reference.acoustic.encoder.backend == "onnxruntime"
    same: list[np.ndarray] = []
    texts: list[tuple[str, str]] = []
    for example in examples:
        waveform = kernels.load_audio(Path(example["path"]))
        for start_s, end_s in kernels.detect_speech(waveform):
            piece = waveform[int(start_s * 16_000) : int(end_s * 16_000)]
            features = kernels.compute_features(piece)
            left, right = (model.compute_log_probs(features) for model in (kernels, reference))
            assert left.shape == right.shape
            same.append(left.argmax(-1) == right.argmax(-1))
        texts.append(tuple(model.transcribe(waveform, 16_000).text for model in (reference, kernels)))
    assert np.concatenate(same).mean() >= 0.97
    assert jiwer.wer(*map(list, zip(*texts, strict=True))) <= 0.03
