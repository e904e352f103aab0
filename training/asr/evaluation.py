"""Loss and greedy error rates of a CTC network in training, many clips at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.asr.model import blank_ratio, compute_ctc
from training.asr.networks import Network
from training.common.data import Sample, encode_text, is_german, load_waveform, normalize_for
from training.common.metrics import ErrorRates, collapse, compute_error_rates, compute_spoken_error_rates

Waveform = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A network's results for some clips, in their order.

    Attributes:
        loss: CTC loss per label. references: normalised. rates: where the vocabulary is that of engine.text,
            every usual way to say a number is right.
        blank_ratio: mean over the clips.
    """

    loss: float
    references: list[str]
    hypotheses: list[str]
    blank_ratio: float
    rates: ErrorRates


@torch.no_grad()
def evaluate_ctc(
    network: Network, model: Any, samples: Sequence[Sample], vocabulary: dict[str, int], batch_s: float,
    device: torch.device,
) -> Evaluation:  # fmt: skip
    """Run a model, in evaluation mode, over clips.

    Args:
        batch_s: padded seconds in a batch. A network whose results depend on padding gets clips of equal
            length only.
    """
    model.eval()
    loss, n_labels, symbols = 0.0, 0, sorted(vocabulary, key=lambda symbol: vocabulary[symbol])
    hypotheses, blanks = [""] * len(samples), [0.0] * len(samples)
    for places, waveforms in group_clips(samples, batch_s, int(network.hears_padding)):
        labels = [encode_text(samples[place].text, vocabulary) for place in places]
        batch = network.make_batch(waveforms, labels).to(device)
        logits, frames = network.compute_logits(model, batch)
        loss += float(compute_ctc(logits, frames, labels)[0])
        n_labels += sum(map(len, labels))
        for row, place in enumerate(places):
            kept = logits[row : row + 1, : int(frames[row])]
            blanks[place] = blank_ratio(kept, frames[row : row + 1])
            hypotheses[place] = collapse(kept[0].argmax(-1).tolist(), symbols)
    references = [normalize_for(sample.text, vocabulary) for sample in samples]
    if is_german(vocabulary):
        rates = compute_spoken_error_rates([sample.text for sample in samples], hypotheses)
    else:
        rates = compute_error_rates(references, hypotheses)
    mean = float(np.mean(blanks)) if blanks else 0.0
    return Evaluation(loss / max(n_labels, 1), references, hypotheses, mean, rates)


def group_clips(
    samples: Sequence[Sample], batch_s: float, equal: int, load: Callable[[int], Waveform] | None = None
) -> Iterator[tuple[list[int], list[Waveform]]]:
    """Indices and waveforms of clips that a network takes at once.

    Args:
        samples: with their durations.
        batch_s: padded seconds of audio in a group.
        equal: 0 groups clips of similar length; n groups clips of equal length only, after rounding up to a
            multiple of n samples: for networks whose results depend on padding.
        load: index -> waveform; None reads the audio as it is.
    """
    places: list[int] = []
    waveforms: list[Waveform] = []
    for place in sorted(range(len(samples)), key=lambda place: samples[place].duration_s):
        waveform = load(place) if load else load_waveform(samples[place])
        longest = max([waveform.size, *(other.size for other in waveforms)])
        full = longest * (len(waveforms) + 1) > batch_s * 16_000
        if waveforms and (full or (equal and -(-waveform.size // equal) != -(-waveforms[0].size // equal))):
            yield places, waveforms
            places, waveforms = [], []
        places.append(place)
        waveforms.append(waveform)
    if waveforms:
        yield places, waveforms
