"""From features to the rows that the transformer layers take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import MelStemSpec, WaveformStemSpec
from engine.errors import AudioLimitError, AudioShapeError, AudioTooShortError
from engine.kernels.encoder.conv_rows import Conv, FirstConv, convolve_last, convolve_rows
from engine.kernels.encoder.layer import BLOCK_ROWS, Norm, Scratch
from engine.kernels.encoder.waveform import CHUNK_FRAMES, add_positions, convolve_frames, project_frames
from engine.kernels.layers.dense import INT8, Dense, prepare_rows
from engine.kernels.vector.gemm import TILE_COLUMNS, TILE_ROWS
from engine.native.buffers import make_conv_buffers, rows_of
from engine.native.layers import NO_NORM, pack_conv, pack_first, read_convs
from engine.native.positions import Positions, convolve, read_positional_conv
from engine.native.weights import Weights, beyond_kernels, expect
from engine.native.workers import Workers

F32Array = NDArray[np.float32]
MEL_TAPS = 3


@dataclass(frozen=True)
class WaveformStem:
    """wav2vec2's convolutions, feature projection and positional convolution.

    Attributes:
        group_norm: the first convolution is followed by a norm over time; first.norm holds its weights.
        position_norm: behind the positions where the layers do not begin with norms.
    """

    first: FirstConv
    group_norm: bool
    convs: tuple[Conv, ...]
    projection_norm: Norm | None
    projection: Dense
    positions: Positions
    position_norm: Norm | None
    input_name: ClassVar[str] = "input_values"

    @property
    def n_channels(self) -> int:
        """Of the rows that it makes."""
        return self.projection.n_out

    def check(self, waveform: F32Array) -> None:
        """Refuse what it cannot read.

        Raises:
            AudioShapeError: not [n_samples]. AudioTooShortError: less than a frame.
        """
        _expect_features(waveform, waveform.ndim == 1, "[n_samples]")
        if self.count_frames(len(waveform)) < 1:
            raise AudioTooShortError(
                f"{len(waveform)} samples", "enough for one frame of the encoder", "pass a longer recording"
            )

    def run(self, waveform: F32Array, workers: Workers) -> F32Array:
        """float32 [n_samples] -> [n_frames, d]."""
        n_frames = self.count_frames(len(waveform))
        slack = (TILE_ROWS + 1) * self.first.stride + self.first.width
        padded = np.concatenate([waveform, np.zeros(slack, np.float32)])
        first = fold_group_norm(self.first, waveform) if self.group_norm else self.first
        frames = rows_of(n_frames, self.convs[-1].dense.n_out)
        buffers = [make_conv_buffers(first, self.convs) for _ in range(workers.count)]
        workers.share(
            n_frames,
            CHUNK_FRAMES,
            lambda w, a, b: convolve_frames(first, self.convs, padded, buffers[w], a, b, frames),
        )
        return self._place(self._project(frames, workers), workers)

    def count_frames(self, n_samples: int) -> int:
        """Frames of a waveform; 0 or less where it is too short for one."""
        n_rows = (n_samples - self.first.width) // self.first.stride + 1
        for conv in self.convs:
            n_rows = (n_rows - conv.width) // conv.stride + 1
        return n_rows

    def _project(self, frames: F32Array, workers: Workers) -> F32Array:
        d = self.projection.n_out
        hidden = rows_of(len(frames), d)
        scratches = [_projection_scratch(self.projection) for _ in range(workers.count)]
        norm = self.projection_norm
        workers.share(
            len(frames),
            BLOCK_ROWS,
            lambda w, a, b: project_frames(
                norm is not None, norm or NO_NORM, self.projection, frames, scratches[w], a, b, hidden
            ),
        )
        return hidden

    def _place(self, hidden: F32Array, workers: Workers) -> F32Array:
        positions = convolve(self.positions, hidden, workers)
        norm = self.position_norm
        add_positions(hidden, positions, norm is not None, norm or NO_NORM, 0, len(hidden))
        return hidden


@dataclass(frozen=True)
class MelStem:
    """Whisper's two convolutions over mel bands, and its table of positions float32 [max_frames, d]."""

    first: Conv
    second: Conv
    positions: F32Array
    input_name: ClassVar[str] = "input_features"

    @property
    def n_channels(self) -> int:
        """Of the rows that it makes."""
        return self.second.dense.n_out

    @property
    def n_mels(self) -> int:
        """Bands that it reads."""
        return self.first.n_channels

    def check(self, features: F32Array) -> None:
        """Refuse what it cannot read.

        Raises:
            AudioShapeError: not [n_mels, n_frames100]. AudioTooShortError: none.
            AudioLimitError: more than it has positions for.
        """
        right = features.ndim == 2 and len(features) == self.n_mels
        _expect_features(features, right, f"[{self.n_mels}, n_frames]")
        most = 2 * len(self.positions)
        if not features.shape[1]:
            raise AudioTooShortError("no frame of features", "at least one", "pass a longer recording")
        if features.shape[1] > most:
            raise AudioLimitError(
                f"{features.shape[1]} frames of features", f"at most {most}", "cut the recording at pauses"
            )

    def run(self, features: F32Array, workers: Workers) -> F32Array:
        """float32 [n_mels, n_frames100] -> [n_frames, d]."""
        rows = np.zeros((features.shape[1] + 2, features.shape[0]), np.float32)
        rows[1:-1] = features.T
        n_middle = features.shape[1]
        buffers = make_conv_buffers(None, (self.second,), n_middle + 2)
        first_in = _prepare(self.first.dense.kind, rows, MEL_TAPS * TILE_ROWS)
        kind, size = self.second.dense.kind, (1 if self.second.dense.kind == INT8 else 2)
        n_channels = self.second.n_channels
        # Row 0 and the row behind the last are padding: real zeros after the first convolution.
        convolve_rows(
            self.first, *first_in, n_middle, kind, buffers.first[n_channels * size :],
            buffers.first_scale[1:], buffers.first_offset[1:], buffers,
        )  # fmt: skip
        end = (n_middle + 1) * n_channels * size
        buffers.first[end : end + n_channels * size] = 0
        buffers.first_scale[[0, n_middle + 1]] = 0.0
        buffers.first_offset[[0, n_middle + 1]] = 0.0
        n_frames = (n_middle + 2 - self.second.width) // self.second.stride + 1
        hidden = rows_of(n_frames, self.second.dense.n_out)
        convolve_last(
            self.second, buffers.first, buffers.first_scale, buffers.first_offset, n_frames,
            hidden.ctypes.data, buffers,
        )  # fmt: skip
        hidden += self.positions[:n_frames]
        return hidden


def _expect_features(features: F32Array, right: bool, wanted: str) -> None:
    if not right:
        raise AudioShapeError(
            f"features of shape {features.shape}", f"float32 {wanted}", "compute them as the manifest says"
        )


def _prepare(kind: int, rows: F32Array, slack: int) -> tuple[NDArray[np.uint8], F32Array, F32Array]:
    size = 1 if kind == INT8 else 2
    n_rows, n = rows.shape
    prepared = np.zeros((n_rows + slack) * n * size, np.uint8)
    scale, offset = np.zeros(n_rows + BLOCK_ROWS, np.float32), np.zeros(n_rows + BLOCK_ROWS, np.float32)
    prepare_rows(kind, rows.ctypes.data, 4 * n, n_rows, n, prepared.ctypes.data, scale, offset)
    return prepared, scale, offset


def _projection_scratch(projection: Dense) -> Scratch:
    none = np.zeros(0, np.float32)
    rows = BLOCK_ROWS + TILE_ROWS
    return Scratch(
        prepared=np.zeros(rows * projection.n_in * 2, np.uint8),
        scale=np.zeros(rows, np.float32),
        offset=np.zeros(rows, np.float32),
        narrow=np.zeros((BLOCK_ROWS, projection.padded), np.float32),
        mixed=np.zeros((0, 0), np.float32),
        wide=np.zeros((0, 0), np.float32),
        scores=none,
        weights=np.zeros(0, np.uint16),
    )


def fold_group_norm(first: FirstConv, waveform: F32Array) -> FirstConv:
    """The first convolution with the norm over time in its weights.

    The mean and variance of a linear map follow from those of its input: var(w . x) = w' cov(x) w.
    """
    windows = np.lib.stride_tricks.sliding_window_view(waveform, first.width)[:: first.stride]
    weight = first.weight.reshape(-1, first.width, TILE_COLUMNS).transpose(1, 0, 2).reshape(first.width, -1)
    taps = np.ascontiguousarray(windows.T, np.float64)
    mean = taps.mean(axis=1)
    taps -= mean[:, None]
    products = taps @ taps.T / len(windows)
    variance = np.maximum(np.einsum("ic,ij,jc->c", weight, products, weight, optimize=True), 0)
    scaled = weight * (first.norm.weight / np.sqrt(variance + first.norm.epsilon))
    bias = first.norm.bias - mean @ scaled
    packed = pack_first(scaled.astype(np.float32))
    return first._replace(weight=packed, bias=bias.astype(np.float32), has_norm=False)


def read_stem(weights: Weights, spec: WaveformStemSpec | MelStemSpec) -> WaveformStem | MelStem:
    """The stem of a graph: wav2vec2's or Whisper's.

    Raises:
        LayoutError: sizes that the kernels do not compute.
    """
    if isinstance(spec, MelStemSpec):
        return _read_mel(weights, spec)
    first, group_norm, convs = read_convs(weights, spec.convs)
    n_channels = convs[-1].dense.n_out
    norm = spec.projection_norm
    projection = weights.product(spec.projection, n_channels)
    d = projection.weight.n_out
    placed = spec.position_norm
    return WaveformStem(
        first=first,
        group_norm=group_norm,
        convs=convs,
        projection_norm=weights.norm(norm, n_channels) if norm is not None else None,
        projection=projection.pack(),
        positions=read_positional_conv(weights, spec.positions, d),
        position_norm=weights.norm(placed, d) if placed is not None else None,
    )


def _read_mel(weights: Weights, spec: MelStemSpec) -> MelStem:
    first, second = spec.first, spec.second
    n_mels, d = first.n_channels, second.product.n_out
    if any(conv.norm is not None or conv.over_time is not None for conv in (first, second)):
        raise beyond_kernels("norms behind convolutions over mel bands")
    for conv, stride in ((first, 1), (second, 2)):
        expect("taps over mel bands", conv.width, MEL_TAPS)
        expect("stride over mel bands", conv.stride, stride)
    expect("channels between the convolutions", second.n_channels, d)
    expect("channels of the positions", spec.positions.n_columns, d)
    products = (
        weights.product(first.product, MEL_TAPS * n_mels, d),
        weights.product(second.product, MEL_TAPS * d),
    )
    return MelStem(
        first=pack_conv(products[0], MEL_TAPS, n_mels, 1, None, integer=False),
        second=pack_conv(products[1], MEL_TAPS, d, 2, None),
        positions=weights.table(spec.positions),
    )
