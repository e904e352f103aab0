"""wav2vec2's grouped positional convolution, as the convolution that it is.

One GEMM over shifted copies of the rows is 1.2 to 1.5 times as slow in onnxruntime's CPU kernels
(benchmarks/kernels/graph_rewrites.py measures both); the engine's own kernels read the same node.
"""

from __future__ import annotations

from dataclasses import dataclass

from export.graph.builder import GraphBuilder
from export.graph.linear import FloatArray


@dataclass(frozen=True)
class PositionalConv:
    """torch's grouped convolution, weight [hidden, hidden / n_groups, width], padded to keep the length."""

    weight: FloatArray
    bias: FloatArray
    n_groups: int


def emit_positional_conv(graph: GraphBuilder, hidden: str, conv: PositionalConv) -> str:
    """GELU of the convolution over [batch, n_frames, hidden]; the same shape."""
    width = conv.weight.shape[2]
    pads = [width // 2, width - 1 - width // 2]
    weight, bias = graph.constant(conv.weight, "weight"), graph.constant(conv.bias, "bias")
    channels = graph.op("Transpose", hidden, perm=[0, 2, 1])
    sums = graph.op("Conv", channels, weight, bias, group=conv.n_groups, pads=pads)
    return graph.op("Gelu", graph.op("Transpose", sums, perm=[0, 2, 1]))
