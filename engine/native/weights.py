"""Hands out the constants of a graph as its layout table names them, each of the shape that it must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import (
    FIX,
    MAX_UNUSED,
    EncoderSpec,
    Layout,
    LinearSpec,
    ModelSpec,
    NormSpec,
    OtherSpec,
    TableSpec,
    read_layout,
)
from engine.errors import LayoutError, UnsupportedBlockError
from engine.kernels.encoder.layer import Norm
from engine.kernels.layers.dense import Dense
from engine.native.packing import pack_bf16, pack_int8
from engine.runtime.onnx_file import OnnxGraph, read_graph

FLOATS = ("float32", "float16")
Array = NDArray[Any]
F32Array = NDArray[np.float32]
Spec = TypeVar("Spec", bound=ModelSpec)
Made = TypeVar("Made")


@dataclass(frozen=True)
class Weight:
    """A matrix [n_in, n_out] as the file holds it.

    Attributes:
        codes: int8, or None where the file holds floats. scale: float32 [n_out], of the codes.
        values: float32, or None.
        integer: whether the graph multiplies in integers.
    """

    codes: NDArray[np.int8] | None
    scale: F32Array | None
    values: F32Array | None
    integer: bool

    @property
    def matrix(self) -> Array:
        """Codes or values."""
        found = self.codes if self.codes is not None else self.values
        assert found is not None
        return found

    @property
    def n_out(self) -> int:
        """Columns of the matrix."""
        return int(self.matrix.shape[1])

    def floats(self) -> F32Array:
        """The matrix in float32."""
        if self.codes is None or self.scale is None:
            assert self.values is not None
            return np.asarray(self.values, np.float32)
        return self.codes.astype(np.float32) * self.scale


@dataclass(frozen=True)
class Product:
    """A linear layer of the graph."""

    weight: Weight
    bias: F32Array | None

    def pack(self, integer: bool | None = None, in_order: bool = False) -> Dense:
        """For the kernels: in int8 where the graph multiplies integers (or as asked), else in bfloat16.

        in_order: see pack_int8.
        """
        weight = self.weight
        if (
            weight.codes is not None
            and weight.scale is not None
            and (weight.integer if integer is None else integer)
        ):
            return pack_int8(weight.codes, weight.scale, self.bias, in_order)
        return pack_bf16(weight.floats(), self.bias)


class Weights:
    """The constants of one graph.

    Attributes:
        integers: whether layers may be packed in int8.
    """

    def __init__(self, graph: OnnxGraph, integers: bool = True) -> None:
        self._graph, self._integers = graph, integers
        self._read: set[str] = set()
        self._owned: set[str] = set()

    def array(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...] = FLOATS) -> Array:
        """A constant as the file holds it.

        Raises:
            LayoutError: the graph has none of this name, or one of another shape or type.
        """
        found = self._graph.constants.get(name)
        if found is None:
            raise LayoutError(f"no constant {name!r} in the graph", "every weight that its table names", FIX)
        if found.shape != shape or found.dtype.name not in dtypes:
            raise LayoutError(
                f"{name!r} of shape {found.shape} and type {found.dtype.name}",
                f"{shape} and {' or '.join(dtypes)}, as the table says",
                FIX,
            )
        self._read.add(name)
        return found

    def vector(self, name: str, size: int) -> F32Array:
        """float32 [size]."""
        return np.array(self.array(name, (size,)), np.float32)

    def norm(self, spec: NormSpec, n_channels: int) -> Norm:
        """A layer norm over so many channels."""
        expect("norm", spec.n_channels, n_channels)
        size = spec.n_channels
        return Norm(self._flat(spec.weight, size), self._flat(spec.bias, size), float(spec.epsilon))

    def table(self, spec: TableSpec, integers: tuple[str, ...] = ("int16",)) -> F32Array:
        """float32 [n_rows, n_columns]."""
        values = self.array(spec.values, (spec.n_rows, spec.n_columns), (*FLOATS, *integers))
        if not spec.scale:
            return np.array(values, np.float32)
        scale = self._scale(spec.scale, spec.n_rows)
        table: F32Array = values.astype(np.float32) * (scale if scale.size == 1 else scale[:, None])
        return table

    def codes(self, spec: TableSpec) -> tuple[NDArray[np.int8], F32Array]:
        """int8 [n_rows, n_columns] and the scale of each row."""
        codes = self.array(spec.values, (spec.n_rows, spec.n_columns), ("int8",))
        scales = np.broadcast_to(self._scale(spec.scale, spec.n_rows), spec.n_rows)
        return np.ascontiguousarray(codes), np.ascontiguousarray(scales, np.float32)

    def product(self, spec: LinearSpec, n_in: int | None = None, n_out: int | None = None) -> Product:
        """A linear layer; sizes of None are any.

        Raises:
            LayoutError: other sizes, weights that another layer has too, or one of `array`'s reasons.
        """
        for wanted, found, what in ((n_in, spec.n_in, "inputs"), (n_out, spec.n_out, "outputs")):
            expect(f"{what} of {spec.weight!r}", found, found if wanted is None else wanted)
        weight = self._weight(spec)
        self.own(spec.weight)
        if spec.shift:
            self._expect_shift(spec, weight)
        if not self._integers:
            weight = Weight(None, None, weight.floats(), False)
        return Product(weight, self.vector(spec.bias, spec.n_out) if spec.bias else None)

    def own(self, name: str) -> None:
        """Every layer has weights of its own: shared ones could fill the memory from a small file.

        Raises:
            LayoutError: another layer has them.
        """
        if name in self._owned:
            raise LayoutError(f"weights {name!r} of more than one layer", "weights of its own in each", FIX)
        self._owned.add(name)

    def zeros(self, name: str) -> None:
        """A zero point, which must be zero; "" is none.

        Raises:
            LayoutError: it is not.
        """
        found = self._graph.constants.get(name)
        if name and (found is None or found.dtype != np.int8 or found.any()):
            raise LayoutError(f"weights with the zero point {name!r}", "int8 codes around zero", FIX)
        self._read.add(name)

    def finish(self, unused: tuple[str, ...]) -> None:
        """Check that every constant of the graph was read, or is one that the kernels do not need.

        Raises:
            LayoutError: one was left.
        """
        small = {name for name in unused if self._graph.constants[name].size <= MAX_UNUSED}
        left = [name for name in self._graph.constants if name not in self._read and name not in small]
        if left:
            shown = ", ".join(map(repr, left[:3]))
            raise LayoutError(
                f"{len(left)} constants that no block of the table has ({shown})",
                "a table of the whole graph",
                FIX,
            )

    def _weight(self, spec: LinearSpec) -> Weight:
        size = spec.n_in, spec.n_out
        held = self._graph.constants.get(spec.weight)
        shape: tuple[int, ...] = size[::-1] if spec.stored == "turned" else size
        if spec.stored == "kernel":
            width = held.shape[2] if held is not None and held.ndim == 3 and held.shape[2] else 1
            shape = (spec.n_out, spec.n_in // width, width)
        values = self.array(spec.weight, shape, ("int8",) if spec.scale else FLOATS)
        self.zeros(spec.zero)
        if spec.stored == "kernel":
            values = np.ascontiguousarray(values.transpose(2, 1, 0)).reshape(size)
        elif spec.stored == "turned":
            values = values.T
        if not spec.scale:
            return Weight(None, None, values.astype(np.float32), False)
        scale = np.broadcast_to(self._scale(spec.scale, spec.n_out), spec.n_out)
        return Weight(values, np.array(scale, np.float32), None, spec.integer)

    def _scale(self, name: str, size: int) -> F32Array:
        """float32 [1] or [size]."""
        found = self._graph.constants.get(name)
        return self._flat(name, 1 if found is not None and found.size == 1 else size)

    def _flat(self, name: str, size: int) -> F32Array:
        """float32 [size], beside which the file may have axes of one element."""
        found = self._graph.constants.get(name)
        shape: tuple[int, ...] = (size,)
        if found is not None and found.size == size == max((1, *found.shape)):
            shape = found.shape
        return np.array(self.array(name, shape), np.float32).reshape(-1)

    def _expect_shift(self, spec: LinearSpec, weight: Weight) -> None:
        """Rows that were raised before they were rounded: what that adds is taken away again."""
        shift = self.vector(spec.shift, spec.n_out)
        sums = weight.matrix.sum(axis=0, dtype=np.int64) * np.asarray(weight.scale, np.float64)
        if not np.allclose(shift, -spec.raised * sums, rtol=1e-3, atol=1e-6):
            raise LayoutError(
                f"a sum {spec.shift!r} that is not known here",
                f"what raising rows by {spec.raised:g} adds",
                FIX,
            )


def expect(what: str, found: int, wanted: int) -> None:
    """Kernels do not check bounds: no other size may reach them.

    Raises:
        LayoutError: it is another.
    """
    if found != wanted:
        raise LayoutError(f"{what}: {found}", f"{wanted}, as the blocks around it have", FIX)


def beyond_kernels(what: str) -> UnsupportedBlockError:
    """An error for blocks that are well described and that the kernels do not compute."""
    return UnsupportedBlockError(
        what, "blocks and sizes that the kernels compute", "pass backend='onnxruntime'"
    )


def open_graph(
    data: bytes,
    kind: type[Spec],
    build: Callable[[Weights, Spec], Made],
    files: Mapping[str, bytes] | None = None,
    integers: bool = True,
) -> Made:
    """Read a graph's table and weights, and build what computes it.

    Args:
        data: the ONNX file. kind: of the model that it must be. build: from weights and table.
        files: those that its tensors may lie in, by name.
        integers: multiply in int8 what the graph multiplies so; else everything in bfloat16.
    Raises:
        LayoutError: no table, one that does not fit the weights, or blocks that the kernels do not compute.
        OnnxFormatError: the bytes are no ONNX model.
    """
    graph = read_graph(data, files, nodes=False)
    layout = read_layout(graph)
    weights = Weights(graph, integers)
    try:
        made = build(weights, _expect_kind(layout, graph, kind))
    except LayoutError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise LayoutError(
            f"a part in another form ({error})", "blocks as export/ writes them", FIX
        ) from error
    weights.finish(layout.unused)
    return made


def _expect_kind(layout: Layout, graph: OnnxGraph, kind: type[Spec]) -> Spec:
    model = layout.model
    if isinstance(model, OtherSpec):
        raise beyond_kernels(model.why)
    if not isinstance(model, kind):
        raise LayoutError(f"a table of a {type(model).__name__}", kind.__name__, FIX)
    if isinstance(model, EncoderSpec) and graph.inputs != (model.input_name,):
        raise LayoutError(f"a graph with the inputs {graph.inputs}", repr(model.input_name), FIX)
    return model
