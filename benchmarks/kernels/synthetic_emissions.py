"""Emissions like those of a German CTC model, made from text: for decoders without a model.

Each letter is one or two peaky frames among blanks. With a rate that differs between
utterances, a letter is replaced by one that sounds similar, left out, or inserted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALIKE = {
    "a": "äeo", "b": "pw", "c": "kz", "d": "tn", "e": "iäa", "f": "wv", "g": "kc", "h": "|r", "i": "eüj",
    "j": "iy", "k": "gc", "l": "rn", "m": "n", "n": "m|", "o": "uaö", "p": "bt", "q": "k", "r": "la",
    "s": "zß", "t": "d|", "u": "oü", "v": "fw", "w": "vf", "x": "k", "y": "üi", "z": "st", "ä": "ea",
    "ö": "oe", "ü": "iu", "ß": "s", "|": "en",
}  # fmt: skip


@dataclass(frozen=True)
class Weakness:
    """How often an utterance of average difficulty goes wrong, for each letter.

    Attributes:
        confused: replaced by a similar letter. dropped: hidden by blank. inserted: one too many.
        spread: standard deviation in nats of how much the wrong letter wins by.
    """

    confused: float = 0.03
    dropped: float = 0.008
    inserted: float = 0.005
    spread: float = 1.0


def make_emissions(
    text: str, vocabulary: Sequence[str], rng: np.random.Generator, weakness: Weakness = Weakness()
) -> NDArray[np.float32]:
    """Make log probabilities float32 [n_frames, vocab_size] that approximately spell `text`.

    Args:
        text: words of letters in the vocabulary, separated by spaces.
        vocabulary: the blank first; "|" separates words.
        rng: makes the result reproducible.
    """
    index = {label: token for token, label in enumerate(vocabulary)}
    difficulty = rng.gamma(4.0, 0.25)
    frames: list[NDArray[np.float64]] = []
    _add_blanks(frames, int(rng.integers(4, 12)), len(vocabulary), rng)
    for char in text.replace(" ", "|"):
        _add_letter(frames, char, index, rng, weakness, difficulty)
    _add_blanks(frames, int(rng.integers(4, 12)), len(vocabulary), rng)
    logits = np.array(frames)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)


def _floor(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.normal(-9.5, 1.3, size)


def _add_blanks(frames: list[NDArray[np.float64]], count: int, size: int, rng: np.random.Generator) -> None:
    for _ in range(count):
        frame = _floor(size, rng)
        frame[0] = 0.0
        if rng.random() < 0.12:
            frame[rng.integers(1, size)] = rng.normal(-3.5, 1.2)
        frames.append(frame)


def _add_letter(
    frames: list[NDArray[np.float64]], char: str, index: dict[str, int], rng: np.random.Generator,
    weakness: Weakness, difficulty: float,
) -> None:  # fmt: skip
    alike = [index[other] for other in ALIKE[char] if other in index]
    confused = rng.random() < weakness.confused * difficulty
    dropped = rng.random() < weakness.dropped * difficulty
    winner = int(rng.choice(alike))
    for _ in range(1 + int(rng.random() < 0.3)):
        frame = _floor(len(index), rng)
        frame[alike] = rng.normal(-5.5, 1.3, len(alike))
        frame[0], frame[index[char]] = rng.normal(-3.5, 1.5), 0.0
        if confused:
            frame[winner] = rng.normal(0.6, weakness.spread)
        if dropped:
            frame[0] = rng.normal(0.5, 1.0)
        frames.append(frame)
    _add_blanks(frames, int(rng.integers(0 if char == "|" else 1, 5)), len(index), rng)
    if rng.random() < weakness.inserted * difficulty:
        frame = _floor(len(index), rng)
        frame[0], frame[int(rng.integers(1, len(index)))] = 0.0, rng.normal(0.2, 1.0)
        frames.append(frame)
        _add_blanks(frames, 1, len(index), rng)
