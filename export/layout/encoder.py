"""The layout of an acoustic encoder: wav2vec2's or Whisper's, with its CTC head."""

from __future__ import annotations

import numpy as np

from engine.bundle.layout import (
    ConvSpec,
    EncoderLayerSpec,
    EncoderSpec,
    LinearSpec,
    LstmSpec,
    MelStemSpec,
    NormSpec,
    PositionalConvSpec,
    SinksSpec,
    WaveformStemSpec,
)
from engine.runtime.onnx_file import Node
from export.layout.scopes import Scopes, UndescribedError

INPUTS = ("input_values", "input_features")
STATES = "states"  # the output, of graphs that have it, for a second pass
LSTM = "head/lstm_0"
MEL_TAPS = 3


def describe_encoder(scopes: Scopes) -> EncoderSpec:
    """The blocks of an encoder.

    Raises:
        UndescribedError: the table cannot describe one.
    """
    graph = scopes.graph
    if len(graph.inputs) != 1 or graph.inputs[0] not in INPUTS:
        raise UndescribedError(f"a graph with the inputs {', '.join(graph.inputs)}")
    if "distances" in scopes:
        raise UndescribedError("a Conformer, for which there are no kernels")
    if "layer_0/adapter_in" in scopes:
        raise UndescribedError("adapters, for which there are no kernels")
    stem = _describe_mel(scopes) if "stem/conv1" in scopes else _describe_waveform(scopes)
    layers = [_describe_layer(scopes, name) for name in scopes.numbered("layer_{}/attention")]
    norms = scopes.norms("final_norm") or scopes.norms(STATES)
    if len(norms) > 1 or scopes.nodes(STATES, "Reciprocal") or "head/layer_0" in scopes:
        raise UndescribedError("a mixture of states, their normalisation over time, or a transformer head")
    if "head/lstm_1" in scopes:
        raise UndescribedError("more than one LSTM layer")
    last = [node.outputs[0] for node in graph.nodes if node.kind == "LayerNormalization"][-1:]
    return EncoderSpec(
        input_name=graph.inputs[0],
        stem=stem,
        layers=layers,
        output=scopes.product("head/output"),
        norm=norms[0] if norms else None,
        lstm=_describe_lstm(scopes) if LSTM in scopes else None,
        gives_states=STATES in graph.outputs and last == [STATES],
    )


def _describe_layer(scopes: Scopes, scope: str) -> EncoderLayerSpec:
    attention = scopes.node(f"{scope}/attention", "MultiHeadAttention")
    first = scopes.norms(f"{scope}/attention/qkv")
    norms = first + scopes.norms(f"{scope}/feed_in") if first else scopes.norms(scope)
    if len(norms) != 2:
        raise UndescribedError(f"{len(norms)} norms in {scope!r}")
    scopes.node(f"{scope}/feed_in", "Gelu")
    outliers = scopes.products(f"{scope}/feed_outliers")
    if len(outliers) not in (0, 2):
        raise UndescribedError(f"{len(outliers)} linear layers in '{scope}/feed_outliers'")
    return EncoderLayerSpec(
        n_heads=int(attention.attributes["num_heads"]),
        norm_first=bool(first),
        attention_norm=norms[0],
        qkv=scopes.product(f"{scope}/attention/qkv"),
        output=scopes.product(f"{scope}/attention/output"),
        feed_norm=norms[1],
        feed_in=scopes.product(f"{scope}/feed_in"),
        feed_out=scopes.product(f"{scope}/feed_out"),
        outlier_in=outliers[0] if outliers else None,
        outlier_out=outliers[1] if outliers else None,
        sinks=_describe_sinks(scopes, f"{scope}/attention", attention.inputs),
    )


def _describe_sinks(scopes: Scopes, scope: str, inputs: tuple[str, ...]) -> SinksSpec | None:
    if len(inputs) <= 6:
        return None
    makers = {node.outputs[0]: node for node in scopes.nodes(scope, "Expand")}
    keys, values = (scopes.name(makers[name].inputs[0]) for name in inputs[6:8])
    rows = [
        held.name
        for node in scopes.nodes(scope, "Concat")
        if (held := scopes.find(node.inputs[0])) and scopes.array(held.name).dtype.kind == "f"
    ]
    if len(rows) != 1:
        raise UndescribedError(f"{len(rows)} biases of sinks in {scope!r}")
    return SinksSpec(scopes.array(rows[0]).size, keys, values, rows[0])


def _describe_mel(scopes: Scopes) -> MelStemSpec:
    products = [scopes.product(f"stem/conv{index}") for index in (1, 2)]
    table = scopes.node("stem/positions", "Slice").inputs[0]
    first, second = (
        ConvSpec(MEL_TAPS, stride, product.n_in // MEL_TAPS, product)
        for stride, product in zip((1, 2), products, strict=True)
    )
    return MelStemSpec(first, second, scopes.table(table))


def _describe_waveform(scopes: Scopes) -> WaveformStemSpec:
    convs: list[ConvSpec] = []
    for name in scopes.numbered("conv_{}"):
        convs.append(_describe_conv(scopes, name, convs[-1].product.n_out if convs else 1))
    norms, placed = scopes.norms("projection"), scopes.norms("positions")
    return WaveformStemSpec(
        convs=convs,
        projection=scopes.product("projection"),
        positions=_describe_positions(scopes, "positions"),
        projection_norm=norms[0] if norms else None,
        position_norm=placed[0] if placed else None,
    )


def _describe_conv(scopes: Scopes, scope: str, n_channels: int) -> ConvSpec:
    """A norm over time is folded into the graph's product; its scale includes the standard deviation."""
    convolutions, over_time = scopes.nodes(scope, "Conv"), bool(scopes.nodes(scope, "Sqrt"))
    if convolutions:
        product, width = scopes.convolution(convolutions[0])
        strides = convolutions[0].attributes.get("strides", [1])
        stride = strides[0] if len(strides) == 1 else 0
    else:
        product = scopes.product(scope)
        width = product.n_in // n_channels
        # emit_windows divides the span by it.
        stride = int(scopes.array(scopes.name(scopes.node(scope, "Div").inputs[1]))[0])
    norms = scopes.norms(scope)
    return ConvSpec(
        width,
        stride,
        n_channels,
        _without_bias(product) if over_time else product,
        norm=norms[0] if norms else None,
        over_time=_describe_folded(scopes, scope, product.n_out) if over_time else None,
    )


def _without_bias(product: LinearSpec) -> LinearSpec:
    """The product with the covariance: the epsilon that is added to it is not a bias."""
    return LinearSpec(product.n_in, product.n_out, product.weight)


def _describe_folded(scopes: Scopes, scope: str, n_channels: int) -> NormSpec:
    """The group norm that is folded into its product: scale / sqrt(variance + epsilon), shift."""
    names = [
        held.name
        for kind, position in (("Div", 0), ("Add", 1))
        for node in scopes.nodes(scope, kind)
        if (held := scopes.find(node.inputs[position])) and scopes.array(held.name).dtype.kind == "f"
    ]
    vectors = [name for name in names if scopes.array(name).size == n_channels]
    numbers = [name for name in names if scopes.array(name).size == 1]
    if len(vectors) != 2 or len(numbers) != 1:
        raise UndescribedError("a group norm in another form")
    epsilon = float(np.float32(scopes.array(numbers[0]).item()))
    return NormSpec(n_channels, vectors[0], vectors[1], epsilon=epsilon)


def _describe_positions(scopes: Scopes, scope: str) -> PositionalConvSpec:
    convolutions = scopes.nodes(scope, "Conv")
    return _plain_positions(scopes, convolutions[0]) if convolutions else _block_positions(scopes, scope)


def _plain_positions(scopes: Scopes, node: Node) -> PositionalConvSpec:
    weight, bias = (scopes.name(value) for value in node.inputs[1:3])
    n_channels, _, width = scopes.array(weight).shape
    pads = [width // 2, width - 1 - width // 2]
    if node.attributes.get("pads") != pads:
        raise UndescribedError(f"{width} taps padded by {node.attributes.get('pads')}")
    return PositionalConvSpec(n_channels, int(node.attributes.get("group", 1)), width, weight, bias)


def _block_positions(scopes: Scopes, scope: str) -> PositionalConvSpec:
    weight = scopes.name(scopes.node(scope, "MatMul").inputs[1])
    n_groups, n_rows, n_columns = scopes.array(weight).shape
    bias = next(held.name for n in scopes.nodes(scope, "Add") if (held := scopes.find(n.inputs[1])))
    n_channels = scopes.array(bias).size
    size = n_channels // n_groups
    taps = n_rows // size
    return PositionalConvSpec(n_channels, n_groups, taps * n_columns // size, weight, bias, block_taps=taps)


def _describe_lstm(scopes: Scopes) -> LstmSpec:
    node = scopes.node(LSTM, "DynamicQuantizeLSTM", "LSTM")
    size = int(node.attributes["hidden_size"])
    if node.attributes.get("direction") != b"bidirectional":
        raise UndescribedError("an LSTM of one direction")
    weight, recurrent, bias = (scopes.name(value) for value in node.inputs[1:4])
    if node.kind == "LSTM":
        return LstmSpec(scopes.array(weight).shape[2], size, weight, recurrent, bias)
    scales = [scopes.name(node.inputs[at]) for at in (8, 10)]
    zeros = [scopes.name(node.inputs[at]) for at in (9, 11)]
    return LstmSpec(scopes.array(weight).shape[1], size, weight, recurrent, bias, *scales, *zeros)
