"""What an instruction set supplies to the tiles of `gemm` and the vectors of `simd`.

Each set is one module: `avx2`, `avx_vnni`, `avx512`, `amx`. `instructions()` gives that of the active level.
A kernel's source does not know which it is; the products of whole numbers are the same numbers in all.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple, Protocol

from engine.kernels.vector.levels import active

# What a tile multiplies. INT8: uint8 by int8 codes of which no two neighbours along the inner dimension sum
# to more than 128 in magnitude (pair-safe, engine.runtime.pair_safe); INT8_ANY: uint8 by any int8 codes.
# SPLIT: the same, where the rows come from simd_int8.store_row_codes. HALF: columns of bfloat16 pairs by rows
# of float32 in two planes, of the first and of the second ones of the pairs.
INT8, INT8_ANY, SPLIT, BF16, F32, HALF = "int8", "int8_any", "split", "bf16", "f32", "half"


class Block(NamedTuple):
    """The part of a tile whose sums are held in registers at once.

    Attributes:
        rows: of the tile. vectors: registers of columns. chains: sums of every place that run side by
            side, so that few rows do not wait for each result.
    """

    rows: int
    vectors: int
    chains: int


class Instructions(Protocol):
    """One instruction set. Values are of llvmlite.

    Attributes:
        lanes: 32-bit lanes of a register.
        saturates: whether INT8_ANY is slower than INT8, whose products would saturate. Rows that are
            made for a product of any codes then lie in two planes, of even and of odd bytes.
        has_matrix_unit: whether whole tiles are multiplied by engine.kernels.vector.matrix_unit.
    """

    lanes: int
    saturates: bool
    has_matrix_unit: bool

    def block(self, kind: str, n_rows: int, n_vectors: int) -> Block:
        """The largest block for a tile of n_rows by n_vectors registers."""

    def left(self, builder: Any, kind: str, lanes: Any) -> Any:
        """A step of a row in all int32 lanes, to what multiply_add takes."""

    def right(self, builder: Any, kind: str, lanes: Any) -> Any:
        """A step of columns in int32 lanes, to what multiply_add takes."""

    def multiply_add(self, builder: Any, kind: str, total: Any, left: Any, right: Any) -> Any:
        """total + left * right, summed over the elements of a step."""

    def multiply_add_steps(self, builder: Any, total: Any, left: Any, right: Any) -> Any:
        """total + the products of one step or two of INT8, left and right lists of what multiply_add takes.

        Two steps must fit 16 bits: at every place of a pair, codes of one sign sum to at most 128 in
        magnitude over both steps (engine.kernels.layers.order).
        """

    def round_bf16(self, builder: Any, vector: Any) -> Any:
        """16 floats to the nearest bfloat16 (of two the even one), as int16 lanes."""

    def exp2(self, builder: Any, x: Any) -> Any:
        """2^x of 16 floats, relative error 7.5e-5; 0 where that is below the smallest normal number."""


@functools.cache
def instructions() -> Instructions:
    """Those of the active level.

    Raises:
        OptionError, DeviceError: ENGINE_CPU_LEVEL is wrong.
    """
    name = active().name
    if name == "none":
        raise RuntimeError("vector kernels are compiled for a level only")
    supplied: Instructions = importlib.import_module(
        f"engine.kernels.vector.{name.replace('-', '_')}"
    ).SUPPLIED
    return supplied
