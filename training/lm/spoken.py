"""Text as people say it, for the language model: numbers, dates, times and money in spoken forms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.text import normalize_text
from engine.text.units import MONTHS
from training.alignment.spoken_forms import ABBREVIATIONS
from training.alignment.spoken_text import Slot, TextError, read_slots

_READ_ALOUD = re.compile(
    r"\d|[%€§°$&]|" + "|".join(rf"(?<!\w){re.escape(short)}" for short in ABBREVIATIONS if len(short) > 3)
)
MAX_CHARS = 400
LATER = 0.25


def needs_reading(text: str) -> bool:
    """Whether a part of a text is not said as it is written."""
    return len(text) <= MAX_CHARS and bool(_READ_ALOUD.search(text))


def read_aloud(text: str, rng: np.random.Generator) -> str:
    """One way to say a text, as `normalize_text` writes it.

    Args:
        text: written German. rng: chooses among the forms of each number, date or abbreviation; each is
            LATER times as likely as the one before it, and e**x times rarer where it costs x nats.
    Returns:
        Letters and single spaces; the result of `normalize_text` where the text cannot be split.
    """
    try:
        slots = read_slots(text)
    except TextError:
        return normalize_text(text)
    return " ".join(_choose(slot, rng) for slot in slots)


def _choose(slot: Slot, rng: np.random.Generator) -> str:
    if len(slot.forms) == 1:
        return slot.forms[0].letters
    costs = np.array([form.cost for form in slot.forms])
    weights = np.exp(-costs) * LATER ** np.arange(len(costs))
    chosen = int(rng.choice(len(slot.forms), p=weights / weights.sum()))
    return normalize_text(slot.forms[chosen].written) or slot.forms[chosen].letters


def make_phrases(n_phrases: int, seed: int = 0) -> Iterator[str]:
    """Phrases with names, dates, times, money and counts, each said in one way; normalised."""
    import yaml

    lists = yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8"))
    rng = np.random.default_rng(seed)
    for _ in range(n_phrases):
        values = _draw(lists, rng)
        yield read_aloud(_one(lists["templates"], rng).format(**values), rng)


def _one(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _draw(lists: Mapping[str, Any], rng: np.random.Generator) -> dict[str, object]:
    """A value for every field of the templates."""
    names = {kind: lists[kind].split() for kind in ("forenames", "surnames", "places", "weekdays")}
    first = int(rng.choice([1700, 1900, 1900, 2000]))
    year = int(rng.integers(first, {1700: 1900, 1900: 2000, 2000: 2031}[first]))
    surname, surname2 = _one(names["surnames"], rng), _one(names["surnames"], rng)
    return {
        "day": rng.integers(1, 32),
        "month": _one(MONTHS, rng),
        "year": year,
        "year2": year + rng.integers(1, 9),
        "hour": rng.integers(0, 24),
        "hour12": rng.integers(1, 13),
        "minute": f"{rng.choice([0, 15, 30, 45, int(rng.integers(60))]):02d}",
        "weekday": _one(names["weekdays"], rng),
        "place": _one(names["places"], rng),
        "euro": int(10 ** rng.uniform(0.0, 3.5)),
        "cent": rng.integers(10, 100),
        "digit": rng.integers(1, 10),
        "small": rng.integers(2, 100),
        "large": int(10 ** rng.uniform(2.0, 5.5)),
        "percent": rng.integers(1, 101),
        "surname": surname,
        "surname2": surname2,
        "name": f"{_one(names['forenames'], rng)} {surname}",
        "name2": f"{_one(names['forenames'], rng)} {surname2}",
    }
