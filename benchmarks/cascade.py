"""Speech to English, link by link: what the recogniser costs the translator, and what each option buys.

Every variant is one corpus BLEU over the same utterances. `gold` translates the references as written;
`gold_plain` first takes away case and punctuation, as a recogniser without errors would have.
`nbest_oracle` translates the ten best readings and keeps the translation nearest to the reference: no
system can know which one that is, so it bounds what reranking could bring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.bootstrap import Interval, statistic_difference, statistic_interval
from benchmarks.errors import MeasurementError
from benchmarks.manifest import Utterance
from benchmarks.metrics import TranslationScorer, add_errors, bleu_from_counts, count_word_errors
from benchmarks.systems import EngineSystem
from engine.text import normalize_text
from engine.types import DecodingOptions

SAMPLE_RATE = 16_000
N_BEST = 10
Texts = list[tuple[str, str]]  # (German, English) of each utterance
Variant = Callable[[Sequence[Utterance]], Texts]


def run_cascade(
    system: EngineSystem, utterances: Sequence[Utterance], progress: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Score every variant that the loaded model allows.

    Args:
        system: loaded for the task translate.
        utterances: those without an English reference are left out.
        progress: called after each variant.
    Returns:
        A JSON object: `variants`, and `cost_of_recognition`: BLEU of gold minus BLEU as tuned.
    Raises:
        MeasurementError: no English references. EngineError: the model cannot translate, or a file fails.
    """
    scored = [item for item in utterances if item.text_en]
    if not scored:
        raise MeasurementError("no English references", "a text_en column", "use --task transcribe")
    counts, rows = {}, []
    for name, variant in variants(system).items():
        texts = variant(scored)
        counts[name], row = _score(name, texts, scored)
        rows.append(row)
        progress()
    cost = statistic_difference(counts["gold"], counts["as_tuned"], bleu_from_counts)
    return {"n_utterances": len(scored), "variants": rows, "cost_of_recognition": _as_json(cost)}


def variants(system: EngineSystem) -> dict[str, Variant]:
    """The variants by name; those with a language model only where the bundle holds one."""
    tuned = system.options
    found: dict[str, Variant] = {
        "gold": lambda items: _from_text(system, [item.text_de for item in items]),
        "gold_plain": lambda items: _from_text(system, [normalize_text(item.text_de) for item in items]),
        "as_tuned": lambda items: _from_speech(system, items, tuned),
        "greedy": lambda items: _from_speech(system, items, replace(tuned, beam_width=1)),
    }
    if system.translator.has_language_model:
        without = replace(tuned, lm_alpha=0.0, lm_beta=0.0)
        found["beam_no_lm"] = lambda items: _from_speech(system, items, without)
    greedy_translation = replace(tuned, translation_beam_size=1)
    found["mt_greedy"] = lambda items: _from_speech(system, items, greedy_translation)
    found["nbest_oracle"] = lambda items: [_best_of_many(system, item) for item in items]
    return found


def _best_of_many(system: EngineSystem, item: Utterance) -> tuple[str, str]:
    readings = _readings(system, item)
    english = system.translator.translate_text(readings, system.options)
    scorer = TranslationScorer()
    scores = [scorer.sentence_chrf(text, item.text_en or "") for text in english]
    best = scores.index(max(scores))
    return readings[best], english[best]


def _readings(system: EngineSystem, item: Utterance) -> list[str]:
    """The n best readings of an utterance in one piece; the best one alone of a longer recording."""
    translator = system.translator
    waveform = translator.load_audio(str(item.path))
    regions = translator.detect_speech(waveform)
    if len(regions) != 1:
        return [translator.transcribe(str(item.path), options=system.options).text]
    start, end = (round(edge_s * SAMPLE_RATE) for edge_s in regions[0])
    log_probs = translator.compute_log_probs(translator.compute_features(waveform[start:end]))
    found = translator.decoder.decode(log_probs, beam_width=system.options.beam_width, n_best=N_BEST)
    return [hypothesis.text for hypothesis in found]


def _from_text(system: EngineSystem, german: list[str]) -> Texts:
    english = system.translator.translate_text(german, system.options)
    return list(zip(german, english, strict=True))


def _from_speech(system: EngineSystem, items: Sequence[Utterance], options: DecodingOptions) -> Texts:
    results = [system.translator.translate(str(item.path), options=options) for item in items]
    return [(result.source.text, result.text) for result in results]


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
