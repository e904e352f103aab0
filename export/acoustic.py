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
from typing import Literal

import msgspec
import onnx

from engine.bundle import AcousticConfig, open_bundle, write_bundle
from export.audio_cases import Case, build_cases
from export.card import render_acoustic_card
from export.errors import ExportError
from export.graph.builder import OPSET
from export.graph.half_storage import store_half
from export.quantize import ALWAYS_FLOAT, Build, measure_ranges, search_blocks
from export.verify import (
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
PrecisionName = Literal["fp32", "int8"]
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "int8")
PACKAGES = ("torch", "transformers", "onnx", "numpy")
CALIBRATION_BUCKETS = ("3 s", "6 s")
SPEED_BUCKET = "6 s"


@dataclass(frozen=True)
class AcousticSource:
    """A checkpoint, ready to be exported.

    Attributes:
        name: of the checkpoint. licence: of its weights.
        build: makes the graph for a choice of precisions and known ranges.
        reference: the original model, [batch, ...] features to [batch, n_frames, vocab_size] logits.
        vocabulary: tokens by output index.
        config: what the manifest will say, but for precision, exporter and figures.
        about: lines for the model card.
    """

    name: str
    licence: str
    build: Build
    reference: Run
    vocabulary: tuple[str, ...]
    config: AcousticConfig
    about: Sequence[str] = ()


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        keep: prefixes of blocks that stay in float32 (layer_0, stem).
        verify_data: manifest of recordings; signals like speech where None.
        min_agreement: instead of the precision's own.
        allow_slower: do not refuse a graph that is slower than float32.
        max_wer_loss: the largest acceptable rise of the word error rate, as a fraction.
    """

    precision: PrecisionName = "int8"
    keep: tuple[str, ...] = ()
    verify_data: Path | None = None
    min_agreement: float | None = None
    allow_slower: bool = False
    max_wer_loss: float = MAX_WER_LOSS
    licence: str | None = None


def export_acoustic(source: AcousticSource, folder: Path, options: ExportOptions) -> Report:
    """Export, verify, and write a bundle that holds only the acoustic model.

    Returns:
        What the comparison with the original model found.
    Raises:
        ExportError: the comparison failed, or the disk is full; nothing is left behind.
    """
    cases = with_logits(build_cases(source.config, options.verify_data), source.reference)
    float_model, blocks = source.build(lambda block: "float32", None)
    model, kept = float_model, list(blocks)
    if options.precision == "int8":
        model, kept = _quantize(source, options, float_model, blocks, cases)
    run = onnx_run(model)
    report = verify(run, cases, source.config, source.vocabulary)
    if options.precision != "fp32":
        probe = next(case for case in cases if case.bucket == SPEED_BUCKET)
        speedup = measure_speedup(run, onnx_run(float_model), probe.features)
        report = dataclasses.replace(report, speedup=speedup)
    logger.info("argmax agreement %.4f, error in the worst bucket %.4f", report.agreement, report.error)
    limits = (options.min_agreement, options.allow_slower, options.max_wer_loss)
    check(report, options.precision, *limits)
    _write(source, folder, options, model, kept, report)
    return report


def _quantize(
    source: AcousticSource,
    options: ExportOptions,
    float_model: onnx.ModelProto,
    blocks: Mapping[str, str],
    cases: Sequence[Case],
) -> tuple[onnx.ModelProto, list[str]]:
    calibration = [case for case in cases if case.bucket in CALIBRATION_BUCKETS]
    input_name = float_model.graph.input[0].name
    ranges = measure_ranges(float_model, blocks, input_name, [case.features for case in calibration])
    pinned = [block for block in blocks if block in ALWAYS_FLOAT or block.startswith(options.keep)]
    model, kept = search_blocks(
        source.build,
        [block for block in blocks if block not in pinned],
        ranges,
        lambda candidate: compare(onnx_run(candidate), calibration),
        MIN_AGREEMENT["int8"] if options.min_agreement is None else options.min_agreement,
    )
    return store_half(model), [*pinned, *kept]


def _write(
    source: AcousticSource,
    folder: Path,
    options: ExportOptions,
    model: onnx.ModelProto,
    kept: Sequence[str],
    report: Report,
) -> None:
    figures = (
        {**report.figures(), "float32_blocks": list(kept)}
        if options.precision == "int8"
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
            onnx.save(model, graph)
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
) -> Report:
    """Compare a bundle that was exported before with its checkpoint.

    Raises:
        ExportError: the bundle is not what the checkpoint is. BundleError: the bundle is damaged.
    """
    bundle = open_bundle(folder)
    config = bundle.manifest.acoustic
    if config is None or bundle.vocabulary != source.vocabulary:
        raise ExportError(
            f"{str(folder)!r} has another vocabulary, or no acoustic model",
            "an export of this checkpoint",
            "check the folders",
        )
    cases = with_logits(build_cases(config, manifest), source.reference)
    report = verify(onnx_run(bundle.read("acoustic")), cases, config, bundle.vocabulary)
    check(report, config.precision, min_agreement, allow_slower)
    return report
