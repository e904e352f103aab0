"""What sentencepiece does not check of a model: it would read beyond the ends of its tables."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from engine.errors import ModelError
from engine.runtime.protobuf import read_fields

PIECE, NORMALIZER, DENORMALIZER = 1, 3, 5  # fields of a model
_TEXT, _SCORE = 1, 2  # of a piece
_CHARSMAP = 2  # of a normalizer
_LEAF, _LABELS = np.uint32(1 << 31), 256


def check_model(model: bytes, name: str) -> None:
    """Refuse a serialised SentencePiece model that would crash the library.

    Raises:
        ModelError: no such model, pieces without text or score, or a table that leads out of itself.
    """
    try:
        problem = _find_problem(memoryview(model))
    except (struct.error, LookupError, ValueError, TypeError) as error:
        problem = str(error)
    if problem:
        raise ModelError(
            f"{name} is a damaged SentencePiece model ({problem})",
            "the file that was exported",
            "export it again",
        )


def _find_problem(model: memoryview) -> str:
    n_pieces = 0
    for number, value in read_fields(model):
        if number == PIECE:
            n_pieces += 1
            piece = dict(read_fields(value))
            str(piece.get(_TEXT, b""), "utf-8")
            if not math.isfinite(struct.unpack("<f", piece.get(_SCORE, bytes(4)))[0]):
                return f"piece {n_pieces} without a score"
        elif number in (NORMALIZER, DENORMALIZER):
            for inner, content in read_fields(value):
                if inner == _CHARSMAP and len(content) and not _is_closed(bytes(content)):
                    return "a table of characters that leads out of itself"
    return "" if n_pieces else "no pieces"


def _is_closed(charsmap: bytes) -> bool:
    """Whether a search in a table of characters stays within it, whatever the text.

    The table is a double array (darts-clone) behind its size, and the strings that its leaves point to.
    """
    (size,) = struct.unpack_from("<I", charsmap)
    if size % 4 or not 0 < size <= len(charsmap) - 4:
        return False
    units: Any = np.frombuffer(charsmap, "<u4", size // 4, 4).astype(np.int64)
    n_text = len(charsmap) - 4 - size
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    inner = (units & int(_LEAF)) == 0
    inner[0] = True  # the root, of which nothing is asked
    children = (np.arange(len(units)) ^ offsets)[inner]
    if not len(children) or (children | (_LABELS - 1)).max() >= len(units):
        return False
    ends = children[(units[inner] >> 8 & 1) == 1]
    values = units[ends] & ~int(_LEAF)
    return bool((values < n_text).all())
