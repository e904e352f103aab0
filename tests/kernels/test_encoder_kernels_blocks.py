"""Attention, convolutions, group norm and LSTM of the encoder against their slow twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)

from engine.bundle.layout import LinearSpec, PositionalConvSpec
from engine.errors import LayoutError
from engine.kernels.encoder.attention import attend, pack_keys, pack_queries, pack_values
from engine.kernels.encoder.conv_rows import Conv, FirstConv, convolve_block
from engine.kernels.encoder.layer import Norm
from engine.kernels.encoder.lstm import run_direction
from engine.kernels.encoder.waveform import PositionalConv, convolve_frames, convolve_positions
from engine.kernels.layers.dense import BF16, INT8, prepare_rows, to_bf16
from engine.native.buffers import make_conv_buffers, rows_of
from engine.native.heads import _pack_recurrent
from engine.native.layers import NO_NORM, pack_conv, pack_first, pair_conv
from engine.native.positions import read_positional_conv
from engine.native.stems import fold_group_norm
from engine.native.weights import Product, Weight, Weights
from engine.runtime.onnx_file import OnnxGraph
from engine.runtime.pair_safe import quantize_columns
from tests.reference import encoder_kernels_reference as reference

pytestmark = pytest.mark.levels

F32 = np.float32
PADDED = F32(-1e30)
TILE, PANEL = 12, 32


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def run_attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, bias: np.ndarray, n_heads: int
) -> np.ndarray:
    """Pack rows [n, d] and attend; keys may outnumber queries."""
    (n_rows, d), n_keys = query.shape, len(key)
    head_dim, n_positions = d // n_heads, -(-n_keys // PANEL) * PANEL
    n_panels = -(-head_dim // PANEL)
    queries = np.full((n_rows + TILE, d), 0x7FC0, np.uint16)  # behind the rows: not a number
    keys = np.zeros(n_positions * d, np.uint16)
    values = np.zeros(n_positions * n_heads * n_panels * PANEL, np.uint16)
    factor = 1 / np.sqrt(F32(head_dim))
    for row in range(n_rows):
        pack_queries(query[row].ctypes.data, d, head_dim, factor, queries[row].ctypes.data)
    for row in range(n_keys):
        pack_keys(key[row].ctypes.data, n_heads, head_dim, row, n_positions, keys.ctypes.data)
    for row in range(0, n_keys, 2):
        odd = value[row + 1].ctypes.data if row + 1 < n_keys else 0
        arguments = (n_heads, head_dim, row, n_positions, values.ctypes.data)
        pack_values(value[row].ctypes.data, odd, *arguments)
    padded = np.full(n_positions, PADDED, F32)
    padded[:n_keys] = bias
    out = np.full((n_rows + TILE, d + PANEL), np.nan, F32)
    scores, weights = np.zeros(TILE * n_positions, F32), np.zeros(TILE * n_positions, np.uint16)
    attend(
        queries.ctypes.data, 2 * d, n_rows, keys.ctypes.data, values.ctypes.data, padded.ctypes.data,
        n_positions, n_heads, head_dim, scores, weights, out.ctypes.data, out.strides[0],
    )  # fmt: skip
    return out[:n_rows, :d]


@pytest.mark.parametrize("head_dim", [16, 48, 64, 80])
@pytest.mark.parametrize("n_keys", [1, 2, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("n_heads", [1, 3])
def test_attention_equals_its_definition(head_dim: int, n_keys: int, n_heads: int) -> None:
    d = n_heads * head_dim
    query, key, value = (normal(seed, n_keys, d) * 1.5 for seed in range(3))
    rounded = reference.round_bf16(query * (1 / np.sqrt(F32(head_dim))))
    for bias in (np.zeros(n_keys, F32), normal(4, n_keys) * 3):
        found = run_attention(query, key, value, bias, n_heads)
        others = (reference.round_bf16(key), reference.round_bf16(value))
        wanted = reference.attention(rounded, *others, bias, n_heads)
        assert np.linalg.norm(found - wanted) < 5e-4 * np.linalg.norm(wanted)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=8e-3)  # a weight may round the other way


def test_keys_far_below_the_others_and_padding_count_for_nothing() -> None:
    query, key, value = (normal(seed, 40, 64) for seed in range(3))
    value[20:] = 1e30
    hidden = run_attention(query, key, value, np.r_[np.zeros(20, F32), np.full(20, -1e30, F32)], 2)
    np.testing.assert_allclose(hidden, run_attention(query, key[:20], value[:20], np.zeros(20), 2), atol=1e-6)


def make_conv(
    weight: np.ndarray, bias: np.ndarray, stride: int, integer: bool, norm: Norm | None = None
) -> tuple[Conv, np.ndarray]:
    """A packed convolution of [width, n_in, n_out], and the weights it really has."""
    width, n_in, n_out = weight.shape
    if integer:
        product = product_of(weight, bias)
        rounded = product.weight.floats().astype(np.float64).reshape(weight.shape)
    else:
        product = Product(Weight(None, None, weight.reshape(-1, n_out), False), bias)
        rounded = reference.round_bf16(weight)
    return pack_conv(product, width, n_in, stride, norm), rounded


def product_of(weight: np.ndarray, bias: np.ndarray) -> Product:
    """A convolution [width, n_in, n_out] in int8."""
    codes, scale = quantize_columns(weight.reshape(-1, weight.shape[2]))
    return Product(Weight(codes, scale, None, True), bias)


def prepare(kind: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Prepared bytes with garbage behind, scale, offset, and the rows as the bytes have them."""
    n_rows, n_in = rows.shape
    size = 1 if kind == INT8 else 2
    prepared = np.full((n_rows + 40) * n_in * size, 0xFF, np.uint8)
    scale, offset = np.ones(n_rows + 100, F32), np.ones(n_rows + 100, F32)
    prepare_rows(kind, rows.ctypes.data, 4 * n_in, n_rows, n_in, prepared.ctypes.data, scale, offset)
    used = prepared[: n_rows * n_in * size]
    if kind == BF16:
        return prepared, scale, offset, reference.from_bf16(used.view(np.uint16)).reshape(rows.shape)
    exact = used.reshape(rows.shape) * scale[:n_rows, None].astype(np.float64) + offset[:n_rows, None]
    return prepared, scale, offset, exact


@pytest.mark.parametrize("kind", [INT8, BF16])
@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n_out", [32, 96])
def test_convolution_of_prepared_rows_equals_the_sum_over_taps(
    kind: int, width: int, stride: int, n_out: int
) -> None:
    weight, bias = normal(0, width, 64, n_out), normal(1, n_out)
    conv, rounded = make_conv(weight, bias, stride, kind == INT8)
    assert conv.dense.kind == kind
    rows = normal(2, 101, 64) * np.geomspace(1e-3, 10, 101).astype(F32)[:, None]  # quiet and loud
    prepared, scale, offset, exact = prepare(kind, rows)
    wanted = reference.convolve(exact, rounded, bias, stride)
    largest = reference.convolve(np.abs(exact), np.abs(rounded), np.abs(bias), stride)
    buffers = make_conv_buffers(None, (conv,), len(rows))
    for start, n_rows in ((0, 1), (0, 48), (5, 13), (len(wanted) - 1, 1), (2, 47)):
        out = np.full((61, n_out), np.nan, F32)
        arguments = (start, n_rows, buffers, out.ctypes.data, out.strides[0])
        convolve_block(conv, prepared.ctypes.data, scale, offset, *arguments)
        error = np.abs(out[:n_rows] - wanted[start : start + n_rows])
        # In int8 a row's offset times the column's sum is taken away again: its rounding stays.
        noise = 1e-5 if kind == INT8 else 2e-6
        assert (error <= noise * largest[start : start + n_rows]).all()
        assert np.isnan(out[-(-n_rows // TILE) * TILE :]).all()


def make_front(integer: bool, norms: bool) -> tuple[FirstConv, tuple[Conv, ...], list[Any]]:
    """wav2vec2's seven convolutions over 64 channels, and the same for the twin."""
    norm = Norm(1 + 0.3 * normal(90, 64), 0.3 * normal(91, 64), 1e-5) if norms else None
    weight, bias = normal(80, 10, 64) / F32(np.sqrt(10)), 0.1 * normal(81, 64)
    first = FirstConv(10, 5, 64, pack_first(weight), bias, norms, norm or NO_NORM)
    twin: list[Any] = [(weight[:, None], bias, 5, norm)]
    convs = []
    for index, width in enumerate((3, 3, 3, 3, 2, 2)):
        kernel, bias = normal(index, width, 64, 64) / F32(np.sqrt(32 * width)), 0.1 * normal(50 + index, 64)
        conv, rounded = make_conv(kernel, bias, 2, integer, norm)
        convs.append(pair_conv(conv, product_of(kernel, bias)) if integer and index < 5 else conv)
        twin.append((rounded, bias, 2, norm))
    return first, tuple(convs), twin


@pytest.mark.parametrize("integer", [True, False])
@pytest.mark.parametrize("norms", [True, False])
def test_frames_of_the_front_end_do_not_depend_on_where_a_range_starts(integer: bool, norms: bool) -> None:
    first, convs, twin = make_front(integer, norms)
    n_frames = 53
    waveform = normal(7, 400 + 320 * (n_frames - 1) + 100)
    padded = np.concatenate([waveform, np.zeros(13 * 5 + 10, F32)])
    buffers = make_conv_buffers(first, convs)
    whole, parts = rows_of(n_frames, 64), rows_of(n_frames, 64)
    convolve_frames(first, convs, padded, buffers, 0, n_frames, whole)
    for start, end in ((24, 48), (48, 53), (0, 1), (1, 24)):
        convolve_frames(first, convs, padded, buffers, start, end, parts)
    np.testing.assert_array_equal(parts, whole)
    rows = waveform[:, None].astype(np.float64)
    for weight, bias, stride, norm in twin:
        rows = reference.convolve(rows, weight, bias, stride)
        if norm is not None:
            rows = reference.layer_norm(rows, norm.weight, norm.bias, norm.epsilon)
        rows = reference.gelu(rows)
    error = np.linalg.norm(whole - rows) / np.linalg.norm(rows)
    assert error < (0.02 if integer else 0.01)


def weights_of(**constants: np.ndarray) -> Weights:
    return Weights(OnnxGraph((), constants, (), ()))


def read_convolution(n_in: int = 48, **constants: np.ndarray) -> Product:
    spec = LinearSpec(n_in, 32, "codes", "kernel", scale="scale", bias="bias")
    return weights_of(**constants).product(spec)


def test_a_convolution_is_a_product_over_windows() -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (32, 16, 3)).astype(np.int8)
    scale, bias = np.abs(normal(1, 32, 1, 1)), normal(2, 32)
    product = read_convolution(codes=codes, scale=scale, bias=bias)
    rows = normal(3, 9, 16)
    found = reference.convolve(rows, product.weight.floats().reshape(3, 16, 32), bias, 2)
    wanted = reference.convolve(rows, (codes * scale).transpose(2, 1, 0), bias, 2)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("n_in", "scale_shape", "codes_shape"),
    [
        (48, (31,), (32, 16, 3)),
        (48, (1, 16, 1), (32, 16, 3)),
        (48, (32, 1, 1), (32, 16, 0)),
        (48, (32, 1, 1), (32, 15, 3)),
        (48, (32, 1, 1), (31, 16, 3)),
        (48, (32, 1, 1), (32, 48)),
        (96, (32, 1, 1), (32, 16, 3)),
    ],
)
def test_another_convolution_is_refused(
    n_in: int, scale_shape: tuple[int, ...], codes_shape: tuple[int, ...]
) -> None:
    codes, scale = np.ones(codes_shape, np.int8), np.ones(scale_shape, F32)
    with pytest.raises(LayoutError, match="of shape"):
        read_convolution(n_in, codes=codes, scale=scale, bias=np.zeros(32, F32))


def pack_positional(weight: np.ndarray, bias: np.ndarray, n_groups: int) -> PositionalConv:
    """As the exporter writes it for the CPU."""
    spec = PositionalConvSpec(len(bias), n_groups, weight.shape[2], "weight", "bias")
    return read_positional_conv(weights_of(weight=weight, bias=bias), spec, len(bias))


def pack_positional_gemm(weight: np.ndarray, bias: np.ndarray, n_groups: int) -> PositionalConv:
    """As the exporter writes it for CUDA."""
    exporter = pytest.importorskip("export.graph.positional_conv", reason="needs the package onnx")
    conv = exporter.PositionalConv(weight, bias, n_groups)
    width = weight.shape[2]
    taps = exporter.block_of_taps(width)
    spec = PositionalConvSpec(len(bias), n_groups, width, "weight", "bias", block_taps=taps)
    blocks = exporter.block_weights(conv, taps)
    return read_positional_conv(weights_of(weight=blocks, bias=bias), spec, len(bias))


@pytest.mark.parametrize(("size", "width"), [(32, 7), (48, 16), (64, 128)])
def test_both_forms_of_the_positional_convolution_are_read_alike(size: int, width: int) -> None:
    weight, bias = normal(size, 2 * size, size, width), normal(1, 2 * size)
    one, other = pack_positional(weight, bias, 2), pack_positional_gemm(weight, bias, 2)
    assert type(one) is type(other)
    np.testing.assert_array_equal(one.weight, other.weight)
    np.testing.assert_array_equal(one.bias, other.bias)


@pytest.mark.parametrize(
    ("n_groups", "width", "block_taps", "message"),
    [
        (3, 8, 0, "3 groups over 64"),
        (8, 8, 0, "8 groups over 64"),
        (1, 8, 0, r"of shape \(64, 32, 8\)"),
        (2, 9, 0, r"of shape \(64, 32, 8\)"),
        (2, 8, 3, "taps of the positional"),
        (2, 8, 4, r"of shape \(64, 32, 8\)"),
    ],
)
def test_another_positional_convolution_is_refused(
    n_groups: int, width: int, block_taps: int, message: str
) -> None:
    spec = PositionalConvSpec(64, n_groups, width, "weight", "bias", block_taps=block_taps)
    weights = weights_of(weight=normal(0, 64, 32, 8), bias=normal(1, 64))
    with pytest.raises(LayoutError, match=message):
        read_positional_conv(weights, spec, 64)


@pytest.mark.parametrize("size", [32, 48, 64, 80, 96])
@pytest.mark.parametrize("width", [7, 16])
def test_positional_convolution_equals_its_definition(size: int, width: int) -> None:
    n_groups = 2
    d = n_groups * size
    weight, bias = normal(size, d, size, width) / F32(np.sqrt(size * width)), normal(1, d)
    conv = pack_positional(weight, bias, n_groups)
    for n_frames in (1, 7, 8, 9, 12, 13, 30):
        hidden = normal(n_frames, n_frames, d)
        rows = np.zeros((n_frames + width + TILE) * size, np.uint16)
        out = np.full((n_frames, d), np.nan, F32)
        convolve_positions(conv, hidden, 1, 2, rows, out)
        assert np.isnan(out[:, :size]).all()
        convolve_positions(conv, hidden, 0, 1, rows, out)
        rounded = (reference.round_bf16(hidden), reference.round_bf16(weight))
        wanted = reference.positional_conv(*rounded, bias, n_groups)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=5e-5)


@pytest.mark.parametrize("level", [0.0, 3.0])
@pytest.mark.parametrize("n_samples", [10, 15, 400, 5003])
def test_folded_group_norm_equals_a_norm_over_time(level: float, n_samples: int) -> None:
    weight, scale, shift = normal(0, 10, 64), 1 + 0.3 * normal(1, 64), normal(2, 64)
    first = FirstConv(10, 5, 64, pack_first(weight), np.zeros(64, F32), False, Norm(scale, shift, 1e-5))
    waveform = normal(3, n_samples) + F32(level)
    folded = fold_group_norm(first, waveform)
    unpacked = folded.weight.reshape(2, 10, 32).transpose(1, 0, 2).reshape(10, 1, 64)
    found = reference.convolve(waveform[:, None], unpacked, folded.bias, 5)
    rows = reference.convolve(waveform[:, None], weight[:, None], np.zeros(64), 5)
    wanted = reference.group_norm(rows, scale, shift, 1e-5)
    terms = reference.convolve(np.abs(waveform)[:, None], np.abs(unpacked), np.abs(folded.bias), 5)
    assert (np.abs(found - wanted) <= 5e-7 * terms).all()
    np.testing.assert_array_equal(first.weight, pack_first(weight))  # the given one stays as it was


def gates_of_onnx(array: np.ndarray) -> np.ndarray:
    """torch: input, forget, cell, output; here: input, output, forget, cell."""
    enter, keep, fresh, leave = np.split(array, 4)
    return np.concatenate([enter, leave, keep, fresh])


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("n_frames", [1, 2, 100])
def test_lstm_equals_its_definition_and_torch(size: int, n_frames: int) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(size)
    module = torch.nn.LSTM(64, size, batch_first=True, bidirectional=True)
    rows = normal(n_frames, n_frames, 64)
    with torch.inference_mode():
        from_torch = module(torch.from_numpy(rows)[None])[0][0].numpy()
    state = {name: value.detach().numpy() for name, value in module.named_parameters()}
    projected, recurrent = [], []
    for suffix in ("", "_reverse"):
        weight = gates_of_onnx(state[f"weight_ih_l0{suffix}"])
        bias = gates_of_onnx(state[f"bias_ih_l0{suffix}"] + state[f"bias_hh_l0{suffix}"])
        projected.append(rows @ weight.T + bias)
        recurrent.append(np.ascontiguousarray(gates_of_onnx(state[f"weight_hh_l0{suffix}"]).T))
    joined = np.ascontiguousarray(np.concatenate(projected, axis=1))
    out = np.full((n_frames, 2 * size), np.nan, F32)
    for direction in range(2):
        run_direction(joined, _pack_recurrent(recurrent[direction]), size, direction, out)
        half = slice(direction * size, (direction + 1) * size)
        twin = reference.lstm(
            projected[direction], reference.round_bf16(recurrent[direction]), direction == 1
        )
        np.testing.assert_allclose(out[:, half], twin, rtol=0, atol=2e-4)
    np.testing.assert_allclose(out, from_torch, rtol=0, atol=2e-3)


def test_bits_of_bfloat16_go_back_and_forth() -> None:
    values = reference.round_bf16(normal(0, 100))
    np.testing.assert_array_equal(reference.from_bf16(to_bf16(values.astype(F32))), values)
