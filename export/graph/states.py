"""Steps between encoder and head: a weighted sum of layers' states, and their normalisation over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.graph.builder import GraphBuilder
from export.graph.linear import FloatArray
from export.graph.norm import LayerNorm, emit_layer_norm

_EPSILON = np.float32(1e-5)


def emit_mix(graph: GraphBuilder, states: Sequence[str], weights: FloatArray, norm: LayerNorm) -> str:
    """Sum the normalised states with fixed weights [len(states)]; the weights are folded into the norms."""
    parts = []
    for state, weight in zip(states, weights, strict=True):
        scaled = LayerNorm(norm.weight * weight, norm.bias * weight, norm.epsilon)
        parts.append(emit_layer_norm(graph, state, scaled))
    return parts[0] if len(parts) == 1 else graph.op("Sum", *parts)


def emit_time_normalization(graph: GraphBuilder, states: str) -> str:
    """Bring every channel of [batch, n_frames, hidden] to zero mean and unit variance over the utterance."""
    time = graph.integers(1)
    centred = graph.op("Sub", states, graph.op("ReduceMean", states, time, keepdims=1))
    variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), time, keepdims=1)
    deviation = graph.op("Sqrt", graph.op("Add", variance, graph.constant(_EPSILON, "epsilon")))
    return graph.op("Mul", centred, graph.op("Reciprocal", deviation))
