"""The doctor: checks every sample before training (watchdog.py checks every step during training).

All findings are plain words: what was found, what it means, what to change.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import AudioError
from training.common.data import SAMPLE_RATE, Sample, encode_text, load_waveform, normalize_for


def min_frames(labels: Sequence[int]) -> int:
    """Return the frames CTC needs for some labels: one each, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in itertools.pairwise(labels))


@dataclasses.dataclass(frozen=True)
class SampleLimits:
    """The limits of a sample.

    Attributes:
        samples_per_frame: waveform samples per output frame of the model.
        min_s, max_s: shortest and longest clip.
        silence_db: RMS level, dB re full scale, below which a clip counts as silent.
        max_clipped: largest fraction of samples at full scale.
        max_peak: largest sample; full scale is 1, a decoder may exceed it slightly.
        max_foreign: largest fraction of letters that the vocabulary lacks.
    """

    samples_per_frame: int = 320
    min_s: float = 0.3
    max_s: float = 30.0
    silence_db: float = -65.0
    max_clipped: float = 0.02
    max_peak: float = 8.0
    max_foreign: float = 0.2


def check_sample(
    sample: Sample,
    vocabulary: dict[str, int],
    limits: SampleLimits,
    waveform: NDArray[np.float32] | None = None,
) -> str:
    """Find the problem of a sample.

    Args:
        sample: with its duration filled in.
        vocabulary: symbol -> index.
        limits: of a good sample.
        waveform: float32 [n_samples] at 16 kHz, to check for silence and clipping; None skips these checks.
    Returns:
        "kind: what was found", or only a kind; empty for a good sample.
    """
    if sample.problem:
        return sample.problem
    if not limits.min_s <= sample.duration_s <= limits.max_s:
        allowed = f"allowed are {limits.min_s:g} to {limits.max_s:g} s"
        kind = "too short" if sample.duration_s < limits.min_s else "too long"
        return f"{kind}: {sample.duration_s:.1f} s of audio, {allowed}"
    return _check_text(sample, vocabulary, limits) or (
        "" if waveform is None else check_waveform(waveform, limits)
    )


def _check_text(sample: Sample, vocabulary: dict[str, int], limits: SampleLimits) -> str:
    labels = encode_text(sample.text, vocabulary)
    if not labels:
        return "empty text" if not sample.text.strip() else "no letter of the text is in the vocabulary"
    letters = [char for char in sample.text.lower() if char.isalpha()]
    foreign = [char for char in letters if not any(c in vocabulary for c in normalize_for(char, vocabulary))]
    if len(foreign) > limits.max_foreign * len(letters):
        return f"foreign text: {len(foreign)} of {len(letters)} letters are outside the vocabulary"
    frames, needed = int(sample.duration_s * SAMPLE_RATE) // limits.samples_per_frame, min_frames(labels)
    if frames < needed:
        return (
            f"too much text for the audio: {needed} frames needed for {len(labels)} labels, got {frames}; "
            "its CTC loss would be infinite"
        )
    return ""


def check_waveform(waveform: NDArray[np.float32], limits: SampleLimits) -> str:
    """Check for NaN, a wrong scale, silence, a constant and clipping; returns the problem, or ""."""
    if waveform.size == 0 or not np.isfinite(waveform).all():
        return "samples that are NaN or infinite" if waveform.size else "no samples"
    peak = float(np.abs(waveform).max())
    if peak > limits.max_peak:
        return f"wrong scale: a peak of {peak:.3g}, full scale is 1; divide the samples, or write integers"
    level_db = 10.0 * math.log10(float(np.mean(np.square(waveform, dtype=np.float64))) + 1e-12)
    if level_db < limits.silence_db:
        return f"silence: {level_db:.0f} dB"
    centred = waveform - waveform.mean(dtype=np.float64)
    moving_db = 10.0 * math.log10(float(np.mean(np.square(centred))) + 1e-12)
    if moving_db < limits.silence_db:
        return f"constant: all samples are about {float(waveform.mean(dtype=np.float64)):.3g}"
    clipped = float(np.mean(np.abs(waveform) >= 0.999))
    return f"clipped: {clipped:.0%} of the samples at full scale" if clipped > limits.max_clipped else ""


def examine(
    samples: Sequence[Sample], vocabulary: dict[str, int], limits: SampleLimits, listen: bool = True
) -> tuple[list[Sample], list[tuple[Sample, str]]]:
    """Divide samples into good ones and (sample, problem) pairs; `listen` reads the audio itself."""
    good, bad = [], []
    for sample in samples:
        problem = check_sample(sample, vocabulary, limits)
        if not problem and listen:
            try:
                problem = check_waveform(load_waveform(sample), limits)
            except (OSError, RuntimeError, AudioError) as error:
                problem = f"unreadable audio: {error}"
        if problem:
            bad.append((sample, problem))
        else:
            good.append(sample)
    return good, bad


def describe_problems(bad: Sequence[tuple[Sample, str]], n_total: int, shown: int = 2) -> str:
    """Return a short report: how many samples are left out by problem, most frequent first, with examples."""
    if not bad:
        return f"all {n_total} samples are good"
    kinds: dict[str, list[tuple[Sample, str]]] = collections.defaultdict(list)
    for sample, problem in bad:
        kinds[problem.partition(":")[0]].append((sample, problem))
    lines = [f"{len(bad)} of {n_total} samples are left out:"]
    for kind, members in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        lines.append(f"  {len(members)} x {kind}")
        lines += [f"    e.g. {sample.path}: {problem}" for sample, problem in members[:shown]]
    return "\n".join(lines)
