"""`--precision auto`: every graph on offer is compared and timed; the fastest good one wins."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from engine.bundle.target import check_target
from engine.runtime.backend import KERNELS, choose_backend
from export.acoustic.export import (
    CONVOLUTIONS,
    check_graph,
    find_ranges,
    keep_float,
    measure_graph,
    prepare,
    quantize,
    store,
    write,
)
from export.acoustic.source import AcousticSource, Basis, Candidate, ExportOptions, is_large, worth_batches
from export.errors import ExportError
from export.graph.builder import Precision
from export.layout.describe import describe_model
from export.quantization.quantize import ALWAYS_FLOAT, FloatArray, choose
from export.rewrites.half_storage import store_half
from export.verification.batch_check import batch_rows
from export.verification.trials import Trial, explain_refusals, find_fastest
from export.verification.verify import CPU, MIN_AGREEMENT, Report, onnx_run

logger = logging.getLogger("export")
ALL, LINEAR, SEARCHED, FLOAT = (
    "int8", "int8, convolutions in float32", "int8, float32 where it is needed", "fp32",
)  # fmt: skip
SEARCH_SHARE = 0.75  # of the frames that may differ: the comparison has more utterances than the search
Make = Callable[[], Candidate | None]  # None: there is nothing new to try


def export_fastest(source: AcousticSource, folder: Path, options: ExportOptions) -> Report:
    """Try every precision, and write the fastest one that passes the comparison as a bundle.

    Speed is that of one CPU thread of this processor, by what would compute the graph here. Which blocks are
    sensitive is measured only where int8 in all of them fails.

    Returns:
        The comparison of the graph that is written, with all trials.
    Raises:
        ExportError: none passed, with the reason against each, or the disk is full; no file is left.
    """
    check_target(folder)
    trials: list[Trial] = []
    made: dict[int, tuple[Candidate, Report, Path]] = {}
    with prepare(source, options) as basis:
        for name, make in _candidates(basis, options, trials):
            trial, candidate, report = _try(basis, name, make, options)
            if trial is None:
                continue
            logger.info("%s: %s", name, trial.refused or f"passed, {trial.speed:.2f} times float32's speed")
            if candidate is not None and report is not None and not trial.refused:
                path = basis.float_graph.with_name(f"{len(trials)}.onnx")
                store(path, candidate.graph)  # one graph at a time is in memory
                made[len(trials)] = dataclasses.replace(candidate, graph=b""), report, path
            trials.append(trial)
        taken = find_fastest(trials)
        if taken is None:
            raise ExportError(
                f"no precision that passes the comparison: {explain_refusals(trials)}",
                "a graph that agrees with its checkpoint",
                "keep blocks in float32 with --keep, or lower --min-agreement",
            )
        trials[taken] = dataclasses.replace(trials[taken], taken=True)
        candidate, report, path = made[taken]
        candidate = dataclasses.replace(candidate, graph=path.read_bytes())
        if options.batches and worth_batches(basis.source, report.masked):
            rows = batch_rows(onnx_run(path), basis.cases, report.masked)
            report = dataclasses.replace(report, batches=tuple(rows))
        report = dataclasses.replace(report, trials=tuple(trials))
        write(candidate, folder, options, report)
    return report


def _candidates(basis: Basis, options: ExportOptions, trials: list[Trial]) -> Iterator[tuple[str, Make]]:
    """From what is usually fastest to the most exact; blocks are searched where int8 in all failed."""
    ranges = find_ranges(basis)
    yield ALL, lambda: _build(basis, options, ranges, float_convs=False)
    all_passed = not trials[-1].refused
    if basis.convolutions:
        yield LINEAR, lambda: _build(basis, options, ranges, float_convs=True)
    if not all_passed:
        yield SEARCHED, lambda: _search(basis, options, ranges)
    if is_large(basis.source.n_parameters):
        trials.append(Trial(FLOAT, "fp32", refused="too many weights for one ONNX file, which holds 2 GB"))
        return
    yield FLOAT, lambda: keep_float(basis)


def _build(
    basis: Basis, options: ExportOptions, ranges: Mapping[str, FloatArray], float_convs: bool
) -> Candidate:
    """All blocks in int8, but for those that options keep, and the convolutions if asked."""
    pinned = [block for block in basis.blocks if block in ALWAYS_FLOAT or block.startswith(options.keep)]
    if float_convs:
        pinned += [b for b in basis.blocks if b.startswith(CONVOLUTIONS) and b not in pinned]
    chosen = choose([block for block in basis.blocks if block not in pinned])

    def precision(block: str) -> Precision:
        return "float32" if float_convs and block.startswith(CONVOLUTIONS) else chosen(block)

    model = store_half(basis.source.build(precision, ranges)[0])
    return Candidate("int8", describe_model(model, "acoustic"), pinned, basis.source)


def _search(basis: Basis, options: ExportOptions, ranges: Mapping[str, FloatArray]) -> Candidate | None:
    """Blocks in float32 in the order of their error; None where the calibration calls for none."""
    limit = MIN_AGREEMENT["int8"] if options.min_agreement is None else options.min_agreement
    stricter = 1 - SEARCH_SHARE * (1 - limit)
    options = dataclasses.replace(options, sensitivity=False, min_agreement=stricter)
    found = quantize(basis, options, ranges)
    fixed = [block for block in found.kept if block in ALWAYS_FLOAT or block.startswith(options.keep)]
    return found if len(found.kept) > len(fixed) else None


def _try(
    basis: Basis, name: str, make: Make, options: ExportOptions
) -> tuple[Trial | None, Candidate | None, Report | None]:
    """Build, compare and time a candidate; whatever refuses it is in the trial.

    Returns:
        None for the trial where there is nothing new to try.
    """
    options = dataclasses.replace(options, batches=False, allow_slower=True)
    trial, candidate, report = Trial(name, "fp32" if name == FLOAT else "int8"), None, None
    try:
        candidate = make()
        if candidate is None:
            return None, None, None
        report = measure_graph(basis, candidate, options)
        trial = _with_figures(trial, report)
        report = check_graph(basis, candidate, options, report)
    except ExportError as error:
        return dataclasses.replace(trial, refused=error.got), candidate, report
    return _with_figures(trial, report), candidate, report


def _with_figures(trial: Trial, report: Report) -> Trial:
    """The figures of what computes the graph on this processor."""
    if report.kernels and choose_backend(trial.precision, CPU).backend == KERNELS:
        found = report.kernels
        return dataclasses.replace(
            trial,
            computed_by=KERNELS,
            agreement=found["agreement"],
            error=found["error"],
            wer=found.get("wer"),
            speed=found["speedup"],
        )
    return dataclasses.replace(
        trial,
        agreement=report.agreement,
        error=report.error,
        wer=report.wer_export,
        speed=1.0 if trial.precision == "fp32" else report.speedup,
    )
