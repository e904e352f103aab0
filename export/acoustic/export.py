"""From a loaded acoustic model to a verified bundle: build, quantise, compare, write."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnx

from engine.bundle.folder import open_bundle, write_bundle
from engine.bundle.target import check_target
from engine.runtime.onnx_session import cuda_usable
from engine.types import RuntimeOptions
from export.acoustic.source import (
    MAX_PARAMETERS,
    AcousticSource,
    Basis,
    Candidate,
    ExportOptions,
    is_large,
    worth_batches,
    worth_sensitivity,
)
from export.card import render_acoustic_card
from export.errors import ExportError
from export.graph.builder import OPSET, Choice, Precision
from export.layout.describe import add_layout, describe_model
from export.quantization.exactness import exact_on, prove_exact
from export.quantization.quantize import (
    ALWAYS_FLOAT,
    FloatArray,
    Measure,
    measure_ranges,
    measure_sensitivity,
    search_blocks,
)
from export.rewrites.half_arithmetic import KEEP, use_half
from export.rewrites.half_storage import store_half
from export.rewrites.unpacked_once import serialize_unpacked_once
from export.verification.audio_cases import Case, build_cases, case_to_time
from export.verification.kernel_check import check_kernels
from export.verification.verify import (
    CPU,
    MIN_AGREEMENT,
    Report,
    Run,
    check,
    compare,
    measure_speedup,
    measuring_run,
    onnx_run,
    verify,
    with_logits,
)

logger = logging.getLogger("export")
PACKAGES = ("torch", "transformers", "onnx", "numpy")
CALIBRATION_BUCKETS = ("3 s", "6 s")
SENSITIVITY_BUCKET = "3 s"
CUDA = RuntimeOptions(device="cuda")
CONVOLUTIONS = "conv_"  # how the blocks of waveform convolutions begin
FRAMES_OFF, FRAMES_SHARE = 3.0, 0.02  # that edges of convolutions take


def export_acoustic(source: AcousticSource, folder: Path, options: ExportOptions) -> Report:
    """Export, verify, and write a bundle with only the acoustic model.

    Returns:
        The comparison with the original model.
    Raises:
        ExportError: the comparison failed, or the disk is full; no file is left.
    """
    check_target(folder)
    check_precision(source, options.precision)
    makers = {"fp32": lambda basis, _: keep_float(basis), "fp16": _halve, "int8": quantize}
    with prepare(source, options) as basis:
        candidate = makers[options.precision](basis, options)
        report = check_graph(basis, candidate, options, measure_graph(basis, candidate, options))
        write(candidate, folder, options, report)
    return report


@contextlib.contextmanager
def prepare(source: AcousticSource, options: ExportOptions) -> Iterator[Basis]:
    """The utterances, what the original makes of them, and the float32 graph in a temporary file.

    Raises:
        ExportError: the checkpoint's configuration is wrong about its frames.
    """
    source = lighten(source)
    cases = with_logits(build_cases(source.config, options.verify_data), source.reference)
    source.let_go()
    _check_frames(source, cases)
    with tempfile.TemporaryDirectory(prefix="export-") as temporary:
        path = Path(temporary, "float32.onnx")
        model, blocks = source.build(lambda block: "float32", None)
        store(path, serialize_unpacked_once(model))
        convolutions = any(node.name.startswith(CONVOLUTIONS) for node in model.graph.node)
        del model  # a large one's graph would be in memory several times
        yield Basis(source, cases, path, blocks, convolutions)


def measure_graph(basis: Basis, candidate: Candidate, options: ExportOptions) -> Report:
    """Compare a graph with the original model by onnxruntime, and time it.

    Raises:
        ExportError: onnxruntime cannot load it, or its integer products saturate on some processors.
    """
    precision, config = candidate.precision, candidate.source.config
    exact = prove_exact(candidate.graph) if precision == "int8" else ""
    # float16 is for CUDA. Where there is none it is checked on the CPU, and not timed.
    device = CUDA if precision == "fp16" and cuda_usable() else CPU
    run = onnx_run(candidate.graph, device)
    batches = options.batches and worth_batches(basis.source, config.mask)
    report = verify(run, basis.cases, config, basis.source.vocabulary, batches)
    basis.source.let_go()  # before the float32 graph is loaded beside this one
    report = dataclasses.replace(report, sensitivity=candidate.sensitivity, exact_on=exact)
    report = _with_speed(report, run, basis.float_graph, basis.probe, precision, device)
    logger.info("argmax agreement %.4f, error in the worst bucket %.4f", report.agreement, report.error)
    return report


def check_graph(basis: Basis, candidate: Candidate, options: ExportOptions, report: Report) -> Report:
    """Refuse a graph that differs too much, by onnxruntime or, in int8, by our own kernels.

    Returns:
        The comparison, with that of the kernels.
    Raises:
        ExportError: it differs, or is slower than float32.
    """
    limits = (options.min_agreement, options.allow_slower, options.max_wer_loss)
    check(report, candidate.precision, *limits)
    if candidate.precision != "int8":
        return report
    config, vocabulary = candidate.source.config, basis.source.vocabulary
    basis.source.let_go()
    return check_kernels(
        report, candidate.graph, basis.float_graph, basis.cases, config, vocabulary, basis.probe, limits
    )


def check_precision(source: AcousticSource, precision: str) -> None:
    """Refuse a precision that the model cannot be exported in.

    Raises:
        ExportError: says which it can.
    """
    if precision == "auto":
        raise ExportError(
            "--precision auto for a checkpoint of this kind",
            " or ".join(source.precisions),
            "pass one of these; auto is an option of engine-export ctc",
        )
    if precision not in source.precisions:
        raise ExportError(
            f"--precision {precision} for a traced graph",
            " or ".join(source.precisions),
            "pass one of these; CUDA runs both",
        )
    if precision != "int8" and is_large(source.n_parameters):
        raise ExportError(
            f"--precision {precision} for {source.n_parameters / 1e6:.0f} million weights",
            f"at most {MAX_PARAMETERS / 1e6:.0f} million: one ONNX file holds 2 GB",
            "export with --precision int8",
        )


def lighten(source: AcousticSource) -> AcousticSource:
    """A source whose graphs keep weights as int8, where float32 ones would be beyond one ONNX file.

    They still compute in float32 where no int8 is asked for.
    """
    if not is_large(source.n_parameters):
        return source

    def build(precision: Choice, ranges: Mapping[str, FloatArray] | None) -> tuple[onnx.ModelProto, Any]:
        def stored(block: str) -> Precision:
            wanted = precision(block)
            light = block in ALWAYS_FLOAT or block.startswith(CONVOLUTIONS)  # of the weights, a percent
            return "stored" if wanted == "float32" and not light else wanted

        built = source.build(stored, ranges)
        source.let_go()
        return built

    return dataclasses.replace(source, build=build)


def _check_frames(source: AcousticSource, cases: Sequence[Case]) -> None:
    """Refuse a source whose configuration says another number of frames: all times would be wrong."""
    config = source.config
    hop = 1 if config.features.kind == "waveform" else config.features.hop_length
    for case in cases:
        expected = case.features.shape[-1] * hop / config.samples_per_frame
        n_frames = 0 if case.logits is None else len(case.logits)
        if abs(n_frames - expected) > FRAMES_OFF + expected * FRAMES_SHARE:
            raise ExportError(
                f"{n_frames} frames of logits for {case.bucket} of audio",
                f"about {expected:.0f}, one for every {config.samples_per_frame} samples",
                "report the checkpoint's config.json",
            )


def keep_float(basis: Basis) -> Candidate:
    """The float32 graph."""
    graph = add_layout(basis.float_graph.read_bytes(), "acoustic")
    return Candidate("fp32", graph, list(basis.blocks), basis.source)


def _halve(basis: Basis, options: ExportOptions) -> Candidate:
    """The graph in float16 for CUDA, with a mask where the model has such a graph."""
    source, build = basis.source, basis.source.build
    if source.batchable is not None:
        build = source.batchable
        source = dataclasses.replace(source, config=msgspec.structs.replace(source.config, mask=True))
    half = use_half(build(lambda block: "float32", None)[0], options.keep)
    return Candidate("fp16", half.SerializeToString(), [*KEEP, *options.keep], source)


def quantize(
    basis: Basis, options: ExportOptions, ranges: Mapping[str, FloatArray] | None = None
) -> Candidate:
    """The graph with as many blocks in int8 as the wanted agreement allows.

    Args:
        ranges: of find_ranges; None: measured here.
    """
    source, ranges = basis.source, find_ranges(basis) if ranges is None else ranges
    calibration = [case for case in basis.cases if case.bucket in CALIBRATION_BUCKETS]
    pinned = [block for block in basis.blocks if block in ALWAYS_FLOAT or block.startswith(options.keep)]
    candidates = [block for block in basis.blocks if block not in pinned]
    few = list({case.noise: case for case in basis.cases if case.bucket == SENSITIVITY_BUCKET}.values())
    sensitivity: dict[str, float] = {}
    if options.sensitivity and not worth_sensitivity(source):
        logger.info("blocks of a model of this size are measured alone only where int8 in all is refused")
    elif options.sensitivity:
        logger.info("measuring %d blocks, each alone in int8", len(candidates))
        sensitivity = measure_sensitivity(source.build, candidates, ranges, _measure_on(few))
    model, kept = search_blocks(
        source.build,
        candidates,
        ranges,
        _measure_on(calibration),
        MIN_AGREEMENT["int8"] if options.min_agreement is None else options.min_agreement,
        sensitivity,
    )
    graph = describe_model(store_half(model), "acoustic")
    return Candidate("int8", graph, [*pinned, *kept], source, sensitivity)


def find_ranges(basis: Basis) -> dict[str, FloatArray]:
    """The largest magnitudes that int8 makes use of; none where the graph has no use for them."""
    if not basis.source.ranged:
        return {}
    calibration = [case.features for case in basis.cases if case.bucket in CALIBRATION_BUCKETS]
    model = onnx.load(basis.float_graph)
    return measure_ranges(model, basis.blocks, model.graph.input[0].name, calibration)


def _measure_on(cases: Sequence[Case]) -> Measure[onnx.ModelProto]:
    def measure(candidate: onnx.ModelProto) -> tuple[float, float]:
        prove_exact(candidate)  # otherwise the figures would be true on this kind of processor only
        return compare(measuring_run(candidate), cases)

    return measure


def write(candidate: Candidate, folder: Path, options: ExportOptions, report: Report) -> None:
    """Write a compared graph as a bundle, whole or not at all.

    Raises:
        ExportError: it cannot be written.
    """
    source, kept = candidate.source, candidate.kept
    figures = report.figures()
    if candidate.precision != "fp32":
        figures["float32_blocks"] = list(kept)
    config = msgspec.structs.replace(
        source.config,
        precision=candidate.precision,
        opset=OPSET,
        exporter={name: importlib.metadata.version(name) for name in PACKAGES},
        figures=figures,
    )
    licence = options.licence or source.licence
    card = render_acoustic_card(source.name, licence, source.about, config, report, kept)
    try:
        with tempfile.TemporaryDirectory(prefix="export-") as temporary:
            graph, vocabulary = Path(temporary, "acoustic.onnx"), Path(temporary, "vocab.json")
            graph.write_bytes(candidate.graph)
            tokens = {token: index for index, token in enumerate(source.vocabulary)}
            vocabulary.write_text(json.dumps(tokens, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            write_bundle(
                folder,
                name=source.name,
                licence=licence,
                files={"acoustic": graph, "vocabulary": vocabulary},
                card=card,
                acoustic=config,
            )
    except OSError as error:
        raise _not_written(folder, error) from error


def store(path: Path, graph: bytes) -> None:
    """Write a graph into a temporary file.

    Raises:
        ExportError: it cannot be written.
    """
    try:
        path.write_bytes(graph)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(folder: Path | str, error: OSError) -> ExportError:
    return ExportError(f"{str(folder)!r} could not be written ({error})", "free space and write access")


def verify_bundle(
    source: AcousticSource,
    folder: Path,
    manifest: Path | None = None,
    min_agreement: float | None = None,
    allow_slower: bool = False,
    batches: bool = True,
) -> Report:
    """Compare an existing bundle with its checkpoint.

    Raises:
        ExportError: the bundle differs from the checkpoint. BundleError: the bundle is damaged.
    """
    source, bundle = lighten(source), open_bundle(folder)
    config = bundle.manifest.acoustic
    if config is None or bundle.vocabulary != source.vocabulary:
        raise ExportError(
            f"{str(folder)!r} has another vocabulary, or no acoustic model",
            "an export of this checkpoint",
            "check the folders",
        )
    cases = with_logits(build_cases(config, manifest), source.reference)
    source.let_go()
    device = CUDA if config.precision == "fp16" and cuda_usable() else CPU
    run = onnx_run(bundle.read("acoustic"), device)
    batches = batches and worth_batches(source, config.mask)
    report = verify(run, cases, config, bundle.vocabulary, batches)
    report = dataclasses.replace(report, exact_on=exact_on(bundle.read("acoustic")))
    float_graph = serialize_unpacked_once(source.build(lambda block: "float32", None)[0])
    probe = case_to_time(cases).features
    report = _with_speed(report, run, float_graph, probe, config.precision, device)
    check(report, config.precision, min_agreement, allow_slower)
    if config.precision != "int8":
        return report
    limits = (min_agreement, allow_slower)
    graph = bundle.read("acoustic")
    return check_kernels(report, graph, float_graph, cases, config, bundle.vocabulary, probe, limits)


def _with_speed(
    report: Report,
    run: Run,
    float_graph: bytes | Path,
    probe: FloatArray,
    precision: str,
    device: RuntimeOptions,
) -> Report:
    """The report with the speed against float32; float16 is for CUDA, and timed there only."""
    report = dataclasses.replace(report, device=str(device.device))
    if precision != "int8" and device is not CUDA:
        return report
    # The CPU waits for a GPU, so that its own time says nothing.
    clock = time.perf_counter if device is CUDA else time.process_time
    baseline = onnx_run(float_graph, device, unpack_weights=True)
    speedup = measure_speedup(run, baseline, probe, clock=clock)
    return dataclasses.replace(report, speedup=speedup)
