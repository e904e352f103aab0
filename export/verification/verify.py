"""Checks that a graph equals its checkpoint: logits, argmax and words, by length and with noise."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import onnx
from numpy.typing import NDArray

from engine.bundle.schema import AcousticConfig
from engine.decoding import decode_greedy
from engine.errors import ModelError
from engine.runtime.onnx_session import open_session, runtime_version
from engine.types import RuntimeOptions
from export.errors import ExportError
from export.rewrites.unpacked_once import serialize_unpacked_once
from export.verification.audio_cases import Case
from export.verification.batch_check import BatchRow, batch_rows
from export.verification.trials import Trial

MIN_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.98}
MAX_WER_LOSS = 0.003  # 0.3 points
MIN_WORDS_FOR_WER = 300  # with fewer, one word is more than the loss that is refused
CHANCE_DEVIATIONS = 2.0
FEWEST_REPEATS, ENOUGH_S = 3, 20.0  # of timed calls: those of a large model take seconds each
CPU = RuntimeOptions(device="cpu")
MASK_NAME = "attention_mask"

FloatArray = NDArray[np.float32]
Run = Callable[..., FloatArray]  # [batch, ...] features (and lengths) -> [batch, n_frames, vocab_size] logits


@dataclass(frozen=True)
class Row:
    """One line of the table: all frames of one bucket.

    Attributes:
        error: relative L2 error of the logits. agreement: share of frames with the same argmax.
    """

    bucket: str
    noise: str
    n_frames: int
    error: float
    agreement: float


@dataclass(frozen=True)
class Report:
    """The results of a comparison.

    Attributes:
        batches: one utterance of each bucket in batches. The engine runs a graph without a mask with one
            utterance per call, so there these rows matter to other runtimes only.
        masked: the graph takes a mask, so an utterance's result must not depend on its batch.
        exact_on: the processors on which its integer products are exact, by its weights; "" without any.
        sensitivity: the relative L2 error by block, where only that block has the reduced precision.
        device: where the speed was measured.
        kernels: agreement, error, speedup and wer of the same graph with the engine's own kernels; empty
            where they do not compute it.
        trials: of `--precision auto`.
        wer_reference, wer_export: word error rates of greedy decoding over n_words words; None without texts.
        speedup: float32 time over this graph's time, one thread, interleaved; None if not measured.
    """

    rows: tuple[Row, ...]
    batches: tuple[BatchRow, ...] = ()
    masked: bool = False
    n_words: int = 0
    wer_reference: float | None = None
    wer_export: float | None = None
    speedup: float | None = None
    device: str = "cpu"
    exact_on: str = ""
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    kernels: Mapping[str, float] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()

    @property
    def batch_agreement(self) -> dict[int, float]:
        """By batch size: argmax agreement of an utterance with itself alone, in the worst bucket."""
        sizes = dict.fromkeys(row.batch for row in self.batches)
        return {size: min(row.alone for row in self.batches if row.batch == size) for size in sizes}

    @property
    def agreement(self) -> float:
        """Share of all frames with the same argmax; NaN where any bucket's is."""
        weights = [row.n_frames for row in self.rows]
        return float(np.average([row.agreement for row in self.rows], weights=weights))

    @property
    def error(self) -> float:
        """Relative L2 error of the worst bucket."""
        return float(np.max([row.error for row in self.rows]))

    def figures(self) -> dict[str, Any]:
        """For a manifest."""
        left = {"batches"} if self.trials else {"batches", "trials"}
        found = {key: value for key, value in asdict(self).items() if key not in left}
        worst = {size: max(r.error for r in self.batches if r.batch == size) for size in self.batch_agreement}
        return {**found, "rows": [asdict(row) for row in self.rows]} | {
            "batch_agreement": self.batch_agreement,
            "batch_error": worst,
        }


def measuring_run(model: onnx.ModelProto) -> Run:
    """Run a graph that is only compared: the same results, and weights stored as int8 once in memory.

    Raises:
        ExportError: as onnx_run.
    """
    return onnx_run(serialize_unpacked_once(model), unpack_weights=True)


def onnx_run(
    model: onnx.ModelProto | bytes | Path, options: RuntimeOptions = CPU, unpack_weights: bool = False
) -> Run:
    """Run a graph as the engine does: one thread of the CPU, or CUDA.

    Args:
        unpack_weights: of engine.runtime.onnx_session.open_session.
    Raises:
        ExportError: onnxruntime cannot load it, for instance for an operator that it lacks.
    """
    graph = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    try:
        session = open_session(graph, options, threads=1, unpack_weights=unpack_weights)
    except ModelError as error:
        raise ExportError(
            f"onnxruntime {runtime_version()}: {error.got}",
            "operators that it knows",
            "upgrade onnxruntime, or export with another --precision",
        ) from error
    name = next(n for n in session.input_names if n != MASK_NAME)
    masked = MASK_NAME in session.input_names

    def run(features: FloatArray, lengths: Sequence[int] | None = None) -> FloatArray:
        feeds: dict[str, NDArray[Any]] = {name: features}
        if masked:
            width = features.shape[-1]
            ends = np.array([width] * len(features) if lengths is None else lengths)
            feeds[MASK_NAME] = (np.arange(width) < ends[:, None]).astype(np.int64)
        return session.run(feeds, ["logits"])[0]

    return run


def with_logits(cases: Sequence[Case], reference: Run) -> list[Case]:
    """The same cases with the original model's logits."""
    return [dataclasses.replace(case, logits=reference(case.features[None])[0]) for case in cases]


def compare(run: Run, cases: Sequence[Case]) -> tuple[float, float]:
    """Relative L2 error and argmax agreement over all frames of cases that have logits.

    Raises:
        ExportError: another number of frames or outputs than the original model's.
    """
    squared_error = squared_norm = 0.0
    same: list[NDArray[np.bool_]] = []
    for case in cases:
        got, want = run(case.features[None])[0], case.logits
        if want is None or got.shape != want.shape:
            raise ExportError(
                f"logits {got.shape} instead of {None if want is None else want.shape}",
                "as many as the original model's",
                "report the checkpoint's config.json",
            )
        squared_error += float(((got - want) ** 2).sum())
        squared_norm += float((want**2).sum())
        same.append(got.argmax(-1) == want.argmax(-1))
    return float(np.sqrt(squared_error / max(squared_norm, 1e-30))), float(np.concatenate(same).mean())


def verify(
    run: Run,
    cases: Sequence[Case],
    config: AcousticConfig,
    vocabulary: Sequence[str],
    batches: bool = True,
) -> Report:
    """Compare a graph with the original model.

    Args:
        run: the graph.
        cases: utterances by length bucket, clean and noisy, with the original's logits; some with a text.
        vocabulary: tokens by output index.
        batches: also run utterances in batches, which takes most of the time.
    """
    rows = []
    for key in dict.fromkeys((case.bucket, case.noise) for case in cases if case.bucket):
        chosen = [case for case in cases if (case.bucket, case.noise) == key]
        n_frames = sum(len(case.logits) for case in chosen if case.logits is not None)
        rows.append(Row(*key, n_frames, *compare(run, chosen)))
    in_batches = tuple(batch_rows(run, cases, config.mask)) if batches else ()
    report = Report(tuple(rows), in_batches, config.mask)
    spoken = [case for case in cases if case.text and case.logits is not None]
    if not spoken:
        return report
    n_words = sum(len(case.text.split()) for case in spoken)
    heard = [[case.logits for case in spoken], [run(case.features[None])[0] for case in spoken]]
    texts = [case.text for case in spoken]
    rates = []
    for logits in heard:
        words = [greedy_words(array, config, vocabulary) for array in logits if array is not None]
        rates.append(float(jiwer.wer(texts, [" ".join(found) for found in words])))
    return dataclasses.replace(report, n_words=n_words, wer_reference=rates[0], wer_export=rates[1])


def measure_speedup(
    run: Run,
    baseline: Run,
    features: FloatArray,
    repeats: int = 7,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Time of the baseline over the time of the graph: the best of interleaved runs of each.

    Args:
        repeats: fewer, but FEWEST_REPEATS, where they take longer than ENOUGH_S together.
        clock: in seconds; CPU time, which other programs on the machine change little, or wall time.
    """
    times: dict[Run, list[float]] = {run: [], baseline: []}
    for done in range(repeats):
        if done >= FEWEST_REPEATS and sum(map(sum, times.values())) > ENOUGH_S:
            break
        for candidate, seconds in times.items():
            start = clock()
            candidate(features[None])
            seconds.append(clock() - start)
    return min(times[baseline]) / min(times[run])


def check(
    report: Report,
    precision: str,
    min_agreement: float | None = None,
    allow_slower: bool = False,
    max_wer_loss: float = MAX_WER_LOSS,
) -> None:
    """Refuse an export that differs from its checkpoint.

    Raises:
        ExportError: too little agreement, too many more word errors, or int8 slower than float32.
    """
    wanted = MIN_AGREEMENT[precision] if min_agreement is None else min_agreement
    problems = []
    if not np.isfinite(report.error):
        problems.append("logits that are not finite")
    if not report.agreement >= wanted:  # also where it is not a number
        problems.append(f"argmax agreement {report.agreement:.4f}, below {wanted}")
    for row in report.rows:  # one second has few frames: allow for chance
        chance = CHANCE_DEVIATIONS * float(np.sqrt(wanted * (1 - min(wanted, 1.0)) / row.n_frames))
        if row.agreement < wanted - chance:
            problems.append(f"argmax agreement {row.agreement:.4f} at {row.bucket}, {row.noise}")
    problems += _batch_problems(report, wanted)
    loss = (report.wer_export or 0.0) - (report.wer_reference or 0.0)
    if loss > max_wer_loss and report.n_words >= MIN_WORDS_FOR_WER:
        problems.append(f"word error rate up by {100 * loss:.2f} points over {report.n_words} words")
    if report.speedup is not None and report.speedup < 1 and not allow_slower:
        problems.append(f"slower than float32 on this machine ({report.speedup:.2f} times its speed)")
    if problems:
        raise ExportError(
            f"the {precision} graph differs too much from its checkpoint: " + "; ".join(problems),
            f"agreement of {wanted}, at most {100 * max_wer_loss:g} points of word errors, a gain in speed",
            "export with --precision fp32, or keep more blocks in float32 with --keep",
        )


def _batch_problems(report: Report, wanted: float) -> list[str]:
    """Only for a graph that takes a mask: other graphs get one utterance per call."""
    if not report.masked:
        return []
    agreements = [row.alone for row in report.batches]
    if not agreements or np.mean(agreements) >= wanted:
        return []
    worst = min(report.batches, key=lambda row: row.alone)
    return [
        f"an utterance differs in a batch: {np.mean(agreements):.4f} of its frames agree, "
        f"{worst.alone:.4f} at {worst.bucket}, {worst.noise}, batch {worst.batch}"
    ]


def greedy_words(logits: FloatArray, config: AcousticConfig, vocabulary: Sequence[str]) -> list[str]:
    """Best path, repeats and blanks removed, as words."""
    found = decode_greedy(logits, vocabulary, config.blank_id, config.word_delimiter, logits=True)
    return found.text.lower().split()
