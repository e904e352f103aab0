"""The settings of a beam search: checked, and turned into what the kernels take."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from engine.decoding.hotwords import Phrases, freeze_phrases
from engine.decoding.labels import Labels
from engine.decoding.lexicon import WordTrie
from engine.decoding.ngram import NgramModel
from engine.errors import DecodingError, LanguageModelError
from engine.kernels.ctc.lexicon import LOOKAHEAD_STEP
from engine.kernels.ctc.pieces import find_entries
from engine.kernels.ctc.state import (
    AVERAGE_WORD_LENGTH,
    CHAR_LM,
    N_LOOKAHEAD,
    N_OOV_FACTORS,
    WEIGHTS,
    WORD_LM,
    Lexicon,
    Pieces,
    Scorer,
    Search,
)

_MOST = 300.0  # natural log, as for the kernels' scores of whole words
LN_10 = math.log(10.0)
HOTWORD_WEIGHT = 10.0  # natural-log bonus
MAX_BEAM_WIDTH = 4096
# log10, before lm_alpha: an unfinished word that nobody knows ranks by what it costs in the end, but by no
# less than this, or it would be dropped before its letters are heard: benchmarks/results/lookahead.json.
UNFINISHED_UNKNOWN = -10.0
LOWEST_PRUNE_LOGP = -690.0  # beams further below the best would leave a float's range
_BASE = 0x9E3779B97F4A7C15 | 1  # of the hash of words
_WEIGHTS = ("lm_alpha", "lm_beta", "unk_score_offset", "unk_letter_score")
_LEVELS = ("token_min_logp", "beam_prune_logp")
MERGINGS, UNITS = ("prefix", "pyctcdecode"), ("word", "character")


@dataclass(frozen=True)
class BeamSettings:
    """Arguments of CtcBeamDecoder that are plain values; see there."""

    lm_alpha: float
    lm_beta: float
    token_min_logp: float
    beam_prune_logp: float
    unk_score_offset: float
    unk_letter_score: float
    lookahead: bool
    merging: str
    unit: str
    score_boundary: bool
    beam_width: int
    frame_s: float

    def override(self, beam_width: int | None, lm_alpha: float | None, lm_beta: float | None) -> BeamSettings:
        """The same with some values replaced where they are not None."""
        given: dict[str, Any] = {"beam_width": beam_width, "lm_alpha": lm_alpha, "lm_beta": lm_beta}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def as_arguments(self) -> dict[str, Any]:
        """Keyword arguments of CtcBeamDecoder."""
        return asdict(self)


def check_settings(settings: BeamSettings) -> BeamSettings:
    """Return the settings if they can be used; else raise DecodingError with all that is wrong."""
    given: dict[str, Any] = {
        name: getattr(settings, name) for name in (*_WEIGHTS, *_LEVELS, "frame_s", "beam_width")
    }
    problems = _find_problems(given)
    if settings.merging not in MERGINGS:
        problems.append(f"merging={settings.merging!r}, want one of {MERGINGS}")
    if settings.unit not in UNITS:
        problems.append(f"unit={settings.unit!r}, want one of {UNITS}")
    if problems:
        raise DecodingError("decoder settings: " + "; ".join(problems))
    given = {name: float(value) for name, value in given.items()}
    return replace(settings, **{**given, "beam_width": int(settings.beam_width)})


def _find_problems(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the numbers among the settings."""
    problems = []
    for name in (*_WEIGHTS, "frame_s"):
        if not isinstance(given[name], Real) or not math.isfinite(given[name]) or abs(given[name]) > 1e3:
            problems.append(f"{name}={given[name]!r}, want a number within 1000 of 0")
    if isinstance(given["lm_alpha"], Real) and given["lm_alpha"] < 0:
        problems.append(f"lm_alpha={given['lm_alpha']}, want 0 or more")
    if isinstance(given["frame_s"], Real) and given["frame_s"] <= 0:
        problems.append(f"frame_s={given['frame_s']}, want more than 0")
    for name in _LEVELS:
        if not isinstance(given[name], Real) or not given[name] <= 0:
            problems.append(f"{name}={given[name]!r}, want 0 or less")
    width: Any = given["beam_width"]
    if isinstance(width, bool) or not isinstance(width, Integral) or not 1 <= int(width) <= MAX_BEAM_WIDTH:
        problems.append(f"beam_width={width!r}, want 1 to {MAX_BEAM_WIDTH}")
    return problems


def check_count(name: str, value: Any, most: int) -> int:
    """A number of things wanted: 1 or more, of which no more than `most` can be had.

    Raises:
        DecodingError: less, or no whole number.
    """
    if (type(value) is not int and not isinstance(value, Integral)) or value < 1:
        raise DecodingError(f"{name}={value!r}", "1 or more")
    return min(int(value), most)


def identify(settings: BeamSettings, labels: Labels, trie: WordTrie, model: NgramModel | None) -> str:
    """What the decoders have in common that can go on with each other's states."""
    scored = (model.counts, model.layout.tobytes()) if model is not None else ()
    parts = labels.vocabulary, labels.blank_id, labels.delimiter_id, settings, scored, len(trie)
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def make_search(settings: BeamSettings, labels: Labels, recombine: bool) -> Search:
    """Settings of the search as its kernels take them."""
    prune = math.exp(max(settings.beam_prune_logp, LOWEST_PRUNE_LOGP))
    split = settings.merging == "pyctcdecode"
    token_min = max(settings.token_min_logp, float(np.finfo(np.float32).min))
    return Search(
        settings.beam_width,
        labels.blank_id,
        labels.delimiter_id,
        labels.space,
        labels.spellings is not None,
        token_min,
        prune,
        split,
        recombine and not split,
    )


def make_scorer(settings: BeamSettings, labels: Labels, model: NgramModel | None) -> Scorer:
    """The language model as the kernels take it."""
    weights = np.zeros(1, WEIGHTS)
    if model is None:
        memory, layout = np.zeros(1, np.uint32), np.zeros((1, 1), np.int64)
        for array in (memory, layout, weights):
            array.setflags(write=False)
        return Scorer(memory, layout, _no_words(), weights)
    weight = settings.lm_alpha * LN_10
    character = settings.unit == "character"
    if character and labels.spellings is not None:
        got = "a language model of characters with labels of several letters"
        raise DecodingError(got, "labels of one character, or a model of words", 'pass unit="word"')
    weights[0] = (
        CHAR_LM if character else WORD_LM,
        model.order,
        model.bos if settings.score_boundary else -1,
        model.eos if settings.score_boundary else -1,
        weight,
        settings.lm_beta,
        weight * settings.unk_score_offset,
        settings.unk_letter_score,
    )
    weights.setflags(write=False)
    token_words = _find_characters(labels, model) if character else _no_words()
    return Scorer(model.memory, model.layout, token_words, weights)


def _no_words() -> Any:
    words = np.zeros(1, np.int32)
    words.setflags(write=False)
    return words


def _find_characters(labels: Labels, model: NgramModel) -> Any:
    """The model's id of each label, and behind them of the space: "|", "<space>" or the delimiter's label."""
    delimiter = labels.vocabulary[labels.delimiter_id] if labels.delimiter_id >= 0 else "|"
    spaces = model.find_words([delimiter, "|", "<space>", "▁"])
    ids = model.find_words(labels.vocabulary)
    letters = [token for token in labels.index.values() if ids[token]]
    if not letters:
        raise LanguageModelError(
            f"{model.path} knows none of the labels", "a model of single characters", 'pass unit="word"'
        )
    words = np.append(ids, next((space for space in spaces if space), 0)).astype(np.int32)
    words.setflags(write=False)
    return words


def make_pieces(labels: Labels, trie: WordTrie) -> Pieces:
    """How tokens are spelled, as the kernels take it."""
    n_tokens, spellings = len(labels), labels.spellings
    texts = spellings.texts if spellings is not None else ("",) * n_tokens
    spelled = [[labels.letter_index[char] for char in text] for text in texts]
    letters = np.array([letter for word in spelled for letter in word] or [0], np.int16)
    ends = np.cumsum([0, *map(len, spelled)]).astype(np.int32)
    nodes, distinct = trie.nodes
    entries = np.full(n_tokens, -1, np.int32)
    if spellings is not None:
        entries = np.asarray(find_entries(letters, ends, nodes, trie.label, distinct), np.int32)
    powers, sums = _hash_texts(spelled, len(labels.letters))
    pieces = Pieces(labels.spoken, letters, ends, entries, powers, sums)
    for array in pieces:
        array.setflags(write=False)
    return pieces


def _hash_texts(spelled: Sequence[Sequence[int]], n_letters: int) -> tuple[Any, Any]:
    """Powers and sums of a hash of words that grows by several letters at a time."""
    values = np.random.default_rng(0).integers(1 << 63, size=n_letters, dtype=np.uint64).tolist()
    powers, sums = [], []
    for letters in spelled:
        power, total = 1, 0
        for letter in letters:
            power = power * _BASE % (1 << 64)
            total = (total * _BASE + values[letter]) % (1 << 64)
        powers.append(power)
        sums.append(total)
    return np.array(powers, np.uint64), np.array(sums, np.uint64)


def make_lexicon(settings: BeamSettings, trie: WordTrie, model: NgramModel | None, scorer: Scorer) -> Lexicon:
    """The known words with what ranking multiplies for unfinished words."""
    factors, unknown = np.ones(N_LOOKAHEAD), np.ones(N_OOV_FACTORS)
    lengths, weights = np.arange(N_OOV_FACTORS), scorer.weights[0]
    stretch = np.maximum(1.0, lengths / AVERAGE_WORD_LENGTH)
    if weights["kind"] == WORD_LM and model is not None:
        if settings.lookahead and settings.merging == "prefix":
            steps = np.arange(N_LOOKAHEAD) * -LOOKAHEAD_STEP
            factors = _exp(weights["weight"] * steps + weights["word_bonus"])
            cost = weights["weight"] * float(model.read_unigrams()[0]) + weights["unknown"]
            cost = max(cost, weights["weight"] * UNFINISHED_UNKNOWN)
            unknown = _exp(cost * stretch + weights["word_bonus"] + weights["unknown_letter"] * lengths)
        else:
            unknown = _exp(settings.unk_score_offset * stretch)
    for array in (factors, unknown):
        array.setflags(write=False)
    likeliest = int(trie.lookahead[1:].min(initial=N_LOOKAHEAD - 1))
    nodes, distinct = trie.nodes
    highest = max(1.0, float(factors[likeliest:].max()), float(unknown.max()))
    return Lexicon(nodes, trie.label, trie.lookahead, distinct, factors, unknown, highest)


def _exp(values: Any) -> Any:
    return np.exp(np.clip(values, -_MOST, _MOST))


def make_key(
    beam_width: int | None = None,
    n_best: int = 1,
    hotwords: Phrases | None = (),
    hotword_weight: float = HOTWORD_WEIGHT,
    lm_alpha: float | None = None,
    lm_beta: float | None = None,
) -> Any:
    """What _prepare needs to know of a call's options."""
    phrases, weight = freeze_phrases(hotwords, hotword_weight)
    return beam_width, n_best > 1, phrases, weight, lm_alpha, lm_beta
