"""Transformer layers and convolutions of an exported graph, packed for the kernels."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from engine.kernels.encoder.conv_pairs import PAIR_STRIDE, PAIR_WIDTH
from engine.kernels.encoder.conv_rows import MAX_WIDTH, PAIRED, Conv, FirstConv
from engine.kernels.encoder.layer import LayerWeights, Norm
from engine.kernels.layers.dense import INT8, Dense
from engine.kernels.vector.gemm import TILE_COLUMNS
from engine.native.packing import aligned, no_layer, pack_bf16, pack_int8
from engine.native.scopes import Product, Scopes, UnknownGraphError, expect_shape
from engine.quantization.pair_safe import quantize_columns

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


def read_layers(scopes: Scopes, d: int) -> list[Layer]:
    """All layers over rows of d channels, in order.

    Raises:
        UnknownGraphError: none, or one that the kernels do not compute.
    """
    if d % TILE_COLUMNS:
        raise UnknownGraphError(f"rows of {d} channels")
    layers: list[Layer] = []
    while f"layer_{len(layers)}/attention" in scopes:
        layers.append(_read_layer(scopes, f"layer_{len(layers)}", d))
    if not layers:
        raise UnknownGraphError("no transformer layers")
    kinds = {(layer.weights.n_heads, len(layer.sinks.bias) if layer.sinks else 0) for layer in layers}
    if len(kinds) > 1:  # they share one array of keys
        raise UnknownGraphError(f"layers with different (heads, sinks): {sorted(kinds)}")
    return layers


def _read_layer(scopes: Scopes, scope: str, d: int) -> Layer:
    attention = scopes.node(f"{scope}/attention", "MultiHeadAttention")
    n_heads = int(attention.attributes["num_heads"])
    if n_heads < 1 or d % (n_heads * LANES):
        raise UnknownGraphError(f"{n_heads} heads over {d} channels")
    first = scopes.norms(f"{scope}/attention/qkv", d)
    norms = first + scopes.norms(f"{scope}/feed_in", d) if first else scopes.norms(scope, d)
    if len(norms) != 2:
        raise UnknownGraphError(f"{len(norms)} norms in {scope!r}")
    outliers = _read_outliers(scopes, f"{scope}/feed_outliers", d)
    feed_in = scopes.product(f"{scope}/feed_in", d)
    weights = LayerWeights(
        n_heads=n_heads,
        norm_first=bool(first),
        attention_norm=norms[0],
        qkv=scopes.product(f"{scope}/attention/qkv", d, 3 * d).pack(),
        output=scopes.product(f"{scope}/attention/output", d, d).pack(),
        feed_norm=norms[1],
        feed_in=feed_in.pack(),
        feed_out=scopes.product(f"{scope}/feed_out", feed_in.weight.n_out, d).pack(),
        outlier_in=outliers[0],
        outlier_out=outliers[1],
    )
    return Layer(weights, _read_sinks(scopes, f"{scope}/attention", attention.inputs, d))


def _read_outliers(scopes: Scopes, scope: str, d: int) -> tuple[Dense, Dense]:
    found = scopes.products(scope)
    if not found:
        return no_layer(), no_layer()
    first, second = found
    n_units = first.weight.n_out
    if n_units > TILE_COLUMNS:
        raise UnknownGraphError(f"{n_units} units in {scope!r}")
    first.expect(scope, d, n_units)
    second.expect(scope, n_units, d)
    return pack_bf16(first.weight.floats(), first.bias), pack_bf16(second.weight.floats(), None)


def _read_sinks(scopes: Scopes, scope: str, inputs: tuple[str, ...], d: int) -> Sinks | None:
    if len(inputs) <= 6:
        return None
    past = [
        np.array(scopes.constant(node.inputs[0]), np.float32)[0]
        for node in scopes.nodes(scope, "Expand")
        if node.outputs[0] in inputs[6:8]
    ]
    row = next(
        node.inputs[0]
        for node in scopes.nodes(scope, "Concat")
        if scopes.is_constant(node.inputs[0]) and scopes.constant(node.inputs[0]).dtype == np.float32
    )
    keys, values = (array.transpose(1, 0, 2).reshape(array.shape[1], -1) for array in past)
    n_sinks = len(keys)
    if not 0 < n_sinks <= MAX_SINKS:
        raise UnknownGraphError(f"{n_sinks} sinks in {scope!r}")
    for array in (keys, values):
        expect_shape(f"{scope}/past", array, (n_sinks, d))
    return Sinks(keys, values, scopes.vector(row, n_sinks))


def read_convs(scopes: Scopes) -> tuple[FirstConv, bool, tuple[Conv, ...]]:
    """The waveform's convolutions: the first, whether a group norm follows it, and the others."""
    first, group_norm = _read_first(scopes)
    convs: list[Conv] = []
    products: list[Product] = []
    while f"conv_{len(convs) + 1}" in scopes:
        scope = f"conv_{len(convs) + 1}"
        n_channels = convs[-1].dense.n_out if convs else first.n_out
        product, width, stride = _read_conv(scopes, scope, n_channels)
        norms = scopes.norms(scope, product.weight.n_out)
        convs.append(pack_conv(product, width, n_channels, stride, norms[0] if norms else None))
        products.append(product)
    samples_per_frame = math.prod([first.stride, *(conv.stride for conv in convs)])
    if not convs or samples_per_frame > MAX_STRIDE:
        raise UnknownGraphError(
            f"{len(convs)} convolutions behind the first, {samples_per_frame} samples a frame"
        )
    # The last one's outputs may start at an odd frame: pairs must not depend on where a range starts.
    paired = [pair_conv(conv, product) for conv, product in zip(convs[:-1], products, strict=False)]
    return first, group_norm, (*paired, convs[-1])


def _read_conv(scopes: Scopes, scope: str, n_channels: int) -> tuple[Product, int, int]:
    """A convolution as a product over windows, its width and its stride."""
    convolutions = scopes.nodes(scope, "Conv")
    product = scopes.convolution(convolutions[0]) if convolutions else scopes.product(scope)
    width = len(product.weight.matrix) // n_channels
    if convolutions:
        strides = convolutions[0].attributes.get("strides", [1])
        return product, width, _check_stride(scope, strides[0] if len(strides) == 1 else 0, width)
    return product, width, _stride(scopes, scope, width)


def _stride(scopes: Scopes, scope: str, width: int) -> int:
    """emit_windows divides the span by it."""
    return _check_stride(scope, int(scopes.constant(scopes.node(scope, "Div").inputs[1])[0]), width)


def _check_stride(scope: str, stride: int, width: int) -> int:
    if not 0 < stride <= width:
        raise UnknownGraphError(f"a stride of {stride} in {scope!r}")
    return stride


def _read_first(scopes: Scopes) -> tuple[FirstConv, bool]:
    """A group norm is folded into the graph's product; its scale then divides by the deviation."""
    scope = "conv_0"
    group_norm = bool(scopes.nodes(scope, "Sqrt"))
    product = scopes.product(scope)
    weight = product.weight.floats()
    width, n_out = weight.shape
    if n_out % TILE_COLUMNS or width > MAX_FIRST_WIDTH:
        raise UnknownGraphError(f"{width} x {n_out} in {scope!r}")
    norms = scopes.norms(scope, n_out)
    bias, norm = product.bias, norms[0] if norms else NO_NORM
    if group_norm:
        norm, bias = _folded_norm(scopes, scope, n_out), None
    bias = np.zeros(n_out, np.float32) if bias is None else bias
    stride = _stride(scopes, scope, width)
    return FirstConv(width, stride, n_out, pack_first(weight), bias, bool(norms), norm), group_norm


def _folded_norm(scopes: Scopes, scope: str, n_channels: int) -> Norm:
    """The group norm that the exporter folded into its product: scale / sqrt(variance + epsilon), shift."""
    constants = [
        np.array(scopes.constant(name), np.float32)
        for kind, position in (("Div", 0), ("Add", 1))
        for node in scopes.nodes(scope, kind)
        if (name := node.inputs[position]) in scopes.graph.constants
        and scopes.constant(name).dtype == np.float32
    ]
    vectors = [array for array in constants if array.size == n_channels]
    numbers = [array for array in constants if array.size == 1]
    if len(vectors) != 2 or len(numbers) != 1:
        raise UnknownGraphError("a group norm in another form")
    return Norm(vectors[0].reshape(-1), vectors[1].reshape(-1), float(numbers[0].item()))


def pack_first(weight: F32Array) -> F32Array:
    """[width, n_out] as [panel, width, 32], flat."""
    split = weight.reshape(len(weight), -1, TILE_COLUMNS)
    return aligned(split.transpose(1, 0, 2).astype(np.float32)).view(np.float32)


def pack_conv(
    product: Product, width: int, n_channels: int, stride: int, norm: Norm | None, integer: bool = True
) -> Conv:
    """A convolution from its product over windows of n_channels; in bfloat16 where not integer.

    Raises:
        UnknownGraphError: a shape that the kernels do not compute.
    """
    n_in, n_out = product.weight.matrix.shape
    if n_in != width * n_channels or n_out % TILE_COLUMNS or n_channels % LANES or not 0 < width <= MAX_WIDTH:
        raise UnknownGraphError(f"a convolution of {width} x {n_channels} to {n_out} channels by {n_in} rows")
    dense = product.pack(integer)
    if dense.kind == INT8 and dense.n_in != n_in:  # taps are multiplied one by one
        raise UnknownGraphError(f"an integer convolution over {n_in} values")
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
    dense = pack_int8(codes.reshape(-1, codes.shape[2]), scale, bias)
    scales = np.stack([scale, scale, scale, scale * factor])
    sums = np.concatenate([_sums(codes[i : i + 1], scales[i]) for i in range(len(codes))])
    return conv._replace(kind=PAIRED, dense=dense, tap_sums=sums, middle_scale=scales[3])


def _sums(codes: NDArray[np.int8], scale: F32Array) -> F32Array:
    """Column sums of matrices [n, n_channels, n_out], times their columns' scale."""
    sums: F32Array = (scale * codes.sum(axis=1, dtype=np.int64)).astype(np.float32)
    return sums
