"""Speech to English, step by step: what recognition errors cost, and what each option gains.

Every variant is one corpus BLEU over the same utterances.

    gold                the references as written
    gold_plain          their sentences without case and punctuation, as from a recogniser without errors
    gold_restored       the same with the bundle's punctuation model, if it has one
    as_tuned            the recogniser with the bundle's settings, language and punctuation model included
    no_punctuation      as_tuned without its punctuation model
    greedy, beam_no_lm  without beam, without language model
    sentence_case       plain words, each segment with a capital and a full stop: a rule, not a model
    punctuation_oracle  right words in the reference's case and punctuation: an upper bound of restoration
    mt_greedy           as_tuned, the translator without beam
    nbest_consensus     of the translations of ten hypotheses the one most similar to all others, by chrF
    nbest_oracle        of the same the one nearest to the reference: an upper bound of reranking
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.data.manifest import Utterance
from benchmarks.errors import MeasurementError
from benchmarks.measures.bootstrap import Interval, statistic_difference, statistic_interval
from benchmarks.measures.metrics import TranslationScorer, add_errors, bleu_from_counts, count_word_errors
from benchmarks.measures.systems import EngineSystem
from benchmarks.studies.restore import Restore, from_reference, sentence_case
from engine.jobs.longform import split_segments
from engine.text import normalize_text
from engine.translation.sentences import split_sentences
from engine.types import DecodingOptions, Hypothesis

SAMPLE_RATE = 16_000
N_BEST = 10
Texts = list[tuple[str, str]]  # (German, English) of each utterance
Variant = Callable[[Sequence[Utterance]], Texts]
Choose = Callable[[Sequence[str], Utterance], int]


def run_cascade(
    system: EngineSystem, utterances: Sequence[Utterance], progress: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Score every variant that the loaded model allows.

    Args:
        system: loaded for the task translate.
        utterances: those without an English reference are left out.
        progress: called after each variant.
    Returns:
        A JSON object: `variants`, each with its paired difference to as_tuned, and `cost_of_recognition`:
        BLEU of gold minus BLEU as tuned.
    Raises:
        MeasurementError: no English references. EngineError: the model cannot translate, or a file fails.
    """
    scored = [item for item in utterances if item.text_en]
    if not scored:
        raise MeasurementError("no English references", "a text_en column", "use --task transcribe")
    counts, rows = {}, []
    for name, variant in variants(system).items():
        counts[name], row = _score(name, variant(scored), scored)
        rows.append(row)
        progress()
    for row in rows:
        change = statistic_difference(counts[row["name"]], counts["as_tuned"], bleu_from_counts)
        row["bleu_difference"] = _as_json(change)
    cost = statistic_difference(counts["gold"], counts["as_tuned"], bleu_from_counts)
    return {"n_utterances": len(scored), "variants": rows, "cost_of_recognition": _as_json(cost)}


def variants(system: EngineSystem) -> dict[str, Variant]:
    """The variants by name; those with a language model only where the bundle has one."""
    tuned = system.options
    found: dict[str, Variant] = {
        "gold": lambda items: _from_text(system, [[item.text_de] for item in items]),
        "gold_plain": lambda items: _from_text(system, [_plain(item.text_de) for item in items]),
        "as_tuned": lambda items: _from_speech(system, items, tuned),
        "greedy": lambda items: _from_speech(system, items, tuned.replace(beam_width=1)),
    }
    if system.translator.has_language_model:
        without = tuned.replace(lm_alpha=0.0, lm_beta=0.0)
        found["beam_no_lm"] = lambda items: _from_speech(system, items, without)
    if restores_punctuation(system):
        found["gold_restored"] = lambda items: _from_text(system, [_restored_gold(system, i) for i in items])
        found["no_punctuation"] = lambda items: _from_speech(system, items, _plain_options(system))
    found["sentence_case"] = lambda items: [_restored(system, item, sentence_case) for item in items]
    found["punctuation_oracle"] = lambda items: [
        _restored(system, item, from_reference(item.text_de)) for item in items
    ]
    greedy_translation = tuned.replace(translation_beam_size=1)
    found["mt_greedy"] = lambda items: _from_speech(system, items, greedy_translation)
    many = functools.cache(lambda path: _translate_readings(system, path))
    for name, choose in (("nbest_consensus", consensus), ("nbest_oracle", _nearest)):
        found[name] = functools.partial(_choose_each, many, choose)
    return found


def restores_punctuation(system: EngineSystem) -> bool:
    """Whether the recogniser's words pass through a punctuation model."""
    return system.options.punctuation and system.translator.bundle.has("punctuation")


def _plain_options(system: EngineSystem) -> DecodingOptions:
    return system.options.replace(punctuation=False)


def _restored_gold(system: EngineSystem, item: Utterance) -> list[str]:
    return [_punctuate(system, text) for text in _plain(item.text_de)]


def _punctuate(system: EngineSystem, text: str) -> str:
    return system.translator.punctuate(text)


def _plain(text: str) -> list[str]:
    """Sentences, as separated by pauses, without case and punctuation."""
    return [plain for sentence in split_sentences(text) if (plain := normalize_text(sentence))]


def _from_text(system: EngineSystem, german: Sequence[Sequence[str]]) -> Texts:
    """Translate texts in pieces; the pieces of one text are joined again."""
    english = iter(system.translator.translate_text(list(itertools.chain(*german)), system.options))
    return [(" ".join(pieces), " ".join(next(english) for _ in pieces)) for pieces in german]


def _from_speech(system: EngineSystem, items: Sequence[Utterance], options: DecodingOptions) -> Texts:
    results = [system.translator.translate(str(item.path), options=options) for item in items]
    return [(result.source.text, result.text) for result in results]


def _restored(system: EngineSystem, item: Utterance, restore: Restore) -> tuple[str, str]:
    transcript = restore(system.translator.transcribe(str(item.path), options=_plain_options(system)))
    return transcript.text, system.translator.translate_transcript(transcript, system.options).text


def _choose_each(
    many: Callable[[str], tuple[tuple[str, str], ...]], choose: Choose, items: Sequence[Utterance]
) -> Texts:
    found = [many(str(item.path)) for item in items]
    return [
        texts[choose([english for _, english in texts], item)]
        for texts, item in zip(found, items, strict=True)
    ]


def consensus(english: Sequence[str], item: Utterance) -> int:
    """The translation that the others agree with most: the highest mean chrF against all of them.

    Source: minimum Bayes risk decoding, Kumar and Byrne 2004, with chrF as the gain and equal weights.
    """
    scorer = TranslationScorer()
    gains = [sum(scorer.sentence_chrf(text, other) for other in english if other) for text in english]
    return gains.index(max(gains))


def _nearest(english: Sequence[str], item: Utterance) -> int:
    scorer = TranslationScorer()
    scores = [scorer.sentence_chrf(text, item.text_en or "") for text in english]
    return scores.index(max(scores))


def _translate_readings(system: EngineSystem, path: str) -> tuple[tuple[str, str], ...]:
    """(German, English) of each hypothesis."""
    return tuple(_from_text(system, _readings(system, path)))


def _readings(system: EngineSystem, path: str) -> list[list[str]]:
    """The segments of each of the n best hypotheses; only the best for a recording in several regions."""
    translator = system.translator
    waveform = translator.load_audio(path)
    regions = translator.detect_speech(waveform)
    if len(regions) != 1:
        return [[segment.text for segment in translator.transcribe(path, options=system.options).segments]]
    start, end = (round(edge_s * SAMPLE_RATE) for edge_s in regions[0])
    log_probs = translator.compute_log_probs(translator.compute_features(waveform[start:end]))
    found = translator.decoder.decode(log_probs, beam_width=system.options.beam_width, n_best=N_BEST)
    return [_segments(system, hypothesis) for hypothesis in found]


def _segments(system: EngineSystem, reading: Hypothesis) -> list[str]:
    """Punctuated and segmented as in transcribe(), so that only the words differ from as_tuned."""
    words = reading.words
    if restores_punctuation(system):
        written = _punctuate(system, reading.text).split()
        words = tuple(replace(word, text=text) for word, text in zip(words, written, strict=True))
    return [segment.text for segment in split_segments(words)] or [reading.text]


def _score(name: str, texts: Texts, items: Sequence[Utterance]) -> tuple[Any, dict[str, Any]]:
    scorer = TranslationScorer()
    references = [item.text_en or "" for item in items]
    english = [text for _, text in texts]
    counts = np.array(
        [scorer.count(*pair).as_row() for pair in zip(english, references, strict=True)], dtype=np.int64
    )
    words = add_errors(
        [count_word_errors(item.text_de, de) for item, (de, _) in zip(items, texts, strict=True)]
    )
    return counts, {
        "name": name,
        "wer": words.rate,
        "bleu": scorer.bleu(english, references),
        "bleu_interval": statistic_interval(counts, bleu_from_counts).as_list(),
        "chrf": scorer.chrf(english, references),
        "sacrebleu": scorer.signatures["bleu"],
    }


def _as_json(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "interval": interval.as_list()}
