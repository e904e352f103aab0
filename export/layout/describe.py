"""Gives graphs their layout tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import onnx

from engine.bundle.layout import KEY, MAX_UNUSED, Layout, ModelSpec, OtherSpec, encode_layout, read_layout
from engine.errors import LayoutError
from engine.runtime.onnx_file import OnnxFormatError, OnnxGraph, read_graph, with_metadata
from export.errors import ExportError
from export.layout.encoder import describe_encoder
from export.layout.scopes import Scopes, UndescribedError
from export.layout.sequence import (
    describe_decoder,
    describe_marian_decoder,
    describe_marian_encoder,
    describe_memory,
)

# By the role of the file in a bundle; graphs of other roles are for onnxruntime only.
FAMILIES: dict[str, Callable[[Scopes], ModelSpec]] = {
    "acoustic": describe_encoder,
    "asr_memory": describe_memory,
    "asr_decoder": describe_decoder,
    "mt_encoder": describe_marian_encoder,
    "mt_decoder": describe_marian_decoder,
}
TABLES = {"asr_memory": "asr_embeddings", "asr_decoder": "asr_embeddings"} | dict.fromkeys(
    ("mt_encoder", "mt_decoder"), "mt_embeddings"
)  # the role of the file that contains some of a graph's tensors
Files = Mapping[str, bytes]


def describe(graph: OnnxGraph, role: str) -> Layout:
    """The layout of a graph that this package built, of one of FAMILIES.

    A graph with parts that no block describes has the layout of an OtherSpec, with the reason.
    """
    scopes = Scopes(graph)
    try:
        model = FAMILIES[role](scopes)
        named = set(_names(model))
        left = [name for name, array in graph.constants.items() if name not in named]
        large = [name for name in left if graph.constants[name].size > MAX_UNUSED]
        if large:
            raise UndescribedError(f"parts that are not known here: {', '.join(large[:3])}")
    except (
        ArithmeticError,
        LookupError,
        StopIteration,
        TypeError,
        ValueError,
        msgspec.ValidationError,
    ) as error:
        why = str(error) if isinstance(error, UndescribedError) else f"a part in another form ({error})"
        return Layout(OtherSpec(why), ())
    return Layout(model, tuple(left))


def add_layout(data: bytes, role: str, files: Files | None = None) -> bytes:
    """A graph with its layout table, which replaces an older one; every other byte stays as it is.

    Args:
        data: the ONNX file. role: one of FAMILIES.
        files: those that may contain its tensors, by name.
    Raises:
        ExportError: the bytes are not a graph that can be read here.
    """
    try:
        graph = read_graph(data, files)
        return with_metadata(data, KEY, encode_layout(describe(graph, role), graph))
    except OnnxFormatError as error:
        raise ExportError(
            f"{role}: {error}", "a graph of engine-export", "export the checkpoint again"
        ) from error


def ensure_layout(data: bytes, role: str, files: Files | None = None) -> bytes:
    """A graph with a layout table: the one that it has, where that can be read."""
    try:
        read_layout(read_graph(data, files, nodes=False))
    except (LayoutError, OnnxFormatError):
        return add_layout(data, role, files)
    return data


def describe_model(model: onnx.ModelProto, role: str) -> bytes:
    """A graph that was just built, serialised with its layout table."""
    return add_layout(model.SerializeToString(), role)


def _names(block: Any) -> Iterator[str]:
    """Every text in a block; names of constants are among them."""
    if isinstance(block, str):
        yield block
    elif isinstance(block, list):
        for item in block:
            yield from _names(item)
    elif isinstance(block, msgspec.Struct):
        for field in block.__struct_fields__:
            yield from _names(getattr(block, field))
