"""The attention decoder by each of its backends: against torch, and each against itself."""

from __future__ import annotations

import functools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from engine.errors import CancelledError, DecodingError
from engine.kernels.vector.levels import has_vector_kernels
from engine.runtime.cancel import CancelToken
from engine.two_pass.runners import DecoderRunner, DecoderSteps
from export.two_pass.check import open_decoder_kernels, open_decoder_sessions
from export.two_pass.checkpoint import second_pass_config
from tests.reference.tiny_two_pass import (
    MAX_TOKENS,
    PROMPT,
    VOCAB_SIZE,
    WHISPER,
    make_decoder,
    make_states,
    reference_log_probs,
    write_decoder,
)

pytestmark = pytest.mark.levels
KERNELS = pytest.param(
    "kernels", marks=pytest.mark.skipif(not has_vector_kernels(), reason="no vector kernels at this level")
)
BACKENDS = [KERNELS, "onnxruntime", "onnxruntime fp32"]
# Rounded activations turn rounding errors of float32 into steps of int8, where sums have another order.
SELF_TOLERANCE = {"kernels": 0.0, "onnxruntime": 0.3, "onnxruntime fp32": 2e-4}
FRAMES = [1, 2, 31, 32, 33, 95, 200]
RNG = np.random.default_rng(0)
IDS = np.array([*PROMPT, *RNG.integers(0, VOCAB_SIZE, 20)])


@functools.cache
def runner(backend: str, whisper: bool = False, **changes: int) -> DecoderRunner:
    decoder = make_decoder(**{**(WHISPER if whisper else {}), **changes})
    precision = "fp32" if backend.endswith("fp32") else "int8"
    folder, config = Path(tempfile.mkdtemp()) / "decoder", second_pass_config(decoder, precision)
    write_decoder(decoder, folder, precision)
    if backend == "kernels":
        found = open_decoder_kernels(folder, config)
        assert found is not None
        return found
    return open_decoder_sessions(folder, config)


def start(backend: str, rows: int = 5, n_frames: int = 50) -> DecoderSteps:
    return runner(backend).start(make_states(n_frames), rows, MAX_TOKENS, None)


def spread(log_probs: np.ndarray) -> np.ndarray:
    return log_probs - log_probs.mean(axis=-1, keepdims=True)


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(spread(wanted)))


def step_by_step(steps: DecoderSteps, ids: np.ndarray, n_first: int) -> np.ndarray:
    rows = [*steps.prefill(ids[:n_first], None).copy()]
    for token in ids[n_first:]:
        rows.append(steps.step(np.array([token]), np.zeros(1, np.int64), None)[0].copy())
    return np.array(rows)


@pytest.mark.parametrize("n_frames", FRAMES)
def test_the_float_graphs_equal_torch(n_frames: int) -> None:
    states = make_states(n_frames)
    wanted = reference_log_probs(make_decoder(), states, IDS)
    steps = runner("onnxruntime fp32").start(states, 1, MAX_TOKENS, None)
    np.testing.assert_allclose(steps.prefill(IDS, None), wanted, rtol=0, atol=2e-4)
    assert np.abs(spread(wanted)).mean() > 0.5  # which says something


@pytest.mark.parametrize("backend", [KERNELS, "onnxruntime"])
@pytest.mark.parametrize("n_frames", FRAMES)
def test_int8_stays_near_torch(backend: str, n_frames: int) -> None:
    states = make_states(n_frames)
    wanted = reference_log_probs(make_decoder(), states, IDS)
    found = runner(backend).start(states, 1, MAX_TOKENS, None).prefill(IDS, None)
    assert found.shape == wanted.shape and found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-4)
    assert relative_error(found, wanted) < 0.2


@pytest.mark.parametrize("backend", [KERNELS, "onnxruntime"])
def test_the_sizes_of_whisper_base(backend: str) -> None:
    """8,263 tokens are no multiple of anything; 448 positions."""
    sizes = {"vocab_size": 8263, "max_tokens": 448}
    states, ids = make_states(120, 512), np.array([*PROMPT, 8262, 8000, 17, 0, 8255, 8256])
    wanted = reference_log_probs(make_decoder(**{**WHISPER, **sizes}), states, ids)
    opened = runner(backend, whisper=True, **sizes)
    found = step_by_step(opened.start(states, 5, 448, None), ids, 4)
    assert relative_error(found, wanted) < 0.2
    rows = opened.start(states, 5, 448, None)
    rows.prefill(ids[:-1], None)
    last = rows.step(np.full(5, ids[-1]), np.zeros(5, np.int64), None)
    assert last.shape == (5, 8263)
    np.testing.assert_allclose(last, np.tile(found[-1], (5, 1)), rtol=0, atol=SELF_TOLERANCE[backend])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n_first", [1, 4, 13])
def test_steps_continue_a_prefill(backend: str, n_first: int) -> None:
    wanted = start(backend).prefill(IDS, None).copy()
    found = step_by_step(start(backend), IDS, n_first)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=SELF_TOLERANCE[backend])


@pytest.mark.parametrize("backend", BACKENDS)
def test_beams_that_change_places_are_what_their_sequences_are_alone(backend: str) -> None:
    rng = np.random.default_rng(1)
    steps = start(backend, rows=7)
    steps.prefill(np.array(PROMPT), None)
    sequences, n_before = [list(PROMPT)], 1
    for n_rows in (3, 5, 7, 2, 1, 6, 6, 7, 7, 4):
        parents, ids = rng.integers(0, n_before, n_rows), rng.integers(0, VOCAB_SIZE, n_rows)
        log_probs = steps.step(ids, parents, None).copy()
        sequences = [[*sequences[p], int(i)] for p, i in zip(parents, ids, strict=True)]
        n_before = n_rows
    for row, sequence in enumerate(sequences):
        alone = start(backend).prefill(np.array(sequence), None)[-1]
        np.testing.assert_allclose(log_probs[row], alone, rtol=0, atol=SELF_TOLERANCE[backend])


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_do_not_depend_on_each_other(backend: str) -> None:
    for n_rows in (1, 2, 3, 4, 6, 8, 9, 13):
        steps = start(backend, rows=13)
        steps.prefill(np.array(PROMPT), None)
        ids = np.arange(n_rows) + 10
        together = steps.step(ids, np.zeros(n_rows, np.int64), None).copy()
        for row, token in enumerate(ids):
            alone = step_by_step(start(backend), np.array([*PROMPT, token]), 4)[-1]
            np.testing.assert_allclose(together[row], alone, rtol=0, atol=SELF_TOLERANCE[backend])


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_threads_share_a_runner(backend: str) -> None:
    inputs = [(make_states(20 + 9 * seed, seed=seed), (IDS + seed) % VOCAB_SIZE) for seed in range(8)]

    def decode(one: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return step_by_step(runner(backend).start(one[0], 2, MAX_TOKENS, None), one[1], 4)

    alone = [decode(one) for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        for wanted, found in zip(alone, pool.map(decode, inputs), strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_utterances_take_turns_in_one_thread(backend: str) -> None:
    alone = [step_by_step(start(backend, n_frames=n), IDS, 4) for n in (40, 70)]
    both = [start(backend, n_frames=n) for n in (40, 70)]
    rows = [[*steps.prefill(IDS[:4], None).copy()] for steps in both]
    for token in IDS[4:]:
        for found, steps in zip(rows, both, strict=True):
            found.append(steps.step(np.array([token]), np.zeros(1, np.int64), None)[0].copy())
    np.testing.assert_array_equal(np.array(rows), np.array(alone))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cancelled_call_leaves_nothing(backend: str) -> None:
    wanted = step_by_step(start(backend), IDS, 4)
    cancel = CancelToken()
    states, one = make_states(50), np.zeros(1, np.int64)
    waiting = runner(backend).start(states, 1, MAX_TOKENS, cancel)
    begun = runner(backend).start(states, 1, MAX_TOKENS, cancel)
    begun.prefill(IDS[:4], cancel)
    cancel.cancel()
    with pytest.raises(CancelledError):
        runner(backend).start(states, 1, MAX_TOKENS, cancel)
    with pytest.raises(CancelledError):
        waiting.prefill(IDS[:4], cancel)
    with pytest.raises(CancelledError):
        begun.step(one, one, cancel)
    np.testing.assert_array_equal(step_by_step(start(backend), IDS, 4), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_position_is_the_last(backend: str) -> None:
    ids = np.arange(MAX_TOKENS)
    found = step_by_step(start(backend), ids, MAX_TOKENS - 2)
    assert np.isfinite(found).all() and len(found) == MAX_TOKENS
    steps = start(backend)
    steps.prefill(ids, None)
    with pytest.raises(DecodingError, match="a step behind 40 tokens") as caught:
        steps.step(np.zeros(1, np.int64), np.zeros(1, np.int64), None)
    assert caught.value.want and caught.value.fix


def refused(match: str, call) -> None:
    with pytest.raises(DecodingError, match=match) as caught:
        call()
    assert caught.value.want and caught.value.fix


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_kernels_would_read_beyond_is_refused(backend: str) -> None:
    opened, states, ids = runner(backend), make_states(9), np.array(PROMPT)
    refused("states of shape", lambda: opened.start(make_states(9, 64), 1, 9, None))
    refused("states of shape", lambda: opened.start(states[:0], 1, 9, None))
    refused("rows of 41 tokens", lambda: opened.start(states, 1, MAX_TOKENS + 1, None))
    refused("0 rows", lambda: opened.start(states, 0, 9, None))
    steps = opened.start(states, 2, 5, None)
    refused("a step behind 0 tokens", lambda: steps.step(ids[:1], ids[:1] * 0, None))
    refused("first tokens of shape", lambda: steps.prefill(np.arange(6), None))
    refused("token ids of 1 to 101", lambda: steps.prefill(np.array([1, VOCAB_SIZE]), None))
    refused("token ids of -1", lambda: steps.prefill(np.array([1, -1]), None))
    steps.prefill(ids, None)
    refused("second prefill", lambda: steps.prefill(ids, None))
    refused("1 to 2 rows", lambda: steps.step(ids[:3], ids[:3] * 0, None))
    refused("parents", lambda: steps.step(ids[:2], np.array([0, 1]), None))
    refused("parents", lambda: steps.step(ids[:1], np.array([-1]), None))
    assert np.isfinite(steps.step(ids[:2], np.zeros(2, np.int64), None)).all()
