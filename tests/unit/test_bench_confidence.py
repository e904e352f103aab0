"""Confidence against truth: the table, Platt's scaling, and words at their places."""

import numpy as np
import pytest

from benchmarks.errors import MeasurementError
from benchmarks.studies.confidence import calibration_error, fit_platt, judge_words, reliability, summarise
from engine.types import Word


def words(text, confidence=0.5):
    return [Word(word, 0.0, 0.0, confidence) for word in text.split()]


def test_words_are_right_where_the_reference_has_them():
    judged = judge_words(words("Der Hund schläft, gut"), "Der Hund schlief gut.")
    assert [hit for _, hit in judged] == [True, True, False, True]
    assert judge_words(words("so"), "") == [(0.5, False)]
    assert judge_words([], "Hund") == []


def test_scaling_finds_the_log_odds_that_made_the_data():
    rng = np.random.default_rng(0)
    odds = rng.normal(1.0, 1.5, 20_000)
    claimed, true = 1.0 / (1.0 + np.exp(-odds)), 1.0 / (1.0 + np.exp(-(0.5 + 0.6 * odds)))
    right = (rng.random(odds.size) < true).astype(float)
    offset, slope = fit_platt(claimed, right)
    assert offset == pytest.approx(0.5, abs=0.06)
    assert slope == pytest.approx(0.6, abs=0.05)


def test_a_calibrated_model_has_no_error():
    confidences = np.repeat([0.25, 0.75], 400)
    right = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0]).astype(float)
    assert calibration_error(confidences, right) == pytest.approx(0.0)
    assert [row["words"] for row in reliability(confidences, right)] == [400, 400]
    assert calibration_error(np.full(800, 0.9), right) == pytest.approx(0.4)


def test_scaled_weights_start_from_the_bundles_own():
    pairs = [(0.9, index % 10 != 0) for index in range(200)] + [(0.6, index % 2 == 0) for index in range(200)]
    result = summarise(pairs, {"bias": 0.1, "attention": 0.5, "ctc": 0.25})
    assert result["scaled"]["attention"] == pytest.approx(2 * result["scaled"]["ctc"])
    assert result["calibration_error_scaled"] <= result["calibration_error"] + 0.01
    with pytest.raises(MeasurementError):
        summarise([(0.5, True)] * 5, {})
