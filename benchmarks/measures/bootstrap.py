"""Confidence intervals by resampling utterances, and paired ones for the difference of two runs.

Source: Bisani and Ney 2004 (WER), Koehn 2004 (BLEU): resample utterances with replacement, recompute
the corpus figure, take percentiles. Paired: the same resample for both runs, so that what makes an
utterance hard cancels out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures.metrics import Integers

Floats = NDArray[np.float64]
RESAMPLES = 2000
RESAMPLES_BLEU = 500  # each one is a call into sacreBLEU
SEED = 12345  # that of sacreBLEU
CHUNK = 1 << 19  # indices drawn at once: some 40 MB with ten columns


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its two-sided confidence interval.

    Attributes:
        value: the estimate on the data itself.
        low, high: percentiles of the resampled estimates.
        confidence: 0 to 1.
    """

    value: float
    low: float
    high: float
    confidence: float = 0.95

    def as_list(self) -> list[float]:
        """[low, high]."""
        return [self.low, self.high]


def resample_sums(rows: Integers | Floats, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Column sums of bootstrap samples.

    Args:
        rows: [n_utterances, n_columns].
    Returns:
        float64 [resamples, n_columns].
    """
    random = np.random.default_rng(seed)
    n = len(rows)
    values = np.asarray(rows, dtype=np.float64)
    sums = np.empty((resamples, values.shape[1]))
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        stop = min(resamples, start + step)
        picked = random.integers(0, n, size=(stop - start, n))
        sums[start:stop] = values[picked].sum(axis=1)
    return sums


def interval_of(samples: Floats, value: float, confidence: float = 0.95) -> Interval:
    """Percentile interval of resampled estimates."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(samples, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high), confidence)


def rate_interval(errors: Integers, lengths: Integers, confidence: float = 0.95) -> Interval | None:
    """Interval of sum(errors) / sum(lengths), such as WER.

    Args:
        errors, lengths: int64 [n_utterances]; a length may be 0, where nothing is said.
    Returns:
        None where all lengths are 0: the rate is then not defined.
    """
    if not lengths.sum():
        return None
    value = float(errors.sum() / lengths.sum())
    return interval_of(_rates(np.stack([errors, lengths], axis=1)), value, confidence)


def _rates(rows: Integers) -> Floats:
    """Rates of bootstrap samples, without those that drew nothing but lengths of 0."""
    sums = resample_sums(rows)
    sums = sums[sums[:, 1] > 0]
    rates: Floats = sums[:, 0] / sums[:, 1]
    return rates


def rate_difference(
    errors: Integers, other_errors: Integers, lengths: Integers, confidence: float = 0.95
) -> Interval | None:
    """Paired interval of the rate of `errors` minus that of `other_errors`, on the same utterances.

    Returns:
        None where all lengths are 0: the rates are then not defined.
    """
    if not lengths.sum():
        return None
    value = float((errors.sum() - other_errors.sum()) / lengths.sum())
    return interval_of(_rates(np.stack([errors - other_errors, lengths], axis=1)), value, confidence)


def statistic_interval(
    rows: Integers, statistic: Callable[[Integers], float], confidence: float = 0.95
) -> Interval:
    """Interval of any figure of summed rows, such as BLEU of summed n-gram counts.

    Args:
        rows: int64 [n_utterances, n_columns].
        statistic: from int64 [n_columns] to the figure.
    """
    sums = resample_sums(rows, RESAMPLES_BLEU).astype(np.int64)
    samples = np.array([statistic(row) for row in sums])
    return interval_of(samples, statistic(rows.sum(axis=0)), confidence)


def statistic_difference(
    rows: Integers, other_rows: Integers, statistic: Callable[[Integers], float], confidence: float = 0.95
) -> Interval:
    """Paired interval of the figure of `rows` minus that of `other_rows`."""
    width = rows.shape[1]
    sums = resample_sums(np.concatenate([rows, other_rows], axis=1), RESAMPLES_BLEU).astype(np.int64)
    samples = np.array([statistic(row[:width]) - statistic(row[width:]) for row in sums])
    value = statistic(rows.sum(axis=0)) - statistic(other_rows.sum(axis=0))
    return interval_of(samples, value, confidence)


def ratio_interval(times: Floats, other_times: Floats, confidence: float = 0.95) -> Interval:
    """Paired interval of how many times longer `times` are than `other_times`, utterance by utterance.

    The estimate is the exponential of the 20 % trimmed mean of the log ratios: one utterance that
    was hit by something else on the machine must not decide.

    Args:
        times, other_times: float64 [n_utterances], positive, in the same unit.
    """
    logs = np.log(times) - np.log(other_times)
    random = np.random.default_rng(SEED)
    picked = random.integers(0, len(logs), size=(RESAMPLES, len(logs)))
    samples = trimmed_mean(logs[picked])
    estimate = interval_of(samples, float(trimmed_mean(logs[None])[0]), confidence)
    value, low, high = np.exp([estimate.value, estimate.low, estimate.high]).tolist()
    return Interval(value, low, high, confidence)


def trimmed_mean(rows: Floats, share: float = 0.2) -> Floats:
    """Mean of each row without its highest and lowest share of values: [n, m] to [n]."""
    ordered = np.sort(rows, axis=1)
    cut = int(ordered.shape[1] * share)
    means: Floats = ordered[:, cut : ordered.shape[1] - cut].mean(axis=1)
    return means
