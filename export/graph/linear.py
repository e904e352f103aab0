"""Linear layers: float32, or int8 weights by column with activations quantised at run time.

onnxruntime's integer GEMM is fast for unsigned activations with signed weights only, which is
what DynamicQuantizeMatMul does: on a Xeon with VNNI 440 against 154 GOP/s in float32 (one core).
Without VNNI it adds pairs of products in 16 bits: such weights are rounded so that these sums fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from engine.runtime.pair_safe import quantize_columns, quantize_stored
from export.graph.builder import MICROSOFT, GraphBuilder

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """y = x @ weight + bias, weight float32 [n_in, n_out], bias float32 [n_out] or None."""

    weight: FloatArray
    bias: FloatArray | None = None

    @staticmethod
    def of(module: Any) -> Linear:
        """The weights of a torch.nn.Linear."""
        bias = None if module.bias is None else as_array(module.bias)
        return Linear(as_array(module.weight).T.copy(), bias)

    @staticmethod
    def joined(*parts: Linear) -> Linear:
        """Several layers that read the same input, as one GEMM; missing biases become zeros."""
        biases = [np.zeros(p.weight.shape[1], np.float32) if p.bias is None else p.bias for p in parts]
        return Linear(np.concatenate([p.weight for p in parts], axis=1), np.concatenate(biases))


def as_array(tensor: Any) -> FloatArray:
    """A float32 numpy copy of a torch tensor."""
    array: FloatArray = tensor.detach().float().cpu().numpy().copy()
    return array


def emit_linear(graph: GraphBuilder, value: str, linear: Linear) -> str:
    """Add a linear layer over the last axis, in the precision of the current block.

    Args:
        value: float32 [..., n_in].
    Returns:
        float32 [..., n_out].
    """
    precision = graph.precision(value)
    if precision == "float32":
        return emit_float_linear(graph, value, linear)
    if precision == "stored":
        return emit_stored_linear(graph, value, linear)
    weight, scale = quantize_columns(linear.weight)
    zero = np.zeros(weight.shape[1], np.int8)
    inputs = [value, graph.constant(weight, "weight"), graph.constant(scale, "scale"), graph.constant(zero)]
    if linear.bias is not None:
        inputs.append(graph.constant(linear.bias, "bias"))
    return graph.op("DynamicQuantizeMatMul", *inputs, domain=MICROSOFT)


def emit_float_linear(graph: GraphBuilder, value: str, linear: Linear) -> str:
    """Add a linear layer over the last axis, in float32."""
    return _emit_product(graph, value, graph.constant(linear.weight, "weight"), linear.bias)


def emit_stored_linear(graph: GraphBuilder, value: str, linear: Linear, pair_safe: bool = False) -> str:
    """Add a linear layer in float32 arithmetic, whose weights are int8 in the file.

    Args:
        pair_safe: the engine's own kernels may multiply these weights as integers.
    """
    weight, scale = (quantize_columns if pair_safe else quantize_stored)(linear.weight)
    rounded = graph.op("Cast", graph.constant(weight, "weight"), to=onnx.TensorProto.FLOAT)
    unpacked = graph.op("Mul", rounded, graph.constant(scale, "scale"))
    return _emit_product(graph, value, unpacked, linear.bias)


def _emit_product(graph: GraphBuilder, value: str, weight: str, bias: FloatArray | None) -> str:
    product = graph.op("MatMul", value, weight)
    return product if bias is None else graph.op("Add", product, graph.constant(bias, "bias"))
