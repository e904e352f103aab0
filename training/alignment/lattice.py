"""Slots of text as the states of a CTC automaton, stored for updates of whole arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.text import LETTERS
from training.alignment.spoken_text import Slot

GAP_COLUMN: Final = 2 + len(LETTERS)  # blank or word delimiter, whichever is likelier
BLANK_COLUMN: Final = 0


class Lattice(NamedTuple):
    """States of all forms of all slots, one after another: letter, blank, letter ... letter.

    Attributes:
        columns: intp [n_states], the column of the emissions that each state emits.
        first: intp [n_forms], state of each form's first letter. last: of its last letter.
        slot_of: intp [n_forms]. slot_starts: intp [n_slots], each slot's first form.
        form_costs: float32 [n_forms], nats.
        leap: bool [n_states], the state may follow the one two before it, over a blank.
        n_letters: intp [n_slots], letters of each slot's first form.
    """

    columns: NDArray[np.intp]
    first: NDArray[np.intp]
    last: NDArray[np.intp]
    slot_of: NDArray[np.intp]
    slot_starts: NDArray[np.intp]
    form_costs: NDArray[np.float32]
    leap: NDArray[np.bool_]
    n_letters: NDArray[np.intp]

    @property
    def n_slots(self) -> int:
        """Slots of the text; there is one more boundary than slots."""
        return len(self.slot_starts)


def build_lattice(slots: Sequence[Slot]) -> Lattice:
    """Make the states of slots; every form has at least one letter."""
    states: list[tuple[int, bool]] = []
    first: list[int] = []
    last: list[int] = []
    slot_of: list[int] = []
    slot_starts: list[int] = []
    for number, slot in enumerate(slots):
        slot_starts.append(len(first))
        for form in slot.forms:
            first.append(len(states))
            states += _states_of(form.letters)
            last.append(len(states) - 1)
            slot_of.append(number)
    columns, leap = zip(*states, strict=True)
    costs = [form.cost for slot in slots for form in slot.forms]
    return Lattice(
        np.array(columns, np.intp), np.array(first, np.intp), np.array(last, np.intp),
        np.array(slot_of, np.intp), np.array(slot_starts, np.intp), np.array(costs, np.float32),
        np.array(leap, bool), np.array([count_letters(slot) for slot in slots], np.intp),
    )  # fmt: skip


def count_letters(slot: Slot) -> int:
    """Letters of a slot's first form."""
    return len(slot.forms[0].letters.replace(" ", ""))


def _states_of(letters: str) -> list[tuple[int, bool]]:
    """(column, leap) of each state of a form; between two words a gap replaces the blank."""
    states: list[tuple[int, bool]] = []
    previous, gap = "", BLANK_COLUMN
    for letter in letters:
        if letter == " ":
            gap = GAP_COLUMN
            continue
        if previous:
            states.append((gap, False))
        states.append((2 + LETTERS.index(letter), bool(previous) and letter != previous))
        previous, gap = letter, BLANK_COLUMN
    return states
