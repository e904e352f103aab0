"""Transformer layers and convolutions of an exported graph, packed for the kernels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import ConvSpec, EncoderLayerSpec, SinksSpec
from engine.kernels.encoder.conv_pairs import PAIR_STRIDE, PAIR_WIDTH
from engine.kernels.encoder.conv_rows import MAX_WIDTH, PAIRED, Conv, FirstConv
from engine.kernels.encoder.layer import LayerWeights, Norm
from engine.kernels.layers.dense import INT8, Dense
from engine.kernels.vector.gemm import TILE_COLUMNS
from engine.native.packing import aligned, no_layer, pack_bf16, pack_int8
from engine.native.weights import Product, Weights, beyond_kernels, expect
from engine.runtime.pair_safe import quantize_columns

F32Array = NDArray[np.float32]
LANES = 16
MAX_FIRST_WIDTH = 64  # taps over the waveform
MAX_STRIDE = 1024  # samples a frame
MAX_SINKS = 1024
NO_NORM = Norm(np.zeros(0, np.float32), np.zeros(0, np.float32), 0.0)


@dataclasses.dataclass(frozen=True)
class Sinks:
    """Learned key/value pairs that every frame may attend to: [n_sinks, hidden]; bias [n_sinks]."""

    keys: F32Array
    values: F32Array
    bias: F32Array


@dataclasses.dataclass(frozen=True)
class Layer:
    """A transformer layer and its sinks, None where it has none."""

    weights: LayerWeights
    sinks: Sinks | None


def read_layers(weights: Weights, specs: Sequence[EncoderLayerSpec], d: int) -> list[Layer]:
    """All layers over rows of d channels, in order.

    Raises:
        LayoutError: none, or one that the kernels do not compute.
    """
    if d % TILE_COLUMNS:
        raise beyond_kernels(f"rows of {d} channels")
    if not specs:
        raise beyond_kernels("no transformer layers")
    layers = [_read_layer(weights, spec, d) for spec in specs]
    kinds = {(layer.weights.n_heads, len(layer.sinks.bias) if layer.sinks else 0) for layer in layers}
    if len(kinds) > 1:  # they share one array of keys
        raise beyond_kernels(f"layers with different (heads, sinks): {sorted(kinds)}")
    return layers


def _read_layer(weights: Weights, spec: EncoderLayerSpec, d: int) -> Layer:
    n_heads = spec.n_heads
    if d % (n_heads * LANES):
        raise beyond_kernels(f"{n_heads} heads over {d} channels")
    outliers = _read_outliers(weights, spec, d)
    feed_in = weights.product(spec.feed_in, d)
    packed = LayerWeights(
        n_heads=n_heads,
        norm_first=spec.norm_first,
        attention_norm=weights.norm(spec.attention_norm, d),
        qkv=weights.product(spec.qkv, d, 3 * d).pack(),
        output=weights.product(spec.output, d, d).pack(),
        feed_norm=weights.norm(spec.feed_norm, d),
        feed_in=feed_in.pack(),
        feed_out=weights.product(spec.feed_out, feed_in.weight.n_out, d).pack(),
        outlier_in=outliers[0],
        outlier_out=outliers[1],
    )
    return Layer(packed, _read_sinks(weights, spec.sinks, n_heads, d) if spec.sinks is not None else None)


def _read_outliers(weights: Weights, spec: EncoderLayerSpec, d: int) -> tuple[Dense, Dense]:
    if spec.outlier_in is None or spec.outlier_out is None:
        return no_layer(), no_layer()
    n_units = spec.outlier_in.n_out
    if n_units > TILE_COLUMNS:
        raise beyond_kernels(f"{n_units} units in a block of outliers")
    first, second = (
        weights.product(spec.outlier_in, d, n_units), weights.product(spec.outlier_out, n_units, d)
    )  # fmt: skip
    if second.bias is not None:
        raise beyond_kernels("a bias behind a block of outliers")
    return pack_bf16(first.weight.floats(), first.bias), pack_bf16(second.weight.floats(), None)


def _read_sinks(weights: Weights, spec: SinksSpec, n_heads: int, d: int) -> Sinks:
    n_sinks = spec.n_sinks
    if n_sinks > MAX_SINKS:
        raise beyond_kernels(f"{n_sinks} sinks")
    shape = (1, n_heads, n_sinks, d // n_heads)
    keys, values = (
        np.array(weights.array(name, shape)[0], np.float32).transpose(1, 0, 2).reshape(n_sinks, d)
        for name in (spec.keys, spec.values)
    )
    return Sinks(keys, values, weights.vector(spec.bias, n_sinks))


def read_convs(weights: Weights, specs: Sequence[ConvSpec]) -> tuple[FirstConv, bool, tuple[Conv, ...]]:
    """The waveform's convolutions: the first, whether a group norm follows it, and the others.

    Raises:
        LayoutError: ones that the kernels do not compute.
    """
    if len(specs) < 2:
        raise beyond_kernels(f"{len(specs)} convolutions")
    if math.prod(spec.stride for spec in specs) > MAX_STRIDE:
        raise beyond_kernels(f"{math.prod(spec.stride for spec in specs)} samples a frame")
    first = _read_first(weights, specs[0])
    convs: list[Conv] = []
    products: list[Product] = []
    for spec in specs[1:]:
        n_channels = convs[-1].dense.n_out if convs else first.n_out
        expect(f"channels that {spec.product.weight!r} reads", spec.n_channels, n_channels)
        product = weights.product(spec.product, spec.width * n_channels)
        n_out = product.weight.n_out
        norm = weights.norm(spec.norm, n_out) if spec.norm is not None else None
        _check_conv(spec)
        convs.append(pack_conv(product, spec.width, n_channels, spec.stride, norm))
        products.append(product)
    # The last one's outputs may start at an odd frame: pairs must not depend on where a range starts.
    paired = [pair_conv(conv, product) for conv, product in zip(convs[:-1], products, strict=False)]
    return first, specs[0].over_time is not None, (*paired, convs[-1])


def _check_conv(spec: ConvSpec) -> None:
    if spec.stride > spec.width:
        raise beyond_kernels(f"a stride of {spec.stride} over {spec.width} taps")
    if spec.over_time is not None:
        raise beyond_kernels("a norm over time behind another convolution than the first")


def _read_first(weights: Weights, spec: ConvSpec) -> FirstConv:
    """A norm over time is folded into the weights of each utterance (engine.native.stems)."""
    expect("channels of a waveform", spec.n_channels, 1)
    product = weights.product(spec.product, spec.width)
    weight, n_out = product.weight.floats(), product.weight.n_out
    if n_out % TILE_COLUMNS or spec.width > MAX_FIRST_WIDTH or spec.stride > spec.width:
        raise beyond_kernels(f"a first convolution of {spec.width} x {n_out}, stride {spec.stride}")
    bias, norm = product.bias, spec.norm or spec.over_time
    if spec.over_time is not None and (bias is not None or spec.norm is not None):
        raise beyond_kernels("a norm over time beside a bias or another norm")
    return FirstConv(
        spec.width,
        spec.stride,
        n_out,
        pack_first(weight),
        np.zeros(n_out, np.float32) if bias is None else bias,
        spec.norm is not None,
        NO_NORM if norm is None else weights.norm(norm, n_out),
    )


def pack_first(weight: F32Array) -> F32Array:
    """[width, n_out] as [panel, width, 32], flat."""
    split = weight.reshape(len(weight), -1, TILE_COLUMNS)
    return aligned(split.transpose(1, 0, 2).astype(np.float32)).view(np.float32)


def pack_conv(
    product: Product, width: int, n_channels: int, stride: int, norm: Norm | None, integer: bool = True
) -> Conv:
    """A convolution from its product over windows of n_channels; in bfloat16 where not integer.

    Raises:
        LayoutError: a shape that the kernels do not compute.
    """
    n_in, n_out = product.weight.matrix.shape
    if n_in != width * n_channels or n_out % TILE_COLUMNS or n_channels % LANES or not 0 < width <= MAX_WIDTH:
        raise beyond_kernels(f"a convolution of {width} x {n_channels} to {n_out} channels by {n_in} rows")
    dense = product.pack(integer, in_order=True)
    if dense.kind == INT8 and dense.n_in != n_in:  # taps are multiplied one by one
        raise beyond_kernels(f"an integer convolution over {n_in} values")
    sums = np.zeros((width, n_out), np.float32)
    if dense.kind == INT8:
        codes = product.weight.matrix.reshape(width, n_channels, n_out)
        sums = _sums(codes, dense.arrays[1][:n_out])
    none = np.zeros(0, np.float32)
    return Conv(
        width, stride, n_channels, dense.kind, dense, sums, none, norm is not None, norm or NO_NORM
    )  # fmt: skip


def pair_conv(conv: Conv, product: Product) -> Conv:
    """The same convolution by engine.kernels.encoder.conv_pairs, where that computes it; else as it was."""
    if conv.kind != INT8 or (conv.width, conv.stride) != (PAIR_WIDTH, PAIR_STRIDE):
        return conv
    first, odd, last = product.weight.matrix.reshape(conv.width, conv.n_channels, -1)
    scale, bias = conv.dense.arrays[1], conv.dense.arrays[3]
    total = first.astype(np.int16) + last
    middle, factor = quantize_columns(total.astype(np.float32), least_scale=1.0)
    codes = np.stack([odd, first, last, middle])
    dense = pack_int8(codes.reshape(-1, codes.shape[2]), scale, bias, in_order=True)
    scales = np.stack([scale, scale, scale, scale * factor])
    sums = np.concatenate([_sums(codes[i : i + 1], scales[i]) for i in range(len(codes))])
    return conv._replace(kind=PAIRED, dense=dense, tap_sums=sums, middle_scale=scales[3])


def _sums(codes: NDArray[np.int8], scale: F32Array) -> F32Array:
    """Column sums of matrices [n, n_channels, n_out], times their columns' scale."""
    sums: F32Array = (scale * codes.sum(axis=1, dtype=np.int64)).astype(np.float32)
    return sums
