"""Emissions of a whole recording: the encoder's windows overlap, so that no word is cut at an edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.audio import vad
from engine.text import LETTERS

EDGE_S: Final = 1.0  # context on either side of a window, whose emissions are dropped
FLOOR: Final = -10.0  # lowest log-probability of a letter, natural log

FloatArray = NDArray[np.float32]


class Emissions(NamedTuple):
    """What the alignment reads.

    Attributes:
        log_probs: float32 [n_frames, 32], natural log: blank, word delimiter, then engine.text.LETTERS.
        frame_s: seconds for each frame.
    """

    log_probs: FloatArray
    frame_s: float


def compute_emissions(
    model: Any, waveform: FloatArray, progress: Callable[[float], object] = lambda done_s: None
) -> Emissions:
    """Run a bundle's encoder over a recording of any length.

    Args:
        model: engine.SpeechTranslator.
        waveform: float32 [n_samples], mono, at the model's rate.
        progress: called with the seconds done after each window.
    Returns:
        Emissions with ceil(n_samples / samples_per_frame) frames; frames at the end that the encoder
        does not give are blank.
    """
    acoustic = model.acoustic
    rate = acoustic.sample_rate
    hop = round(acoustic.frame_s * rate)
    n_frames = -(-len(waveform) // hop)
    log_probs = np.full((n_frames, len(acoustic.vocabulary)), FLOOR, np.float32)
    log_probs[:, acoustic.blank_id] = 0.0
    edge = round(EDGE_S * rate / hop)
    for first, last in cut_windows(
        waveform, rate, hop, max(acoustic.max_window_s - 2 * EDGE_S - 0.1, EDGE_S)
    ):
        start, end = max(first - edge, 0), min(last + edge, n_frames)
        window = waveform[start * hop : end * hop]
        if len(window) >= acoustic.min_samples:
            found = model.compute_log_probs(model.compute_features(window))[first - start : last - start]
            log_probs[first : first + len(found)] = found
        progress(last * hop / rate)
    return Emissions(reorder(log_probs, acoustic), acoustic.frame_s)


def cut_windows(waveform: FloatArray, rate: int, hop: int, max_window_s: float) -> list[tuple[int, int]]:
    """Cut a recording at its quietest points; [(first_frame, last_frame)] without gaps."""
    levels = vad.compute_excess(vad.compute_band_levels(waveform, rate))
    windows = vad.split_windows([(0.0, len(waveform) / rate)], levels, max_window_s)
    n_frames = -(-len(waveform) // hop)
    cuts = [min(round(end_s * rate / hop), n_frames) for _, end_s in windows]
    cuts[-1] = n_frames
    return list(zip([0, *cuts[:-1]], cuts, strict=True))


def reorder(log_probs: FloatArray, acoustic: Any) -> FloatArray:
    """Put a model's outputs in the order of Emissions; letters that it lacks get the floor."""
    places = {token.lower(): index for index, token in enumerate(acoustic.vocabulary)}
    places[acoustic.word_delimiter] = acoustic.vocabulary.index(acoustic.word_delimiter)
    columns = [acoustic.blank_id, places[acoustic.word_delimiter], *(places.get(c, -1) for c in LETTERS)]
    ordered = np.full((len(log_probs), len(columns)), FLOOR, np.float32)
    for target, source in enumerate(columns):
        if source >= 0:
            ordered[:, target] = log_probs[:, source]
    return np.maximum(ordered, FLOOR)


def read_greedy(log_probs: FloatArray) -> list[tuple[str, int]]:
    """Greedy letters and delimiters of emissions as (letter, frame at which it begins)."""
    best = log_probs.argmax(axis=1)
    begins = np.flatnonzero((best != 0) & (best != np.concatenate([[-1], best[:-1]])))
    return [((" " + LETTERS)[best[frame] - 1], int(frame)) for frame in begins]
