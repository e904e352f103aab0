"""Checks that an exported decoder equals its checkpoint: log-probabilities and greedy tokens on states."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from engine.bundle.schema import SecondPassConfig
from engine.bundle.target import FILE_NAMES
from engine.two_pass.runners import ROLES, DecoderRunner, KernelRunner, SessionRunner
from export.errors import ExportError
from export.graph.linear import FloatArray
from export.two_pass.checkpoint import TwoPassSource
from export.verification.audio_cases import build_cases
from export.verification.graph_pair import open_pair_kernels, open_pair_sessions

LENGTHS_S = (3.0, 6.0)
MAX_TOKENS = 48  # of a case, the prompt's included
MAX_SPOKEN = 40
MIN_AGREEMENT = {"fp32": 0.999, "int8": 0.97}
MAX_DIVERGENCE = {"fp32": 1e-6, "int8": 0.01}  # nats per token


@dataclasses.dataclass(frozen=True)
class DecoderCase:
    """One utterance.

    Attributes:
        features: as the encoder reads them. states: float32 [n_frames, hidden_size], of the original encoder.
        ids: the prompt, and the original decoder's greedy tokens.
        log_probs: of the original decoder, float32 [len(ids), vocab_size].
    """

    features: FloatArray
    states: FloatArray
    ids: list[int]
    log_probs: FloatArray


@dataclasses.dataclass(frozen=True)
class DecoderFigures:
    """How close a decoder is to the original.

    Attributes:
        error: L2 error of the log-probabilities relative to their spread over the tokens.
        divergence: mean Kullback-Leibler divergence from the original's distribution, in nats.
        agreement: share of positions with the same best token.
        greedy: share of utterances whose greedy tokens are all the same.
    """

    n_utterances: int
    n_tokens: int
    error: float
    divergence: float
    agreement: float
    greedy: float


def build_decoder_cases(source: TwoPassSource, manifest: Path | None = None) -> list[DecoderCase]:
    """Artificial signals like speech, or a manifest's utterances, with the original's results.

    Raises:
        ManifestError: lists every problem of the manifest.
    """
    cases = build_cases(source.acoustic.config, manifest, LENGTHS_S)
    spoken = [case for case in cases if not case.bucket][:: max(1, len(cases) // MAX_SPOKEN)]
    found = []
    for case in [case for case in cases if case.bucket] + spoken:
        states = source.encode(case.features)
        ids = _take_greedily(source, states)
        found.append(DecoderCase(case.features, states, ids, source.log_probs(states, ids)))
    return found


def _take_greedily(source: TwoPassSource, states: FloatArray) -> list[int]:
    config = source.decoder.config
    ids = list(config.prompt)
    while len(ids) < min(MAX_TOKENS, config.max_tokens):
        best = int(source.log_probs(states, ids)[-1].argmax())
        if best == config.end_id:
            break
        ids.append(best)
    return ids


def compare_decoder(
    runner: DecoderRunner, config: SecondPassConfig, cases: Sequence[DecoderCase], greedy: bool = True
) -> DecoderFigures:
    """Compare a runner with the original decoder, on the original's states and tokens.

    Args:
        greedy: search with the runner too, step by step.
    """
    squared = spread = divergence = 0.0
    same: list[FloatArray] = []
    for case in cases:
        found = runner.start(case.states, 1, len(case.ids), None).prefill(np.array(case.ids), None)
        want = case.log_probs.astype(np.float64)
        squared += float(((found - want) ** 2).sum())
        spread += float(((want - want.mean(axis=1, keepdims=True)) ** 2).sum())
        divergence += float((np.exp(want) * (want - found)).sum())
        same.append(found.argmax(axis=1) == want.argmax(axis=1))
    n_tokens = sum(len(case.ids) for case in cases)
    equal = [_search(runner, config, case) == case.ids for case in cases] if greedy else [True]
    error = float(np.sqrt(squared / max(spread, 1e-30)))
    return DecoderFigures(
        len(cases), n_tokens, error, divergence / n_tokens, float(np.concatenate(same).mean()),
        float(np.mean(equal)),
    )  # fmt: skip


def _search(runner: DecoderRunner, config: SecondPassConfig, case: DecoderCase) -> list[int]:
    """The prompt and the runner's own greedy tokens, as many as the case has."""
    ids, limit = list(config.prompt), len(case.ids)
    steps = runner.start(case.states, 1, limit, None)
    best = int(steps.prefill(np.array(ids), None)[-1].argmax())
    while len(ids) < limit and best != config.end_id:
        ids.append(best)
        if len(ids) < limit:
            best = int(steps.step(np.array([best]), np.zeros(1, np.int64), None)[0].argmax())
    return ids


def check_decoder(
    figures: DecoderFigures, precision: str, backend: str, min_agreement: float | None = None
) -> None:
    """Refuse a decoder that differs from its checkpoint.

    Raises:
        ExportError: too little agreement, or distributions too far from the original's.
    """
    wanted = MIN_AGREEMENT[precision] if min_agreement is None else min_agreement
    problems = []
    if not figures.agreement >= wanted:  # also where it is not a number
        problems.append(f"the same best token at {figures.agreement:.4f} of the positions")
    if not figures.divergence <= MAX_DIVERGENCE[precision] and min_agreement is None:
        problems.append(f"a divergence of {figures.divergence:.4f} nats")
    if not np.isfinite(figures.error):
        problems.append("log-probabilities that are not finite")
    if problems:
        raise ExportError(
            f"the {precision} decoder by {backend} differs too much from its checkpoint: "
            + "; ".join(problems),
            f"agreement of {wanted}, a divergence of at most {MAX_DIVERGENCE[precision]:g}",
            "export with --precision fp32, or keep more blocks in float32 with --keep-decoder",
        )


def open_decoder_sessions(folder: Path, config: SecondPassConfig) -> SessionRunner:
    """An export's graphs with onnxruntime, on one CPU thread."""
    return SessionRunner(*open_pair_sessions(folder, FILE_NAMES, ROLES), config)


def open_decoder_kernels(folder: Path, config: SecondPassConfig) -> KernelRunner | None:
    """An int8 export's graphs with the engine's own kernels; None where they do not compute it here."""
    return open_pair_kernels(folder, FILE_NAMES, ROLES, partial(KernelRunner, config=config))
