"""N-gram language models: KenLM's binary files, used in place by mmap, and ARPA files."""

from __future__ import annotations

import mmap
import struct
import unicodedata
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.decoding import arpa
from engine.decoding.kenlm_layout import MAGIC, read_layout
from engine.errors import LanguageModelError
from engine.kernels.ctc import ngram as kernels

Words = npt.NDArray[np.uint32]
SENTENCE_START, SENTENCE_END = "<s>", "</s>"
SPECIAL_WORDS = frozenset({SENTENCE_START, SENTENCE_END, "<unk>", "<UNK>", ""})


class NgramModel:
    """A language model that scores words in context; immutable, shared between threads, picklable.

    Args:
        path: a KenLM binary (probing or trie, quantised or not, with or without array
            pointers) of order 2 to 6, which is mapped and never copied; or an ARPA file, which may be
            compressed by gzip, bzip2 or xz.
    Raises:
        LanguageModelError: the file is missing, truncated, foreign or of an unsupported kind.
    Attributes:
        memory, layout, order: the model as the kernels take it.
        n_words: size of the vocabulary, <unk> included.
        bos, eos: ids of <s> and </s>; -1 where the model has none.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise LanguageModelError(f"no language model at {self.path}", "a KenLM binary or an ARPA file")
        with self.path.open("rb") as file:
            head = file.read(len(MAGIC))
        if head == MAGIC:
            self._map()
        else:
            model = arpa.load_arpa(self.path)
            self._adopt(model.memory, model.layout, model.counts, model.strings)
        self.bos, self.eos = self._find_special(SENTENCE_START), self._find_special(SENTENCE_END)

    def _map(self) -> None:
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            layout, counts, strings_at = read_layout(mapped)
        except LanguageModelError as error:
            raise LanguageModelError(f"{self.path}: {error.got}", error.want, error.fix) from None
        except (struct.error, OverflowError, ValueError, IndexError) as error:
            raise LanguageModelError(f"a KenLM header that ends early in {self.path}") from error
        memory = np.frombuffer(mapped, dtype="<u4", count=len(mapped) // 4)
        strings = memoryview(mapped)[strings_at:] if strings_at else memoryview(b"")
        self._adopt(memory, layout, counts, strings)

    def _adopt(
        self, memory: Words, layout: npt.NDArray[np.int64], counts: Sequence[int], strings: memoryview
    ) -> None:
        layout.setflags(write=False)
        self.memory, self.layout, self.order = memory, layout, len(counts)
        self.n_words, self.counts, self._strings = int(counts[0]), tuple(counts), strings

    def __reduce__(self) -> tuple[type[NgramModel], tuple[str]]:
        return NgramModel, (str(self.path),)

    def __repr__(self) -> str:
        return f"NgramModel({str(self.path)!r}, order={self.order}, n_words={self.n_words})"

    def __contains__(self, word: str) -> bool:
        return bool(self.find_words([word])[0])

    def find_words(self, words: Iterable[str]) -> npt.NDArray[np.int32]:
        """Ids of words: int32; 0 for those outside the vocabulary. Composed or not (NFC, NFD) is the same."""
        words = list(words)
        ids = self._find_exact(words)
        for i in np.flatnonzero(ids == 0).tolist():
            if not words[i].isascii():
                forms = [unicodedata.normalize(form, words[i]) for form in ("NFC", "NFD")]
                ids[i] = self._find_exact(forms).max()
        return ids

    def _find_exact(self, words: Sequence[str]) -> npt.NDArray[np.int32]:
        encoded = [word.encode() for word in words]
        text = np.frombuffer(b"".join(encoded) or b"\0", dtype=np.uint8)
        ends = np.cumsum([len(word) for word in encoded], dtype=np.int64)
        ids = np.asarray(kernels.find_words(self.memory, self.layout, text, ends), dtype=np.int32)
        return np.where((ids >= 0) & (ids < self.n_words), ids, 0).astype(np.int32)

    def read_vocabulary(self) -> list[str]:
        """All words by id, <unk> first; empty where the file was built without its strings."""
        words = bytes(self._strings).split(b"\0")[: self.n_words]
        if len(words) < self.n_words:
            return []
        return [word.decode("utf-8", "replace") for word in words]

    def read_unigrams(self) -> npt.NDArray[np.float32]:
        """log10 unigram probability of every word by id."""
        return np.asarray(kernels.read_unigrams(self.memory, self.layout, self.n_words), dtype=np.float32)

    def score(self, sentence: str, *, bos: bool = True, eos: bool = True) -> float:
        """log10 probability of a sentence of space-separated words."""
        return float(self.score_words(sentence.split(), bos=bos, eos=eos).sum())

    def score_words(
        self, words: Sequence[str], *, bos: bool = True, eos: bool = True
    ) -> npt.NDArray[np.float64]:
        """log10 probability of each word in its context, then of the end of the sentence."""
        start, end = self.bos if bos else -1, self.eos if eos else -1
        ids = self.find_words(words) if words else np.zeros(0, np.int32)
        scores: Any = kernels.score_words(self.memory, self.layout, self.order, ids, start, end)
        return np.asarray(scores, dtype=np.float64)

    def _find_special(self, word: str) -> int:
        return int(self.find_words([word])[0]) or -1
