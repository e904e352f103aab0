"""The words that a language model knows, as a trie over the letters of the CTC vocabulary."""

from __future__ import annotations

import io
import os
import struct
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.decoding.labels import Labels, compose
from engine.decoding.ngram import SPECIAL_WORDS, NgramModel
from engine.errors import LanguageModelError
from engine.kernels.ctc import lexicon as kernels
from engine.kernels.ctc.state import LEXICON_NODE

FORMAT_VERSION = 1
_PRIVATE = 0x10000  # token ids as characters that no label can contain unnoticed
_N_CHECKED = 64  # words of a loaded trie that are looked up in the model
_MAX_RATIO, _MAX_RATIO_BYTES = 50, 1 << 20  # of unpacked bytes to those of the file
# What zipfile and numpy, which reads an array's header with Python's own tokenizer, make of damaged files.
_UNREADABLE = (
    OSError, ValueError, LookupError, EOFError, TypeError, AttributeError, MemoryError, RuntimeError,
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError,
)  # fmt: skip
_ARRAYS = ("n_children", "label", "ends_word", "ids", "lookahead", "vocabulary", "meta")


class WordTrie:
    """A trie of known words; immutable.

    Attributes:
        first, label, word, lookahead: see engine.kernels.ctc.state.Lexicon.
        vocabulary: letters that it was built for (see engine.decoding.labels.Labels).
        n_lm_words: vocabulary size of the language model whose word ids it holds; 0 for none.
    """

    def __init__(
        self,
        first: npt.NDArray[np.int32],
        label: npt.NDArray[np.int16],
        word: npt.NDArray[np.int32],
        lookahead: npt.NDArray[np.uint8],
        vocabulary: Sequence[str],
        n_lm_words: int,
    ) -> None:
        for array in (first, label, word, lookahead):
            array.setflags(write=False)
        self.first, self.label, self.word, self.lookahead = first, label, word, lookahead
        self.vocabulary, self.n_lm_words = tuple(vocabulary), n_lm_words

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def nodes(self) -> tuple[npt.NDArray[Any], bool]:
        """What the kernels read of every node, together; and whether its bits tell all labels apart."""
        nodes = np.zeros(len(self.first), LEXICON_NODE)
        nodes["first"], nodes["word"][:-1] = self.first, self.word
        parents = np.flatnonzero(np.diff(self.first))
        if len(parents):
            bits = np.uint64(1) << (self.label.astype(np.uint64) & np.uint64(63))
            nodes["children"][parents] = np.bitwise_or.reduceat(bits, self.first[parents])
        nodes.setflags(write=False)
        return nodes, len(self.vocabulary) <= 64

    def save(self, path: str | PathLike[str]) -> None:
        """Write the trie as a compressed .npz of plain arrays, beside its place and then renamed."""
        terminal = self.word != 0
        small = np.uint8 if self.label.max(initial=0) < 256 else np.int16
        arrays: dict[str, Any] = {
            "n_children": np.diff(self.first).astype(np.uint16),
            "label": self.label.astype(small),
            "ends_word": np.packbits(terminal),
            "ids": self.word[terminal].astype(np.uint32),
            "lookahead": self.lookahead,
            "vocabulary": np.frombuffer("\0".join(self.vocabulary).encode(), np.uint8),
            "meta": np.array([FORMAT_VERSION, self.n_lm_words], np.int64),
        }
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)
        beside.replace(target)


def load_lexicon(path: str | PathLike[str], labels: Labels, model: NgramModel) -> WordTrie:
    """Read a trie that WordTrie.save wrote, and check that it fits.

    Args:
        labels: the decoder's vocabulary.
        model: the language model.
    Raises:
        LanguageModelError: missing, damaged, or made for another vocabulary or language model.
    """
    arrays, n_lm_words = _read_arrays(Path(path)), model.n_words
    vocabulary = arrays["vocabulary"].tobytes().decode("utf-8", "replace").split("\0")
    if labels.spellings is None:
        vocabulary = [*map(compose, vocabulary)]
    if tuple(vocabulary) != labels.letters:
        raise LanguageModelError(
            f"a lexicon made for {len(vocabulary)} other labels or letters in {path}",
            "the acoustic model's vocabulary",
            "build it again for this vocabulary",
        )
    if arrays["meta"].shape != (2,) or arrays["meta"][0] != FORMAT_VERSION:
        raise LanguageModelError(f"a lexicon of another version in {path}", f"version {FORMAT_VERSION}")
    if arrays["meta"][1] != n_lm_words:
        raise LanguageModelError(
            f"a lexicon of a language model with {arrays['meta'][1]} words",
            f"{n_lm_words}",
            "build them together",
        )
    problem, first, word = _unpack(arrays, n_lm_words)
    if problem or int(arrays["label"].max(initial=0)) >= len(labels.letters):
        raise LanguageModelError(f"a damaged lexicon at {path} {problem}", "an intact file", "build it again")
    label = arrays["label"].astype(np.int16)
    if not _knows_words(model, labels, first, label, word):
        raise LanguageModelError(
            f"a lexicon at {path} with other word ids than {model.path}",
            "the one written with this very file",
            "build it again: probing and trie files number the words of one model differently",
        )
    lookahead = np.ascontiguousarray(arrays["lookahead"])
    return WordTrie(first, label, word, lookahead, labels.letters, n_lm_words)


def _read_arrays(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            unpacked = sum(member.file_size for member in archive.zip.infolist())
            if unpacked > _MAX_RATIO * len(content) + _MAX_RATIO_BYTES:
                raise ValueError("it would fill the memory")
            arrays = {name: archive[name] for name in _ARRAYS}
    except FileNotFoundError:
        raise LanguageModelError(
            f"no lexicon at {path}", "the file written with the language model"
        ) from None
    except _UNREADABLE as error:
        raise LanguageModelError(f"{path} is not a lexicon", "an intact .npz", "build it again") from error
    if not all(_is_list(array) for array in arrays.values()):
        raise LanguageModelError(f"{path} is not a lexicon", "an intact .npz", "build it again")
    return arrays


def _is_list(array: Any) -> bool:
    """Whether it is whole numbers; numpy gives bytes where a file of the archive is no array."""
    return isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "iu"


def _unpack(
    arrays: dict[str, Any], n_lm_words: int
) -> tuple[str, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    n_nodes = len(arrays["label"])
    first = np.ones(n_nodes + 1, np.int32)
    word = np.zeros(n_nodes, np.int32)
    if not n_nodes or len(arrays["n_children"]) != n_nodes or len(arrays["lookahead"]) != n_nodes:
        return "(lengths differ)", first, word
    first[1:] += np.cumsum(arrays["n_children"], dtype=np.int64).astype(np.int32)
    if first[-1] != n_nodes or (first[:-1] <= np.arange(n_nodes)).any():
        return "(nodes out of order)", first, word
    terminal = np.unpackbits(arrays["ends_word"].astype(np.uint8))[:n_nodes].astype(bool)
    if len(terminal) != n_nodes or terminal.sum() != len(arrays["ids"]):
        return "(words missing)", first, word
    if int(arrays["ids"].max(initial=0)) >= max(n_lm_words, 1):
        return "(word ids too large)", first, word
    word[terminal] = arrays["ids"].astype(np.int32)
    return "", first, word


def _knows_words(
    model: NgramModel,
    labels: Labels,
    first: npt.NDArray[np.int32],
    label: npt.NDArray[np.int16],
    word: npt.NDArray[np.int32],
) -> bool:
    """Whether words from all over a trie have the ids that the language model gives them."""
    ends = np.flatnonzero(word)
    nodes = ends[:: len(ends) // _N_CHECKED + 1].astype(np.int32)
    ids, spelled = word[nodes], [""] * len(nodes)
    while nodes.any():
        spelled = [
            labels.letters[token] + text if node else text
            for node, token, text in zip(nodes.tolist(), label[nodes].tolist(), spelled, strict=True)
        ]
        nodes = np.where(nodes > 0, np.searchsorted(first, nodes, side="right") - 1, 0).astype(np.int32)
    return bool((model.find_words(spelled) == ids).all())


def build_lexicon(
    labels: Labels, model: NgramModel | None, unigrams: Iterable[str] | None = None
) -> WordTrie:
    """Build the trie of known words; those that the labels cannot spell are left out.

    Args:
        labels: the CTC vocabulary.
        model: gives the ids and unigram probabilities; None for a plain word list.
        unigrams: the known words; those in the model's own vocabulary where None. A word
            that the model lacks may be spelled, but is scored as unknown.
    Raises:
        LanguageModelError: neither the caller nor the model's file names any words, or the labels
            can spell none of them.
    """
    words = _list_words(model, unigrams)
    ids = model.find_words(words) if model is not None else np.zeros(len(words), np.int32)
    spelled = sorted(zip(_encode(labels, words), ids.tolist(), strict=True))
    spelled = [pair for pair in spelled if pair[0]]
    if words and not spelled:
        raise LanguageModelError(
            f"{len(words)} words of which the labels can spell none, such as {words[len(words) // 2]!r}",
            "words of the vocabulary's letters",
            "look at upper and lower case",
        )
    pieces = [pair[0] for pair in spelled]
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    tokens = (np.frombuffer("".join(pieces).encode("utf-32-le"), "<u4") - _PRIVATE).astype(np.int16)
    kept = np.array([pair[1] for pair in spelled], np.int32)
    probs = np.full(len(kept), -np.inf, np.float32)
    if model is not None:
        probs = model.read_unigrams()[kept]
    first, label, word, lookahead = kernels.build_trie(tokens, ends, kept, probs)
    return WordTrie(first, label, word, lookahead, labels.letters, model.n_words if model else 0)


def _list_words(model: NgramModel | None, unigrams: Iterable[str] | None) -> list[str]:
    if unigrams is None and model is not None:
        unigrams = model.read_vocabulary()
        if not unigrams:
            raise LanguageModelError(
                f"{model.path} was built without its list of words", "the words", "pass unigrams= or lexicon="
            )
    words = {compose(word) for word in unigrams or () if word not in SPECIAL_WORDS and "\n" not in word}
    return sorted(words)


def _encode(labels: Labels, words: list[str]) -> list[str]:
    """Each word as a string of its letters (shifted by _PRIVATE); "" if a character is none."""
    encoded = [""] * len(words)
    for form in labels.forms:
        spelled = _encode_exactly(labels, [unicodedata.normalize(form, word) for word in words])
        encoded = [first or second for first, second in zip(encoded, spelled, strict=True)]
    return encoded


def _encode_exactly(labels: Labels, words: list[str]) -> list[str]:
    table = {ord(letter): chr(_PRIVATE + number) for letter, number in labels.letter_index.items()}
    text = "\n".join(words)
    unknown = {ord(char): "\0" for char in set(text) - {"\n"} if ord(char) not in table}
    encoded = text.translate({**table, **unknown}).split("\n") if words else []
    return ["" if "\0" in word else word for word in encoded]
