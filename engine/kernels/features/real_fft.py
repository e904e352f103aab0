"""Power spectrum of 400 real samples, for 64 frames at a time.

The frames are next to each other in the innermost axis (the lanes), so each butterfly of the
Stockham FFT is a loop over contiguous floats that LLVM turns into vector code. The 400 real
samples of a frame are transformed as 200 complex ones: 200 = 4 * 2 * 5 * 5.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import kernel

N_FFT = 400
N_BINS = N_FFT // 2 + 1
LANES = 64  # a block's two complex buffers (200 KB) stay in the L2 cache
HALF = N_FFT // 2
BLOCK = HALF * LANES
_COS_1, _COS_2 = np.float32(math.cos(2 * math.pi / 5)), np.float32(math.cos(4 * math.pi / 5))
_SIN_1, _SIN_2 = np.float32(math.sin(2 * math.pi / 5)), np.float32(math.sin(4 * math.pi / 5))
_INNER = np.float32(0.5)

FloatArray = NDArray[np.float32]


def unit_roots(n: int, rows: int, columns: int) -> FloatArray:
    """exp(-2 pi i row * column / n), float32 [2, rows, columns]: real, then imaginary parts."""
    angle = -2.0 * np.pi * np.outer(np.arange(rows), np.arange(columns)) / n
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


_ROOTS_200 = unit_roots(200, 50, 4)
_ROOTS_50 = unit_roots(50, 25, 2)
_ROOTS_25 = unit_roots(25, 5, 5)
_ROOTS_400 = unit_roots(N_FFT, 2, HALF)[:, 1].copy()


@kernel(inline="always")
def _radix4(src: FloatArray, dst: FloatArray) -> None:
    """First pass: 50 groups of 4 points, stride 1. All arrays are [200 * LANES]."""
    for p in range(50):
        w1r, w1i = _ROOTS_200[0, p, 1], _ROOTS_200[1, p, 1]
        w2r, w2i = _ROOTS_200[0, p, 2], _ROOTS_200[1, p, 2]
        w3r, w3i = _ROOTS_200[0, p, 3], _ROOTS_200[1, p, 3]
        for lane in range(LANES):
            x, y = p * LANES + lane, 4 * p * LANES + lane
            ar, ai = src[x], src[x + BLOCK]
            br, bi = src[x + 50 * LANES], src[x + 50 * LANES + BLOCK]
            cr, ci = src[x + 100 * LANES], src[x + 100 * LANES + BLOCK]
            dr, di = src[x + 150 * LANES], src[x + 150 * LANES + BLOCK]
            sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
            ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
            dst[y], dst[y + BLOCK] = sr + ur, si + ui
            er, ei = tr + vi, ti - vr
            dst[y + LANES], dst[y + LANES + BLOCK] = er * w1r - ei * w1i, er * w1i + ei * w1r
            er, ei = sr - ur, si - ui
            dst[y + 2 * LANES], dst[y + 2 * LANES + BLOCK] = er * w2r - ei * w2i, er * w2i + ei * w2r
            er, ei = tr - vi, ti + vr
            dst[y + 3 * LANES], dst[y + 3 * LANES + BLOCK] = er * w3r - ei * w3i, er * w3i + ei * w3r


@kernel(inline="always")
def _radix2(src: FloatArray, dst: FloatArray) -> None:
    """Second pass: 25 groups of 2 points, stride 4."""
    for p in range(25):
        wr, wi = _ROOTS_50[0, p, 1], _ROOTS_50[1, p, 1]
        for q in range(4 * LANES):
            x, y = 4 * p * LANES + q, 8 * p * LANES + q
            ar, ai, br, bi = src[x], src[x + BLOCK], src[x + 100 * LANES], src[x + 100 * LANES + BLOCK]
            dst[y], dst[y + BLOCK] = ar + br, ai + bi
            er, ei = ar - br, ai - bi
            dst[y + 4 * LANES], dst[y + 4 * LANES + BLOCK] = er * wr - ei * wi, er * wi + ei * wr


@kernel(inline="always")
def _radix5(src: FloatArray, dst: FloatArray, groups: int, stride: int) -> None:
    """Third pass (5 groups, stride 8) and fourth (1 group, stride 40) of 5 points."""
    width = stride * LANES
    step = groups * width
    for p in range(groups):
        w1r, w1i = _ROOTS_25[0, p, 1], _ROOTS_25[1, p, 1]
        w2r, w2i = _ROOTS_25[0, p, 2], _ROOTS_25[1, p, 2]
        w3r, w3i = _ROOTS_25[0, p, 3], _ROOTS_25[1, p, 3]
        w4r, w4i = _ROOTS_25[0, p, 4], _ROOTS_25[1, p, 4]
        for q in range(width):
            x, y = p * width + q, 5 * p * width + q
            x1, x2, x3, x4 = x + step, x + 2 * step, x + 3 * step, x + 4 * step
            ar, ai = src[x], src[x + BLOCK]
            br, bi = src[x1] + src[x4], src[x1 + BLOCK] + src[x4 + BLOCK]
            cr, ci = src[x2] + src[x3], src[x2 + BLOCK] + src[x3 + BLOCK]
            dr, di = src[x1] - src[x4], src[x1 + BLOCK] - src[x4 + BLOCK]
            er, ei = src[x2] - src[x3], src[x2 + BLOCK] - src[x3 + BLOCK]
            dst[y], dst[y + BLOCK] = ar + br + cr, ai + bi + ci
            mr, mi = ar + br * _COS_1 + cr * _COS_2, ai + bi * _COS_1 + ci * _COS_2
            nr, ni = dr * _SIN_1 + er * _SIN_2, di * _SIN_1 + ei * _SIN_2
            tr, ti = mr + ni, mi - nr
            dst[y + width], dst[y + width + BLOCK] = tr * w1r - ti * w1i, tr * w1i + ti * w1r
            tr, ti = mr - ni, mi + nr
            dst[y + 4 * width], dst[y + 4 * width + BLOCK] = tr * w4r - ti * w4i, tr * w4i + ti * w4r
            mr, mi = ar + br * _COS_2 + cr * _COS_1, ai + bi * _COS_2 + ci * _COS_1
            nr, ni = dr * _SIN_2 - er * _SIN_1, di * _SIN_2 - ei * _SIN_1
            tr, ti = mr + ni, mi - nr
            dst[y + 2 * width], dst[y + 2 * width + BLOCK] = tr * w2r - ti * w2i, tr * w2i + ti * w2r
            tr, ti = mr - ni, mi + nr
            dst[y + 3 * width], dst[y + 3 * width + BLOCK] = tr * w3r - ti * w3i, tr * w3i + ti * w3r


@kernel(inline="always")
def split_power(src: FloatArray, power: FloatArray, roots: FloatArray, half: int) -> None:
    """Separate the two halves of a real transform: power [(half + 1) * LANES] = |X[k]|^2.

    roots: float32 [2, half], exp(-pi i k / half).
    """
    block = half * LANES
    for lane in range(LANES):
        real, imaginary = src[lane], src[lane + block]
        power[lane] = (real + imaginary) * (real + imaginary)
        power[lane + block] = (real - imaginary) * (real - imaginary)
    for k in range(1, half):
        wr, wi = roots[0, k], roots[1, k]
        here, mirror = k * LANES, (half - k) * LANES
        ar, ai = src[here : here + LANES], src[here + block : here + block + LANES]
        br, bi = src[mirror : mirror + LANES], src[mirror + block : mirror + block + LANES]
        out = power[here : here + LANES]
        for lane in range(LANES):
            evenr, oddi = (ar[lane] + br[lane]) * _INNER, (br[lane] - ar[lane]) * _INNER
            eveni, oddr = (ai[lane] - bi[lane]) * _INNER, (ai[lane] + bi[lane]) * _INNER
            real, imaginary = evenr + oddr * wr - oddi * wi, eveni + oddr * wi + oddi * wr
            out[lane] = real * real + imaginary * imaginary


@kernel
def compute_power_block(samples: FloatArray, scratch: FloatArray, power: FloatArray) -> None:
    """Power spectrum of LANES windowed frames.

    Args:
        samples: float32 [2 * 200 * LANES]: even samples, then odd ones, lanes innermost; overwritten.
        scratch: float32 [2 * 200 * LANES]; overwritten.
        power: float32 [201 * LANES], written: |X[k]|^2 of the unnormalised transform.
    """
    _radix4(samples, scratch)
    _radix2(scratch, samples)
    _radix5(samples, scratch, 5, 8)
    _radix5(scratch, samples, 1, 40)
    split_power(samples, power, _ROOTS_400, HALF)
