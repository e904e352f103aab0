"""Checks of single option values; each raises OptionError with what it got and what it wants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from engine.errors import OptionError


def is_count(value: Any, least: int, most: int | None) -> bool:
    """Whether a value is a whole number from least to most; most None: to infinity."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and least <= int(value) and (most is None or int(value) <= most)


def check_count(name: str, value: Any, most: int) -> int | None:
    """The value as int, 1 to most, or None; OptionError for anything else."""
    if value is None:
        return None
    if not is_count(value, 1, most):
        raise OptionError(f"{name} {value!r}", f"a whole number, 1 to {most}", "leave it out for the default")
    return int(value)


def check_number(name: str, value: Any, least: float, most: float) -> None:
    """Raise OptionError for what is no finite number from least to most; None is one."""
    if value is None:
        return
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not least <= value <= most:
        raise OptionError(f"{name} {value!r}", f"a number, {least:g} to {most:g}", "pass one in this range")


def check_boolean(name: str, value: Any) -> None:
    """Raise OptionError for what is not True or False."""
    if not isinstance(value, bool):
        raise OptionError(f"{name} {value!r}", "True or False", "pass a boolean")


def check_one_of(name: str, value: Any, known: Sequence[Any], fix: str = "name one of these") -> None:
    """Raise OptionError for a value that is not among the known ones."""
    if isinstance(value, bool) or value not in known:
        raise OptionError(f"{name} {value!r}", ", ".join(map(str, known[:-1])) + f" or {known[-1]}", fix)
