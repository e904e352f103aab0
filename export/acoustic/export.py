"""From a loaded acoustic model to a verified bundle: build, quantise, compare, write."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import onnx

from engine.bundle.folder import AcousticConfig, check_target, open_bundle, write_bundle
from engine.runtime.onnx_session import cuda_usable
from engine.types import RuntimeOptions
from export.card import render_acoustic_card
from export.errors import ExportError
from export.graph.builder import OPSET, Choice, Precision
from export.layout.describe import describe_model
from export.quantization.exactness import exact_on, prove_exact
from export.quantization.quantize import (
    ALWAYS_FLOAT,
    Build,
    FloatArray,
    Measure,
    measure_ranges,
    measure_sensitivity,
    search_blocks,
)
from export.rewrites.half_arithmetic import KEEP, use_half
from export.rewrites.half_storage import store_half
from export.verification.audio_cases import Case, build_cases, case_to_time
from export.verification.kernel_check import check_kernels
from export.verification.verify import (
    CPU,
    MAX_WER_LOSS,
    MIN_AGREEMENT,
    Report,
    Run,
    check,
    compare,
    measure_speedup,
    onnx_run,
    verify,
    with_logits,
)

logger = logging.getLogger("export")
PrecisionName = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8")
PACKAGES = ("torch", "transformers", "onnx", "numpy")
CALIBRATION_BUCKETS = ("3 s", "6 s")
SENSITIVITY_BUCKET = "3 s"
CUDA = RuntimeOptions(device="cuda")
MAX_PARAMETERS = 480_000_000  # as float32, with the graph, within the 2 GiB of one ONNX file
FRAMES_OFF, FRAMES_SHARE = 3.0, 0.02  # that edges of convolutions take


@dataclass(frozen=True)
class AcousticSource:
    """A checkpoint, ready to be exported.

    Attributes:
        name: of the checkpoint. licence: of its weights.
        build: makes the graph for a choice of precisions and known ranges.
        reference: the original model, [batch, ...] features to [batch, n_frames, vocab_size] logits.
        vocabulary: tokens by output index.
        config: for the manifest, without precision, exporter and figures.
        about: lines for the model card.
        precisions: those that the graph can be built in.
        ranged: whether build makes use of ranges.
        n_parameters: weights of the model.
        batchable: like build, with an input attention_mask, so that one call may take utterances of
            different lengths; None where the model has no such graph.
    """

    name: str
    licence: str
    build: Build[onnx.ModelProto]
    reference: Run
    vocabulary: tuple[str, ...]
    config: AcousticConfig
    about: Sequence[str] = ()
    precisions: Sequence[PrecisionName] = PRECISIONS
    ranged: bool = True
    n_parameters: int = 0
    batchable: Build[onnx.ModelProto] | None = None


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        keep: prefixes of blocks that stay in float32 (layer_0, stem).
        verify_data: manifest of recordings; None: artificial signals like speech.
        min_agreement: instead of the precision's own.
        allow_slower: do not refuse a graph that is slower than float32.
        sensitivity: measure the error that int8 causes in each block, for the card.
        batches: compare utterances in batches too.
        max_wer_loss: the largest acceptable rise of the word error rate, as a fraction.
    """

    precision: PrecisionName = "int8"
    keep: tuple[str, ...] = ()
    verify_data: Path | None = None
    min_agreement: float | None = None
    allow_slower: bool = False
    max_wer_loss: float = MAX_WER_LOSS
    licence: str | None = None
    sensitivity: bool = True
    batches: bool = True


def export_acoustic(source: AcousticSource, folder: Path, options: ExportOptions) -> Report:
    """Export, verify, and write a bundle with only the acoustic model.

    Returns:
        The comparison with the original model.
    Raises:
        ExportError: the comparison failed, or the disk is full; no file is left.
    """
    check_target(folder)
    _check_precision(source, options.precision)
    source = lighten(source)
    cases = with_logits(build_cases(source.config, options.verify_data), source.reference)
    _check_frames(source, cases)
    float_model, blocks = source.build(lambda block: "float32", None)
    model, kept = float_model, list(blocks)
    sensitivity: dict[str, float] = {}
    if options.precision == "int8":
        model, kept, sensitivity = _quantize(source, options, float_model, blocks, cases)
    elif options.precision == "fp16":
        model, kept, source = _halve(source, options, float_model)
    half = options.precision == "fp16"  # which the kernels do not compute
    graph = model.SerializeToString() if half else describe_model(model, "acoustic")
    exact = prove_exact(model) if options.precision == "int8" else ""
    # float16 is for CUDA. Where there is none it is checked on the CPU, and not timed.
    device = CUDA if options.precision == "fp16" and cuda_usable() else CPU
    run = onnx_run(model, device)
    report = verify(run, cases, source.config, source.vocabulary, options.batches)
    report = dataclasses.replace(report, sensitivity=sensitivity, exact_on=exact)
    report = _with_speed(report, run, float_model, cases, options.precision, device)
    logger.info("argmax agreement %.4f, error in the worst bucket %.4f", report.agreement, report.error)
    limits = (options.min_agreement, options.allow_slower, options.max_wer_loss)
    check(report, options.precision, *limits)
    if options.precision == "int8":
        probe = case_to_time(cases)
        report = check_kernels(
            report, graph, onnx_run(float_model), cases, source.config, source.vocabulary, probe, limits
        )
    _write(source, folder, options, graph, kept, report)
    return report


def _check_precision(source: AcousticSource, precision: str) -> None:
    if precision not in source.precisions:
        raise ExportError(
            f"--precision {precision} for a traced graph",
            " or ".join(source.precisions),
            "pass one of these; CUDA runs both",
        )
    if precision != "int8" and source.n_parameters > MAX_PARAMETERS:
        raise ExportError(
            f"--precision {precision} for {source.n_parameters / 1e6:.0f} million weights",
            f"at most {MAX_PARAMETERS / 1e6:.0f} million: one ONNX file holds 2 GB",
            "export with --precision int8",
        )


def lighten(source: AcousticSource) -> AcousticSource:
    """A source whose graphs keep weights as int8, where float32 ones would be beyond one ONNX file.

    They still compute in float32 where no int8 is asked for.
    """
    if source.n_parameters <= MAX_PARAMETERS:
        return source

    def build(precision: Choice, ranges: Mapping[str, FloatArray] | None) -> tuple[onnx.ModelProto, Any]:
        def stored(block: str) -> Precision:
            wanted = precision(block)
            return "stored" if wanted == "float32" and block not in ALWAYS_FLOAT else wanted

        return source.build(stored, ranges)

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


def _halve(
    source: AcousticSource, options: ExportOptions, float_model: onnx.ModelProto
) -> tuple[onnx.ModelProto, list[str], AcousticSource]:
    """The graph in float16 for CUDA, with a mask where the model has such a graph."""
    if source.batchable is not None:
        float_model = source.batchable(lambda block: "float32", None)[0]
        source = dataclasses.replace(source, config=msgspec.structs.replace(source.config, mask=True))
    return use_half(float_model, options.keep), [*KEEP, *options.keep], source


def _quantize(
    source: AcousticSource,
    options: ExportOptions,
    float_model: onnx.ModelProto,
    blocks: Mapping[str, str],
    cases: Sequence[Case],
) -> tuple[onnx.ModelProto, list[str], dict[str, float]]:
    calibration = [case for case in cases if case.bucket in CALIBRATION_BUCKETS]
    ranges: dict[str, FloatArray] = {}
    if source.ranged:
        name = float_model.graph.input[0].name
        ranges = measure_ranges(float_model, blocks, name, [case.features for case in calibration])
    pinned = [block for block in blocks if block in ALWAYS_FLOAT or block.startswith(options.keep)]
    candidates = [block for block in blocks if block not in pinned]
    few = list({case.noise: case for case in cases if case.bucket == SENSITIVITY_BUCKET}.values())
    sensitivity: dict[str, float] = {}
    if options.sensitivity:
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
    return store_half(model), [*pinned, *kept], sensitivity


def _measure_on(cases: Sequence[Case]) -> Measure[onnx.ModelProto]:
    def measure(candidate: onnx.ModelProto) -> tuple[float, float]:
        prove_exact(candidate)  # otherwise the figures would be true on this kind of processor only
        return compare(onnx_run(candidate), cases)

    return measure


def _write(
    source: AcousticSource,
    folder: Path,
    options: ExportOptions,
    model: bytes,
    kept: Sequence[str],
    report: Report,
) -> None:
    figures = (
        {**report.figures(), "float32_blocks": list(kept)}
        if options.precision != "fp32"
        else report.figures()
    )
    config = msgspec.structs.replace(
        source.config,
        precision=options.precision,
        opset=OPSET,
        exporter={name: importlib.metadata.version(name) for name in PACKAGES},
        figures=figures,
    )
    licence = options.licence or source.licence
    card = render_acoustic_card(source.name, licence, source.about, config, report, kept)
    try:
        with tempfile.TemporaryDirectory(prefix="export-") as temporary:
            graph, vocabulary = Path(temporary, "acoustic.onnx"), Path(temporary, "vocab.json")
            graph.write_bytes(model)
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
        raise ExportError(
            f"{str(folder)!r} could not be written ({error})", "free space and write access"
        ) from error


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
    device = CUDA if config.precision == "fp16" and cuda_usable() else CPU
    run = onnx_run(bundle.read("acoustic"), device)
    report = verify(run, cases, config, bundle.vocabulary, batches)
    report = dataclasses.replace(report, exact_on=exact_on(bundle.read("acoustic")))
    float_model = source.build(lambda block: "float32", None)[0]
    report = _with_speed(report, run, float_model, cases, config.precision, device)
    check(report, config.precision, min_agreement, allow_slower)
    if config.precision != "int8":
        return report
    probe = case_to_time(cases)
    limits = (min_agreement, allow_slower)
    graph, baseline = bundle.read("acoustic"), onnx_run(float_model)
    return check_kernels(report, graph, baseline, cases, config, bundle.vocabulary, probe, limits)


def _with_speed(
    report: Report,
    run: Run,
    float_model: onnx.ModelProto,
    cases: Sequence[Case],
    precision: str,
    device: RuntimeOptions,
) -> Report:
    """The report with the speed against float32; float16 is for CUDA, and timed there only."""
    report = dataclasses.replace(report, device=str(device.device))
    if precision != "int8" and device is not CUDA:
        return report
    probe = case_to_time(cases)
    speedup = measure_speedup(run, onnx_run(float_model, device), probe.features)
    return dataclasses.replace(report, speedup=speedup)
