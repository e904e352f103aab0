"""The weights, the audio, and the graphs that the peers run: torch's own export and its int8 versions."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.audio.parts import load_part
from engine.manifests import read_manifest
from export.acoustic.quiet import quiet_loggers
from export.verification.audio_cases import speech_like

SAMPLE_RATE = 16_000
N_CALIBRATION, CALIBRATION_S = 8, 5.0
FILES = ("checkpoint", "plain", "dynamic", "static", "static_matmul")
ONE_FILE = 1_900_000_000  # bytes of float32 weights that one ONNX file holds; more lie beside it
LAYER_NORM: dict[str, Any] = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
BILLION = LAYER_NORM | {
    "hidden_size": 1280, "num_hidden_layers": 48, "num_attention_heads": 16, "intermediate_size": 5120,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {  # of random weights
    "base": {},
    "layer": LAYER_NORM,
    "xlsr-300m": LAYER_NORM
    | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "xlsr-1b": BILLION,
    "xlsr-1b-half": BILLION | {"num_hidden_layers": 24},
}
FloatArray = NDArray[np.float32]


def load_model(checkpoint: str, variant: str) -> Any:
    """A CTC model in evaluation mode, one torch thread.

    Args:
        checkpoint: a save_pretrained folder, or "none" for random weights.
        variant: of random weights: "base" is wav2vec2-base with group norm, "layer" the same with layer norm
            in the convolutions, "xlsr-300m" and "xlsr-1b" as large as XLS-R 300M and 1B,
            "xlsr-1b-half" the latter with half of its layers: onnxruntime's static quantisation takes seven
            times the memory of the float32 weights.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    if checkpoint != "none":
        return transformers.AutoModelForCTC.from_pretrained(
            checkpoint, use_safetensors=True, attn_implementation="sdpa"
        ).eval()
    torch.manual_seed(0)
    return transformers.Wav2Vec2ForCTC(
        transformers.Wav2Vec2Config(attn_implementation="sdpa", **VARIANTS[variant])
    ).eval()


def write_checkpoint(model: Any, folder: Path) -> None:
    """Like save_pretrained, with a tokenizer, which a converter may need."""
    import json

    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}
    vocabulary |= {f"t{index}": index for index in range(5, model.config.vocab_size)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    model.save_pretrained(folder)


def load_speech(manifest: Path | None, measured: bool) -> FloatArray:
    """The clips of a manifest joined, odd ones to measure, even ones to calibrate on: float32 [n_samples].

    Without a manifest, artificial signals like speech, with different seeds for the two.
    """
    if manifest is None:
        clips = [speech_like(40 * SAMPLE_RATE, SAMPLE_RATE, seed) for seed in range(int(measured), 6, 2)]
    else:
        rows = read_manifest(manifest)[int(measured) :: 2]
        clips = [load_part(row.path, row.offset_s, row.duration_s) for row in rows]
    return np.concatenate(clips).astype(np.float32)


def cut(speech: FloatArray, batch: int, length_s: float) -> FloatArray:
    """Utterances from the start on, normalised: float32 [batch, n_samples]."""
    n_samples = int(length_s * SAMPLE_RATE)
    waves = np.resize(speech, batch * n_samples).reshape(batch, n_samples)
    normalised = (waves - waves.mean(1, keepdims=True)) / waves.std(1, keepdims=True)
    return np.ascontiguousarray(normalised, np.float32)


def calibration_set(speech: FloatArray) -> list[FloatArray]:
    """Utterances [n_samples], evenly spread over the speech."""
    n_samples = int(CALIBRATION_S * SAMPLE_RATE)
    starts = np.linspace(0, max(speech.size - n_samples, 0), N_CALIBRATION).astype(int)
    return [cut(speech[start : start + n_samples], 1, CALIBRATION_S)[0] for start in starts]


def prepare_graphs(
    model: Any, calibration: Sequence[FloatArray], folder: Path, wanted: Collection[str] = FILES
) -> dict[str, Path]:
    """Make the peers' files, or take those of the same weights and calibration from an earlier run.

    Args:
        wanted: the files to make; a large model's take minutes.
    Returns:
        checkpoint, plain.onnx (float32), dynamic.onnx (int8 MatMul), static.onnx (QDQ int8 MatMul and Conv)
        and static_matmul.onnx (QDQ int8 MatMul) by the names without suffix. Of a large model, a file
        NAME.data beside each holds its weights.
    """
    folder = folder / digest(model, calibration)
    files = {name: folder / (name if name == "checkpoint" else f"{name}.onnx") for name in FILES}
    plain, large = files["plain"], is_large(model)
    makers: dict[str, Callable[[Path], None]] = {
        "checkpoint": lambda path: write_checkpoint(model, path),
        "plain": lambda path: export_plain(model, path),
        "dynamic": lambda path: quantize_dynamically(plain, path, large),
        "static": lambda path: quantize_statically(plain, path, calibration, large, convolutions=True),
        "static_matmul": lambda path: quantize_statically(
            plain, path, calibration, large, convolutions=False
        ),
    }
    building = folder / "building"
    for name, make in makers.items():
        if name in wanted and not files[name].exists():
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            make(building / files[name].name)
            for path in sorted(building.iterdir(), key=lambda path: path.name == files[name].name):
                path.rename(folder / path.name)  # the graph last: it tells that all are there
            building.rmdir()
    return files


def is_large(model: Any) -> bool:
    """Whether the float32 weights of a model are too many for one ONNX file."""
    return 4 * sum(int(tensor.numel()) for tensor in model.parameters()) > ONE_FILE


def digest(model: Any, calibration: Sequence[FloatArray]) -> str:
    """Twelve hex digits that change with any weight and any sample of the calibration."""
    config = model.config  # save_pretrained changes it: only fields that the weights do not show
    shape = (config.num_attention_heads, config.do_stable_layer_norm, tuple(config.conv_stride))
    found = hashlib.sha256(repr(shape).encode())
    for tensor in model.state_dict().values():
        found.update(tensor.numpy().tobytes())
    for wave in calibration:
        found.update(wave.tobytes())
    return found.hexdigest()[:12]


def export_plain(model: Any, path: Path) -> None:
    """torch's own export: input_values [batch, length] -> logits.

    Of a large model it writes a file for each weight; they are joined to one, NAME.data.
    """
    import onnx
    import torch

    class LogitsOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_values: Any) -> Any:
            return self.model(input_values).logits

    axes = {0: "batch", 1: "length"}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as folder:
        exported = Path(folder, path.name)
        torch.onnx.export(
            LogitsOnly().eval(),
            (torch.zeros(2, SAMPLE_RATE),),
            exported,
            input_names=["input_values"],
            output_names=["logits"],
            dynamic_axes={"input_values": axes, "logits": axes},
            opset_version=18,
            dynamo=False,
        )
        if is_large(model):
            joined = f"{path.name}.data"
            onnx.save(onnx.load(exported), path, save_as_external_data=True, location=joined)
        else:
            exported.rename(path)


def quantize_dynamically(plain: Path, path: Path, large: bool) -> None:
    """onnxruntime's own recipe, MatMul only."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(plain, path, op_types_to_quantize=["MatMul"], use_external_data_format=large)


def quantize_statically(
    plain: Path, path: Path, calibration: Sequence[FloatArray], large: bool, convolutions: bool
) -> None:
    """onnxruntime's static QDQ, weights by channel.

    Attention's products of two activations are not quantised, and outputs are not quantised again: both make
    the graph faster in OpenVINO and more exact.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.waves = iter(calibration)

        def get_next(self) -> dict[str, FloatArray] | None:
            wave = next(self.waves, None)
            return None if wave is None else {"input_values": wave[None]}

    prepared = path.with_suffix(".prepared.onnx")
    beside = f"{prepared.name}.data"
    with quiet_loggers(""):
        quant_pre_process(
            str(plain), str(prepared), skip_symbolic_shape=True, skip_optimization=large,
            save_as_external_data=large, all_tensors_to_one_file=True, external_data_location=beside,
        )  # fmt: skip
    graph = onnx.load(prepared, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    computed = [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in weights]
    kinds = ["MatMul", "Conv"] if convolutions else ["MatMul"]
    with quiet_loggers(""):
        quantization.quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=kinds,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=computed,
            use_external_data_format=large,
            extra_options={"OpTypesToExcludeOutputQuantization": kinds},
        )
    prepared.unlink()
    prepared.with_name(beside).unlink(missing_ok=True)
