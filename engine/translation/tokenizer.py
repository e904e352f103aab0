"""Text to token ids and back: the only importer of sentencepiece."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from engine.bundle.folder import Bundle
from engine.bundle.json_file import decode_json
from engine.errors import BundleSchemaError, DependencyError, ModelError
from engine.runtime.graph_errors import first_line
from engine.translation.tokenizer_file import check_model

UNKNOWN = "<unk>"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LINE_BREAKS = re.compile(r"[\s\x00-\x20\x7f-\xa0\u2028\u2029]+")


class Tokenizer:
    """A Marian tokenizer: SentencePiece for each language, ids by one shared vocabulary.

    Args:
        source: serialised SentencePiece model of the source language.
        target: of the target language; None when it is the same.
        vocabulary: id by piece; None when the ids are SentencePiece's own.
    Raises:
        BundleSchemaError: the files do not fit each other. ModelError: they are damaged.
    """

    def __init__(self, source: bytes, target: bytes | None, vocabulary: dict[str, int] | None) -> None:
        self._source = _load(source, "mt_tokenizer")
        self._target = (
            _load(source, "mt_tokenizer") if target is None else _load(target, "mt_tokenizer_target")
        )
        size = self._source.get_piece_size() if vocabulary is None else len(vocabulary)
        unknown = self._source.unk_id() if vocabulary is None else vocabulary.get(UNKNOWN)
        if unknown is None:
            raise BundleSchemaError(
                f"a vocabulary without {UNKNOWN}", "Marian's vocab.json", "export it again"
            )
        self.unk_id = int(unknown)
        self._to_ids = _ids(self._source, vocabulary, self.unk_id)
        pieces = [""] * size
        for piece, index in (vocabulary or {}).items():
            if not 0 <= index < size:
                raise BundleSchemaError(
                    f"id {index} in a vocabulary of {size}", "ids 0 to n-1", "export it again"
                )
            pieces[index] = piece
        self._pieces = None if vocabulary is None else pieces

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self._pieces) if self._pieces is not None else int(self._source.get_piece_size())

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Ids of the pieces that spell one byte; empty where the vocabulary has none."""
        pieces = self._pieces or [self._source.id_to_piece(i) for i in range(self.vocab_size)]
        return frozenset(i for i, piece in enumerate(pieces) if _BYTE.fullmatch(piece))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without an end token; characters that no piece covers are unk_id."""
        encoded: list[list[int]] = _call(self._source.encode, [clean_text(text) for text in texts])
        return [self._to_ids[ids].tolist() if ids else [] for ids in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of target ids; unknown tokens and what no text has (control tokens) are left out."""
        if self._pieces is None:
            kept = [i for i in ids if i != self.unk_id]
            return str(_call(self._target.decode, kept))
        pieces = [self._pieces[i] for i in ids if i != self.unk_id]
        return str(_call(self._target.decode_pieces, [piece for piece in pieces if not _is_control(piece)]))


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    """What sentencepiece makes of it; its errors, and text of it that is no Unicode, as one of ours."""
    try:
        return function(argument)
    except Exception as error:  # its own share no base
        raise ModelError(
            f"the translator's tokenizer fails ({first_line(error)})",
            "the one of this model",
            "export it again",
        ) from error


def clean_text(text: str) -> str:
    """Text as a model may see it: no control characters or lone surrogates, single spaces, NFC."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = unicodedata.normalize("NFC", _LINE_BREAKS.sub(" ", text))
    return "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cs")).strip()


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle.

    Raises:
        BundleSchemaError, ModelError: damaged files. ModelCapabilityError: the bundle has none.
    """
    vocabulary = _read_vocabulary(bundle.read("mt_vocabulary")) if bundle.has("mt_vocabulary") else None
    target = bundle.read("mt_tokenizer_target") if bundle.has("mt_tokenizer_target") else None
    return Tokenizer(bundle.read("mt_tokenizer"), target, vocabulary)


def _read_vocabulary(content: bytes) -> dict[str, int]:
    vocabulary = decode_json(content, dict[str, int], "mt_vocabulary", "Marian's map of piece to id")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise BundleSchemaError(
            f"mt_vocabulary of {len(vocabulary)} with other ids", "ids 0 to n-1, each once", "export it again"
        )
    return vocabulary


def _load(model: bytes, name: str) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise DependencyError(
            f"sentencepiece cannot be imported ({error})", fix="pip install sentencepiece"
        ) from error
    check_model(model, name)
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = processor.LoadFromSerializedProto(model)
    except Exception as error:  # its own share no base
        raise ModelError(
            f"{name} is a damaged SentencePiece model ({first_line(error)})",
            "the file that was exported",
            "export it again",
        ) from error
    if not loaded:
        raise ModelError(
            f"{name} is a damaged SentencePiece model", "the file that was exported", "export it again"
        )
    return processor


def _ids(processor: Any, vocabulary: dict[str, int] | None, unk_id: int) -> Any:
    """The vocabulary's id of every SentencePiece id, int64 [n_pieces]."""
    size = processor.get_piece_size()
    if vocabulary is None:
        return np.arange(size)
    return np.array([vocabulary.get(_call(processor.id_to_piece, i), unk_id) for i in range(size)], np.int64)


def _is_control(piece: str) -> bool:
    return piece.startswith(("</", "<pad", "<s>", ">>")) and piece.endswith((">", ">>"))
