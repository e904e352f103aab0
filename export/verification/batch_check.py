"""Checks that an utterance's logits do not depend on its batch: by length, noise and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.verification.audio_cases import Case

BATCHES = (1, 2, 7)
LONGEST_PADDING = 1.1  # times the utterance, where a graph takes a mask
NOISES = ("clean", "red 10 dB")  # only the easiest and the hardest: seven long utterances take much time

FloatArray = NDArray[np.float32]


class Run(Protocol):
    """[batch, ...] features (and how much of each is real) -> [batch, n_frames, vocab_size] logits."""

    def __call__(self, features: FloatArray, lengths: Sequence[int] | None = None, /) -> FloatArray:
        """Run the model."""


@dataclass(frozen=True)
class BatchRow:
    """One utterance in a batch of a size.

    Attributes:
        error: relative L2 error against the original model, which ran it alone.
        agreement: share of frames with the original's argmax.
        alone: share of frames with the argmax that this graph finds for it alone.
    """

    bucket: str
    noise: str
    batch: int
    error: float
    agreement: float
    alone: float


def batch_rows(run: Run, cases: Sequence[Case], masked: bool) -> list[BatchRow]:
    """Run one utterance of each bucket and noise in batches with others.

    Args:
        cases: with the original's logits.
        masked: the graph takes a mask: then the others are longer, and the utterance is padded.
    """
    chosen = [case for case in cases if case.bucket and case.noise in NOISES]
    firsts = {(case.bucket, case.noise): case for case in reversed(chosen)}
    rows = []
    for case in reversed(firsts.values()):
        alone = run(case.features[None])[0]
        for size in BATCHES:
            together = alone if size == 1 else _run_among_others(run, case.features, size, masked)
            rows.append(_row(case, size, together[: len(alone)], alone))
    return rows


def _run_among_others(run: Run, features: FloatArray, size: int, masked: bool) -> FloatArray:
    rng = np.random.default_rng(size)
    length = features.shape[-1]
    width = int(length * LONGEST_PADDING) if masked else length
    batch = [np.pad(features, [(0, 0)] * (features.ndim - 1) + [(0, width - length)])]
    for _ in range(size - 1):
        neighbour = np.roll(features, int(rng.integers(length)), axis=-1) * rng.uniform(0.5, 2)
        batch.append(np.pad(neighbour, [(0, 0)] * (features.ndim - 1) + [(0, width - length)], mode="wrap"))
    stacked = np.stack(batch).astype(np.float32)
    together = run(stacked, [length, *[width] * (size - 1)]) if masked else run(stacked)
    first: FloatArray = together[0]
    return first


def _row(case: Case, size: int, got: FloatArray, alone: FloatArray) -> BatchRow:
    want = case.logits
    assert want is not None
    error = float(np.linalg.norm(got - want) / max(float(np.linalg.norm(want)), 1e-30))
    same = got.argmax(-1) == want.argmax(-1)
    alike = got.argmax(-1) == alone.argmax(-1)
    return BatchRow(case.bucket, case.noise, size, error, float(same.mean()), float(alike.mean()))
