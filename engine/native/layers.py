"""Transformer layers and convolutions of an exported graph, packed for the kernels."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from engine.kernels.conv_rows import MAX_WIDTH, Conv, FirstConv
from engine.kernels.dense import INT8, Dense, to_bf16
from engine.kernels.encoder_layer import LayerWeights, Norm
from engine.kernels.gemm import TILE_COLUMNS
from engine.kernels.waveform_encoder import NARROW_COLUMNS, PositionalConv
from engine.native.packing import aligned, no_layer, pack_bf16
from engine.native.scopes import Product, Scopes, UnknownGraphError

F32Array = NDArray[np.float32]
LANES = 16
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


def read_layers(scopes: Scopes) -> list[Layer]:
    """All layers, in order.

    Raises:
        UnknownGraphError: none, or one that the kernels do not compute.
    """
    layers: list[Layer] = []
    while f"layer_{len(layers)}/attention" in scopes:
        layers.append(_read_layer(scopes, f"layer_{len(layers)}"))
    if not layers:
        raise UnknownGraphError("no transformer layers")
    return layers


def _read_layer(scopes: Scopes, scope: str) -> Layer:
    attention = scopes.node(f"{scope}/attention", "MultiHeadAttention")
    n_heads = int(attention.attributes["num_heads"])
    first = scopes.norms(f"{scope}/attention/qkv")
    norms = first + scopes.norms(f"{scope}/feed_in") if first else scopes.norms(scope)
    if len(norms) != 2:
        raise UnknownGraphError(f"{len(norms)} norms in {scope!r}")
    outliers = scopes.products(f"{scope}/feed_outliers")
    packed = [_pack_between(outliers)] if outliers else [(no_layer(), no_layer())]
    qkv = scopes.product(f"{scope}/attention/qkv").pack()
    if qkv.n_in // n_heads % LANES:
        raise UnknownGraphError(f"heads of {qkv.n_in // n_heads} channels")
    weights = LayerWeights(
        n_heads=n_heads,
        norm_first=bool(first),
        attention_norm=norms[0],
        qkv=qkv,
        output=scopes.product(f"{scope}/attention/output").pack(),
        feed_norm=norms[1],
        feed_in=scopes.product(f"{scope}/feed_in").pack(),
        feed_out=scopes.product(f"{scope}/feed_out").pack(),
        outlier_in=packed[0][0],
        outlier_out=packed[0][1],
    )
    return Layer(weights, _read_sinks(scopes, f"{scope}/attention", attention.inputs))


def _pack_between(outliers: list[Product]) -> tuple[Dense, Dense]:
    first, second = outliers
    return pack_bf16(first.weight.floats(), first.bias), pack_bf16(second.weight.floats(), None)


def _read_sinks(scopes: Scopes, scope: str, inputs: tuple[str, ...]) -> Sinks | None:
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
    return Sinks(keys, values, np.array(scopes.constant(row), np.float32))


def read_convs(scopes: Scopes) -> tuple[FirstConv, bool, tuple[Conv, ...]]:
    """The waveform's convolutions: the first, whether a group norm follows it, and the others."""
    first, group_norm = _read_first(scopes)
    convs: list[Conv] = []
    while f"conv_{len(convs) + 1}" in scopes:
        scope = f"conv_{len(convs) + 1}"
        n_channels = convs[-1].dense.n_out if convs else first.n_out
        product = scopes.product(scope)
        norms = scopes.norms(scope)
        width = len(_matrix(product)) // n_channels
        convs.append(pack_conv(product, width, _stride(scopes, scope), norms[0] if norms else None))
    if not convs:
        raise UnknownGraphError("no convolutions over the waveform")
    return first, group_norm, tuple(convs)


def _matrix(product: Product) -> NDArray[np.generic]:
    weight = product.weight
    matrix = weight.codes if weight.codes is not None else weight.values
    assert matrix is not None
    return matrix


def _stride(scopes: Scopes, scope: str) -> int:
    """emit_windows divides the span by it."""
    return int(scopes.constant(scopes.node(scope, "Div").inputs[1])[0])


def _read_first(scopes: Scopes) -> tuple[FirstConv, bool]:
    """A group norm is folded into the graph's product; its scale then divides by the deviation."""
    scope = "conv_0"
    group_norm = bool(scopes.nodes(scope, "Sqrt"))
    product, norms = scopes.product(scope), scopes.norms(scope)
    weight = product.weight.floats()
    width, n_out = weight.shape
    bias, norm = product.bias, norms[0] if norms else NO_NORM
    if group_norm:
        norm, bias = _folded_norm(scopes, scope, n_out), None
    if n_out % TILE_COLUMNS:
        raise UnknownGraphError(f"{n_out} channels in the convolutions")
    bias = np.zeros(n_out, np.float32) if bias is None else bias
    stride = _stride(scopes, scope)
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
    return Norm(vectors[0], vectors[1], float(numbers[0].item()))


def pack_first(weight: F32Array) -> F32Array:
    """[width, n_out] as [panel, width, 32], flat."""
    split = weight.reshape(len(weight), -1, TILE_COLUMNS)
    return aligned(split.transpose(1, 0, 2).astype(np.float32)).view(np.float32)


def pack_conv(product: Product, width: int, stride: int, norm: Norm | None, integer: bool = True) -> Conv:
    """A convolution from its product over windows; in bfloat16 where not integer.

    Raises:
        UnknownGraphError: a shape that the kernels do not compute.
    """
    n_in, n_out = _matrix(product).shape
    n_channels = n_in // width
    if n_out % TILE_COLUMNS or n_in % LANES or n_channels % LANES or width > MAX_WIDTH:
        raise UnknownGraphError(f"a convolution of {width} x {n_channels} to {n_out} channels")
    dense = product.pack(integer)
    sums = np.zeros((width, n_out), np.float32)
    if dense.kind == INT8:
        codes = _matrix(product).reshape(width, n_channels, n_out)
        sums = (dense.arrays[1][:n_out] * codes.sum(axis=1, dtype=np.int64)).astype(np.float32)
    return Conv(width, stride, n_channels, dense, sums, norm is not None, norm or NO_NORM)


def read_positional_conv(scopes: Scopes) -> PositionalConv:
    """The grouped convolution over time; the inverse of what the exporter does to its weights."""
    node = scopes.node("positions", "MatMul")
    blocks = scopes.constant(node.inputs[1])
    bias = next(scopes.constant(n.inputs[1]) for n in scopes.nodes("positions", "Add"))
    n_groups, n_rows, n_columns = blocks.shape
    size = len(bias) // n_groups
    taps, n_blocks = n_rows // size, n_columns // size
    if size % LANES:
        raise UnknownGraphError(f"groups of {size} channels")
    split = blocks.reshape(n_groups, taps, size, n_blocks, size)
    matrices = split.transpose(0, 3, 1, 2, 4).reshape(n_groups, n_blocks * taps * size, size)
    columns = NARROW_COLUMNS if size % NARROW_COLUMNS == 0 else TILE_COLUMNS
    padded = np.pad(matrices.astype(np.float32), ((0, 0), (0, 0), (0, -size % columns)))
    bits = to_bf16(padded).reshape(n_groups, -1, 2, padded.shape[2] // columns, columns)
    packed = aligned(bits.transpose(0, 3, 1, 4, 2))
    return PositionalConv(n_blocks * taps, n_groups, packed, np.array(bias, np.float32))
