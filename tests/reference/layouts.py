"""Layout tables that were taken out, changed and put back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from engine.bundle.layout import KEY, compute_digest
from engine.runtime.onnx_file import read_graph, with_metadata

Json = dict[str, Any]
Files = Mapping[str, bytes]
Path = tuple[str | int, ...]


def table_of(data: bytes) -> Json:
    """The table of a graph as plain JSON."""
    found: Json = json.loads(read_graph_metadata(data)[KEY])
    return found


def read_graph_metadata(data: bytes) -> dict[str, str]:
    """By the package onnx."""
    return {entry.key: entry.value for entry in onnx.load_model_from_string(data).metadata_props}


def without_table(data: bytes) -> bytes:
    """A graph as earlier exports wrote it."""
    return with_metadata(data, KEY, None)


def with_table(data: bytes, table: Json | str) -> bytes:
    """A graph with any text in place of its table."""
    return with_metadata(data, KEY, table if isinstance(table, str) else json.dumps(table))


def sealed(data: bytes, table: Json, files: Files | None = None) -> bytes:
    """A graph with a changed table whose digest fits, as an exporter with an error would write it."""
    model = json.dumps(table["model"])
    graph = read_graph(data, files)
    digest = compute_digest(graph, model.encode(), [n for n in table["unused"] if n in graph.constants])
    rest = json.dumps({"revision": table["revision"], "digest": digest, "unused": table["unused"]})
    return with_metadata(data, KEY, f'{rest[:-1]}, "model": {model}}}')


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every text, number and flag in a table, and where it is."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def changed(table: Json, path: Path, value: Any) -> Json:
    """A copy with another value at a place; None takes it away."""
    copy: Json = json.loads(json.dumps(table))
    place: Any = copy
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy
