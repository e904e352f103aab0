"""This project's own encoders, as the comparison calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.protocol.worker.peer_worker import Run

FloatArray = NDArray[np.float32]
Encode = Callable[[FloatArray], FloatArray]  # [batch, n_samples] normalised -> [batch, n_frames, vocab_size]


def our_systems(model: Any, calibration: Sequence[FloatArray]) -> dict[str, Run]:
    """Ways to run a CTC model, by name; every name starts with "ours". Inputs "values", outputs "logits".

    Args:
        model: transformers' Wav2Vec2ForCTC or HubertForCTC, in evaluation mode.
        calibration: normalised utterances [n_samples], none of which is timed.
    """
    from engine.errors import LayoutError
    from engine.kernels.vector.levels import has_vector_kernels
    from engine.native.encoder import NativeEncoder
    from export.acoustic.wav2vec2 import build_wav2vec2
    from export.layout.describe import describe_model
    from export.quantization.quantize import choose, measure_ranges
    from export.verification.verify import onnx_run

    float_graph, blocks = build_wav2vec2(model)
    ranges = measure_ranges(float_graph, blocks, "input_values", calibration)
    int8_graph, _ = build_wav2vec2(model, choose(list(blocks)), ranges)
    sessions = {"ours fp32": onnx_run(float_graph), "ours int8 by onnxruntime": onnx_run(int8_graph)}
    without = with_names({**sessions, "ours int8": sessions["ours int8 by onnxruntime"]})
    if not has_vector_kernels():
        return without
    try:
        encoders = {
            "ours int8": NativeEncoder(describe_model(int8_graph, "acoustic")),
            "ours bf16": NativeEncoder(describe_model(float_graph, "acoustic"), integers=False),
        }
    except LayoutError:  # a shape that the kernels leave to onnxruntime
        return without
    return with_names({**sessions, **{name: one_by_one(encoder) for name, encoder in encoders.items()}})


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
