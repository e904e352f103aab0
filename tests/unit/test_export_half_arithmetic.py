"""Which parts of a graph become float16, and which must not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, numpy_helper  # noqa: E402

from engine.runtime.onnx_session import open_session  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402
from export.graph.attention import Attention  # noqa: E402
from export.graph.builder import GraphBuilder  # noqa: E402
from export.graph.heads import emit_head  # noqa: E402
from export.graph.layer import Layer, emit_layer  # noqa: E402
from export.graph.linear import Linear  # noqa: E402
from export.graph.norm import LayerNorm  # noqa: E402
from export.rewrites.half_arithmetic import half_share, use_half  # noqa: E402

SIZE, INNER = 16, 32


def weights(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / 4


def linear(n_in: int, n_out: int, seed: int, scale: float = 1.0) -> Linear:
    return Linear(weights(n_in, n_out, seed=seed) * scale, weights(n_out, seed=seed + 100))


def make_graph(scale: float = 1.0) -> onnx.ModelProto:
    """One pre-norm layer and a head."""
    norm = LayerNorm(np.ones(SIZE, np.float32), np.zeros(SIZE, np.float32), 1e-5)
    attention = Attention(*(linear(SIZE, SIZE, i) for i in range(4)), n_heads=2)
    layer = Layer(attention, norm, linear(SIZE, INNER, 5, scale), linear(INNER, SIZE, 6), norm, True)
    graph = GraphBuilder()
    with graph.scope("layer_0"):
        hidden = emit_layer(graph, "x", layer)
    graph.rename(emit_head(graph, hidden, linear(SIZE, 5, 7)), "logits")
    return graph.build({"x": ("b", "t", SIZE)}, {"logits": ("b", "t", 5)})


def types(model: onnx.ModelProto) -> dict[str, set[int]]:
    """Of the weights that each kind of node reads."""
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found: dict[str, set[int]] = {}
    for node in model.graph.node:
        found.setdefault(node.op_type, set()).update(constants[i] for i in node.input if i in constants)
    return found


def run(model: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    session = open_session(model.SerializeToString(), RuntimeOptions(device="cpu"), threads=1)
    return session.run({"x": values})[0]


def test_products_become_half_and_norms_and_head_stay_float() -> None:
    model = make_graph()
    half = use_half(model)
    assert types(half)["LayerNormalization"] == {TensorProto.FLOAT}
    assert types(half)["MatMul"] == {TensorProto.FLOAT, TensorProto.FLOAT16}  # the head's and the others'
    named = {node.name: node for node in half.graph.node}
    head = next(node for name, node in named.items() if name.startswith("head/output/MatMul"))
    assert types(model)["MatMul"] == {TensorProto.FLOAT}
    assert next(t for t in half.graph.initializer if t.name == head.input[1]).data_type == TensorProto.FLOAT
    assert half_share(half) > 0.9
    values = weights(2, 9, SIZE, seed=11) * 8
    np.testing.assert_allclose(run(half, values), run(model, values), atol=5e-3)


def test_casts_are_few_and_the_residual_stream_is_added_in_float() -> None:
    half = use_half(make_graph())
    kinds = Counter(node.op_type for node in half.graph.node)
    assert kinds["Cast"] == 4  # into and out of attention, into and out of the feed-forward block
    casts = {node.output[0]: node.attribute[0].i for node in half.graph.node if node.op_type == "Cast"}
    for node in half.graph.node:
        if node.op_type == "Sum":
            assert all(casts.get(name, TensorProto.FLOAT) == TensorProto.FLOAT for name in node.input)


def test_kept_scopes_and_weights_beyond_half_stay_float() -> None:
    kept = use_half(make_graph(), keep=["layer_0/feed_in"])
    assert 0.3 < half_share(kept) < 0.9
    huge = make_graph(scale=1e6)
    half = use_half(huge)
    largest = max(np.abs(numpy_helper.to_array(t)).max() for t in half.graph.initializer if t.data_type == 1)
    assert largest > 65_504
    values = weights(1, 9, SIZE, seed=11)
    expected = run(huge, values)
    assert np.isfinite(expected).all()
    assert np.linalg.norm(run(half, values) - expected) < 0.01 * np.linalg.norm(expected)


def test_residual_sums_beyond_half_survive() -> None:
    model = make_graph()
    values = weights(1, 9, SIZE, seed=3)
    values[0, 0, 0] = 3e5  # far above 65504, as some trained models' residual streams are
    np.testing.assert_allclose(run(use_half(model), values), run(model, values), rtol=2e-2, atol=2e-2)
