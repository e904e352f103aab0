"""A prepared search as one record of addresses, and its arrays as views that count no references.

numba counts references to an array wherever it is passed on, with an atomic instruction each time:
a third of the work in the inner loops of the search. A view made from an address owns nothing, so
there is nothing to count. A call also has one argument instead of twenty. The caller of a kernel
keeps the arrays alive (see Prepared); views never leave the kernel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.state import (
    LEXICON_NODE,
    N_LOOKAHEAD,
    N_OOV_FACTORS,
    WEIGHTS,
    Hotwords,
    Lexicon,
    Pieces,
    Scorer,
    Search,
)

_POINTERS: dict[str, Any] = {
    "spoken": np.uint8, "memory": np.uint32, "layout": np.int64, "token_words": np.int32, "weights": WEIGHTS,
    "nodes": LEXICON_NODE, "label": np.int16, "lookahead": np.uint8, "factors": np.float64,
    "unknown_factors": np.float64, "follow": np.int32, "hot_factors": np.float64, "complete": np.float64,
    "ends_word": np.uint8, "letters": np.int16, "ends": np.int32, "entries": np.int32, "powers": np.uint64,
    "sums": np.uint64,
}  # fmt: skip
_SIZES = (
    "vocab_size", "n_memory", "n_layout", "n_token_words", "n_layout_columns", "n_nodes", "n_hotwords",
    "n_hotword_columns", "n_letters",
)  # fmt: skip
PACK = np.dtype(
    [(f"{name}_at", np.int64) for name in _POINTERS]
    + [(name, np.int64) for name in _SIZES]
    + [(name, np.int64) for name in ("beam_width", "blank", "delimiter", "space", "pieces", "split")]
    + [(name, np.int64) for name in ("recombine", "distinct")]
    + [(name, np.float64) for name in ("token_min", "prune", "highest", "hot_highest")]
)


class Prepared(NamedTuple):
    """A search as kernels take it: `pack`, PACK [1]; and the arrays whose addresses it holds.

    The caller of a kernel keeps this object until the kernel returns.
    """

    pack: Any
    arrays: tuple[Any, ...]

    def array(self, name: str) -> Any:
        """One of the arrays: "follow", for instance, of the hotwords."""
        return self.arrays[list(_POINTERS).index(name)]


def pack_search(
    search: Search, scorer: Scorer, lexicon: Lexicon, hotwords: Hotwords, pieces: Pieces
) -> Prepared:
    """Collect the addresses of the arrays of a search."""
    pack = np.zeros(1, PACK)
    arrays = {**scorer._asdict(), **lexicon._asdict(), **hotwords._asdict(), **pieces._asdict()}
    arrays["factors"], arrays["hot_factors"] = lexicon.factors, hotwords.factors
    held = {name: np.ascontiguousarray(arrays[name], dtype) for name, dtype in _POINTERS.items()}
    for name, array in held.items():
        pack[f"{name}_at"] = array.__array_interface__["data"][0]
    sizes = (
        len(pieces.spoken), len(scorer.memory), len(scorer.layout), len(scorer.token_words),
        scorer.layout.shape[1], len(lexicon.label), *hotwords.follow.shape, len(pieces.letters),
    )  # fmt: skip
    for name, size in zip(_SIZES, sizes, strict=True):
        pack[name] = size
    for name, value in search._asdict().items():
        pack[name] = value
    pack["distinct"], pack["highest"], pack["hot_highest"] = (
        lexicon.distinct,
        lexicon.highest,
        hotwords.highest,
    )
    return Prepared(pack, tuple(held.values()))


def _to_pointer(_context: Any, address: Any) -> Any:
    """Reinterpret an int64 as a pointer."""
    signature = types.voidptr(types.int64)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return signature, generate


to_pointer: Any = intrinsic(_to_pointer)


@kernel(inline="always")
def borrow(array: Any, dtype: Any) -> Any:
    """A view of a one-dimensional array that the caller keeps alive."""
    return carray(to_pointer(array.ctypes.data), len(array), dtype)


@inner(forceinline=True)
def unpack_search(pack: Any) -> Any:
    """The Search of a PACK record."""
    return Search(
        pack.beam_width, pack.blank, pack.delimiter, pack.space, pack.pieces != 0, pack.token_min, pack.prune,
        pack.split != 0, pack.recombine != 0,
    )  # fmt: skip


@inner(forceinline=True)
def unpack_spoken(pack: Any) -> Any:
    """uint8 [vocab_size] of a PACK record."""
    return carray(to_pointer(pack.spoken_at), pack.vocab_size, np.uint8)


@inner(forceinline=True)
def unpack_pieces(pack: Any) -> Any:
    """The Pieces of a PACK record."""
    return Pieces(
        carray(to_pointer(pack.spoken_at), pack.vocab_size, np.uint8),
        carray(to_pointer(pack.letters_at), pack.n_letters, np.int16),
        carray(to_pointer(pack.ends_at), pack.vocab_size + 1, np.int32),
        carray(to_pointer(pack.entries_at), pack.vocab_size, np.int32),
        carray(to_pointer(pack.powers_at), pack.vocab_size, np.uint64),
        carray(to_pointer(pack.sums_at), pack.vocab_size, np.uint64),
    )


@inner(forceinline=True)
def unpack_scorer(pack: Any) -> Any:
    """The Scorer of a PACK record."""
    return Scorer(
        carray(to_pointer(pack.memory_at), pack.n_memory, np.uint32),
        carray(to_pointer(pack.layout_at), (pack.n_layout, pack.n_layout_columns), np.int64),
        carray(to_pointer(pack.token_words_at), pack.n_token_words, np.int32),
        carray(to_pointer(pack.weights_at), 1, WEIGHTS),
    )


@inner(forceinline=True)
def unpack_lexicon(pack: Any) -> Any:
    """The Lexicon of a PACK record."""
    n_nodes = pack.n_nodes
    return Lexicon(
        carray(to_pointer(pack.nodes_at), n_nodes + 1, LEXICON_NODE),
        carray(to_pointer(pack.label_at), n_nodes, np.int16),
        carray(to_pointer(pack.lookahead_at), n_nodes, np.uint8),
        pack.distinct != 0,
        carray(to_pointer(pack.factors_at), N_LOOKAHEAD, np.float64),
        carray(to_pointer(pack.unknown_factors_at), N_OOV_FACTORS, np.float64),
        pack.highest,
    )


@inner(forceinline=True)
def unpack_hotwords(pack: Any) -> Any:
    """The Hotwords of a PACK record."""
    n_nodes = pack.n_hotwords
    return Hotwords(
        carray(to_pointer(pack.follow_at), (n_nodes, pack.n_hotword_columns), np.int32),
        carray(to_pointer(pack.hot_factors_at), n_nodes, np.float64),
        carray(to_pointer(pack.complete_at), n_nodes, np.float64),
        carray(to_pointer(pack.ends_word_at), n_nodes, np.uint8),
        pack.hot_highest,
    )
