"""The decoder's tokens as labels of the CTC vocabulary, so that CTC, lexicon and hotwords can follow them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.decoding.labels import Labels
from engine.kernels.joint.state import BOUNDARY, Spelling
from engine.text import normalize_text

UNSPOKEN = "'’‘`´\"„“”»«()[]{}"  # marks that open or close, which nobody can hear
_MAX_NODES = 20_000  # of hotwords; more of them are followed, but no tokens are tried for their sake
_Labels = tuple[int, ...]


class TokenSpelling:
    """What the search knows of the tokens.

    Attributes:
        tokens: str by id; one that begins a word begins with a space.
        labels: of each, CTC labels and BOUNDARY where a word ends; None for tokens that are never text.
    """

    def __init__(self, tokens: Sequence[str], labels: Labels) -> None:
        self.tokens = tuple(tokens)
        self.labels = tuple(spell_token(token, labels) for token in self.tokens)
        self._delimiter = labels.delimiter_id
        self._by_labels: dict[_Labels, list[int]] = {}
        for token, spelled in enumerate(self.labels):
            if spelled:
                self._by_labels.setdefault(spelled, []).append(token)
        self._longest = max(map(len, self._by_labels), default=0)
        self._plain = self._tabulate(np.zeros(0, np.int32), np.zeros(0, np.int32))

    def table(self, follow: NDArray[np.int32] | None = None) -> Spelling:
        """What the kernels read.

        Args:
            follow: int32 [n_nodes, vocab_size] of engine.kernels.ctc.state.Hotwords; None for no hotwords.
        """
        if follow is None or not 1 < len(follow) <= _MAX_NODES:
            return self._plain
        found = self._find_favoured(follow)
        favoured = np.array([token for tokens in found for token in tokens], np.int32)
        return self._tabulate(favoured, _ends(found))

    def _tabulate(self, favoured: NDArray[np.int32], favoured_ends: NDArray[np.int32]) -> Spelling:
        spelled = [labels or () for labels in self.labels]
        return Spelling(
            np.array([label for labels in spelled for label in labels], np.int16),
            _ends(spelled),
            np.array([sum(label != BOUNDARY for label in labels) for labels in spelled], np.int32),
            np.array([labels is not None for labels in self.labels], np.uint8),
            favoured,
            favoured_ends,
        )

    def _find_favoured(self, follow: NDArray[np.int32]) -> list[list[int]]:
        """Tokens that stay within a phrase, by the automaton's node; of node 0 those that begin one."""
        children = find_branches(follow)
        found = []
        for node in range(len(children)):
            paths: list[tuple[int, _Labels]] = [(node, () if node else (BOUNDARY,))]
            tokens: list[int] = []
            for at, path in paths:
                tokens += self._by_labels.get(path, ()) if at != node else ()
                if len(path) < self._longest:
                    steps = children[at].items()
                    paths += [(child, (*path, self._as_written(label))) for label, child in steps]
            found.append(tokens)
        return found

    def _as_written(self, label: int) -> int:
        return BOUNDARY if label == self._delimiter else label


def spell_token(token: str, labels: Labels) -> _Labels | None:
    """Labels of a token's letters, BOUNDARY for everything that parts words.

    Returns:
        None for special tokens, digits and signs that are read as words, letters without a label, and tokens
        with quotation marks, brackets or apostrophes: a decoder that has lost its way writes them without
        end.
    """
    if not token or (len(token) > 2 and token.startswith("<|") and token.endswith("|>")):
        return None
    spelled: list[int] = []
    for char in token:
        ids = spell_character(char, labels)
        if ids is None or char in UNSPOKEN:
            return None
        if ids:
            spelled += ids
        elif not spelled or spelled[-1] != BOUNDARY:
            spelled.append(BOUNDARY)
    return tuple(spelled)


def spell_character(char: str, labels: Labels) -> list[int] | None:
    """Labels of a letter, none for a mark or a space; None where no labels spell it, as for digits."""
    letters = normalize_text(char)
    if not letters:
        return []
    if not char.isalpha():
        return None
    return labels.encode(char) or labels.encode(letters) or labels.encode(letters.upper())


def find_branches(follow: NDArray[np.int32]) -> list[dict[int, int]]:
    """The phrases' tree in an automaton: for each node the labels that go on with a phrase, and where to.

    A mismatch leads to a node no deeper than the one before, so level by level what is new is the tree.
    """
    branches: list[dict[int, int]] = [{} for _ in range(len(follow))]
    seen = {0}
    level = [0]
    while level:
        new: dict[int, Any] = {}
        for node in level:
            for label in np.flatnonzero(follow[node] > 0).tolist():
                child = int(follow[node, label])
                if child not in seen:
                    branches[node][label] = new[child] = child
        seen.update(new)
        level = list(new)
    return branches


def _ends(parts: Iterable[Sequence[Any]]) -> NDArray[np.int32]:
    return np.array([*accumulate(len(part) for part in parts)], np.int32)
