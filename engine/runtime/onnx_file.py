"""Reads the nodes and constants of an ONNX file: enough of protobuf's wire format, no package onnx."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runtime.protobuf import read_fields, read_places, read_varint, write_field

GRAPH, METADATA = 7, 14  # fields of a model
DTYPES: dict[int, Any] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 5: np.int16, 6: np.int32, 7: np.int64,
    10: np.float16, 11: np.float64,
}  # fmt: skip
OTHER_STORAGE = (4, 5, 6, 7, 10, 11)  # numbers as fields of their own
Array = NDArray[Any]
LOCATION = "location"  # key of the entry in which a tensor names the file that it lies in
_TENSOR: dict[int, Any] = {}
_SPARSE = {1: _TENSOR, 2: _TENSOR}
_GRAPH: dict[int, Any] = {5: _TENSOR, 15: _SPARSE}
_NODE = {5: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE}}  # its attributes
_GRAPH[1] = _NODE
_MODEL = {GRAPH: _GRAPH, 25: {7: _NODE}}  # and functions


class OnnxFormatError(ValueError):
    """The bytes are no ONNX model that this module reads."""


@dataclass(frozen=True)
class Node:
    """An operator: attributes hold ints, floats, bytes and lists of ints."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxGraph:
    """Nodes in order, constants by name, and the names of the graph's inputs and outputs.

    Attributes:
        shapes: what these declare, by name; a free dimension is None. One without a shape is not in it.
        metadata: the model's metadata_props.
        digest: SHA-256 of the nodes, inputs and outputs as the file has them.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    digest: bytes = b""


def read_graph(data: bytes, files: Mapping[str, bytes] | None = None, nodes: bool = True) -> OnnxGraph:
    """Read a serialised model.

    Args:
        data: the model.
        files: the files that its tensors may lie in, by name; none without it.
        nodes: whether the nodes are wanted; without them it is faster.
    Returns:
        Its graph; constants are views of data or of files.
    Raises:
        OnnxFormatError: damaged, or with types or storage that are not read here.
    """
    try:
        view = memoryview(data)
        graph = next(value for number, value in read_fields(view) if number == GRAPH)
        found, constants, digest = [], {}, hashlib.sha256()
        names: dict[int, list[str]] = {11: [], 12: []}
        shapes: dict[str, tuple[int | None, ...]] = {}
        for number, value in read_fields(graph):
            if number in (1, *names):
                digest.update(struct.pack("<QQ", number, len(value)))
                digest.update(value)
            if number == 1 and nodes:
                found.append(_node(value))
            elif number == 5:
                name, array = _tensor(value, files or {})
                constants[name] = array
            elif number in names:
                declared = [str(v, "utf-8") for n, v in read_fields(value) if n == 1]
                names[number] += declared
                shapes |= {name: shape for name in declared if (shape := read_shape(value)) is not None}
        inputs, outputs = tuple(names[11]), tuple(names[12])
        return OnnxGraph(
            tuple(found), constants, inputs, outputs, shapes, read_metadata(view), digest.digest()
        )  # fmt: skip
    except (StopIteration, struct.error, LookupError, ValueError, TypeError, OverflowError) as error:
        raise OnnxFormatError(f"not a readable ONNX model ({error})") from error


def external_files(data: bytes) -> set[str]:
    """Names of the files that tensors of a serialised model lie in, wherever in the model these are.

    Raises:
        OnnxFormatError: the bytes are no model.
    """
    if LOCATION.encode() not in data:
        return set()
    try:
        return set(_external_files(memoryview(data), _MODEL))
    except (StopIteration, struct.error, LookupError, ValueError, TypeError, RecursionError) as error:
        raise OnnxFormatError(f"not a readable ONNX model ({error})") from error


def _external_files(message: memoryview, parts: Mapping[int, Any]) -> Iterator[str]:
    for number, value in read_fields(message):
        if parts is _TENSOR and number == 13:
            key, text = _entry(value)
            if key == LOCATION:
                yield text
        elif number in parts:
            yield from _external_files(value, parts[number])


def with_metadata(data: bytes, key: str, text: str | None) -> bytes:
    """The same model with an entry of its metadata set, or without it; every other byte stays as it is.

    Raises:
        OnnxFormatError: the bytes are no model.
    """
    try:
        view, at, kept = memoryview(data), 0, []
        for number, value, end in read_places(view):
            if number != METADATA or _entry(value)[0] != key:
                kept.append(view[at:end])
            at = end
    except (struct.error, LookupError, ValueError, TypeError) as error:
        raise OnnxFormatError(f"not a readable ONNX model ({error})") from error
    parts = (
        []
        if text is None
        else [write_field(METADATA, write_field(1, key.encode()) + write_field(2, text.encode()))]
    )
    return b"".join([*kept, *parts])


def read_metadata(model: memoryview) -> dict[str, str]:
    """The metadata_props of a model."""
    return dict(_entry(value) for number, value in read_fields(model) if number == METADATA)


def _entry(view: memoryview) -> tuple[str, str]:
    """A key and its text."""
    found = {number: str(value, "utf-8") for number, value in read_fields(view)}
    return found.get(1, ""), found.get(2, "")


def read_shape(declaration: memoryview) -> tuple[int | None, ...] | None:
    """The dimensions that an input or output declares; None where it declares none."""
    for path in (2, 1, 2):  # type, of a tensor, its shape
        found = [value for number, value in read_fields(declaration) if number == path]
        if not found:
            return None
        declaration = found[0]
    sizes = [dict(read_fields(value)).get(1) for number, value in read_fields(declaration) if number == 1]
    return tuple(None if size is None else _signed(size) for size in sizes)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _node(view: memoryview) -> Node:
    inputs, outputs, attributes = [], [], {}
    name = kind = ""
    for number, value in read_fields(view):
        if number == 1:
            inputs.append(str(value, "utf-8"))
        elif number == 2:
            outputs.append(str(value, "utf-8"))
        elif number == 3:
            name = str(value, "utf-8")
        elif number == 4:
            kind = str(value, "utf-8")
        elif number == 5:
            key, content = _attribute(value)
            attributes[key] = content
    return Node(kind, name, tuple(inputs), tuple(outputs), attributes)


def _attribute(view: memoryview) -> tuple[str, Any]:
    name, content, integers = "", None, []
    for number, value in read_fields(view):
        if number == 1:
            name = str(value, "utf-8")
        elif number == 2:
            content = struct.unpack("<f", value)[0]
        elif number == 3:
            content = _signed(value)
        elif number == 4:
            content = bytes(memoryview(value))  # of a number, bytes() would make as many zeros
        elif number == 8:
            integers += _packed_integers(value)
    return name, integers or content


def _packed_integers(value: int | memoryview) -> list[int]:
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        item, at = read_varint(value, at)
        found.append(_signed(item))
    return found


def _external(entry: Mapping[str, str], files: Mapping[str, bytes]) -> memoryview:
    start, size = int(entry["offset"]), int(entry["length"])
    raw = memoryview(files[entry["location"]])[start : start + size]
    if start < 0 or size < 0 or len(raw) != size:
        raise ValueError("a tensor beyond the end of its file")
    return raw


def _tensor(view: memoryview, files: Mapping[str, bytes]) -> tuple[str, Array]:
    shape: list[int] = []
    name, kind, raw = "", 0, None
    external: dict[str, str] = {}
    for number, value in read_fields(view):
        if number == 1:
            shape += _packed_integers(value)
        elif number == 2:
            kind = value
        elif number == 8:
            name = str(value, "utf-8")
        elif number == 9:
            raw = value
        elif number == 13:
            entry = {n: str(v, "utf-8") for n, v in read_fields(value)}
            external[entry[1]] = entry[2]
        elif number in OTHER_STORAGE and value != 0:
            raise ValueError("a tensor that is not stored as raw bytes")
    if external:
        raw = _external(external, files)
    if any(size < 0 for size in shape):
        raise ValueError(f"a tensor of shape {shape}")
    array = np.frombuffer(b"" if raw is None else raw, DTYPES[kind])
    return name, array.reshape(shape)
