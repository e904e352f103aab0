"""Every block of the graph against torch, and what each rewrite does to the nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from engine.runtime.onnx_session import open_session  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402
from export.graph.attention import Attention, Sinks, emit_attention  # noqa: E402
from export.graph.builder import GraphBuilder  # noqa: E402
from export.graph.group_norm import emit_folded_group_norm  # noqa: E402
from export.graph.heads import LstmLayer, emit_lstm  # noqa: E402
from export.graph.linear import Linear, as_array, emit_linear  # noqa: E402
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual  # noqa: E402
from export.graph.outliers import find_outlier_units, smooth, split_units  # noqa: E402
from export.graph.positional_conv import (  # noqa: E402
    PositionalConv,
    block_of_taps,
    emit_positional_conv,
    emit_positional_gemm,
)
from export.graph.waveform_convs import WaveformConv, emit_waveform_convs  # noqa: E402
from export.graph.windows import as_matrix, emit_windows  # noqa: E402

Array = np.ndarray[Any, Any]


def random_array(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run_block(emit: Callable[[GraphBuilder, str], str], value: Array, precision: str = "float32") -> Array:
    """The output of one block for one input."""
    graph = GraphBuilder(lambda block: precision)
    graph.rename(emit(graph, "x"), "y")
    free = [f"x{axis}" for axis in range(value.ndim - 1)]
    model = graph.build(
        {"x": (*free, value.shape[-1])}, {"y": tuple(f"y{axis}" for axis in range(value.ndim))}
    )
    session = open_session(model.SerializeToString(), RuntimeOptions(device="cpu"), threads=1)
    return session.run({"x": value})[0]


def node_kinds(emit: Callable[[GraphBuilder, str], str], precision: str = "float32") -> Counter[str]:
    graph = GraphBuilder(lambda block: precision)
    graph.rename(emit(graph, "x"), "y")
    model = graph.build({"x": ("b", "t", 8)}, {"y": ("b", "t2", "c")})
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("width", "stride"), [(1, 1), (2, 2), (3, 2), (3, 1), (10, 5), (7, 3), (2, 3)])
@pytest.mark.parametrize("extra", [0, 1, 5, 20])
def test_windows_and_a_matrix_are_a_strided_convolution(width: int, stride: int, extra: int) -> None:
    rows, weight = random_array(2, width + extra, 8), random_array(5, 8, width, seed=1)
    expected = torch.nn.functional.conv1d(
        torch.from_numpy(rows).transpose(1, 2), torch.from_numpy(weight), stride=stride
    )

    def emit(graph: GraphBuilder, value: str) -> str:
        return emit_linear(graph, emit_windows(graph, value, width, stride, 8), Linear(as_matrix(weight)))

    np.testing.assert_allclose(run_block(emit, rows), expected.transpose(1, 2).numpy(), rtol=1e-4, atol=1e-5)


def test_windows_as_wide_as_their_stride_copy_nothing() -> None:
    kinds = node_kinds(lambda graph, value: emit_windows(graph, value, 2, 2, 8))
    assert kinds["Concat"] == 0
    assert kinds["Reshape"] == 1


@pytest.mark.parametrize("n_frames", [1, 2, 77])
def test_folded_group_norm_is_convolution_then_group_norm(n_frames: int) -> None:
    windows, weight = random_array(2, n_frames, 10) * 3 + 1, random_array(10, 6, seed=1)
    norm = LayerNorm(random_array(6, seed=2), random_array(6, seed=3), 1e-5)
    module = torch.nn.GroupNorm(6, 6)
    module.weight.data, module.bias.data = torch.from_numpy(norm.weight), torch.from_numpy(norm.bias)
    if n_frames == 1:  # torch refuses to normalise one value; its output is the bias
        expected = np.broadcast_to(norm.bias, (2, 1, 6))
    else:
        expected = module(torch.from_numpy(windows @ weight).transpose(1, 2)).transpose(1, 2).detach().numpy()
    found = run_block(lambda graph, value: emit_folded_group_norm(graph, value, weight, norm), windows)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("width", "groups"), [(16, 4), (7, 2), (128, 1), (1, 4)])
@pytest.mark.parametrize("n_frames", [1, 3, 40])
def test_positional_convolution_in_both_forms_keeps_the_length(
    width: int, groups: int, n_frames: int
) -> None:
    conv = torch.nn.Conv1d(8, 8, width, padding=width // 2, groups=groups)
    hidden = random_array(2, n_frames, 8)
    expected = conv(torch.from_numpy(hidden).transpose(1, 2))[..., :n_frames]
    expected = torch.nn.functional.gelu(expected).transpose(1, 2).detach().numpy()
    weights = PositionalConv(as_array(conv.weight), as_array(conv.bias), groups)
    for emit in (emit_positional_conv, emit_positional_gemm):
        found = run_block(lambda graph, value, emit=emit: emit(graph, value, weights), hidden)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    kinds = node_kinds(lambda graph, value: emit_positional_conv(graph, value, weights))
    assert kinds == {"Transpose": 2, "Conv": 1, "Gelu": 1, "Identity": 1}
    assert node_kinds(lambda graph, value: emit_positional_gemm(graph, value, weights))["Conv"] == 0


def emit_group_norm_convs(precision: str) -> Counter[str]:
    kernels = [(random_array(8, 1, 10), 5), (random_array(8, 8, 3), 2), (random_array(8, 8, 2), 2)]
    norm = LayerNorm(random_array(8, seed=2), random_array(8, seed=3), 1e-5)
    convs = tuple(
        WaveformConv(w, None, stride, None if i else norm, None if i else "time")
        for i, (w, stride) in enumerate(kernels)
    )
    graph = GraphBuilder(lambda block: precision)
    graph.rename(emit_waveform_convs(graph, "x", convs), "y")
    model = graph.build({"x": ("b", "t")}, {"y": ("b", "t2", "c")})
    return Counter(node.op_type for node in model.graph.node)


def test_convolutions_without_norms_are_convolutions() -> None:
    kinds = emit_group_norm_convs("float32")
    assert (kinds["Conv"], kinds["Cast"]) == (2, 1)
    assert kinds["MatMul"] == 3  # of the folded norm alone
    stored = emit_group_norm_convs("stored")
    assert (stored["Conv"], stored["Cast"]) == (2, 3)  # int8 in the file only


def test_block_of_taps_divides_the_width_near_its_root() -> None:
    assert block_of_taps(128) == 16
    for width in range(1, 130):
        taps = block_of_taps(width)
        assert width % taps == 0
        assert taps * taps >= width


@pytest.mark.parametrize("n_sinks", [0, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_fused_attention_equals_torch(n_sinks: int, batch: int) -> None:
    linears = [Linear(random_array(8, 8, seed=i) * 0.5, random_array(8, seed=9 + i)) for i in range(4)]
    sinks = None
    if n_sinks:
        sinks = Sinks(
            random_array(n_sinks, 8, seed=20), random_array(n_sinks, 8, seed=21), random_array(n_sinks)
        )
    hidden = random_array(batch, 11, 8)
    query, key, value = (torch.from_numpy(hidden @ part.weight + part.bias) for part in linears[:3])
    bias = torch.zeros(11 + n_sinks)
    if sinks is not None:
        key = torch.cat([torch.from_numpy(sinks.keys).expand(batch, -1, -1), key], dim=1)
        value = torch.cat([torch.from_numpy(sinks.values).expand(batch, -1, -1), value], dim=1)
        bias[:n_sinks] = torch.from_numpy(sinks.bias)
    split = [part.unflatten(2, (2, 4)).transpose(1, 2) for part in (query, key, value)]
    mixed = torch.nn.functional.scaled_dot_product_attention(*split, attn_mask=bias[None])
    expected = mixed.transpose(1, 2).flatten(2).numpy() @ linears[3].weight + linears[3].bias
    attention = Attention(*linears, n_heads=2, sinks=sinks)

    def emit(graph: GraphBuilder, name: str) -> str:
        return emit_attention(graph, name, attention, None)

    np.testing.assert_allclose(run_block(emit, hidden), expected, rtol=1e-4, atol=1e-5)
    kinds = node_kinds(emit)
    assert kinds["MultiHeadAttention"] == 1
    assert kinds["Softmax"] == 0
    assert kinds["MatMul"] == 2  # one for queries, keys and values together, one behind


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("n_frames", [1, 20])
def test_lstm_equals_torch(precision: str, n_frames: int) -> None:
    lstm = torch.nn.LSTM(8, 6, batch_first=True, bidirectional=True)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    parts = [np.stack([as_array(getattr(lstm, name + end)) for end in ("", "_reverse")]) for name in names]
    layer = LstmLayer(parts[0], parts[1], parts[2] + parts[3])
    hidden = random_array(2, n_frames, 8)
    found = run_block(lambda graph, value: emit_lstm(graph, value, layer), hidden, precision)
    expected = lstm(torch.from_numpy(hidden))[0].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 if precision == "float32" else 0.05)


@pytest.mark.parametrize(("precision", "kind"), [("int8", "DynamicQuantizeMatMul"), ("stored", "MatMul")])
def test_quantised_linear_is_close_and_of_the_fast_kind(precision: str, kind: str) -> None:
    linear = Linear(random_array(64, 32, seed=1), random_array(32, seed=2))
    rows = random_array(1, 50, 64)
    found = run_block(lambda graph, value: emit_linear(graph, value, linear), rows, precision)
    expected = rows @ linear.weight + linear.bias
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
    small = Linear(random_array(8, 4))
    assert node_kinds(lambda graph, value: emit_linear(graph, value, small), precision)[kind] == 1


def test_residual_does_not_become_skip_layer_normalization() -> None:
    norm = LayerNorm(np.ones(8, np.float32), np.zeros(8, np.float32), 1e-5)
    kinds = node_kinds(lambda graph, value: emit_layer_norm(graph, emit_residual(graph, value, value), norm))
    assert kinds == {"Sum": 1, "LayerNormalization": 1, "Identity": 1}


def test_smoothing_leaves_the_composition_alone_and_evens_the_ranges() -> None:
    norm = LayerNorm(random_array(8, seed=1), random_array(8, seed=2), 1e-5)
    linear = Linear(random_array(8, 4, seed=3), random_array(4, seed=4))
    magnitudes = np.array([100, 1, 1, 0, 1, 2, 3, 1], np.float32)
    smoothed_norm, smoothed = smooth(norm, linear, magnitudes)
    rows = random_array(20, 8, seed=5)
    before = (rows * norm.weight + norm.bias) @ linear.weight + linear.bias
    after = (rows * smoothed_norm.weight + smoothed_norm.bias) @ smoothed.weight + smoothed.bias
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)
    shrunk = magnitudes * smoothed_norm.weight / norm.weight
    assert shrunk.max() < magnitudes.max() / 5


def test_split_feed_forward_is_the_sum_of_its_parts() -> None:
    feed_in = Linear(random_array(8, 16, seed=1), random_array(16, seed=2))
    feed_out = Linear(random_array(16, 8, seed=3), random_array(8, seed=4))
    rows = random_array(5, 8)

    def apply(first: Linear, second: Linear) -> Array:
        out = np.maximum(rows @ first.weight + first.bias, 0) @ second.weight
        return out if second.bias is None else out + second.bias

    rest, chosen = split_units(feed_in, feed_out, np.array([3, 7]))
    np.testing.assert_allclose(apply(*rest) + apply(*chosen), apply(feed_in, feed_out), rtol=1e-4, atol=1e-5)


def test_outlier_units_are_few_and_only_real_ones() -> None:
    usual = np.abs(random_array(2048))
    assert len(find_outlier_units(usual)) == 0
    usual[[5, 900]] = 80
    assert find_outlier_units(usual).tolist() == [5, 900]
    usual[:100] = 1000
    assert len(find_outlier_units(usual)) <= 32
