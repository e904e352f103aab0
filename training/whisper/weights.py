"""Whisper's encoder from a CTranslate2 or transformers folder, and sinks that replace its silence."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from training.asr.log_mel_ctc import LogMelCtc
from training.common.mel import compute_log_mel

_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
WINDOW_S = 30  # Whisper's training window; silence follows the speech


class WeightsError(ValueError):
    """A file does not contain a Whisper encoder in a known form."""


def read_ctranslate2(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the variables of a CTranslate2 model.bin.

    Args:
        path: the file, binary version 6 or later, little endian.
    Returns:
        name -> array, in the type they were stored in.
    Raises:
        WeightsError: truncated, or of an unknown type.
    Source: the layout that CTranslate2's model_spec.py writes.
    """
    data = path.read_bytes()
    place = 0

    def number(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + form, data, place)
        place += struct.calcsize(form)
        return int(value)

    def string() -> str:
        nonlocal place
        size = number("H")
        place += size
        return data[place - size : place - 1].decode()

    try:
        number("I"), string(), number("I")  # version, specification, revision
        variables = {}
        for _ in range(number("I")):
            name, rank = string(), number("B")
            shape = [number("I") for _ in range(rank)]
            kind, size = _TYPES[number("B")], number("I")
            variables[name] = np.frombuffer(data, kind, size // np.dtype(kind).itemsize, place).reshape(shape)
            place += size
    except (struct.error, IndexError, ValueError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: not a CTranslate2 model, or truncated ({error})") from error
    return variables


def whisper_sizes(path: Path) -> dict[str, Any]:
    """Read an encoder's sizes, as keys of LogMelCtcConfig, from what `load_whisper_encoder` takes.

    Raises:
        WeightsError: no Whisper encoder there.
    """
    if _is_transformers(path):
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        names = {
            "n_mels": "num_mel_bins", "hidden_size": "d_model", "n_layers": "encoder_layers",
            "n_heads": "encoder_attention_heads", "intermediate_size": "encoder_ffn_dim",
            "max_frames": "max_source_positions",
        }  # fmt: skip
        return {key: int(config[name]) for key, name in names.items()}
    path = _model_bin(path)
    variables = read_ctranslate2(path)
    try:
        hidden, n_mels, _ = variables["encoder/conv1/weight"].shape
        intermediate = variables["encoder/layer_0/ffn/linear_0/weight"].shape[0]
    except KeyError as error:
        raise WeightsError(f"{path}: {error} is missing, expected a Whisper model") from error
    n_layers = sum(name.endswith("ffn/linear_0/weight") and "encoder/" in name for name in variables)
    heads = variables.get("encoder/num_heads")
    n_heads = int(heads.reshape(-1)[0]) if heads is not None else max(1, hidden // 64)
    return {
        "n_mels": n_mels, "hidden_size": hidden, "n_layers": n_layers, "n_heads": n_heads,
        "intermediate_size": intermediate,
    }  # fmt: skip


def _is_transformers(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "model.safetensors").is_file()


def _model_bin(path: Path) -> Path:
    path = path / "model.bin" if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give a CTranslate2 or a transformers folder of Whisper")
    return path


def load_whisper_encoder(model: LogMelCtc, path: Path) -> None:
    """Copy Whisper's encoder into a LogMelCtc of the same sizes.

    Args:
        model: its head and sinks stay as they are.
        path: CTranslate2's model.bin in float32 or float16, or the folder that holds it; or a folder as
            transformers' save_pretrained writes it (config.json, model.safetensors).
    Raises:
        WeightsError: variables are missing, quantised, or of another size.
    """
    state = _read_transformers(path) if _is_transformers(path) else _read_state(_model_bin(path), model)
    known = model.state_dict()
    wrong = [name for name, tensor in state.items() if name not in known or known[name].shape != tensor.shape]
    if wrong:
        raise WeightsError(f"{path}: other sizes than the model's, e.g. {wrong[0]}")
    model.load_state_dict(state, strict=False)


_TRANSFORMERS_NAMES = {
    "self_attn_layer_norm": "layer_norm", "self_attn": "attention", "fc1": "intermediate_dense",
    "fc2": "output_dense",
}  # fmt: skip


def _read_transformers(path: Path) -> dict[str, Tensor]:
    state = {}
    for name, tensor in load_file(path / "model.safetensors").items():
        _, found, rest = name.rpartition("encoder.")
        if not found or "embed_positions" in rest:  # the positions are computed
            continue
        parts = [_TRANSFORMERS_NAMES.get(part, part) for part in rest.split(".")]
        state[".".join(parts)] = tensor.float()
    if not state:
        raise WeightsError(f"{path}: no encoder in model.safetensors, expected a Whisper model")
    return state


def _read_state(path: Path, model: LogMelCtc) -> dict[str, Tensor]:
    variables = read_ctranslate2(path)
    state: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        array = variables.get(f"encoder/{name}")
        if array is None or array.dtype.kind != "f":
            kind = "missing" if array is None else str(array.dtype)
            raise WeightsError(f"{path}: encoder/{name} is {kind}, expected float16 or float32")
        return torch.from_numpy(array.astype(np.float32))

    for name in ("conv1", "conv2"):
        state |= {f"{name}.{part}": take(f"{name}/{part}") for part in ("weight", "bias")}
    state |= _norm("layer_norm", "layer_norm", take)
    for index in range(model.config.n_layers):
        state |= _layer(f"layers.{index}", f"layer_{index}", take)
    return state


def _norm(name: str, source: str, take: Any) -> dict[str, Tensor]:
    return {f"{name}.weight": take(f"{source}/gamma"), f"{name}.bias": take(f"{source}/beta")}


def _layer(name: str, source: str, take: Any) -> dict[str, Tensor]:
    weights = take(f"{source}/self_attention/linear_0/weight").chunk(3)
    biases = take(f"{source}/self_attention/linear_0/bias").chunk(3)
    state = {
        f"{name}.attention.{part}_proj.weight": weight for part, weight in zip("qkv", weights, strict=True)
    }
    state |= {
        f"{name}.attention.{part}_proj.bias": biases[at] for at, part in ((0, "q"), (2, "v"))
    }  # no key bias
    pairs = (("attention.out_proj", "self_attention/linear_1"), ("intermediate_dense", "ffn/linear_0"))
    for target, linear in (*pairs, ("output_dense", "ffn/linear_1")):
        state |= {f"{name}.{target}.{part}": take(f"{source}/{linear}/{part}") for part in ("weight", "bias")}
    state |= _norm(f"{name}.layer_norm", f"{source}/self_attention/layer_norm", take)
    return state | _norm(f"{name}.final_layer_norm", f"{source}/ffn/layer_norm", take)


@torch.no_grad()
def set_sinks(model: LogMelCtc, waveforms: Sequence[Tensor]) -> None:
    """Set each layer's sinks to the mean keys and values of the silence after speech.

    Whisper was trained on windows of 30 s, and its attention uses the silence that fills them; without it
    the states differ. A sink is the mean over a stretch of that silence, with the log of the stretch's
    length as its bias, so that it has the weight of all its frames.

    Args:
        model: with Whisper's encoder.
        waveforms: a dozen clips, float32 [n_samples], under 7 s, 16 kHz.
    """
    n_sinks, first = model.config.n_sinks, 350
    stretch = (WINDOW_S * 50 - first) // n_sinks
    layers: list[Any] = list(model.layers)
    sums: list[list[Any]] = [[0.0, 0.0] for _ in layers]
    for waveform in waveforms:
        padded = functional.pad(waveform, (0, WINDOW_S * 16_000 - waveform.numel()))
        hidden = model.stem(compute_log_mel(padded, model.config.n_mels)[None])
        for layer, total in zip(layers, sums, strict=True):
            normed = layer.layer_norm(hidden)[0, first : first + n_sinks * stretch]
            total[0] = total[0] + layer.attention.k_proj(normed)
            total[1] = total[1] + layer.attention.v_proj(normed)
            hidden = layer(hidden, use_sinks=False)
    for layer, (keys, values) in zip(layers, sums, strict=True):
        for parameter, total in ((layer.attention.sink_keys, keys), (layer.attention.sink_values, values)):
            parameter.copy_((total / len(waveforms)).unflatten(0, (n_sinks, stretch)).mean(1))
        layer.attention.sink_bias.fill_(math.log(stretch))
