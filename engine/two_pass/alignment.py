"""When the words of a text were spoken: the best CTC alignment of its letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels.ctc.align import align_labels

Word = Sequence[Sequence[int]]  # labels of each spoken word in it


class Span(NamedTuple):
    """Frames of a word, first and the one behind the last; and how sure CTC is of it, 0 to 1."""

    first: int
    last: int
    heard: float


def align_words(
    log_probs: NDArray[np.float32], words: Sequence[Word], blank_id: int, delimiter_id: int
) -> list[Span]:
    """Find the frames of every word.

    Args:
        log_probs: float32 [n_frames, vocab_size], natural log.
        words: of each, the labels of its spoken words; at least one letter each.
        blank_id, delimiter_id: labels; delimiter_id -1 where the vocabulary has none.
    Returns:
        A span for each word, in order of time. heard: the mean over its letters of their highest probability.
        Words of which there are too many letters for the frames share them evenly, heard 0.
    """
    labels, owners = _join(words, delimiter_id)
    n = len(labels)
    firsts, lasts, peaks = np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.float32)
    if align_labels(np.ascontiguousarray(log_probs), labels, blank_id, firsts, lasts, peaks) == -np.inf:
        return _share_evenly(len(log_probs), len(words))
    spans = []
    for index in range(len(words)):
        mine = np.flatnonzero(owners == index)
        spans.append(Span(int(firsts[mine[0]]), int(lasts[mine[-1]]), float(peaks[mine].mean())))
    return spans


def _join(words: Sequence[Word], delimiter_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of all words with the delimiter between them, and the word of each; -1 for delimiters."""
    labels: list[int] = []
    owners: list[int] = []
    for index, word in enumerate(words):
        for spoken in word:
            if labels and delimiter_id >= 0:
                labels.append(delimiter_id)
                owners.append(-1)
            labels += spoken
            owners += [index] * len(spoken)
    return np.array(labels, np.int64), np.array(owners, np.int64)


def _share_evenly(n_frames: int, n_words: int) -> list[Span]:
    edges = np.linspace(0, n_frames, n_words + 1).round().astype(int).tolist()
    return [Span(edges[i], edges[i + 1], 0.0) for i in range(n_words)]
