"""The slow twin of training.alignment.viterbi: a graph with named states and edges, searched one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.text import LETTERS
from training.alignment.spoken_text import Slot
from training.alignment.viterbi import Costs

State = tuple[object, ...]


def best_score(log_probs: np.ndarray, slots: Sequence[Slot], costs: Costs) -> float:
    """The best path's score, nats relative to the greedy path."""
    relative = log_probs - log_probs.max(axis=1, keepdims=True)
    best = log_probs.argmax(axis=1)
    edges = {0: 0.0}
    inside: dict[State, float] = {}
    foreign: dict[int, float] = {}
    _leap(edges, slots, costs)
    for frame, row in enumerate(relative):
        begins = best[frame] > 1 and (frame == 0 or best[frame] != best[frame - 1])
        other = -costs.foreign if begins else 0.0
        moved = _advance(inside, edges, slots, row)
        foreign = {
            b: max(foreign.get(b, -np.inf), edges.get(b, -np.inf) - costs.foreign_entry) + other
            for b in range(len(slots) + 1)
        }
        gap = max(float(row[0]), float(row[1]))
        edges = {b: max(score + gap, foreign[b]) for b, score in edges.items()} | {
            b: foreign[b] for b in foreign if b not in edges
        }
        for (slot, form, at), score in moved.items():
            if at == len(_states(slots[slot].forms[form].letters)) - 1:
                edges[slot + 1] = max(edges.get(slot + 1, -np.inf), score)
        inside = moved
        _leap(edges, slots, costs)
    return float(edges.get(len(slots), -np.inf))


def _states(letters: str) -> list[str]:
    """Letters with what lies between them: "_" a blank, "|" a blank or a word delimiter."""
    found: list[str] = []
    for at, letter in enumerate(letters):
        if letter != " ":
            found += ["|" if letters[at - 1] == " " else "_"] * bool(at) + [letter]
    return found


def _advance(
    inside: dict[State, float], edges: dict[int, float], slots: Sequence[Slot], row: np.ndarray
) -> dict[State, float]:
    moved: dict[State, float] = {}
    for slot, held in enumerate(slots):
        for form, (_, letters, cost) in enumerate(held.forms):
            states = _states(letters)
            for at, name in enumerate(states):
                before = [inside.get((slot, form, at), -np.inf)]
                before.append(
                    inside.get((slot, form, at - 1), -np.inf) if at else edges.get(slot, -np.inf) - cost
                )
                if at >= 2 and name not in "_|" and name != states[at - 2]:
                    before.append(inside.get((slot, form, at - 2), -np.inf))
                emitted = {"_": row[0], "|": max(row[0], row[1])}.get(name)
                emitted = row[2 + LETTERS.index(name)] if emitted is None else emitted
                moved[slot, form, at] = max(before) + float(emitted)
    return moved


def _leap(edges: dict[int, float], slots: Sequence[Slot], costs: Costs) -> None:
    for number, slot in enumerate(slots):
        price = costs.skip_entry + costs.skip * len(slot.forms[0].letters.replace(" ", ""))
        leapt = edges.get(number, -np.inf) - price
        edges[number + 1] = max(edges.get(number + 1, -np.inf), leapt)


def make_emissions(letters: str, seed: int = 0, noise: float = 0.3, frames: int = 2) -> np.ndarray:
    """Emissions that spell letters, each some frames long, with a blank between; "." is 25 blanks.

    Returns:
        float32 [n_frames, 32], natural log.
    """
    columns = [0]
    for letter in letters:
        if letter == ".":
            columns += [0] * 25
        else:
            columns += [1 if letter == " " else 2 + LETTERS.index(letter)] * frames + [0]
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, noise, (len(columns), 2 + len(LETTERS)))
    logits[np.arange(len(columns)), columns] += 9.0
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits.astype(np.float32)
