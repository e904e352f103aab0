"""N-gram language models: KenLM's binary files, used as they lie in memory, and ARPA files."""

from __future__ import annotations

import mmap
import os
import struct
import unicodedata
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from engine.decoding import arpa
from engine.decoding.kenlm_layout import MAGIC, read_layout
from engine.errors import LanguageModelError
from engine.kernels.ctc import ngram as kernels

Words = npt.NDArray[np.uint32]
# A mapped file that is cut ends the process at the next touch (SIGBUS), so only what is large is mapped. On a
# Zen 3 core reading 16 MB takes 2 ms, mapping and touching it 5; 256 MB take 0.26 s, 1 GB 1.2 s.
MAX_COPIED_BYTES: Final = 256 << 20
SENTENCE_START, SENTENCE_END = "<s>", "</s>"
SPECIAL_WORDS = frozenset({SENTENCE_START, SENTENCE_END, "<unk>", "<UNK>", ""})


class NgramModel:
    """A language model that scores words in context; immutable, shared between threads, picklable.

    Args:
        path: a KenLM binary (probing or trie, quantised or not, with or without array
            pointers) of order 2 to 6; or an ARPA file, which may be compressed by gzip, bzip2 or xz. A
            binary of more than 256 MiB is mapped, so that processes share it; it must stay as it is while
            it is used.
    Raises:
        LanguageModelError: the file is missing, truncated, foreign or of an unsupported kind.
    Attributes:
        memory, layout, order: the model as the kernels take it.
        n_words: size of the vocabulary, <unk> included.
        bos, eos: ids of <s> and </s>; -1 where the model has none.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._mapped: BinaryIO | None = None
        self._state = (0, 0)
        self.path = Path(path).absolute()  # unpickled elsewhere, it is read again
        if not self.path.is_file():
            raise LanguageModelError(f"no language model at {self.path}", "a KenLM binary or an ARPA file")
        with self.path.open("rb") as file:
            head = file.read(len(MAGIC))
        if head == MAGIC:
            self._read()
        else:
            model = arpa.load_arpa(self.path)
            self._adopt(model.memory, model.layout, model.counts, model.strings)
        self.bos, self.eos = self._find_special(SENTENCE_START), self._find_special(SENTENCE_END)

    def _read(self) -> None:
        """Small files are copied: what happens to them later does not matter. Large ones are mapped."""
        file = self.path.open("rb")
        data: Any
        if os.fstat(file.fileno()).st_size <= MAX_COPIED_BYTES:
            with file:
                data = memoryview(file.read())
        else:
            self._mapped, self._state = file, _state(file)
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            layout, counts, strings_at = read_layout(data)
        except LanguageModelError as error:
            raise LanguageModelError(f"{self.path}: {error.got}", error.want, error.fix) from None
        except (struct.error, OverflowError, ValueError, IndexError) as error:
            raise LanguageModelError(f"a KenLM header that ends early in {self.path}") from error
        memory = np.frombuffer(data, dtype="<u4", count=len(data) // 4)
        self._adopt(memory, layout, counts, data[strings_at:] if strings_at else memoryview(b""))

    def check_unchanged(self) -> None:
        """Called before every search: of a mapped file that was cut, no page may be touched.

        Raises:
            LanguageModelError: the file was cut or written to since it was loaded.
        """
        if self._mapped is not None and _state(self._mapped) != self._state:
            raise LanguageModelError(
                f"{self.path} was changed after it was loaded",
                "a file that stays as it is while it is used",
                "load the model again; replace files by renaming a new one, never by writing into them",
            )

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
        self.check_unchanged()
        words = list(words)
        ids = self._find_exact(words)
        others = [i for i in np.flatnonzero(ids == 0).tolist() if not words[i].isascii()]
        if others:
            composed, apart = (
                self._find_exact([unicodedata.normalize(form, words[i]) for i in others])
                for form in ("NFC", "NFD")
            )
            ids[others] = np.maximum(composed, apart)
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
        self.check_unchanged()
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


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
