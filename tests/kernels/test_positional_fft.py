"""The positional convolution by way of the frequencies against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)

from engine.kernels.encoder.channel_fft import LENGTH, N_BINS, transform, transform_back
from engine.kernels.encoder.positional_fft import HOP, PositionalSpectrum, convolve_spectrum
from engine.kernels.encoder.waveform import PositionalConv
from engine.native.packing import aligned_bytes
from engine.native.positions import convolve, make_spectrum_buffers, pack_positions
from engine.native.workers import Workers
from tests.reference import encoder_kernels_reference as reference

pytestmark = pytest.mark.levels

F32 = np.float32
LANES = 16
ROUNDING = 2.0**-8  # of bfloat16, at the worst, relative
INDEPENDENT = 2.0**-7 * np.sqrt(2 / 12)  # two factors' rounding, each even over a step of at most 2^-7


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def pack(weight: np.ndarray, bias: np.ndarray, n_groups: int) -> PositionalSpectrum:
    """torch's weight [d, size, width]."""
    _, size, width = weight.shape
    taps = weight.reshape(n_groups, size, size, width).transpose(0, 3, 2, 1)
    packed = pack_positions(np.ascontiguousarray(taps), bias)
    assert isinstance(packed, PositionalSpectrum)
    return packed


def run(conv: PositionalSpectrum, hidden: np.ndarray, threads: int = 1) -> np.ndarray:
    with Workers(threads) as workers:
        return convolve(conv, hidden, workers)


def spectrum_of(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float64 [129, 4, 16, 2] of two signals [256, 16], by the kernel."""
    joined = np.ascontiguousarray(np.stack([left, right]))
    points, pairs = aligned_bytes(LENGTH * 128), np.zeros((N_BINS, 4, LANES, 2), np.uint16)
    row, addresses = 4 * LANES, (joined[0].ctypes.data, joined[1].ctypes.data)
    transform(*addresses, 4 * LANES, points.ctypes.data, pairs.ctypes.data, row, 4 * row)
    return reference.from_bf16(pairs)


def test_the_rows_of_pairs_are_the_spectrum_of_two_signals() -> None:
    left, right = normal(0, LENGTH, LANES), normal(1, LENGTH, LANES)
    wanted = np.fft.fft(left + 1j * right.astype(np.float64), axis=0)
    found = spectrum_of(left, right)
    positive = found[:, 1, :, 1] + 1j * found[:, 1, :, 0]
    positive[128] = -found[128, 1, :, 1] + 1j * found[128, 1, :, 0]  # its weights are real: either way
    negative = (found[:, 3, :, 1] * -1 + 1j * found[:, 3, :, 0])[1:128]
    np.testing.assert_allclose(positive, wanted[:N_BINS], rtol=ROUNDING, atol=1e-4)
    np.testing.assert_allclose(negative, wanted[:128:-1], rtol=ROUNDING, atol=1e-4)
    np.testing.assert_array_equal(found[:128, 0, :, 0], found[:128, 1, :, 1])
    np.testing.assert_array_equal(found[:128, 0, :, 1], -found[:128, 1, :, 0])


def test_the_transform_back_gives_the_first_half_of_both_signals() -> None:
    left, right = normal(0, LENGTH, LANES), normal(1, LENGTH, LANES)
    spectrum = np.fft.fft(left + 1j * right.astype(np.float64), axis=0)
    sums = np.full((N_BINS, 4, LANES), np.nan, F32)
    sums[:, 0], sums[:, 1] = spectrum[:N_BINS].real, spectrum[:N_BINS].imag
    sums[1:128, 2], sums[1:128, 3] = spectrum[:128:-1].real, spectrum[:128:-1].imag
    points = aligned_bytes(LENGTH * 128)
    transform_back(sums.ctypes.data, 4 * LANES, 16 * LANES, points.ctypes.data)
    found = points.view(F32).reshape(LENGTH, 2, LANES)[:HOP] / LENGTH
    np.testing.assert_allclose(found[:, 0], left[:HOP], rtol=0, atol=3e-6)
    np.testing.assert_allclose(found[:, 1], right[:HOP], rtol=0, atol=3e-6)


@pytest.mark.parametrize("size", [16, 48, 64, 80, 96])
@pytest.mark.parametrize("width", [64, 127, 128])
def test_it_is_the_positional_convolution(size: int, width: int) -> None:
    """The rounding of signal and weights is all that it loses, and that is independent."""
    d = 2 * size
    weight, bias = normal(size, d, size, width) / F32(np.sqrt(size * width)), F32(0.1) * normal(1, d)
    conv = pack(weight, bias, 2)
    for n_frames in (1, 63, 64, 127, 128, 129, 256, 257, 513, 800):
        hidden = normal(n_frames, n_frames, d)
        wanted = reference.positional_conv(hidden, weight, bias, 2)
        error = np.linalg.norm(run(conv, hidden) - wanted) / np.linalg.norm(wanted)
        assert error < INDEPENDENT, n_frames


def test_an_impulse_brings_out_the_taps() -> None:
    """An impulse meets one tap a frame: the row of taps comes out, in order, from its first to its last."""
    weight, bias = np.zeros((16, 16, 128), F32), np.zeros(16, F32)
    weight[np.arange(16), np.arange(16)] = np.arange(128) + 100
    hidden = np.zeros((300, 16), F32)
    hidden[150] = np.arange(16) + 1
    found = run(pack(weight, bias, 1), hidden)
    wanted = np.zeros((300, 16))
    wanted[150 - 63 : 150 + 65] = weight[0, 0][::-1, None] * hidden[150]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.02 * wanted.max())
    assert np.linalg.norm(found - wanted) < INDEPENDENT * np.linalg.norm(wanted)


def bound_of_rounding(hidden: np.ndarray, weight: np.ndarray, n_groups: int) -> np.ndarray:
    """L2 of the error of [block pair, channel]: Cauchy-Schwarz over inputs, Parseval over frequencies.

    A bin's sum over inputs of x w is wrong by at most (2 * 2^-8 + 2^-16) |x| |w|, and by what float32 loses
    in the transforms (8 levels) and in the sum; the bound takes three times 2^-8 for all of it.
    """
    (n_frames, d), size, width = hidden.shape, weight.shape[1], weight.shape[2]
    n_pairs = -(-n_frames // (2 * HOP))
    padded = np.zeros(((2 * n_pairs + 1) * HOP, d))
    padded[width // 2 : width // 2 + n_frames] = hidden[: len(padded) - width // 2]
    taps = np.linalg.norm(np.fft.fft(weight, LENGTH, axis=2), axis=1)  # [d, 256]
    bounds = []
    for pair in range(n_pairs):
        block = padded[2 * HOP * pair :][: LENGTH + HOP]
        x = np.fft.fft(block[:LENGTH] + 1j * block[HOP:], axis=0).reshape(LENGTH, n_groups, size)
        x = np.repeat(np.linalg.norm(x, axis=2), d // n_groups, axis=1)  # [256, d]
        bounds.append(np.linalg.norm(x * taps.T, axis=0) / np.sqrt(LENGTH))
    return 3 * ROUNDING * np.array(bounds)


@given(
    n_frames=st.integers(1, 600),
    width=st.integers(64, 128),
    size=st.sampled_from([16, 48, 64]),
    n_groups=st.integers(1, 2),
    level=st.sampled_from([0.0, 3.0, -100.0]),
    loudest=st.sampled_from([1e-20, 1.0, 1e15]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_the_error_is_within_that_of_rounding(
    n_frames: int, width: int, size: int, n_groups: int, level: float, loudest: float, seed: int
) -> None:
    """Loud and quiet stretches, a level far from zero, huge and tiny signals, taps that fade out."""
    d = n_groups * size
    hidden = (normal(seed, n_frames, d) + F32(level)) * np.geomspace(1e-6, 1, n_frames).astype(F32)[:, None]
    hidden *= F32(loudest)
    weight = normal(seed + 1, d, size, width) * np.geomspace(1, 1e-3, width).astype(F32)
    bias = normal(seed + 2, d)
    found, wanted = (
        run(pack(weight, bias, n_groups), hidden),
        reference.positional_conv(hidden, weight, bias, n_groups),
    )
    bounds = bound_of_rounding(hidden, weight, n_groups)
    slope, gelu_error = 1.13, 8e-6 + 5.1e-6 * np.abs(wanted)  # of GELU and of its polynomial
    for pair, bound in enumerate(bounds):
        part = slice(2 * HOP * pair, 2 * HOP * (pair + 1))
        error = np.maximum(np.abs(found[part] - wanted[part]) - gelu_error[part], 0)
        assert (np.linalg.norm(error, axis=0) <= slope * bound).all()


def test_frames_know_only_their_block_and_threads_change_no_bit() -> None:
    weight, bias = normal(0, 192, 48, 128) / 70, normal(1, 192)
    conv, hidden = pack(weight, bias, 4), normal(2, 700, 192)
    alone = run(conv, hidden)
    for threads in (2, 3, 5):
        np.testing.assert_array_equal(run(conv, hidden, threads), alone)
    parts = np.full_like(hidden, np.nan)
    for start, end in ((3, 4), (0, 1), (1, 3)):
        convolve_spectrum(conv, hidden, start, end, make_spectrum_buffers(48, 700), parts)
    np.testing.assert_array_equal(parts, alone)
    longer = run(conv, np.concatenate([hidden[:512], 100 * normal(3, 300, 192)]))
    np.testing.assert_array_equal(longer[:256], alone[:256])
    hidden[600:] = np.nan  # the third pair alone reads these
    np.testing.assert_array_equal(run(conv, hidden)[:512], alone[:512])


@pytest.mark.parametrize(
    ("width", "kind"), [(63, PositionalConv), (129, PositionalConv), (64, PositionalSpectrum)]
)
def test_other_widths_are_multiplied_tap_by_tap(width: int, kind: type) -> None:
    assert isinstance(pack_positions(normal(0, 1, width, 16, 16), normal(1, 16)), kind)
