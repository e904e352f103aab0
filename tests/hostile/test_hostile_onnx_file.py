"""Graphs that were cut, forged or altered, before the reader of ONNX files and the kernels behind it.

The kernels check no bounds, so a shape that does not fit must never reach one.
"""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.kernels.vector.levels import has_vector_kernels
from engine.runtime.onnx_file import OnnxFormatError, OnnxGraph, read_graph

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

needs_vectors = pytest.mark.skipif(
    not has_vector_kernels(), reason="no vector kernels at this instruction set level"
)
SECONDS, MEBIBYTE = 5.0, 1 << 20


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number: int, value: bytes | int, kind: int | None = None) -> bytes:
    if isinstance(value, int):
        return varint(number << 3 | (kind or 0)) + varint(value)
    return varint(number << 3 | (2 if kind is None else kind)) + varint(len(value)) + value


def tensor(dims: list[int], data: bytes, kind: int = TensorProto.FLOAT, name: bytes = b"w") -> bytes:
    sizes = b"".join(field(1, size % (1 << 64)) for size in dims)
    return sizes + field(2, kind) + field(8, name) + field(9, data)


def model_of(*tensors: bytes) -> bytes:
    return field(7, b"".join(field(5, item) for item in tensors))


def small_model() -> Any:
    """Every kind of field that the reader knows."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="a/MatMul_1"),
        helper.make_node("Op", ["y"], ["z"], name="a/Op_2", i=-3, f=0.5, s="text", ints=[1, -2, 1 << 40]),
    ]
    constants = {
        "w": np.arange(12, dtype=np.float32).reshape(3, 4),
        "codes": np.array([[-1, 2]], np.int8),
        "big": np.array([1 << 50], np.int64),
        "half": np.array(1.5, np.float16),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph)


def read_safely(data: bytes) -> OnnxGraph | None:
    """The graph, or None where it is refused as it ought to be; fails on a hang or a large allocation."""
    tracemalloc.start()
    start = time.process_time()
    try:
        return read_graph(data)
    except OnnxFormatError as error:
        assert "not a readable ONNX model" in str(error)
        return None
    finally:
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < SECONDS
        assert peak < MEBIBYTE + 50 * len(data)


def test_a_model_is_read_as_onnx_wrote_it() -> None:
    model = small_model()
    graph = read_graph(model.SerializeToString())
    assert (graph.inputs, graph.outputs) == (("x",), ("z",))
    assert [(n.kind, n.name, n.inputs, n.outputs) for n in graph.nodes] == [
        ("MatMul", "a/MatMul_1", ("x", "w"), ("y",)),
        ("Op", "a/Op_2", ("y",), ("z",)),
    ]
    assert graph.nodes[1].attributes == {"i": -3, "f": 0.5, "s": b"text", "ints": [1, -2, 1 << 40]}
    assert set(graph.constants) == {"w", "codes", "big", "half"}
    for stored in model.graph.initializer:
        wanted = numpy_helper.to_array(stored)
        assert graph.constants[stored.name].dtype == wanted.dtype
        np.testing.assert_array_equal(graph.constants[stored.name], wanted)


def test_every_truncation_is_refused_or_a_shorter_model() -> None:
    data = small_model().SerializeToString()
    whole = read_graph(data)
    for size in range(len(data)):
        found = read_safely(data[:size])
        assert found is None or found.nodes == whole.nodes  # only what comes behind the graph was cut


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=8))
@example([(392, 0), (4547618, 32)])  # a number where an attribute's text belongs
@example([(390, 0), (4547618, 32)])
@settings(max_examples=400, deadline=None)
def test_changed_bytes_are_refused_or_read(changes: list[tuple[int, int]]) -> None:
    data = bytearray(small_model().SerializeToString())
    for place, value in changes:
        data[place % len(data)] = value
    read_safely(bytes(data))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_noise_is_refused_or_read(data: bytes) -> None:
    read_safely(data)
    read_safely(field(7, data))
    read_safely(field(7, field(1, data)))
    read_safely(model_of(data))


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "no graph": field(1, 8),
    "graph that is a number": field(7, 5),
    "field longer than the file": varint(7 << 3 | 2) + varint(1 << 40) + b"abc",
    "length of 2^63": varint(7 << 3 | 2) + varint(1 << 63) + b"abc",
    "number without an end": varint(7 << 3 | 2) + b"\x80" * 9,
    "number of eleven bytes": b"\x80" * 10 + b"\x01",
    "number of a million bytes": b"\xff" * 1_000_000,
    "number of a million bytes in a shape": model_of(field(1, b"\xff" * 1_000_000)),
    "wire type 3": field(7, varint(1 << 3 | 3)),
    "wire type 4": field(7, varint(1 << 3 | 4)),
    "wire type 6": varint(7 << 3 | 6),
    "wire type 7": varint(7 << 3 | 7),
    "half a fixed32": field(7, varint(9 << 3 | 5) + b"ab"),
    "half a fixed64": field(7, varint(9 << 3 | 1) + b"abcdefg"),
    "name that is no text": field(7, field(1, field(3, b"\xff\xfe"))),
    "node that is a number": field(7, field(1, 5)),
    "tensor that is a number": field(7, field(5, 5)),
    "type that is bytes": model_of(field(1, 1) + field(2, b"a") + field(9, b"abcd")),
    "unknown type": model_of(tensor([1], b"abcd", 16)),
    "text": model_of(tensor([1], b"abcd", TensorProto.STRING)),
    "data that is a number": model_of(field(1, 1) + field(2, 1) + field(9, 7)),
    "more elements than data": model_of(tensor([1 << 40], b"abcd")),
    "shape that overflows": model_of(tensor([1 << 33, 1 << 33], b"abcd")),
    "shape that overflows to one": model_of(tensor([(1 << 63) - 1, 3, (1 << 62) + 1], b"abcd")),
    "fewer elements than data": model_of(tensor([1], b"abcdabcd")),
    "half an element": model_of(tensor([1], b"abc")),
    "size that is inferred": model_of(tensor([-1], b"abcd")),
    "negative sizes": model_of(tensor([-1, -1], b"abcd")),
    "shape of a thousand sizes": model_of(tensor([1] * 1000, b"abcd")),
    "float attribute of eight bytes": field(7, field(1, field(5, varint(2 << 3 | 1) + b"abcdefgh"))),
    "float attribute that is a number": field(7, field(1, field(5, field(2, 7)))),
    "no type": model_of(field(1, 1) + field(9, b"abcd")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model_is_refused(name: str) -> None:
    assert read_safely(REFUSED[name]) is None


@pytest.mark.parametrize(
    ("key", "kind"),
    [("float_data", "FLOAT"), ("int32_data", "INT8"), ("int64_data", "INT64"), ("double_data", "DOUBLE")],
)
def test_numbers_as_fields_of_their_own_are_refused(key: str, kind: str) -> None:
    stored = TensorProto(name="w", data_type=getattr(TensorProto, kind), dims=[2])
    getattr(stored, key).extend([1, 2])
    assert read_safely(model_of(stored.SerializeToString())) is None


def test_weights_in_another_file_are_refused() -> None:
    stored = numpy_helper.from_array(np.ones(2, np.float32), "w")
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.add(key="location", value="/etc/passwd")
    assert read_safely(model_of(stored.SerializeToString())) is None
    stored.ClearField("raw_data")
    assert read_safely(model_of(stored.SerializeToString())) is None
    stored.ClearField("data_location")
    assert read_safely(model_of(stored.SerializeToString())) is None


def test_deep_nesting_and_what_is_not_read_cost_nothing() -> None:
    inner = b""
    for _ in range(2000):  # subgraphs in attributes: nobody looks into them
        inner = field(1, field(5, field(1, b"then_branch") + field(6, inner)))
    graph = read_safely(field(7, inner) + field(99, b"x" * 1000))
    assert graph is not None and graph.nodes[0].attributes == {"then_branch": None}


def test_many_empty_parts_are_read_in_time() -> None:
    graph = read_safely(field(7, field(1, b"") * 20_000 + field(11, b"") * 20_000))
    assert graph is not None and len(graph.nodes) == 20_000


# From here on: graphs that are well-formed, but not what the exporter makes.

KINDS = ("stable layer norm", "group norm", "mel", "mel fp32")
Change = Callable[[Any], None]


@cache
def exported(kind: str) -> bytes:
    """One-layer encoders with outlier units, sinks and LSTM."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    from tests.reference import tiny_encoders as tiny

    if kind in tiny.WAVEFORM:
        return tiny.waveform_encoder(kind, smallest=True).graphs["int8"]
    return tiny.log_mel_encoder("sinks", smallest=True).graphs["fp32" if "fp32" in kind else "int8"]


def assert_dense(layer: Any) -> None:
    size = (1, 2)[layer.kind]
    assert layer.n_in % 32 == 0 and layer.padded % 32 == 0
    assert 0 <= layer.padded - layer.n_out < 32
    weight, *vectors = layer.arrays
    assert weight.size == layer.n_in * layer.padded * size
    assert all(vector.shape == (layer.padded,) for vector in vectors)
    addresses = (layer.weight, layer.scale, layer.column_sum, layer.bias)
    assert addresses == tuple(array.ctypes.data for array in layer.arrays)


def assert_norm(norm: Any, n_channels: int) -> None:
    if norm is not None:
        assert norm.weight.shape == norm.bias.shape == (n_channels,)


def assert_layers(encoder: Any, d: int) -> None:
    assert d % 32 == 0
    first = encoder.layers[0]
    for layer in encoder.layers:
        weights = layer.weights
        assert weights.n_heads == first.weights.n_heads
        assert weights.n_heads > 0 and d % (16 * weights.n_heads) == 0
        assert_norm(weights.attention_norm, d)
        assert_norm(weights.feed_norm, d)
        sizes = [(weights.qkv, d, 3 * d), (weights.output, d, d)]
        sizes += [(weights.feed_in, d, weights.feed_in.n_out), (weights.feed_out, weights.feed_in.padded, d)]
        if weights.outlier_in.n_out:
            sizes += [(weights.outlier_in, d, weights.outlier_in.n_out), (weights.outlier_out, 32, d)]
            assert weights.outlier_in.padded == 32
        for dense, n_in, n_out in sizes:
            assert_dense(dense)
            assert (dense.n_in, dense.n_out) == (n_in, n_out)
        assert (layer.sinks is None) == (first.sinks is None)
        if layer.sinks is not None:
            n_sinks = len(first.sinks.bias)
            assert layer.sinks.keys.shape == layer.sinks.values.shape == (n_sinks, d)
            assert layer.sinks.bias.shape == (n_sinks,)


def assert_conv(conv: Any, n_channels: int) -> None:
    assert_dense(conv.dense)
    assert conv.n_channels == n_channels and n_channels % 16 == 0
    assert 0 < conv.width <= 8 and 0 < conv.stride <= conv.width
    assert conv.dense.n_out % 32 == 0
    paired = conv.kind == 2  # five products for two outputs, of four matrices
    assert conv.kind == conv.dense.kind or (paired and conv.dense.kind == 0)
    assert not paired or (conv.width, conv.stride) == (3, 2)
    n_matrices = 4 if paired else conv.width
    assert 0 <= conv.dense.n_in - n_matrices * n_channels < (32 if conv.dense.kind else 1)
    assert conv.tap_sums.shape == (n_matrices, conv.dense.n_out)
    assert conv.middle_scale.shape == ((conv.dense.n_out,) if paired else (0,))
    if conv.has_norm:
        assert_norm(conv.norm, conv.dense.n_out)


def assert_waveform_stem(stem: Any, d: int) -> None:
    from engine.kernels.encoder.positional_fft import PositionalSpectrum

    first = stem.first
    assert 0 < first.stride <= first.width <= 64 and first.n_out % 32 == 0
    assert first.weight.shape == (first.width * first.n_out,)
    assert first.bias.shape == (first.n_out,)
    if first.has_norm or stem.group_norm:
        assert_norm(first.norm, first.n_out)
    n_channels = first.n_out
    for conv in stem.convs:
        assert_conv(conv, n_channels)
        n_channels = conv.dense.n_out
    assert_dense(stem.projection)
    assert stem.projection.n_in == n_channels and stem.projection.n_out == d
    assert_norm(stem.projection_norm, n_channels)
    assert_norm(stem.position_norm, d)
    positions = stem.positions
    assert positions.bias.shape == (d,) and d % (16 * positions.n_groups) == 0
    size = d // positions.n_groups
    columns = 48 if size % 48 == 0 else 32
    padded = -(-size // columns) * columns
    if isinstance(positions, PositionalSpectrum):
        assert 64 <= positions.width <= 128
        assert positions.weight.nbytes == 4 * positions.n_groups * 129 * size * padded
        return
    assert positions.width > 0
    assert positions.weight.nbytes == 2 * positions.n_groups * positions.width * size * padded


def assert_consistent(encoder: Any) -> None:
    """Everything that the kernels rely on without looking."""
    stem, head = encoder.stem, encoder.head
    d = stem.n_channels
    if encoder.input_name == "input_values":
        assert_waveform_stem(stem, d)
    else:
        assert_conv(stem.first, stem.n_mels)
        assert_conv(stem.second, d)
        assert stem.first.dense.n_out == stem.second.dense.n_out == stem.positions.shape[1] == d
        assert (stem.first.stride, stem.second.stride) == (1, 2)
    assert_layers(encoder, d)
    assert_norm(head.norm, d)
    assert_dense(head.output)
    assert head.output.n_in == (d if head.lstm is None else 2 * head.lstm.size)
    if head.lstm is not None:
        assert_dense(head.lstm.project)
        assert head.lstm.size % 32 == 0 and head.lstm.size > 0
        assert (head.lstm.project.n_in, head.lstm.project.n_out) == (d, 8 * head.lstm.size)
        assert [part.size for part in head.lstm.recurrent] == [8 * head.lstm.size**2] * 2


def load_safely(data: bytes) -> bool:
    """Whether the kernels take a graph; fails where it does not fit together, or another error comes.

    A graph that was altered has a table of another graph, if its nodes or small constants changed. It then
    gets a new one, as `engine-export layout` would write, so that what stands behind it is tried too.
    """
    from export.errors import ExportError
    from export.layout.describe import add_layout

    if take_safely(data):
        return True
    start = time.process_time()
    try:
        described = add_layout(data, "acoustic")
    except ExportError:
        return False
    finally:
        assert time.process_time() - start < SECONDS
    return take_safely(described)


def take_safely(data: bytes) -> bool:
    """Whether the kernels take a graph as it is."""
    from engine.errors import LayoutError
    from engine.native.encoder import NativeEncoder

    start = time.process_time()
    try:
        encoder = NativeEncoder(data)
    except (LayoutError, OnnxFormatError):
        return False
    finally:
        assert time.process_time() - start < SECONDS
    assert_consistent(encoder)
    shape = (80, 33) if encoder.input_name == "input_features" else (6000,)
    if shape == (6000,):
        assert encoder.stem.count_frames(6000) < 6000
        if encoder.stem.count_frames(6000) < 1:
            return True
    elif encoder.stem.n_mels != 80 or len(encoder.stem.positions) < 17:
        return True
    logits = encoder.run(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    assert logits.shape[1] == encoder.vocab_size
    return True


def changed(kind: str, change: Change) -> bytes:
    model = onnx.load_model_from_string(exported(kind))
    change(model.graph)
    return model.SerializeToString()


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_the_graphs_that_are_altered_here_are_taken_as_they_are(kind: str) -> None:
    assert load_safely(exported(kind))


def resized(array: np.ndarray) -> Iterator[np.ndarray]:
    """The same numbers, more or fewer, in shapes that are not the array's."""
    yield array.reshape(-1)[:0].reshape([0, *array.shape[1:]] if array.ndim else [0])
    yield array.reshape(1, *array.shape)
    yield array.reshape(*array.shape, 1)
    for axis, size in enumerate(array.shape):
        for other in {max(size - 1, 0), 2 * size, size + 16, 1} - {size}:
            yield np.take(array, np.arange(other) % size, axis) if size else array
    if array.ndim > 1:
        yield array.reshape(-1)
        yield array.swapaxes(0, -1)
        yield array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
        if array.shape[0] % 2 == 0:
            yield array.reshape(array.shape[0] // 2, 2 * array.shape[1], *array.shape[2:])
        if array.shape[1] % 2 == 0:
            yield array.reshape(array.shape[0] * 2, array.shape[1] // 2, *array.shape[2:])


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_no_constant_of_another_shape_reaches_a_kernel(kind: str) -> None:
    names = [constant.name for constant in onnx.load_model_from_string(exported(kind)).graph.initializer]
    n_refused = n_all = 0
    for index in range(len(names)):
        model = onnx.load_model_from_string(exported(kind))
        stored = model.graph.initializer[index]
        array = numpy_helper.to_array(stored)
        for other in resized(array):
            if other.shape != array.shape:
                stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(other), names[index]))
                n_all += 1
                n_refused += not load_safely(model.SerializeToString())
    assert n_all > 5 * len(names)
    assert n_refused > 0.6 * n_all  # what is left: constants that nobody reads, tables, attributes in tensors


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_no_constant_of_another_type_reaches_a_kernel(kind: str) -> None:
    model = onnx.load_model_from_string(exported(kind))
    for stored in model.graph.initializer:
        array, before = numpy_helper.to_array(stored), stored.SerializeToString()
        for dtype in (np.uint8, np.int8, np.float64):
            if array.dtype != dtype:
                with np.errstate(all="ignore"):
                    stored.CopyFrom(numpy_helper.from_array(array.astype(dtype), stored.name))
                load_safely(model.SerializeToString())
        stored.ParseFromString(before)


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_a_graph_are_not_believed(kind: str) -> None:
    model = onnx.load_model_from_string(exported(kind))
    for stored in model.graph.initializer:
        array, before = numpy_helper.to_array(stored), stored.SerializeToString()
        if array.dtype == np.int64:
            for value in (0, -1, 7, 1 << 40, -(1 << 63)):
                stored.CopyFrom(numpy_helper.from_array(np.full_like(array, value), stored.name))
                load_safely(model.SerializeToString())
            stored.ParseFromString(before)
    for node in model.graph.node:
        for attribute in node.attribute:
            before = attribute.SerializeToString()
            for value in (0, -1, 3, 1 << 40):
                attribute.i = value
                load_safely(model.SerializeToString())
            attribute.CopyFrom(helper.make_attribute(attribute.name, "text"))
            load_safely(model.SerializeToString())
            attribute.ParseFromString(before)


@needs_vectors
@pytest.mark.parametrize("kind", ["stable layer norm", "mel"])
def test_inputs_that_are_missing_or_others_are_refused_or_harmless(kind: str) -> None:
    model = onnx.load_model_from_string(exported(kind))
    names = [stored.name for stored in model.graph.initializer]
    rng = np.random.default_rng(0)
    for node in model.graph.node:
        before = list(node.input)
        if before:
            place = rng.integers(len(before))
            node.input[place] = names[rng.integers(len(names))]
            load_safely(model.SerializeToString())
            node.input[place] = before[place]
        del node.input[-1:]
        load_safely(model.SerializeToString())
        del node.input[:]
        load_safely(model.SerializeToString())
        node.input.extend(before)


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_without_one_of_its_nodes_is_refused_or_harmless(kind: str) -> None:
    model = onnx.load_model_from_string(exported(kind))
    n_nodes = len(model.graph.node)
    for index in range(n_nodes):
        altered = onnx.ModelProto()
        altered.CopyFrom(model)
        del altered.graph.node[index]
        load_safely(altered.SerializeToString())


@cache
def structure_of(kind: str) -> np.ndarray:
    """Places of the bytes that are no weights."""
    data = exported(kind)
    kept = np.ones(len(data), bool)
    for stored in onnx.load_model_from_string(data).graph.initializer:
        if len(stored.raw_data) > 64:
            start = data.index(stored.raw_data)
            kept[start : start + len(stored.raw_data)] = False
    return np.flatnonzero(kept)


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_changed_bytes_of_a_real_graph_are_refused_or_harmless(
    kind: str, changes: list[tuple[int, int]]
) -> None:
    data, places = bytearray(exported(kind)), structure_of(kind)
    for place, value in changes:
        data[places[place % len(places)]] = value
    load_safely(bytes(data))


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_half_a_graph_is_refused(kind: str) -> None:
    data = exported(kind)
    for size in np.linspace(0, len(data) - 200, 20).astype(int):
        assert not load_safely(data[:size])


def weight_of(graph: Any, scope: str, kind: str) -> Any:
    """The node of a linear layer."""
    return next(node for node in graph.node if node.op_type == kind and node.name.startswith(f"{scope}/"))


@needs_vectors
def test_constants_that_unpack_each_other_without_end_are_refused_in_time() -> None:
    def cycle(graph: Any) -> None:
        weight_of(graph, "head/output", "MatMul").input[1] = "loop"
        graph.node.append(helper.make_node("Cast", ["loop"], ["loop"], to=1))

    def doubling(graph: Any) -> None:
        weight_of(graph, "head/output", "MatMul").input[1] = "m64"
        name = weight_of(graph, "projection", "DynamicQuantizeMatMul").input[2]
        graph.node.extend(helper.make_node("Mul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(64))
        graph.node.append(helper.make_node("Cast", [name], ["m0"], to=1))

    for change in (cycle, doubling):
        assert not load_safely(changed("stable layer norm", change))


@needs_vectors
def test_a_product_of_two_vectors_does_not_fill_the_memory() -> None:
    def outer(graph: Any) -> None:
        for name, shape in (("tall", (1 << 20, 1)), ("wide", (1, 1 << 20))):
            graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
        graph.node.append(helper.make_node("Mul", ["tall", "wide"], ["huge"]))
        weight_of(graph, "head/output", "MatMul").input[1] = "huge"

    assert not load_safely(changed("stable layer norm", outer))


@needs_vectors
def test_layers_that_share_their_weights_are_refused() -> None:
    def share(graph: Any) -> None:
        copies = []
        for node in graph.node:
            if node.name.startswith("layer_0/"):
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                copy.name = copy.name.replace("layer_0/", "layer_1/")
                copies.append(copy)
        graph.node.extend(copies)

    assert not load_safely(changed("stable layer norm", share))


@needs_vectors
def test_empty_tensors_of_huge_shapes_are_refused() -> None:
    graph = onnx.load_model_from_string(exported("stable layer norm")).graph
    names = {weight_of(graph, "projection", "DynamicQuantizeMatMul").input[at] for at in (1, 2, 3, 4)}

    def hollow(graph: Any) -> None:
        for stored in graph.initializer:
            if stored.name in names:
                stored.raw_data = b""
                del stored.dims[:]
                stored.dims.extend([0, 1 << 60])

    assert not load_safely(changed("stable layer norm", hollow))


@needs_vectors
def test_weights_with_a_zero_point_are_refused() -> None:
    for kind in ("stable layer norm", "mel"):
        graph = onnx.load_model_from_string(exported(kind)).graph
        zeros = {
            node.input[at]
            for node in graph.node
            for kind_of_node, places in (
                ("DynamicQuantizeMatMul", (3,)),
                ("MatMulIntegerToFloat", (5,)),
                ("DynamicQuantizeLSTM", (9, 11)),
            )
            if node.op_type == kind_of_node
            for at in places
        }
        for name in zeros:

            def shift(graph: Any, name: str = name) -> None:
                stored = next(item for item in graph.initializer if item.name == name)
                array = numpy_helper.to_array(stored) + np.int8(1)
                stored.CopyFrom(numpy_helper.from_array(array, name))

            assert not load_safely(changed(kind, shift))


@needs_vectors
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_are_not_numbers_do_no_harm() -> None:
    for kind in KINDS:
        for bad in (np.nan, np.inf, -np.inf, 3e38):

            def spoil(graph: Any, bad: float = bad) -> None:
                for stored in graph.initializer:
                    if stored.data_type == TensorProto.FLOAT:
                        stored.raw_data = struct.pack("<f", bad) * (len(stored.raw_data) // 4)

            load_safely(changed(kind, spoil))
