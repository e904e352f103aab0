"""Scores agree with jiwer and sacreBLEU on whole corpora, and intervals with theory."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measures.bootstrap import (
    rate_difference,
    rate_interval,
    ratio_interval,
    resample_sums,
    statistic_interval,
    trimmed_mean,
)
from benchmarks.measures.metrics import (
    Errors,
    TranslationScorer,
    add_errors,
    bleu_from_counts,
    bucket_names,
    count_character_errors,
    count_word_errors,
    length_bucket,
)
from engine.text import normalize_text

ENGLISH = ["The weather is nice today.", "We did not find the key.", "The train leaves at eight o'clock."]
OTHER = ["The weather is good today.", "We have not found the key!", "The train leaves at eight."]


def test_edit_operations_are_told_apart() -> None:
    assert count_word_errors("a b c d", "a x c") == Errors(1, 1, 0, 4)
    assert count_word_errors("a b", "a b c") == Errors(0, 0, 1, 2)
    assert count_word_errors("Das Haus!", "das haus").total == 0
    assert count_word_errors("drei Worte hier", "") == Errors(0, 3, 0, 3)
    assert count_character_errors("haus", "maus") == Errors(1, 0, 0, 4)


def test_words_where_nothing_is_said_are_insertions() -> None:
    assert count_word_errors("", "ja nein") == count_word_errors("...", "Ja, nein!") == Errors(insertions=2)
    assert count_character_errors("", "ja nein") == Errors(insertions=7)
    assert count_word_errors("", "").total == 0


def test_rates_over_clips_in_which_nothing_is_said() -> None:
    errors, lengths = np.array([1, 2, 0, 3]), np.array([10, 0, 0, 10])
    found = rate_interval(errors, lengths)
    assert found is not None and found.value == pytest.approx(0.3)
    assert np.isfinite(found.as_list()).all() and found.low < 0.3 < found.high
    assert rate_interval(errors, lengths * 0) is None
    assert rate_difference(errors, errors, lengths * 0) is None


WORDS = ["ja", "nein", "doch", "haus", "über", "straße"]
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=6))
def test_the_sum_is_the_corpus_figure_of_jiwer(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    total = add_errors([count_word_errors(*pair) for pair in pairs])
    assert total.rate == pytest.approx(
        jiwer.wer([normalize_text(r) for r in references], [normalize_text(h) for h in hypotheses])
    )
    characters = add_errors([count_character_errors(*pair) for pair in pairs])
    assert characters.rate == pytest.approx(jiwer.cer(references, hypotheses))


def test_bleu_of_summed_counts_is_sacrebleu() -> None:
    scorer = TranslationScorer()
    counts = np.array([scorer.count(h, r).as_row() for h, r in zip(OTHER, ENGLISH, strict=True)])
    expected = sacrebleu.corpus_bleu(OTHER, [ENGLISH]).score
    assert bleu_from_counts(counts.sum(axis=0)) == pytest.approx(expected)
    assert scorer.bleu(OTHER, ENGLISH) == pytest.approx(expected)
    assert scorer.chrf(OTHER, ENGLISH) == pytest.approx(sacrebleu.corpus_chrf(OTHER, [ENGLISH]).score)
    assert "tok:13a" in scorer.signatures["bleu"]


def test_lengths_fall_into_buckets_in_order() -> None:
    assert [length_bucket(s) for s in (0.0, 1.99, 2.0, 19.0, 20.0, 500.0)] == [
        "0-2 s",
        "0-2 s",
        "2-5 s",
        "10-20 s",
        ">= 20 s",
        ">= 20 s",
    ]
    assert bucket_names() == ["0-2 s", "2-5 s", "5-10 s", "10-20 s", ">= 20 s"]


def test_the_wer_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        errors = random.binomial(10, 0.2, size=120)
        interval = rate_interval(errors, np.full(120, 10))
        covered += interval.low <= 0.2 <= interval.high
    assert 87 <= covered <= 100


def test_pairing_makes_the_interval_narrow() -> None:
    random = np.random.default_rng(2)
    lengths = np.full(200, 10)
    base = random.binomial(10, random.uniform(0, 0.8, 200))
    worse = base + random.binomial(1, 0.1, 200)
    paired = rate_difference(worse, base, lengths)
    single = rate_interval(worse, lengths)
    assert 0 < paired.low < paired.value < paired.high
    assert paired.high - paired.low < 0.25 * (single.high - single.low)
    assert rate_difference(base, base, lengths).as_list() == [0.0, 0.0]


def test_the_time_ratio_ignores_a_few_hit_utterances() -> None:
    random = np.random.default_rng(3)
    base = random.uniform(0.1, 0.5, 60)
    now = base * 1.1 * np.exp(random.normal(0, 0.02, 60))
    now[:5] *= 8.0
    interval = ratio_interval(now, base)
    assert 1.08 < interval.low < interval.value < interval.high < 1.14


def test_bleu_interval_holds_the_estimate() -> None:
    scorer = TranslationScorer()
    counts = np.array([scorer.count(h, r).as_row() for h, r in zip(OTHER * 9, ENGLISH * 9, strict=True)])
    interval = statistic_interval(counts, bleu_from_counts)
    assert interval.low < interval.value < interval.high


def test_resampling_is_repeatable_and_keeps_the_mean() -> None:
    rows = np.arange(40).reshape(20, 2)
    sums = resample_sums(rows, 3000)
    assert np.array_equal(sums, resample_sums(rows, 3000))
    assert np.allclose(sums.mean(axis=0), rows.sum(axis=0), rtol=0.02)


def test_the_trimmed_mean_of_one_value_is_that_value() -> None:
    assert trimmed_mean(np.array([[3.0]])).tolist() == [3.0]
    assert trimmed_mean(np.array([[1.0, 1.0, 1.0, 1.0, 99.0]])).tolist() == [1.0]
