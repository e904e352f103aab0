"""Checks that the exported graph is as good with the engine's own kernels as with onnxruntime."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.schema import AcousticConfig
from engine.errors import LayoutError
from engine.kernels.vector.levels import has_vector_kernels
from engine.native.encoder import NativeEncoder
from export.layout.describe import ensure_layout
from export.verification.audio_cases import Case
from export.verification.batch_check import Run
from export.verification.verify import Report, check, measure_speedup, onnx_run, verify

FloatArray = NDArray[np.float32]


def kernel_run(model: bytes) -> Run | None:
    """Run a graph by our own kernels; None where they do not compute it on this machine."""
    if not has_vector_kernels():
        return None
    try:
        encoder = NativeEncoder(ensure_layout(model, "acoustic"))
    except LayoutError:
        return None

    def run(features: FloatArray, lengths: Sequence[int] | None = None) -> FloatArray:
        ends = lengths or [features.shape[-1]] * len(features)
        return np.stack([encoder.run(row[..., :end]) for row, end in zip(features, ends, strict=True)])

    return run


def check_kernels(
    report: Report,
    model: bytes,
    float_graph: bytes | Path,
    cases: Sequence[Case],
    config: AcousticConfig,
    vocabulary: Sequence[str],
    probe: FloatArray,
    limits: tuple[Any, ...],
) -> Report:
    """The report with the kernels' results for an int8 graph.

    Args:
        report: with onnxruntime. float_graph: in float32, as Basis holds it, for the speed.
        limits: of export.verification.verify.check.
    Raises:
        ExportError: the kernels' logits differ from the checkpoint's.
    """
    run = kernel_run(model)
    if run is None:
        return report
    found = verify(run, cases, config, vocabulary, batches=False)  # they compute rows one by one
    baseline = onnx_run(float_graph, unpack_weights=True)
    found = dataclasses.replace(found, speedup=measure_speedup(run, baseline, probe))
    check(found, "int8", *limits)
    summary = {"agreement": found.agreement, "error": found.error, "speedup": found.speedup or 0.0}
    if found.wer_export is not None:
        summary["wer"] = found.wer_export
    return dataclasses.replace(report, kernels=summary)
