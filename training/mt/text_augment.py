"""German source text like a recogniser's output: normalised, and with its typical errors."""

from __future__ import annotations

import random
from dataclasses import dataclass

from engine.text import normalize_text, spell_numbers

# Spellings that sound alike to a letter-wise German recogniser, in both directions.
CONFUSIONS: tuple[tuple[str, str], ...] = (
    ("ie", "i"), ("ih", "i"), ("ä", "e"), ("eh", "e"), ("ah", "a"), ("oh", "o"), ("uh", "u"),
    ("d", "t"), ("b", "p"), ("g", "k"), ("v", "f"), ("ph", "f"), ("ß", "s"), ("ss", "s"), ("tz", "z"),
    ("ck", "k"), ("mm", "m"), ("nn", "n"), ("ll", "l"), ("tt", "t"), ("ff", "f"), ("rr", "r"),
    ("er", "a"), ("ei", "ai"), ("eu", "äu"), ("en", "n"), ("em", "en"), ("es", "s"), ("y", "ü"),
    ("dt", "t"), ("th", "t"), ("sch", "ch"), ("qu", "kw"), ("z", "s"), ("w", "v"), ("c", "k"),
)  # fmt: skip
LETTERS = "enisratdhulcgmobwfkzäüpvöß"  # most frequent first; a random edit takes an early one


@dataclass(frozen=True)
class ErrorRates:
    """Probabilities for each word of a recogniser-style source.

    Attributes:
        sound_alike: one spelling is replaced by another that sounds the same.
        letter: one letter is dropped, doubled or replaced.
        drop: the word is missing.
        join: the word is written together with the next one.
        split: a long word is written as two.
    """

    sound_alike: float = 0.03
    letter: float = 0.015
    drop: float = 0.01
    join: float = 0.01
    split: float = 0.01


def recogniser_style(text: str, rng: random.Random, rates: ErrorRates | None = None) -> str:
    """Rewrite German text like the output of a CTC recogniser.

    Args:
        text: written German.
        rng: source of the errors; the same state gives the same output.
        rates: error probabilities; None makes no errors (a perfect recogniser).
    Returns:
        Lower-case words of letters only. Empty when text holds no letters or digits.
    """
    words = normalize_text(text).split()
    if rates is None:
        return " ".join(words)
    damaged = [word for word in (_damage(word, rng, rates) for word in words) if word]
    return "".join(_separators(damaged, rng, rates)) or " ".join(words)


def two_pass_style(text: str, rng: random.Random, rates: ErrorRates | None = None) -> str:
    """Rewrite German text like the output of the second pass: capitals and punctuation, numbers in words.

    Args:
        text: written German.
        rng: as for recogniser_style.
        rates: error probabilities, of which a third is taken: the second pass is right more often.
    """
    words = spell_numbers(text).split()
    if rates is None:
        return " ".join(words)
    rare = ErrorRates(
        *(rate / 3 for rate in (rates.sound_alike, rates.letter, rates.drop, rates.join, rates.split))
    )
    damaged = (_damage(word, rng, rare) if word.isalpha() else word for word in words)
    return " ".join(filter(None, damaged)) or text


def _damage(word: str, rng: random.Random, rates: ErrorRates) -> str:
    draw = rng.random()
    if draw < rates.drop:
        return ""
    if draw < rates.drop + rates.sound_alike:
        return _sound_alike(word, rng)
    if draw < rates.drop + rates.sound_alike + rates.letter:
        return _edit_letter(word, rng)
    if len(word) > 8 and rng.random() < rates.split:
        cut = rng.randint(3, len(word) - 3)
        return f"{word[:cut]} {word[cut:]}"
    return word


def _separators(words: list[str], rng: random.Random, rates: ErrorRates) -> list[str]:
    pieces: list[str] = []
    for index, word in enumerate(words):
        if index and rng.random() >= rates.join:
            pieces.append(" ")
        pieces.append(word)
    return pieces


def _sound_alike(word: str, rng: random.Random) -> str:
    options = [(a, b) for pair in CONFUSIONS for a, b in (pair, pair[::-1]) if a in word]
    if not options:
        return _edit_letter(word, rng)
    old, new = rng.choice(options)
    starts = [i for i in range(len(word)) if word.startswith(old, i)]
    at = rng.choice(starts)
    return word[:at] + new + word[at + len(old) :]


def _edit_letter(word: str, rng: random.Random) -> str:
    at = rng.randrange(len(word))
    letter = LETTERS[min(int(rng.expovariate(0.15)), len(LETTERS) - 1)]
    replacement = rng.choice(("", word[at] * 2, letter))
    return word[:at] + replacement + word[at + 1 :]
