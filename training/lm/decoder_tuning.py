"""Finding the language model's weight and the bonus for a word on a development set.

Emissions are computed once; trying a pair of values is then only a beam search over them. A coarse grid is
followed by smaller and smaller steps around its best point. The set must not be used for any evaluation.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.audio.parts import load_part
from engine.decoding import CtcBeamDecoder
from engine.errors import EngineError
from engine.text import WORD_DELIMITER, normalize_text
from training.common.data import read_manifest
from training.common.metrics import compute_spoken_error_rates

ALPHAS, BETAS = (0.25, 0.5, 0.75, 1.0, 1.5), (0.0, 1.0, 2.0, 3.5, 5.0)
FIRST_STEPS, N_REFINEMENTS = (0.25, 1.0), 3
ARRAYS = ("lp", "off", "labels")
logger = logging.getLogger("training")


class TuningError(EngineError, ValueError):
    """Emissions or references that the decoder cannot be tuned on."""


@dataclass(frozen=True)
class Development:
    """Utterances to tune on.

    Attributes:
        name: of the set, for the card.
        emissions: float32 [n_frames, vocab_size] each, natural log.
        references: their texts, as written.
        options: keyword arguments of CtcBeamDecoder that belong to the acoustic model; `vocabulary` too.
    """

    name: str
    emissions: Sequence[NDArray[np.float32]]
    references: Sequence[str]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One pair of values and its error rates in per cent."""

    lm_alpha: float
    lm_beta: float
    wer: float
    cer: float


def load_development(acoustic: Path, manifest: Path | None) -> Development:
    """Read saved emissions, or compute them with a bundle.

    Args:
        acoustic: a bundle's folder; or an .npz with `lp` [all frames, vocab_size], `off` [n + 1] where each
            utterance begins, `labels` (JSON) and, unless there is a manifest, `texts` (JSON).
        manifest: audio and references, see training.common.data.read_manifest; of emissions only references
            are read, in the same order.
    Raises:
        TuningError: what does not fit; ManifestError: the manifest.
    """
    texts = [sample.text for sample in read_manifest(manifest)] if manifest else None
    if acoustic.suffix == ".npz":
        return _load_emissions(acoustic, manifest, texts)
    if manifest is None or texts is None:
        raise TuningError(f"no references for {acoustic}; want --tune-manifest with audio and texts")
    return _compute_emissions(acoustic, manifest, texts)


def _load_emissions(path: Path, manifest: Path | None, texts: list[str] | None) -> Development:
    with np.load(path, allow_pickle=False) as archive:
        missing = [name for name in ARRAYS if name not in archive]
        if missing:
            raise TuningError(f"{path} lacks {', '.join(missing)}; want emissions with {', '.join(ARRAYS)}")
        log_probs, offsets, labels = (archive[name] for name in ARRAYS)
        if texts is None:
            texts = json.loads(str(archive["texts"])) if "texts" in archive else []
    if len(texts) != len(offsets) - 1:
        raise TuningError(
            f"{len(texts)} references for {len(offsets) - 1} utterances of {path}; want one for each"
        )
    emissions = [log_probs[begin:end] for begin, end in itertools.pairwise(offsets)]
    name = manifest.name if manifest else path.name
    options = {"vocabulary": json.loads(str(labels)), "word_delimiter": WORD_DELIMITER}
    return Development(name, emissions, texts, options)


def _compute_emissions(bundle: Path, manifest: Path, texts: list[str]) -> Development:
    import engine

    transcriber = engine.load(bundle, threads=1)
    acoustic = transcriber.acoustic
    emissions = []
    for sample in read_manifest(manifest):
        features = acoustic.compute_features(load_part(sample.path, sample.offset_s, sample.part_s))
        emissions.append(np.asarray(acoustic.compute_log_probs(features), np.float32))
    labels = transcriber.decoder.labels
    delimiter = labels.vocabulary[labels.delimiter_id] if labels.delimiter_id >= 0 else WORD_DELIMITER
    options = {"vocabulary": labels.vocabulary, "blank_id": labels.blank_id, "word_delimiter": delimiter}
    return Development(manifest.parent.name, emissions, texts, options)


def tune(decoder: CtcBeamDecoder, development: Development, beam_width: int = 64) -> list[Trial]:
    """Search for the alpha and beta with the lowest word error rate, then character error rate.

    Args:
        decoder: with the language model; its own alpha and beta do not matter.
        development: emissions over the decoder's vocabulary.
    Returns:
        Every trial, best first; of equal ones that with the smaller alpha.
    Raises:
        TuningError: nothing to compare with.
    """
    if not any(map(normalize_text, development.references)):
        raise TuningError(f"{development.name} has no reference with words; want at least one")
    done: dict[tuple[float, float], Trial] = {}

    def attempt(alpha: float, beta: float) -> None:
        key = (round(max(alpha, 0.0), 4), round(beta, 4))
        if key not in done:
            done[key] = _try(decoder, development, *key, beam_width)

    for alpha, beta in itertools.product(ALPHAS, BETAS):
        attempt(alpha, beta)
    alpha_step, beta_step = FIRST_STEPS
    for _ in range(N_REFINEMENTS):
        best = _sort(done.values())[0]
        alpha_step, beta_step = alpha_step / 2, beta_step / 2
        for a, b in itertools.product((-1, 0, 1), repeat=2):
            attempt(best.lm_alpha + a * alpha_step, best.lm_beta + b * beta_step)
    trials = _sort(done.values())
    logger.info("alpha %.3f, beta %.3f: WER %.2f %%", *list(asdict(trials[0]).values())[:3])
    return trials


def _sort(trials: Any) -> list[Trial]:
    return sorted(trials, key=lambda trial: (trial.wer, trial.cer, trial.lm_alpha, abs(trial.lm_beta)))


def _try(decoder: CtcBeamDecoder, data: Development, alpha: float, beta: float, beam_width: int) -> Trial:
    texts = [decoder.decode(e, beam_width, lm_alpha=alpha, lm_beta=beta)[0].text for e in data.emissions]
    rates = compute_spoken_error_rates(list(data.references), texts)
    return Trial(alpha, beta, round(rates.wer, 3), round(rates.cer, 3))


def describe(trials: Sequence[Trial], development: Development, beam_width: int) -> dict[str, Any]:
    """The tuning for a card: the set, the best values, and the error rates of the default ones."""
    start = next(t for t in trials if (t.lm_alpha, t.lm_beta) == (ALPHAS[1], BETAS[1]))
    return {
        "name": development.name,
        "utterances": len(development.emissions),
        "beam_width": beam_width,
        "trials": len(trials),
        "best": asdict(trials[0]),
        "start": asdict(start),
    }
