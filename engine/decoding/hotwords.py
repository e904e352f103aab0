"""Words and phrases to favour, as an automaton over the letters of the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from engine.decoding.labels import Labels
from engine.decoding.phrases import describe_unspelled, spell_phrase
from engine.errors import MAX_LISTED, DecodingError, HotwordWarning
from engine.kernels.ctc.state import Hotwords
from engine.runtime.notices import warn_caller

Phrases = Sequence[str] | Mapping[str, float]
MAX_WEIGHT = 100.0  # natural log; exp of more outgrows the search's numbers
_NONE: tuple[str, ...] = ()
MAX_TOGETHER = 300.0  # natural log, of all phrases that end in the same word
MAX_NODES = 200_000


def freeze_phrases(hotwords: Phrases | None, hotword_weight: float) -> tuple[Any, float | None]:
    """Check the kinds of hotwords and weights; what comes out tells two calls apart.

    Returns:
        A tuple of phrases and the weight of each; or (phrase, weight) pairs and None.
    """
    if hotwords is None or hotwords is _NONE:  # the default, which every call without hotwords passes
        return (), None
    if isinstance(hotwords, Mapping):
        _check_weights(hotwords.items())
        return tuple((phrase, float(weight)) for phrase, weight in hotwords.items()), None
    if isinstance(hotwords, str | bytes) or not isinstance(hotwords, Iterable):
        raise DecodingError(f"hotwords as {hotwords!r}", "a list of words or phrases")
    phrases = tuple(hotwords)
    if not phrases:
        return (), None
    try:
        hash(phrases)
    except TypeError:
        raise DecodingError(f"hotwords as {hotwords!r}", "a list of words or phrases") from None
    _check_weights([(phrases[0], hotword_weight)])
    return phrases, float(hotword_weight)


def _check_weights(pairs: Iterable[tuple[Any, Any]]) -> None:
    wrong = [f"{phrase!r} with weight {weight!r}" for phrase, weight in pairs if not isinstance(weight, Real)]
    if wrong:
        raise DecodingError("hotwords that cannot be used: " + ", ".join(wrong), "numbers as weights")


def build_hotwords(labels: Labels, phrases: Sequence[tuple[str, float]], *, excuse: bool = True) -> Hotwords:
    """Build the automaton that follows all phrases at once, from every start of a word.

    Args:
        labels: the CTC vocabulary.
        phrases: (phrase, weight in natural log), as people write them: see spell_phrase. Of several
            that are spelled alike, the one with the largest weight counts.
        excuse: words of the phrases are not charged as unknown to the language model.
    Returns:
        Hotwords; with no phrases, one that changes nothing.
    Warns:
        HotwordWarning: names every phrase that the vocabulary cannot spell; the others count.
    Raises:
        DecodingError: phrases that are no strings, and wrong weights.
    """
    spelled: dict[tuple[int, ...], float] = {}
    for tokens, weight in _spell_all(labels, phrases):
        spelled[tokens] = max(weight, spelled.get(tokens, weight))
    children: list[dict[int, int]] = [{}]
    own: list[float] = [0.0]
    credit: list[float] = [-math.inf]
    for tokens, weight in spelled.items():
        node = 0
        for depth, token in enumerate(tokens, 1):
            if token not in children[node]:
                children[node][token] = len(children)
                children.append({})
                own.append(0.0)
                credit.append(-math.inf)
            node = children[node][token]
            credit[node] = max(credit[node], weight * depth / len(tokens))
        own[node] = weight
        if len(children) > MAX_NODES:
            raise _too_many_letters()
    return _link(labels, children, own, credit, excuse)


def _link(
    labels: Labels, children: list[dict[int, int]], own: list[float], credit: list[float], excuse: bool
) -> Hotwords:
    """Add, breadth first, the way to the longest other phrase that a mismatch leaves possible."""
    n, delimiter = len(children), labels.space
    dead = np.full(max(len(labels.letters), delimiter + 1), -1, np.int32)
    if delimiter >= 0:
        dead[delimiter] = 0
    follow = np.tile(dead, (n, 1))
    complete, ends_word = np.array(own), np.zeros(n, np.uint8)
    credits = np.array(credit)
    fallback = [-1] * n
    queue = [0]
    for node in queue:
        behind = fallback[node]
        if behind >= 0:
            follow[node] = follow[behind]
            complete[node] += complete[behind]
            ends_word[node] = ends_word[behind]
            credits[node] = max(credits[node], credits[behind])
        if excuse and (own[node] or delimiter in children[node]):
            ends_word[node] = 1
        for token, child in children[node].items():
            fallback[child] = int(follow[behind, token]) if behind >= 0 else int(dead[token])
            queue.append(child)
        for token, child in children[node].items():
            follow[node, token] = child
    if np.abs(complete).max() > MAX_TOGETHER:
        got = f"hotwords that end in each other and earn {complete[np.abs(complete).argmax()]:g} together"
        raise DecodingError(got, f"at most {MAX_TOGETHER:g}", "give them lower weights")
    credits[0] = 0.0
    arrays: tuple[Any, ...] = (follow, np.exp(credits), complete, ends_word)
    for array in arrays:
        array.setflags(write=False)
    highest = float(np.log(arrays[1]).max() + max(complete.max(), 0.0))
    follow, factors, complete, ends_word = arrays
    return Hotwords(follow, factors, complete, ends_word, highest)


def _too_many_letters() -> DecodingError:
    return DecodingError(f"hotwords of more than {MAX_NODES} letters in all", "fewer", "leave some out")


def _spell_all(labels: Labels, phrases: Sequence[tuple[str, float]]) -> list[tuple[tuple[int, ...], float]]:
    spelled, problems, unspelled = [], [], []
    if any(len(phrase) > MAX_NODES for phrase, _ in phrases if isinstance(phrase, str)):
        raise _too_many_letters()
    for phrase, weight in phrases:
        if not isinstance(phrase, str):
            problems.append(f"{phrase!r}")
        elif not (math.isfinite(weight) and abs(weight) <= MAX_WEIGHT):
            problems.append(f"{phrase!r} with weight {weight}")
        elif found := spell_phrase(labels, phrase):
            spelled += [(tokens, weight) for tokens in found]
        else:
            unspelled.append(phrase)
    if problems:
        more = f" and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise DecodingError(
            "hotwords that cannot be used: " + ", ".join(problems[:MAX_LISTED]) + more,
            f"strings, and weights between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}",
        )
    if unspelled:
        warn_caller(HotwordWarning(describe_unspelled(unspelled)), depth=1)
    return spelled
