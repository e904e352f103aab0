"""Power spectrum of 512 real samples, LANES frames at a time: as real_fft, with 256 = 4 * 4 * 4 * 4."""

from __future__ import annotations

from engine.kernels._jit import kernel
from engine.kernels.features.real_fft import LANES, FloatArray, split_power, unit_roots

N_FFT = 512
HALF = N_FFT // 2
BLOCK = HALF * LANES
_ROOTS_256 = unit_roots(HALF, HALF, 4)
_ROOTS_512 = unit_roots(N_FFT, 2, HALF)[:, 1].copy()
_QUARTER = BLOCK // 4


@kernel(inline="always")
def _radix4(src: FloatArray, dst: FloatArray, stride: int) -> None:
    """A pass of 4 points over 64 / stride groups of stride * LANES values; arrays are [2 * BLOCK]."""
    width = stride * LANES
    for p in range(64 // stride):
        root = p * stride
        w1r, w1i = _ROOTS_256[0, root, 1], _ROOTS_256[1, root, 1]
        w2r, w2i = _ROOTS_256[0, root, 2], _ROOTS_256[1, root, 2]
        w3r, w3i = _ROOTS_256[0, root, 3], _ROOTS_256[1, root, 3]
        for q in range(width):
            x, y = p * width + q, 4 * p * width + q
            ar, ai = src[x], src[x + BLOCK]
            br, bi = src[x + _QUARTER], src[x + _QUARTER + BLOCK]
            cr, ci = src[x + 2 * _QUARTER], src[x + 2 * _QUARTER + BLOCK]
            dr, di = src[x + 3 * _QUARTER], src[x + 3 * _QUARTER + BLOCK]
            sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
            ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
            dst[y], dst[y + BLOCK] = sr + ur, si + ui
            er, ei = tr + vi, ti - vr
            dst[y + width], dst[y + width + BLOCK] = er * w1r - ei * w1i, er * w1i + ei * w1r
            er, ei = sr - ur, si - ui
            dst[y + 2 * width], dst[y + 2 * width + BLOCK] = er * w2r - ei * w2i, er * w2i + ei * w2r
            er, ei = tr - vi, ti + vr
            dst[y + 3 * width], dst[y + 3 * width + BLOCK] = er * w3r - ei * w3i, er * w3i + ei * w3r


@kernel
def compute_power_block_512(samples: FloatArray, scratch: FloatArray, power: FloatArray) -> None:
    """Power spectrum of LANES windowed frames.

    Args:
        samples: float32 [2 * 256 * LANES]: even samples, then odd ones, lanes innermost; overwritten.
        scratch: float32 [2 * 256 * LANES]; overwritten.
        power: float32 [257 * LANES], written: |X[k]|^2 of the unnormalised transform.
    """
    _radix4(samples, scratch, 1)
    _radix4(scratch, samples, 4)
    _radix4(samples, scratch, 16)
    _radix4(scratch, samples, 64)
    split_power(samples, power, _ROOTS_512, HALF)
