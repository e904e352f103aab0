"""CTC beam search with a language model, hotwords and streaming: the public decoder."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from engine.decoding.hotwords import Phrases, build_hotwords
from engine.decoding.labels import (
    FloatArray,
    Labelled,
    build_labels,
    check_emissions,
    check_values,
    shape_emissions,
)
from engine.decoding.lexicon import WordTrie, build_lexicon, load_lexicon
from engine.decoding.ngram import NgramModel
from engine.decoding.settings import (
    HOTWORD_WEIGHT,
    MAX_BEAM_WIDTH,
    BeamSettings,
    check_count,
    check_settings,
    identify,
    make_key,
    make_lexicon,
    make_pieces,
    make_scorer,
    make_search,
)
from engine.decoding.state import (
    DecoderState,
    Partial,
    read_hypotheses,
    read_partial,
    read_several,
    start_state,
)
from engine.errors import DecodingError
from engine.kernels.ctc.batch import search_several
from engine.kernels.ctc.pack import Prepared, pack_search
from engine.kernels.ctc.search import advance, finish
from engine.kernels.ctc.state import N_WORD_NODES
from engine.types import Hypothesis

Pathlike = str | PathLike[str]
MAX_FRAMES_AT_ONCE = 4096  # longer emissions are searched in chunks, which bounds the memory
_MAX_CACHED = 8
_MAX_ARENA, _NO_ARENA = 1 << 24, np.empty(0, np.uint8)  # bytes of scratch that a thread keeps between calls
_NO_OFFSETS = np.empty(0, np.int64)
_CHUNK = 8  # utterances that a thread of decode_batch searches in one call
_scratch = threading.local()


class CtcBeamDecoder(Labelled):
    """Finds the words that emissions and a language model agree on.

    Immutable once built: one decoder serves many threads, may be pickled, and survives fork
    and spawn (the language model's file is mapped, and shared between processes).

    Args:
        vocabulary: label of each token id: characters, several letters ("sch"), or pieces of words as
            SentencePiece ("▁Haus") and WordPiece ("##es") make them; marks such as <s> are never read.
        language_model: a KenLM binary (probing or trie) or an ARPA file; None for none.
        unigrams: known words, where the model's file does not name them.
        lm_alpha: weight of the language model's natural-log score.
        lm_beta: natural log added for every word.
        blank_id: index of the CTC blank.
        word_delimiter: label between words; may be missing from the vocabulary. "▁" or a space is found.
        frame_s: seconds per frame.
        lexicon: file written by WordTrie.save for this vocabulary and language model; loads at once.
        token_min_logp: tokens below this are passed over, unless they are the frame's best.
        beam_prune_logp: beams this far below the best are dropped.
        unk_score_offset: log10, added to the model's score of an unknown word.
        unk_letter_score: natural log, added for every letter of an unknown word.
        lookahead: rank unfinished words by the best word they can become; None: for labels of one character.
        merging: "prefix" merges all alignments of a prefix; "pyctcdecode" follows that
            library's rules, for parity: alignments that end in a blank are beams of their own,
            an empty last word may be scored as unknown, hotwords do not excuse unknown words.
        unit: "word" or "character": what the language model's tokens are.
        score_boundary: score the start and end of the sentence.
        beam_width: prefixes kept, where decode is not told.
    Raises:
        DecodingError: vocabulary or settings; LanguageModelError: the model or lexicon.
    """

    def __init__(  # noqa: PLR0913  - pyctcdecode's and ours, most by keyword
        self,
        vocabulary: Sequence[str],
        language_model: Pathlike | None = None,
        unigrams: Iterable[str] | None = None,
        lm_alpha: float = 0.5,
        lm_beta: float = 1.5,
        *,
        blank_id: int = 0,
        word_delimiter: str = "|",
        frame_s: float = 0.02,
        lexicon: Pathlike | None = None,
        token_min_logp: float = -5.0,
        beam_prune_logp: float = -10.0,
        unk_score_offset: float = -10.0,
        unk_letter_score: float = 0.0,
        lookahead: bool | None = None,
        merging: str = "prefix",
        unit: str = "word",
        score_boundary: bool = True,
        beam_width: int = 64,
    ) -> None:
        self.labels = build_labels(vocabulary, blank_id, word_delimiter)
        self.settings = check_settings(
            BeamSettings(
                lm_alpha,
                lm_beta,
                token_min_logp,
                beam_prune_logp,
                unk_score_offset,
                unk_letter_score,
                self.labels.spellings is None if lookahead is None else lookahead,
                merging,
                unit,
                score_boundary,
                beam_width,
                frame_s,
            )
        )
        if isinstance(unigrams, str | bytes):
            raise DecodingError(f"unigrams as one string, {unigrams[:40]!r}", "a list of words")
        known = None if unigrams is None else tuple(unigrams)
        self.language_model = model = NgramModel(language_model) if language_model is not None else None
        self._arguments = (model and model.path, known, lexicon and Path(lexicon).absolute())
        self._trie = self._load_trie(known, lexicon)
        self._pieces = make_pieces(self.labels, self._trie)
        self._cache: dict[Any, Prepared] = {}
        self._prepare(make_key())  # refuses a model that does not fit
        self._identity = ""

    def _load_trie(self, unigrams: Sequence[str] | None, lexicon: Pathlike | None) -> WordTrie:
        if lexicon is not None and self.language_model is not None:
            return load_lexicon(lexicon, self.labels, self.language_model)
        if self.language_model is None or self.settings.unit == "character":
            return build_lexicon(self.labels, None, ())
        return build_lexicon(self.labels, self.language_model, unigrams)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.labels, self.settings, self._arguments)

    def with_settings(self, **changes: Any) -> CtcBeamDecoder:
        """The same decoder with other values of BeamSettings; model and, of one unit, lexicon are shared."""
        if all(getattr(self.settings, name) == value for name, value in changes.items()):
            return self
        other = object.__new__(CtcBeamDecoder)
        other.__dict__.update(self.__dict__)
        other.settings = check_settings(replace(self.settings, **changes))
        other._cache, other._identity = {}, ""
        if other.settings.unit != self.settings.unit:
            other._trie = other._load_trie(*self._arguments[1:])
            other._pieces = make_pieces(other.labels, other._trie)
        return other

    def save_lexicon(self, path: Pathlike) -> None:
        """Write the trie of known words, to be given as `lexicon` another time."""
        self._trie.save(path)

    def decode(  # noqa: PLR0913  - pyctcdecode's order
        self,
        log_probs: Any,
        beam_width: int | None = None,
        n_best: int = 1,
        hotwords: Phrases | None = (),
        hotword_weight: float = HOTWORD_WEIGHT,
        state: DecoderState | None = None,
        lm_alpha: float | None = None,
        lm_beta: float | None = None,
        *,
        logits: bool = False,
    ) -> list[Hypothesis]:
        """Decode one utterance, or what remains of one that `state` began.

        Args:
            log_probs: floating point [n_frames, vocab_size], natural log; frames of only -inf are skipped.
            beam_width: prefixes kept after each frame.
            n_best: readings to return at most.
            hotwords: words or phrases to favour, or a mapping of them to weights.
            hotword_weight: natural-log bonus of a complete hotword.
            state: from `start` and `advance`; its own options hold and those given here are not read.
            lm_alpha, lm_beta: override the decoder's.
            logits: the values are raw model output; log-softmax is applied.
        Returns:
            Hypotheses, best first, with different texts; at least one (which may be empty).
        Warns:
            HotwordWarning: hotwords that the labels cannot spell, when they are first used.
        Raises:
            DecodingError: emissions or options that cannot be used, or another decoder's state.
        """
        if state is not None:
            return self.finish(self._advance(state, log_probs, logits, whole=True), n_best)
        n_best = check_count("n_best", n_best, MAX_BEAM_WIDTH)
        key = make_key(beam_width, n_best, hotwords, hotword_weight, lm_alpha, lm_beta)
        return self._decode_several([log_probs], key, n_best, logits)[0]

    def decode_batch(
        self, batch: Iterable[Any], threads: int = 1, *, n_best: int = 1, logits: bool = False, **options: Any
    ) -> list[list[Hypothesis]]:
        """Decode utterances in parallel; the search runs without the GIL.

        Args:
            batch: log_probs of each utterance, as for decode.
            options: more of decode's, but for `state`.
        """
        batch = list(batch)
        threads = check_count("threads", threads, max(1, len(batch)))
        n_best = check_count("n_best", n_best, MAX_BEAM_WIDTH)
        key = make_key(n_best=n_best, **options)
        size = max(1, min(_CHUNK, len(batch) // (4 * threads)))
        starts = iter(range(0, len(batch), size))
        results: list[list[Hypothesis]] = [[] for _ in batch]

        def work() -> None:  # one task a thread: a task an utterance would cost as much as decoding it
            for at in starts:
                results[at : at + size] = self._decode_several(batch[at : at + size], key, n_best, logits)

        if threads == 1:
            work()
            return results
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        return results

    def _decode_several(
        self, batch: Sequence[Any], key: Any, n_best: int, logits: bool
    ) -> list[list[Hypothesis]]:
        emissions = [shape_emissions(log_probs, len(self.labels)) for log_probs in batch]
        if logits:  # of others the search checks the values
            emissions = [check_values(each, logits=True) for each in emissions]
        if max(map(len, emissions)) > MAX_FRAMES_AT_ONCE:
            return [self._decode_long(each, key, n_best) for each in emissions]
        return self._decode_short(emissions, key, n_best)

    def _decode_long(self, emissions: FloatArray, key: Any, n_best: int) -> list[Hypothesis]:
        pack, _held = self._prepare(key)
        state = start_state(key, pack, self._identify())
        return self.finish(self._search(state, check_values(emissions, logits=False), whole=True), n_best)

    def _decode_short(self, emissions: Sequence[FloatArray], key: Any, n_best: int) -> list[list[Hypothesis]]:
        """All in one call: threads that ask for the GIL less often wait less for it."""
        pack, _held = self._prepare(key)  # another thread may drop the arrays from the cache meanwhile
        whole, offsets = emissions[0], _NO_OFFSETS
        if len(emissions) > 1:
            whole = np.concatenate(emissions)
            offsets = np.array((0, *itertools.accumulate(map(len, emissions))), np.int64)
        arena, frame_s = getattr(_scratch, "arena", _NO_ARENA), float(self.settings.frame_s)
        heads, numbers, values, n_bytes = search_several(pack, whole, offsets, n_best, frame_s, arena)
        if len(arena) < n_bytes <= _MAX_ARENA:
            _scratch.arena = np.empty(n_bytes, np.uint8)
        return read_several(heads.tolist(), numbers, values, self.labels)

    def start(
        self,
        beam_width: int | None = None,
        n_best: int = 1,
        hotwords: Phrases | None = (),
        hotword_weight: float = HOTWORD_WEIGHT,
        lm_alpha: float | None = None,
        lm_beta: float | None = None,
    ) -> DecoderState:
        """Begin an utterance whose emissions arrive in chunks; arguments as for decode."""
        key = make_key(beam_width, n_best, hotwords, hotword_weight, lm_alpha, lm_beta)
        pack, _held = self._prepare(key)
        return start_state(key, pack, self._identify())

    def advance(self, state: DecoderState, log_probs: Any, *, logits: bool = False) -> DecoderState:
        """Search one more chunk: a new state; the one given may be used again.

        Decoding in chunks of any size gives exactly the result of decoding at once. The state may
        come from another process, of a decoder built alike; of any other it is a DecodingError.
        """
        return self._advance(state, log_probs, logits, whole=False)

    def read_partial(self, state: DecoderState) -> Partial:
        """What a running utterance says so far: words that are settled, and a tentative tail."""
        self._check_state(state)
        return read_partial(state, self.labels, self.settings.frame_s)

    def finish(self, state: DecoderState, n_best: int = 1) -> list[Hypothesis]:
        """End an utterance: its readings, best first."""
        n_best = check_count("n_best", n_best, MAX_BEAM_WIDTH)
        self._check_state(state)
        pack, _held = self._prepare(state.key)
        words = np.empty(state.counts[N_WORD_NODES] + state.n_beams, state.word_nodes.dtype)
        words[: state.counts[N_WORD_NODES]] = state.word_nodes[: state.counts[N_WORD_NODES]]
        found = finish(
            pack,
            state.beams,
            state.contexts,
            state.n_beams,
            state.token_nodes,
            words,
            state.counts.copy(),
            n_best,
            state.scale,
            float(self.settings.frame_s),
        )
        return read_hypotheses(found, state.words, self.labels)

    def prepare(
        self, hotwords: Phrases | None = (), hotword_weight: float = HOTWORD_WEIGHT, **weights: Any
    ) -> Prepared:
        """Language model, lexicon and hotwords as another search's kernels take them.

        weights: lm_alpha, lm_beta; the caller holds the result for as long as a kernel runs.
        """
        return self._prepare(make_key(None, 1, hotwords, hotword_weight, **weights))

    def _advance(self, state: DecoderState, log_probs: Any, logits: bool, whole: bool) -> DecoderState:
        self._check_state(state)
        return self._search(state, check_emissions(log_probs, len(self.labels), logits=logits), whole)

    def _search(self, state: DecoderState, emissions: FloatArray, whole: bool) -> DecoderState:
        pack, _held = self._prepare(state.key)
        for begin in range(0, len(emissions), MAX_FRAMES_AT_ONCE):
            chunk = emissions[begin : begin + MAX_FRAMES_AT_ONCE]
            state = state.grow(len(chunk))
            state.n_beams, state.scale = advance(
                pack,
                chunk,
                state.n_frames,
                state.beams,
                state.contexts,
                state.n_beams,
                state.scale,
                state.token_nodes,
                state.word_nodes,
                state.counts,
            )
            state.n_frames += len(chunk)
            if not whole or len(emissions) > MAX_FRAMES_AT_ONCE:
                state.compact(self.labels, self.settings.frame_s)
        return state

    def _check_state(self, state: Any) -> None:
        """Refuse what the kernels would follow out of their arrays: the nodes and ids of another decoder."""
        if not isinstance(state, DecoderState) or state.decoder != self._identify():
            got = "another decoder's state" if isinstance(state, DecoderState) else type(state).__name__
            fix = "go on with the same vocabulary, language model and settings"
            raise DecodingError(got, "a state that start or advance of this decoder returned", fix)

    def _identify(self) -> str:
        if not self._identity:
            self._identity = identify(self.settings, self.labels, self._trie, self.language_model)
        return self._identity

    def _prepare(self, key: Any) -> Prepared:
        """The kernels' view of one set of options, and what it points to; the last few are remembered.

        The caller holds both for as long as a kernel runs.
        """
        if self.language_model is not None:
            self.language_model.check_unchanged()
        prepared = self._cache.get(key)
        if prepared is None:
            beam_width, several, phrases, weight, lm_alpha, lm_beta = key
            # to pair each with the weight in every call would take as long as a tenth of the search
            phrases = phrases if weight is None else [(phrase, weight) for phrase in phrases]
            settings = check_settings(self.settings.override(beam_width, lm_alpha, lm_beta))
            scorer = make_scorer(settings, self.labels, self.language_model)
            prepared = pack_search(
                make_search(settings, self.labels, recombine=not several),
                scorer,
                make_lexicon(settings, self._trie, self.language_model, scorer),
                build_hotwords(self.labels, phrases, excuse=settings.merging == "prefix"),
                self._pieces,
            )
            for oldest in list(self._cache)[: 1 - _MAX_CACHED]:
                self._cache.pop(oldest, None)
            self._cache[key] = prepared
        return prepared


def _rebuild(labels: Any, settings: BeamSettings, arguments: tuple[Any, ...]) -> CtcBeamDecoder:
    none = "".join(labels.vocabulary) + "|"  # longer than every label
    delimiter = labels.vocabulary[labels.delimiter_id] if labels.delimiter_id >= 0 else none
    return CtcBeamDecoder(
        labels.vocabulary,
        *arguments[:2],
        blank_id=labels.blank_id,
        word_delimiter=delimiter,
        lexicon=arguments[2],
        **settings.as_arguments(),
    )
