"""This project's own encoders, as the comparison calls them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.protocol.worker.peer_worker import Run

FloatArray = NDArray[np.float32]
Encode = Callable[[FloatArray], FloatArray]  # [batch, n_samples] normalised -> [batch, n_frames, vocab_size]


BY_KERNELS = ("ours int8", "ours bf16")
NAMES = ("ours fp32", "ours int8 by onnxruntime", "ours int8", "ours bf16")


def write_graphs(
    model: Any, calibration: Sequence[FloatArray], folder: Path, wanted: Collection[str] = NAMES
) -> dict[str, Path]:
    """Our graphs as the exporter writes them.

    Args:
        model: transformers' Wav2Vec2ForCTC or HubertForCTC, in evaluation mode.
        calibration: normalised utterances [n_samples], none of which is timed.
        wanted: the systems that will run.
    Returns:
        By system, the file that it runs; of a model beyond one ONNX file in float32, int8 alone.
    """
    from benchmarks.peers.encoder_models import is_large
    from export.acoustic.wav2vec2 import build_wav2vec2
    from export.layout.describe import describe_model
    from export.quantization.quantize import choose, measure_ranges

    folder.mkdir(parents=True, exist_ok=True)
    large = is_large(model)
    files = {
        name: folder / f"{'int8' if 'int8' in name else 'fp32'}.onnx"
        for name in NAMES
        if name in wanted and not (large and "int8" not in name)
    }
    graph, blocks = build_wav2vec2(model, choose([])) if large else build_wav2vec2(model)
    if folder / "fp32.onnx" in files.values():
        (folder / "fp32.onnx").write_bytes(describe_model(graph, "acoustic"))
    if folder / "int8.onnx" in files.values():
        ranges = measure_ranges(graph, blocks, "input_values", calibration)
        graph = build_wav2vec2(model, choose(list(blocks)), ranges)[0]
        (folder / "int8.onnx").write_bytes(describe_model(graph, "acoustic"))
    return files


def open_systems(files: Mapping[str, Path]) -> dict[str, Run]:
    """Ways to run the files of write_graphs, by name. Inputs "values", outputs "logits".

    Where the kernels do not compute the graph, int8 is that of onnxruntime, and bfloat16 is left out.
    """
    opened = {name: _open(name, path) for name, path in files.items()}
    return with_names({name: encode for name, encode in opened.items() if encode is not None})


def _open(name: str, path: Path) -> Encode | None:
    from engine.errors import LayoutError
    from engine.kernels.vector.levels import has_vector_kernels
    from engine.native.encoder import NativeEncoder
    from engine.runtime.onnx_session import open_session
    from engine.types import RuntimeOptions

    if name in BY_KERNELS and has_vector_kernels():
        with contextlib.suppress(LayoutError):  # a shape that the kernels leave to onnxruntime
            return one_by_one(NativeEncoder(path.read_bytes(), integers=name != "ours bf16"))
    if name == "ours bf16":
        return None
    session = open_session(path, RuntimeOptions(device="cpu"), threads=1)
    return lambda values: session.run({session.input_names[0]: values}, ["logits"])[0]


def with_names(encoders: Mapping[str, Encode]) -> dict[str, Run]:
    """As the driver calls them."""

    def named(encode: Encode) -> Run:
        return lambda inputs: {"logits": encode(inputs["values"])}

    return {name: named(encode) for name, encode in encoders.items()}


def kernel_level() -> str:
    """The real level of our own kernels in this process, for a signature."""
    from engine.kernels.vector.levels import active

    return active().name


def one_by_one(encoder: Any) -> Encode:
    """A batch as the engine computes it: utterance by utterance."""
    return lambda values: np.stack([encoder.run(row) for row in values])
