"""CTC prefix beam search as its definition reads: dictionaries, logarithms, every score from scratch.

Nothing here comes from the engine: the language model is a parsed ARPA file, hotwords are
compared as strings of letters, and prefixes are tuples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

LN_10 = math.log(10.0)
NEVER = -math.inf
Prefix = tuple[tuple[str, ...], str, int]  # finished words, unfinished word, last token


def add_logs(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == NEVER else high + math.log1p(math.exp(low - high))


class ArpaReference:
    """log10 probabilities by the definition of backing off."""

    def __init__(self, path: Path) -> None:
        self.grams: dict[tuple[str, ...], tuple[float, float]] = {}
        size = 0
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.endswith("-grams:"):
                size = int(line[1])
            elif size and "\t" in line:
                prob, words, *backoff = line.split("\t")
                self.grams[tuple(words.split())] = float(prob), float(backoff[0]) if backoff else 0.0
        self.order = size
        self.words = {gram[0] for gram in self.grams if len(gram) == 1} - {"<unk>", "<s>", "</s>"}

    def score(self, history: Sequence[str], word: str) -> float:
        known = [w if (w,) in self.grams else "<unk>" for w in (*history, word)]
        return self._score(tuple(known[-self.order :]))

    def _score(self, gram: tuple[str, ...]) -> float:
        if gram in self.grams:
            return self.grams[gram][0]
        _, backoff = self.grams.get(gram[:-1], (0.0, 0.0))
        return backoff + self._score(gram[1:])

    def best_below(self, start: str) -> float:
        """Best unigram of the words that begin with `start`; -inf if there is none."""
        return max((self.grams[(w,)][0] for w in self.words if w.startswith(start)), default=NEVER)


@dataclass
class BeamReference:
    """The search and its settings; 0 is the blank, "|" or "▁" alone ends a word, "▁ein" begins one.

    What is one text with the same last token is one prefix, whatever pieces spell it.
    """

    labels: Sequence[str]
    lm: ArpaReference | None = None
    alpha: float = 0.5
    beta: float = 1.5
    beam_width: int = 64
    token_min_logp: float = -5.0
    beam_prune_logp: float = -10.0
    unk_score_offset: float = -10.0
    unk_letter_score: float = 0.0
    lookahead: bool = True
    hotwords: dict[str, float] = field(default_factory=dict)
    unit: str = "word"

    def decode(self, log_probs: np.ndarray) -> list[tuple[str, float, float]]:
        """(text, acoustic score, total score), best first."""
        self.delimiter = next((self.labels.index(name) for name in "|▁" if name in self.labels), -1)
        beams: dict[Prefix, tuple[float, float]] = {((), "", self.delimiter): (0.0, NEVER)}
        for row in log_probs.astype(np.float64):
            if row.max() > NEVER:
                beams = self._prune(self._extend(beams, row))
        texts: dict[tuple[str, ...], float] = {}
        for (words, partial, _), ends in beams.items():
            whole = (*words, partial) if partial else words
            texts[whole] = add_logs(texts.get(whole, NEVER), add_logs(*ends))
        rows = [
            (" ".join(words), acoustic, acoustic + self.score_words(words) + self._score_end(words))
            for words, acoustic in texts.items()
        ]
        return sorted(rows, key=lambda row: -row[2])

    def _extend(self, beams: dict[Prefix, tuple[float, float]], row: np.ndarray) -> dict[Prefix, list[float]]:
        chosen = [t for t in range(len(row)) if row[t] >= self.token_min_logp or t == int(row.argmax())]
        out: dict[Prefix, list[float]] = {}
        for prefix, (blank, symbol) in beams.items():
            total = add_logs(blank, symbol)
            for token in chosen:
                log_prob = row[token]
                if token == 0:
                    self._add(out, prefix, 0, total + log_prob)
                elif token == prefix[2] == self.delimiter:
                    self._add(out, prefix, 1, total + log_prob)
                elif token == prefix[2]:
                    self._add(out, prefix, 1, symbol + log_prob)
                    self._add(out, self._spell_on(prefix, token), 1, blank + log_prob)
                else:
                    self._add(out, self._spell_on(prefix, token), 1, total + log_prob)
        return out

    def _spell_on(self, prefix: Prefix, token: int) -> Prefix:
        """The prefix with one more token."""
        words, partial, _ = prefix
        label = self.labels[token]
        begins = label.startswith("▁")
        if begins or token == self.delimiter:
            words, partial = (*words, partial) if partial else words, ""
        return words, partial + ("" if token == self.delimiter else label.removeprefix("▁")), token

    @staticmethod
    def _add(out: dict[Prefix, list[float]], prefix: Prefix, end: int, value: float) -> None:
        ends = out.setdefault(prefix, [NEVER, NEVER])
        ends[end] = add_logs(ends[end], value)

    def _prune(self, beams: dict[Prefix, list[float]]) -> dict[Prefix, tuple[float, float]]:
        ranked = sorted(((self._rank(p, ends), p) for p, ends in beams.items()), key=lambda pair: -pair[0])
        floor = ranked[0][0] + self.beam_prune_logp
        kept = [p for rank, p in ranked[: self.beam_width] if rank >= floor and rank > NEVER]
        return {p: (beams[p][0], beams[p][1]) for p in kept}

    def _rank(self, prefix: Prefix, ends: Sequence[float]) -> float:
        words, partial, _ = prefix
        return add_logs(*ends) + self.score_words(words) + self._score_partial(words, partial)

    def score_words(self, words: Sequence[str]) -> float:
        """Weighted score of finished words and of the hotwords among them."""
        if self.unit == "character":
            return self._score_letters("".join(f"{word}|" for word in words)) + self.beta * len(words)
        score = 0.0
        for i, word in enumerate(words):
            if self.lm:
                log10_prob = self.lm.score(("<s>", *words[:i]), word)
                score += self.alpha * LN_10 * log10_prob + self.beta
                if word not in self.lm.words and not self._in_hotword(words[: i + 1]):
                    score += self.alpha * LN_10 * self.unk_score_offset + self.unk_letter_score * len(word)
            score += sum(
                weight for phrase, weight in self.hotwords.items() if self._ends_with(words[: i + 1], phrase)
            )
        return score

    def _score_letters(self, text: str) -> float:
        assert self.lm
        scores = [self.lm.score(("<s>", *text[:i]), char) for i, char in enumerate(text)]
        return self.alpha * LN_10 * sum(scores)

    def _score_end(self, words: Sequence[str]) -> float:
        if self.unit == "character":
            return 0.0
        return self.alpha * LN_10 * self.lm.score(("<s>", *words), "</s>") if self.lm else 0.0

    @staticmethod
    def _ends_with(words: Sequence[str], phrase: str) -> bool:
        return list(words[-len(phrase.split()) :]) == phrase.split()

    def _in_hotword(self, words: Sequence[str]) -> bool:
        """Whether the last words are the beginning, or all, of a phrase."""
        return any(
            list(words[-n:]) == phrase.split()[:n]
            for phrase in self.hotwords
            for n in range(1, min(len(phrase.split()), len(words)) + 1)
        )

    def _credits(self, words: Sequence[str], partial: str) -> list[float]:
        """What the phrases in progress have earned so far."""
        credits = []
        for start in range(len(words) + 1):
            so_far = "|".join((*words[start:], partial))
            for phrase, weight in self.hotwords.items():
                whole = "|".join(phrase.split())
                if so_far and whole.startswith(so_far):
                    credits.append(weight * len(so_far) / len(whole))
        return credits

    def _score_partial(self, words: Sequence[str], partial: str) -> float:
        credits = self._credits(words, partial)
        score = max(credits) if credits else 0.0
        if self.unit == "character":
            finished = "".join(f"{word}|" for word in words)
            return self._score_letters(finished + partial) - self._score_letters(finished)
        if not partial or not self.lm:
            return score
        best = self.lm.best_below(partial)
        if best > NEVER:
            steps = min(math.floor(-np.float32(best) * 32 + 0.5), 255)
            return score + (self.beta - self.alpha * LN_10 * steps / 32 if self.lookahead else 0.0)
        if credits:
            return score
        if not self.lookahead:
            return score + self.unk_score_offset * max(1.0, min(len(partial), 63) / 6)
        cost = self.alpha * LN_10 * (self.lm.score((), "<unk>") + self.unk_score_offset)
        cost = max(cost, self.alpha * LN_10 * -10.0) * max(1.0, min(len(partial), 63) / 6)
        return score + cost + self.beta + self.unk_letter_score * min(len(partial), 63)
