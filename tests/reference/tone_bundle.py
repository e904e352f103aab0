"""A bundle whose acoustic model is exact by construction: every letter is a tone, every filter hears one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.bundle.folder import write_bundle
from engine.bundle.schema import AcousticConfig, DecodingConfig
from engine.text import VOCABULARY

SAMPLE_RATE, WINDOW, HOP = 16_000, 400, 320
LETTER_S, REST_S = 0.08, 0.04
GAIN, BLANK_LOGIT = 20.0, 6.0


def pitch_hz(token_id: int) -> float:
    return 300.0 + 200.0 * token_id


def spell(text: str) -> np.ndarray:
    """Sing German text letter by letter; "." is a second and a half of silence. float32 at 16 kHz."""
    times = np.arange(int(LETTER_S * SAMPLE_RATE)) / SAMPLE_RATE
    rest = np.zeros(int(REST_S * SAMPLE_RATE))
    parts = [rest]
    for letter in text:
        if letter == ".":
            parts.append(np.zeros(int(1.5 * SAMPLE_RATE)))
            continue
        token_id = VOCABULARY.index("|" if letter == " " else letter)
        parts += [0.3 * np.sin(2 * np.pi * pitch_hz(token_id) * times), rest]
    return np.concatenate(parts).astype(np.float32)


def letter_graph() -> onnx.ModelProto:
    """input_values [batch, n_samples] -> logits [batch, n_frames, 32]: the power at each letter's pitch."""
    n_tokens = len(VOCABULARY)
    times = np.arange(WINDOW) / SAMPLE_RATE
    phases = np.stack([2 * np.pi * pitch_hz(i) * times for i in range(n_tokens)])
    filters = np.concatenate([np.cos(phases), np.sin(phases)])[:, None] * 2 / WINDOW
    pairs = np.concatenate([np.eye(n_tokens), np.eye(n_tokens)], axis=1)[:, :, None] * GAIN
    pairs[0] = 0.0
    bias = np.zeros(n_tokens)
    bias[0] = BLANK_LOGIT
    constants = {"filters": filters, "pairs": pairs, "bias": bias}
    initializers = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    initializers.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    nodes = [
        helper.make_node("Unsqueeze", ["input_values", "axis"], ["channel"]),
        helper.make_node("Conv", ["channel", "filters"], ["waves"], strides=[HOP]),
        helper.make_node("Mul", ["waves", "waves"], ["powers"]),
        helper.make_node("Conv", ["powers", "pairs", "bias"], ["tokens"]),
        helper.make_node("Transpose", ["tokens"], ["logits"], perm=[0, 2, 1]),
    ]
    inputs = [helper.make_tensor_value_info("input_values", TensorProto.FLOAT, ["batch", "n_samples"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "n_frames", n_tokens])]
    graph = helper.make_graph(nodes, "letters", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_tone_bundle(folder: Path) -> Path:
    """Write the bundle; windows of at most 12 s, greedy decoding."""
    sources = folder.with_name(folder.name + "-sources")
    sources.mkdir()
    onnx.save(letter_graph(), sources / "acoustic.onnx")
    (sources / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}))
    return write_bundle(
        folder,
        name="tones",
        licence="Apache-2.0",
        files={"acoustic": sources / "acoustic.onnx", "vocabulary": sources / "vocab.json"},
        card="# Tones\n",
        acoustic=AcousticConfig(samples_per_frame=HOP, max_window_s=12.0),
        decoding=DecodingConfig(beam_width=1),
    )
