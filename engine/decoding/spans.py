"""Words from their texts and frames, for decoders that know no more of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from engine.decoding.labels import FloatArray
from engine.types import Word


def make_words(
    spelled: Iterable[tuple[str, tuple[int, int]]], log_probs: FloatArray, frame_s: float
) -> tuple[Word, ...]:
    """Words with times in seconds.

    Args:
        spelled: text, first frame and frame behind the last of each word.
        log_probs: float32 [n_frames, vocab_size], natural log. A word's confidence is the mean probability of
            the likeliest label of its frames.
    """
    best = np.exp(log_probs.max(axis=1, initial=-np.inf)) if log_probs.size else np.zeros(0)
    words = []
    for text, (first, last) in spelled:
        heard = best[first:last]
        confidence = min(1.0, float(heard.mean())) if len(heard) else 0.0
        words.append(Word(text, first * frame_s, last * frame_s, confidence))
    return tuple(words)
