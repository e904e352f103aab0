"""The joint search as its definition reads: strings and logarithms, every score from scratch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.reference.ctc_beam_reference import NEVER, BeamReference, add_logs

FLOOR, FAVOUR_TOLERANCE = 1e-6, 1.0
Tokens = tuple[int, ...]
Language = Callable[[Tokens], np.ndarray]  # tokens so far -> log-probabilities of the next, the end included


def soften(log_probs: np.ndarray, letters: Sequence[int], share: float) -> np.ndarray:
    """Probabilities float64 [n_frames, vocab_size]; see engine.kernels.ctc.prefix.soften_emissions."""
    probs = np.exp(log_probs.astype(np.float64))
    heard = probs[:, letters].sum(1, keepdims=True)
    probs[:, letters] = (1 - share) * probs[:, letters] + share * heard / max(1, len(letters))
    return np.maximum(probs, FLOOR)


def score_labels(probs: np.ndarray, labels: Sequence[int], blank: int = 0) -> tuple[float, float]:
    """Natural logs: that the utterance begins with the labels, and that it consists of them.

    alpha[i][kind] is the log-probability that the frames so far spell the first i labels, with the last frame
    a blank (kind 0) or the label (kind 1).
    """
    with np.errstate(divide="ignore"):
        logs = np.log(probs)
    alpha = [[NEVER, NEVER] for _ in range(len(labels) + 1)]
    alpha[0][0] = 0.0
    begins = NEVER if labels else 0.0
    for row in logs:
        new = [[NEVER, NEVER] for _ in alpha]
        for i, (blanks, symbols) in enumerate(alpha):
            new[i][0] = add_logs(blanks, symbols) + row[blank]
            if i == 0:
                continue
            arrived = alpha[i - 1][0]
            if i < 2 or labels[i - 1] != labels[i - 2]:
                arrived = add_logs(arrived, alpha[i - 1][1])
            arrived += row[labels[i - 1]]
            new[i][1] = add_logs(symbols + row[labels[i - 1]], arrived)
            if i == len(labels):
                begins = add_logs(begins, arrived)
        alpha = new
    return begins, add_logs(*alpha[-1])


@dataclass
class JointReference:
    """Scores and search; labels are "<pad>", "|" and single letters; words scores words and hotwords."""

    tokens: Sequence[str]
    labels: Sequence[str]
    words: BeamReference
    end_id: int = 0
    beam_size: int = 5
    ctc_weight: float = 0.1
    end_weight: float = 0.5
    word_bonus: float = 0.5
    letter_share: float = 0.3
    tolerance: float = 3.0
    unheard_weight: float = 0.5
    candidates: int = 10
    max_marks: int = 3
    prune: float = 12.0
    outlook_words: int = 2
    _known: dict[tuple[str, ...], tuple[float, float]] = field(default_factory=dict)

    def search(
        self, log_probs: np.ndarray, language: Language, max_tokens: int, n_best: int = 1
    ) -> list[tuple[float, Tokens]]:
        """(score, tokens), best first, with different words."""
        self._hear(log_probs)
        rows: list[Tokens] = [()]
        ends: dict[tuple[str, ...], tuple[float, Tokens]] = {}
        for _ in range(max_tokens + 1):
            children: dict[object, tuple[float, Tokens]] = {}
            for row in rows:
                self._note(ends, row, language)
                for child in self._children(row, language):
                    rank, key = self.rank(child, language), self.split(child)
                    if rank > children.get(key, (NEVER, ()))[0]:
                        children[key] = rank, child
            best = sorted(ends.values(), reverse=True)[:n_best]
            ranked = sorted(children.values(), reverse=True)[: self.beam_size]
            floor = ranked[0][0] - self.prune if ranked else NEVER
            if len(best) == n_best:
                floor = max(floor, best[-1][0] - self.outlook_words * self.word_bonus)
            rows = [child for rank, child in ranked if rank > floor]
            if not rows:
                break
        return sorted(ends.values(), reverse=True)[:n_best]

    def enumerate(
        self, log_probs: np.ndarray, language: Language, max_tokens: int
    ) -> list[tuple[float, Tokens]]:
        """(score, tokens) of every text of up to max_tokens tokens, best first."""
        self._hear(log_probs)
        ends: dict[tuple[str, ...], tuple[float, Tokens]] = {}
        usable = [token for token in range(len(self.tokens)) if self._usable(token)]
        for length in range(max_tokens + 1):
            for tokens in itertools.product(usable, repeat=length):
                if self._marks(tokens) <= self.max_marks:
                    self._note(ends, tokens, language)
        return sorted(ends.values(), reverse=True)

    def rank(self, tokens: Tokens, language: Language) -> float:
        """What a text that goes on is sorted by."""
        words, partial = self.split(tokens)
        score = self._attention(tokens, language) + self.ctc_weight * self._prefix((*words, partial))
        score += self._score_words(words)
        score += self._unheard((*words, partial) if partial else words)
        return score + max(self.words._credits(words, partial), default=0.0)

    def score(self, tokens: Tokens, language: Language) -> float:
        """What a text that ends here is sorted by."""
        words, partial = self.split(tokens)
        whole = (*words, partial) if partial else words
        prefix, acoustic = self._score(whole)
        if acoustic == NEVER:
            return NEVER
        score = self._attention((*tokens, self.end_id), language) + self.ctc_weight * prefix
        score += self._score_words(whole) + self._unheard(whole)
        return score + self.end_weight * (acoustic - prefix)

    def split(self, tokens: Tokens) -> tuple[tuple[str, ...], str]:
        """Finished words and the unfinished one, in lower case."""
        text = "".join(self.tokens[token] for token in tokens).lower()
        *words, partial = re.split(r"[^a-zäöüß]", text) or [""]
        return tuple(word for word in words if word), partial

    def _children(self, row: Tokens, language: Language) -> Iterator[Tokens]:
        log_probs = language(row)
        order = sorted((t for t in range(len(self.tokens)) if t != self.end_id), key=lambda t: -log_probs[t])
        for token in order[: self.candidates]:
            child = (*row, token)
            if self._usable(token) and self._marks(child) <= self.max_marks and log_probs[token] > NEVER:
                words, partial = self.split(child)
                if self._prefix((*words, partial)) > NEVER:
                    yield child

    def _note(
        self, ends: dict[tuple[str, ...], tuple[float, Tokens]], row: Tokens, language: Language
    ) -> None:
        words, partial = self.split(row)
        whole = (*words, partial) if partial else words
        score = self.score(row, language)
        if score > ends.get(whole, (NEVER, ()))[0]:
            ends[whole] = score, row

    def _usable(self, token: int) -> bool:
        return not self.tokens[token].startswith("<|")

    def _marks(self, tokens: Tokens) -> int:
        """The longest run of tokens without letters."""
        longest = run = 0
        for token in tokens:
            run = 0 if re.search("[a-zäöüß]", self.tokens[token].lower()) else run + 1
            longest = max(longest, run)
        return longest

    def _attention(self, tokens: Tokens, language: Language) -> float:
        return float(sum(np.float64(language(tokens[:i])[token]) for i, token in enumerate(tokens)))

    def _hear(self, log_probs: np.ndarray) -> None:
        letters = [i for i, label in enumerate(self.labels) if len(label) == 1 and label != "|"]
        self._probs, self._known = soften(log_probs, letters, self.letter_share), {}

    def _score(self, words: tuple[str, ...]) -> tuple[float, float]:
        if words not in self._known:
            labels = [self.labels.index(char) for char in "|".join(words)]
            self._known[words] = score_labels(self._probs, labels)
        return self._known[words]

    def _prefix(self, words: tuple[str, ...]) -> float:
        return self._score(words if words and words[-1] else words[:-1])[0]

    def _score_words(self, words: tuple[str, ...]) -> float:
        """Of finished words; a hotword earns less where its letters were not heard."""
        total = self.words.score_words(words) + self.word_bonus * len(words)
        for i, excess in enumerate(self._find_excess(words, FAVOUR_TOLERANCE)):
            so_far = words[: i + 1]
            favour = sum(
                w for phrase, w in self.words.hotwords.items() if self.words._ends_with(so_far, phrase)
            )
            total -= min(max(0.0, favour), excess)
        return total

    def _unheard(self, words: tuple[str, ...]) -> float:
        return -self.unheard_weight * sum(self._find_excess(words, self.tolerance))

    def _find_excess(self, words: tuple[str, ...], tolerance: float) -> list[float]:
        costs = [self._prefix(words[:i]) - self._prefix(words[: i + 1]) for i in range(len(words))]
        return [max(0.0, cost - tolerance * (len(word) + 1)) for cost, word in zip(costs, words, strict=True)]


def random_language(seed: int, n_tokens: int, peak: float = 1.5) -> Language:
    """A fixed table of next-token log-probabilities, float32, by position and last token."""
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((40, n_tokens + 1, n_tokens)) * peak
    table = (table - np.logaddexp.reduce(table, axis=2, keepdims=True)).astype(np.float32)
    return lambda tokens: table[len(tokens) % 40, tokens[-1] if tokens else n_tokens].copy()


def draw_log_probs(
    seed: int, labels: Sequence[str], text: str, n_frames: int, peak: float = 6.0
) -> np.ndarray:
    """Emissions float32 [n_frames, vocab_size] that say `text`, spread over the frames, and noise."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 1.0, (n_frames, len(labels)))
    places = np.linspace(0, n_frames - 1, len(text) + 2).round().astype(int)[1:-1]
    said = dict(zip(places.tolist(), text.replace(" ", "|"), strict=False))
    for frame in range(n_frames):
        logits[frame, labels.index(said[frame]) if frame in said else 0] += peak
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def align(
    log_probs: np.ndarray, labels: Sequence[int], blank: int = 0
) -> tuple[float, list[tuple[int, int]]]:
    """The likeliest way to spread labels over frames: its log probability, and the frames of each label.

    Every state keeps the whole path that led to it.
    """
    states = [blank]
    for label in labels:
        states += [label, blank]
    paths: dict[int, tuple[float, list[int]]] = {-1: (0.0, [])}
    for row in log_probs.astype(np.float64):
        new: dict[int, tuple[float, list[int]]] = {}
        for state, label in enumerate(states):
            before = [state, state - 1]
            if label != blank and state > 1 and label != states[state - 2]:
                before.append(state - 2)
            if -1 in paths:
                before = [-1] if state < 2 else []
            found = [paths[b] for b in before if b in paths]
            if found:
                score, path = max(found, key=lambda pair: pair[0])
                new[state] = score + row[label], [*path, state]
        paths = new
    ends = [len(states) - 1, len(states) - 2] if len(log_probs) else [-1] if not labels else []
    score, path = max((paths[e] for e in ends if e in paths), default=(NEVER, []), key=lambda pair: pair[0])
    frames = [[t for t, state in enumerate(path) if state == 2 * i + 1] for i in range(len(labels))]
    return score, [(f[0], f[-1] + 1) for f in frames] if score > NEVER else []
