"""What an ONNX file says of itself: inputs, outputs and metadata, read without its weights."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.runtime.onnx_file import GRAPH, OnnxFormatError, read_metadata, read_shape
from engine.runtime.protobuf import read_fields

INPUTS, OUTPUTS, CONSTANTS = 11, 12, 5  # fields of a graph
CONSTANT_NAME = 8  # field of a tensor
Shape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs with their shapes, in which a free dimension is None; the model's metadata_props."""

    inputs: dict[str, Shape] = field(default_factory=dict)
    outputs: dict[str, Shape] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read_interface(path: Path) -> Interface:
    """Read an ONNX file's interface.

    Raises:
        OnnxFormatError: it is no ONNX model.
    """
    try:
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        graph = next(value for number, value in read_fields(view) if number == GRAPH)
        found: dict[int, dict[str, Shape]] = {INPUTS: {}, OUTPUTS: {}}
        constants = set()
        for number, value in read_fields(graph):
            if number in found:
                found[number][_text(value, 1)] = read_shape(value)
            elif number == CONSTANTS:
                constants.add(_text(value, CONSTANT_NAME))
        inputs = {name: shape for name, shape in found[INPUTS].items() if name not in constants}
        return Interface(inputs, found[OUTPUTS], read_metadata(view))
    except (StopIteration, struct.error, LookupError, ValueError, TypeError, OverflowError, OSError) as error:
        raise OnnxFormatError(f"not a readable ONNX model ({error})") from error


def _text(message: Any, wanted: int) -> str:
    return next((str(value, "utf-8") for number, value in read_fields(message) if number == wanted), "")
