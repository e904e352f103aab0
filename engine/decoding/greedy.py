"""Greedy CTC decoding: the best token of each frame, no language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.decoding.labels import Labels, build_labels, check_emissions
from engine.kernels.ctc.greedy import collapse_greedy
from engine.types import Hypothesis, Word


def decode_greedy(
    log_probs: Any,
    vocabulary: Sequence[str],
    blank_id: int = 0,
    word_delimiter: str = "|",
    frame_s: float = 0.02,
    *,
    logits: bool = False,
) -> Hypothesis:
    """Read the best token of every frame.

    Args:
        log_probs: floating point [n_frames, vocab_size], natural log; frames of only -inf are skipped.
        vocabulary: label of each token id: characters or pieces of words; marks such as <s> are never read.
        blank_id: index of the CTC blank.
        word_delimiter: label between words.
        frame_s: seconds per frame.
        logits: the values are raw model output; log-softmax is applied.
    Returns:
        Hypothesis with word times in seconds and confidences; lm_score is 0.
    Raises:
        DecodingError: emissions or vocabulary that do not fit; the message says why.
    """
    return read_greedy(log_probs, build_labels(vocabulary, blank_id, word_delimiter), frame_s, logits=logits)


def read_greedy(log_probs: Any, labels: Labels, frame_s: float, *, logits: bool = False) -> Hypothesis:
    """The same with a vocabulary that was checked before."""
    emissions = check_emissions(log_probs, len(labels), logits=logits)
    tokens, starts, ends, peaks, score = collapse_greedy(emissions, labels.spoken, labels.blank_id)
    words = tuple(
        Word(
            text=labels.spell(tokens[first:last]),
            start_s=float(starts[first]) * frame_s,
            end_s=float(ends[last - 1]) * frame_s,
            confidence=min(1.0, float(np.mean(peaks[first:last]))),
        )
        for first, last in _split_words(tokens, labels)
    )
    return Hypothesis(" ".join(word.text for word in words), words, float(score), 0.0, float(score))


def _split_words(tokens: Any, labels: Labels) -> list[tuple[int, int]]:
    """Ranges of consecutive letters; labels that begin a word end the one before."""
    spans: list[tuple[int, int]] = []
    first = -1
    for position, token in enumerate(tokens.tolist()):
        spoken = labels.is_letter(token)
        if first >= 0 and (not spoken or labels.opens_word(token)):
            spans.append((first, position))
            first = -1
        if spoken:
            first = position if first < 0 else first
    if first >= 0:
        spans.append((first, len(tokens)))
    return spans
