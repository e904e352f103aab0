"""German text to English: splitting, batches by length, search, guards; a line for a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from math import exp
from typing import TypeVar

from engine.bundle.folder import Bundle
from engine.bundle.schema import TranslationConfig
from engine.errors import BundleSchemaError, ModelCapabilityError, OptionError, TranslationError
from engine.runtime.cancel import CancelToken
from engine.runtime.cores import available_cores
from engine.runtime.scheduler import CoreScheduler, Urgency
from engine.translation.careful import Characters, join_hypotheses, prepare, translate_carefully
from engine.translation.names import NameFinder
from engine.translation.runners import open_runner
from engine.translation.search import EncoderDecoder, TokenHypothesis, padded_length
from engine.translation.sentences import split_to_fit
from engine.translation.tokenizer import clean_text, load_tokenizer
from engine.types import Progress, RuntimeOptions, TranslationHypothesis

MAX_ROWS = 128  # sentences times beams of one batch
LENGTH_RATIO, LENGTH_SLACK = 2.0, 10  # a translation may have so many tokens for its source's
MAX_UNKNOWN = 0.5  # with more unknown stretches a word, a sentence is copied, not translated
MAX_BEAMS = 64
MAX_LOOP_WORDS = 8  # longest repeated phrase that is cut
MAX_SOURCE_WORDS = 3 * MAX_LOOP_WORDS  # a German phrase may be longer than the English one that it became
Job = TypeVar("Job")
Result = TypeVar("Result")
EMPTY = TranslationHypothesis("", 0.0, 1.0)


@dataclass(frozen=True)
class _Search:
    """The settings of one call."""

    beam_size: int
    length_penalty: float
    n_best: int


class Translator:
    """The translation model of a bundle. Safe to share between threads."""

    def __init__(
        self, bundle: Bundle, options: RuntimeOptions | None = None, scheduler: CoreScheduler | None = None
    ) -> None:
        """Load it.

        Args:
            scheduler: of the cores that it shares with others; its own where None.
        Raises:
            ModelCapabilityError: the bundle holds no translator. BundleSchemaError, DeviceError.
        """
        config = bundle.manifest.translation
        if config is None:
            raise ModelCapabilityError(
                f"bundle {bundle.name!r} has no translator", "one with mt_encoder", "load a full bundle"
            )
        options = options or RuntimeOptions()
        self.config = config
        self.threads = options.threads or available_cores()
        self._scheduler = scheduler or CoreScheduler(self.threads)
        self.tokenizer = load_tokenizer(bundle)
        _check_config(config, self.tokenizer.vocab_size)
        self._characters = Characters(self.tokenizer)
        self._names = NameFinder.read(bundle.read("mt_names")) if bundle.has("mt_names") else None
        self._model = EncoderDecoder(open_runner(bundle, config, options), config)
        self.backend = self._model.runner.backend
        self.choice = self._model.runner.choice

    def translate_text(self, text: str) -> str:
        """Translate text of any length with the bundle's settings; empty in, empty out."""
        return self.translate_paragraphs([text])[0].text

    def translate_paragraphs(
        self,
        texts: Sequence[str],
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
        urgency: Urgency = "file",
    ) -> list[TranslationHypothesis]:
        """Translate texts of any length: each is split into sentences, and their translations joined.

        Addresses, markup, emoji and words in unknown letters are copied. A sentence that lacks a number or,
        where the bundle can tell names, a name of its source is translated again in other ways (see
        engine.translation.careful).

        Args:
            texts: one result each; text without words gives an empty one.
            beam_size, length_penalty: None takes the bundle's.
            progress: called with (done, total) sentences.
            cancel: ends the call from another thread.
            urgency: how long it waits for a core where there is other work.
        Returns:
            One hypothesis a text: sum of scores, mean confidence weighted by length. Its warnings name the
            numbers that are missing after all.
        Raises:
            OptionError, CancelledError, TranslationError (a text that is no str).
        """
        search = self._search(beam_size, length_penalty, 1)
        limit = self.config.max_source_tokens - 1
        split = [
            split_to_fit(clean_text(_checked(text)), self._count_masked, limit, self._is_copied)
            for text in texts
        ]
        told = [progress]  # of the first attempt; others are few

        def translate(pieces: list[str]) -> list[list[TranslationHypothesis]]:
            return self._translate_fitting(pieces, search, told.pop() if told else None, cancel, urgency)

        results = translate_carefully(
            [piece for pieces in split for piece in pieces], self._characters, translate, self._names
        )
        joined, at = [], 0
        for sentences in split:
            joined.append(_join(results[at : at + len(sentences)], " ".join(sentences)))
            at += len(sentences)
        return joined

    def _translate_fitting(
        self, texts: Sequence[str], search: _Search, progress: Progress | None, cancel: CancelToken | None,
        urgency: Urgency,
    ) -> list[list[TranslationHypothesis]]:  # fmt: skip
        """All hypotheses of each text; of one that is too long after all, the joined best of its parts."""
        limit = self.config.max_source_tokens - 1
        parts = [split_to_fit(text, self._count, limit) for text in texts]
        found = iter(
            self.translate(
                [part for each in parts for part in each], beam_size=search.beam_size,
                length_penalty=search.length_penalty, n_best=search.beam_size, progress=progress,
                cancel=cancel, urgency=urgency,
            )
        )  # fmt: skip
        results = [[next(found) for _ in each] for each in parts]
        return [
            each[0] if len(each) == 1 else [join_hypotheses([best[0] for best in each])] if each else [EMPTY]
            for each in results
        ]

    def _count_masked(self, texts: Sequence[str]) -> list[int]:
        """Tokens of texts as the model gets them."""
        return self._count([prepare(text, self._characters).source(0) for text in texts])

    def _is_copied(self, word: str) -> bool:
        return prepare(word, self._characters).is_copied

    def translate(
        self,
        texts: Sequence[str],
        *,
        beam_size: int | None = None,
        length_penalty: float | None = None,
        n_best: int = 1,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
        urgency: Urgency = "file",
    ) -> list[list[TranslationHypothesis]]:
        """Translate sentences by the model alone; what one becomes does not depend on the others.

        Args:
            texts: sentences; empty ones give one empty hypothesis.
            beam_size: 1 is greedy; None takes the bundle's.
            length_penalty: exponent of the length that a score is divided by; None takes the bundle's.
            n_best: hypotheses of each, best first; at most beam_size.
            progress: called with (done, total) sentences, from this thread.
            cancel, urgency: as for translate_paragraphs.
        Raises:
            OptionError: an option out of range. CancelledError: cancel was set.
            TranslationError: a text that is no str, or longer than the model takes at once.
        """
        search = self._search(beam_size, length_penalty, n_best)
        cleaned = [clean_text(_checked(text)) for text in texts]
        unique = list(dict.fromkeys(cleaned))
        encoded = self.tokenizer.encode(unique)
        self._check_lengths(unique, encoded)
        done: dict[str, list[TranslationHypothesis]] = {}
        work: list[int] = []
        for index, (text, ids) in enumerate(zip(unique, encoded, strict=True)):
            if not ids:
                done[text] = [EMPTY]
            elif ids.count(self.tokenizer.unk_id) > MAX_UNKNOWN * len(text.split()):
                done[text] = [TranslationHypothesis(text, 0.0, 0.0)]
            else:
                work.append(index)
        for batch, results in self._run_batches(encoded, work, search, progress, cancel, urgency):
            for index, hypotheses in zip(batch, results, strict=True):
                done[unique[index]] = [self._finish(unique[index], found) for found in hypotheses]
        return [done[text] for text in cleaned]

    def _search(self, beam_size: int | None, length_penalty: float | None, n_best: int) -> _Search:
        beams = self.config.beam_size if beam_size is None else beam_size
        penalty = self.config.length_penalty if length_penalty is None else length_penalty
        limit = min(MAX_BEAMS, self.config.vocab_size // 2)
        if not 1 <= beams <= limit:
            raise OptionError(f"beam_size {beams}", f"1 to {limit}", "pass a number in this range")
        if not 1 <= n_best <= beams:
            raise OptionError(
                f"n_best {n_best}", f"1 to beam_size ({beams})", "raise beam_size or lower n_best"
            )
        if not -5.0 <= penalty <= 5.0:
            raise OptionError(f"length_penalty {penalty}", "-5 to 5", "pass a number in this range")
        return _Search(beams, float(penalty), n_best)

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer.encode(texts)]

    def _check_lengths(self, texts: Sequence[str], encoded: Sequence[Sequence[int]]) -> None:
        limit = self.config.max_source_tokens - 1
        for text, ids in zip(texts, encoded, strict=True):
            if len(ids) > limit:
                raise TranslationError(
                    f"a sentence of {len(ids)} tokens ({text[:40]!r}...)", f"at most {limit}",
                    "call translate_paragraphs or translate_text, which split long text",
                )  # fmt: skip

    def _run_batches(
        self, encoded: Sequence[list[int]], work: Sequence[int], search: _Search,
        progress: Progress | None, cancel: CancelToken | None, urgency: Urgency,
    ) -> Iterator[tuple[list[int], list[list[TokenHypothesis]]]]:  # fmt: skip
        """Translate batches on up to self.threads threads, yielding each as it is done."""
        batches = plan_batches([len(encoded[i]) + 1 for i in work], max(1, MAX_ROWS // search.beam_size))
        jobs = [[work[position] for position in batch] for batch in batches]
        finished = 0
        for job, results in _run_jobs(
            jobs, lambda job: self._generate(encoded, job, search, cancel, urgency), self.threads
        ):
            finished += len(job)
            if progress is not None:
                progress(finished, len(work))
            yield job, results

    def _generate(
        self, encoded: Sequence[list[int]], job: Sequence[int], search: _Search, cancel: CancelToken | None,
        urgency: Urgency,
    ) -> list[list[TokenHypothesis]]:  # fmt: skip
        sources = [[*encoded[i], self.config.eos_id] for i in job]
        most = self.config.max_target_tokens
        limits = [min(most, int(LENGTH_RATIO * len(source)) + LENGTH_SLACK) for source in sources]
        with self._scheduler.turn(urgency, cancel) as turn:
            return self._model.generate(
                sources, limits, beam_size=search.beam_size, length_penalty=search.length_penalty,
                n_best=search.n_best, cancel=turn,
            )  # fmt: skip

    def _finish(self, source: str, found: TokenHypothesis) -> TranslationHypothesis:
        text = self.tokenizer.decode(found.tokens).strip()
        text = trim_loops(text, most=max(3, longest_run(source)))
        return TranslationHypothesis(text, found.score, exp(min(0.0, found.log_prob / max(1, found.length))))


def _check_config(config: TranslationConfig, n_pieces: int) -> None:
    """Compare the configuration with the tokenizer, before anything runs.

    Raises:
        BundleSchemaError: they do not fit.
    """
    problems = [
        f"{name} {getattr(config, name)} of {config.vocab_size} tokens"
        for name in ("decoder_start_id", "eos_id", "pad_id")
        if getattr(config, name) >= config.vocab_size
    ]
    if config.beam_size > config.vocab_size // 2:
        problems.append(f"{config.beam_size} beams over {config.vocab_size} tokens")
    if n_pieces != config.vocab_size:
        problems.append(f"a tokenizer of {n_pieces} tokens for a model of {config.vocab_size}")
    if problems:
        raise BundleSchemaError(
            "; ".join(problems), "configuration and tokenizer of one translator", "export it again"
        )


def _checked(text: str) -> str:
    if not isinstance(text, str):
        raise TranslationError(f"a text of type {type(text).__name__}", "str", "decode bytes as UTF-8 first")
    return text


def plan_batches(lengths: Sequence[int], max_sentences: int) -> list[list[int]]:
    """Positions of sentences in batches of one padded length each, short ones first."""
    by_length: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        by_length.setdefault(padded_length(length), []).append(position)
    return [
        group[start : start + max_sentences]
        for _, group in sorted(by_length.items())
        for start in range(0, len(group), max_sentences)
    ]


def _run_jobs(
    jobs: Sequence[Job], run: Callable[[Job], Result], threads: int
) -> Iterator[tuple[Job, Result]]:
    """Results as they come; one thread runs them in place. An error or a close cancels what waits."""
    if threads == 1 or len(jobs) <= 1:
        yield from ((job, run(job)) for job in jobs)
        return
    pool = ThreadPoolExecutor(min(threads, len(jobs)))
    try:
        running = {pool.submit(run, job): job for job in jobs}
        for future in as_completed(running):
            yield running[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _join(parts: Sequence[TranslationHypothesis], source: str) -> TranslationHypothesis:
    if len(parts) < 2:
        return parts[0] if parts else EMPTY
    joined = join_hypotheses(parts)
    return replace(joined, text=trim_loops(joined.text, most=max(3, longest_run(source))))


def longest_run(text: str) -> int:
    """How often the most repeated phrase of a text stands in a row, 1 when none is repeated."""
    words = [word.strip(".,!?;:").lower() for word in text.split()]
    best = 1
    for size in range(1, MAX_SOURCE_WORDS + 1):
        equal = 0  # words in a row that equal the word `size` before them
        for at in range(size, len(words)):
            equal = equal + 1 if words[at] == words[at - size] else 0
            best = max(best, 1 + equal // size)
    return best


def trim_loops(text: str, most: int) -> str:
    """Cut a phrase that stands more than `most` times in a row down to so many."""
    words = text.split()
    for size in range(1, MAX_LOOP_WORDS + 1):
        kept: list[str] = []
        equal = 0
        for word in words:
            equal = equal + 1 if len(kept) >= size and word == kept[-size] else 0
            kept.append(word)
            if equal == size * most:
                del kept[-size:]
                equal -= size
        words = kept
    return " ".join(words)
