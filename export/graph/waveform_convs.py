"""wav2vec2's convolutions over the waveform: channels last, as GEMMs, or channels first, as convolutions.

With channels last, every layer norm and GELU works on contiguous rows and no transpose is needed. In int8 a
layer's input is quantised once, with its range at run time (a range fixed by calibration fails on noise
unlike the calibration set), and only bytes are gathered into windows.

Only rows after a layer norm are quantised here. Without one (the group-norm models) loud and quiet frames
differ by orders of magnitude, and one scale for all of them cost a relative error of 0.48 where 0.04 was
usual: there only the weights are int8, and the engine's own kernels, which give every row its scale,
multiply bytes. Such models, in float arithmetic and without a norm over rows of channels, are exported
channels first: onnxruntime's convolution is 6 to 12 % faster than the GEMM there. Batches use the GEMM: they
are for CUDA, where cuDNN would search for an algorithm at every new length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from engine.runtime.pair_safe import quantize_columns
from export.graph.builder import MICROSOFT, GraphBuilder
from export.graph.group_norm import emit_folded_group_norm
from export.graph.linear import (
    FloatArray,
    Linear,
    emit_float_linear,
    emit_linear,
    emit_stored_linear,
)
from export.graph.norm import LayerNorm, emit_layer_norm
from export.graph.padding import Padding, emit_strided
from export.graph.windows import as_matrix, emit_windows


@dataclass(frozen=True)
class WaveformConv:
    """One convolution, torch's weight [n_out, n_in, width], with the norm after it.

    norm_over: "time" (group norm with one channel per group), "channels" (layer norm) or None.
    """

    weight: FloatArray
    bias: FloatArray | None
    stride: int
    norm: LayerNorm | None = None
    norm_over: str | None = None


def emit_waveform_convs(
    graph: GraphBuilder, waveform: str, convs: tuple[WaveformConv, ...], padding: Padding | None = None
) -> str:
    """Map a waveform [batch, n_samples] to rows [batch, n_frames, n_channels].

    Args:
        padding: of the waveforms, where they differ in length.
    """
    if padding is None and convs[0].norm_over == "time" and all(conv.norm is None for conv in convs[1:]):
        return _emit_channels_first(graph, waveform, convs)
    rows = graph.op("Unsqueeze", waveform, graph.integers(2))
    even = False  # whether the rows have similar magnitudes
    for index, conv in enumerate(convs):
        with graph.scope(f"conv_{index}"):
            if padding is not None:
                padding = emit_strided(graph, padding, conv.weight.shape[2], conv.stride)
            rows = graph.op("Gelu", _emit_conv(graph, rows, conv, even, padding))
        even = conv.norm_over == "channels"
    return rows


def _emit_channels_first(graph: GraphBuilder, waveform: str, convs: tuple[WaveformConv, ...]) -> str:
    first = convs[0]
    assert first.norm is not None
    with graph.scope("conv_0"):
        rows, width = graph.op("Unsqueeze", waveform, graph.integers(2)), first.weight.shape[2]
        windows = emit_windows(graph, rows, width, first.stride, 1)
        kernel = as_matrix(first.weight)
        values = emit_folded_group_norm(graph, windows, kernel, first.norm, channels_first=True)
        values = graph.op("Gelu", values)
    for index, conv in enumerate(convs[1:], 1):
        with graph.scope(f"conv_{index}"):
            inputs = [values, _emit_kernel(graph, conv.weight)]
            if conv.bias is not None:
                inputs.append(graph.constant(conv.bias, "bias"))
            values = graph.op("Gelu", graph.op("Conv", *inputs, strides=[conv.stride]))
    return graph.op("Transpose", values, perm=[0, 2, 1])


def _emit_kernel(graph: GraphBuilder, weight: FloatArray) -> str:
    """A convolution's weight for float arithmetic, int8 in the file unless the block is float32."""
    if graph.precision() == "float32":
        return graph.constant(weight, "weight")
    n_out, n_in, width = weight.shape
    columns, scale = quantize_columns(as_matrix(weight))  # pairs as our kernels multiply them
    codes = np.ascontiguousarray(columns.reshape(width, n_in, n_out).transpose(2, 1, 0))
    rounded = graph.op("Cast", graph.constant(codes, "weight"), to=onnx.TensorProto.FLOAT)
    return graph.op("Mul", rounded, graph.constant(scale[:, None, None], "scale"))


def _emit_conv(
    graph: GraphBuilder, rows: str, conv: WaveformConv, even: bool, padding: Padding | None
) -> str:
    n_in, width = conv.weight.shape[1:]
    linear = Linear(as_matrix(conv.weight), conv.bias)
    if conv.norm_over == "time":
        assert conv.norm is not None
        windows = emit_windows(graph, rows, width, conv.stride, n_in)
        return emit_folded_group_norm(graph, windows, linear.weight, conv.norm, padding)
    if even and graph.precision(rows) == "int8":
        hidden = _emit_int8(graph, rows, conv, linear)
    else:
        windows = emit_windows(graph, rows, width, conv.stride, n_in)
        if n_in > 1 and graph.precision() != "float32":
            hidden = emit_stored_linear(graph, windows, linear, pair_safe=True)
        else:
            hidden = emit_float_linear(graph, windows, linear)
    return emit_layer_norm(graph, hidden, conv.norm) if conv.norm is not None else hidden


def _emit_int8(graph: GraphBuilder, rows: str, conv: WaveformConv, linear: Linear) -> str:
    n_in, width = conv.weight.shape[1:]
    quantized, scale, zero = graph.ops("DynamicQuantizeLinear", rows, n_outputs=3)
    windows = emit_windows(graph, quantized, width, conv.stride, n_in)
    weight, weight_scale = quantize_columns(linear.weight)
    weight_zero = graph.constant(np.zeros(weight.shape[1], np.int8), "zeros")
    inputs = [windows, graph.constant(weight, "weight"), scale, graph.constant(weight_scale, "scale")]
    inputs += [zero, weight_zero]
    if linear.bias is not None:
        inputs.append(graph.constant(linear.bias, "bias"))
    return graph.op("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)


def emit_projection(graph: GraphBuilder, rows: str, norm: LayerNorm | None, projection: Linear) -> str:
    """The layer norm (HuBERT may have none) and the linear layer into the transformer's width."""
    with graph.scope("projection"):
        return emit_linear(graph, emit_layer_norm(graph, rows, norm) if norm else rows, projection)
