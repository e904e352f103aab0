"""The float16 encoder against transformers on one device: same random weights, same audio, interleaved.

Timed: from features on the host to log-probabilities on the host for the engine, to logits on the host for
transformers, copies included on both sides.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Run = Callable[[Sequence[FloatArray]], list[FloatArray]]
SAMPLE_RATE = 16_000
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
SHAPES: dict[str, dict[str, Any]] = {"base": {}, "large": LARGE}
MIN_AGREEMENT = 0.98


@dataclass(frozen=True)
class Workload:
    """Utterances of one measurement; share: the engine may put several into a call."""

    name: str
    lengths_s: tuple[float, ...]
    share: bool


def workloads(tiny: bool) -> list[Workload]:
    """Batch 1, a full batch, and lengths that change with every call."""
    scale, rows = (0.1, 4) if tiny else (1.0, 32)
    mixed = tuple(scale * s for s in (3.1, 12.7, 5.9, 24.3, 8.2, 17.5, 1.4) * (1 if tiny else 4))
    return [
        Workload("batch 1, 5 s", (5 * scale,), False),
        Workload("batch 1, 30 s", (30 * scale,), False),
        Workload(f"batch {rows}, 10 s", (10 * scale,) * rows, True),
        Workload("changing lengths, one per call", mixed, False),
        Workload("changing lengths, shared calls", mixed, True),
    ]


def make_model(shape: str, tiny: bool) -> Any:
    """A CTC model with random weights and the sizes of a published one."""
    import torch
    import transformers

    torch.manual_seed(0)
    norms = {key: LARGE[key] for key in ("feat_extract_norm", "conv_bias", "do_stable_layer_norm")}
    changes = {**TINY, **(norms if shape == "large" else {})} if tiny else SHAPES[shape]
    config = transformers.Wav2Vec2Config(**changes, attn_implementation="sdpa")
    return transformers.Wav2Vec2ForCTC(config).eval()


def make_engine(model: Any, folder: Path, device: str, cuda_graphs: bool = False) -> Any:
    """Our float16 graph of a model, loaded from a bundle as users load it."""
    import onnx

    from engine.acoustic.model import AcousticModel
    from engine.bundle.folder import AcousticConfig, open_bundle, write_bundle
    from engine.types import RuntimeOptions
    from export.acoustic.wav2vec2 import build_wav2vec2
    from export.rewrites.half_arithmetic import use_half

    bundle = folder / "bundle"
    if not bundle.is_dir():
        onnx.save(use_half(build_wav2vec2(model, batchable=True)[0]), folder / "graph.onnx")
        tokens = {f"t{index}": index for index in range(model.config.vocab_size)}
        (folder / "tokens.json").write_text(json.dumps(tokens))
        files = {"acoustic": folder / "graph.onnx", "vocabulary": folder / "tokens.json"}
        config = AcousticConfig(mask=True, precision="fp16")
        write_bundle(bundle, name="gpu", licence="none", files=files, card="", acoustic=config)
    return AcousticModel(open_bundle(bundle), RuntimeOptions(device=device, cuda_graphs=cuda_graphs))  # type: ignore[arg-type]


def engine_run(acoustic: Any, share: bool) -> Run:
    """Utterances to log-probabilities, in shared calls or one per call."""
    if share:
        return lambda waves: acoustic.compute_log_probs_batch(waves)
    return lambda waves: [acoustic.compute_log_probs(wave) for wave in waves]


def torch_run(model: Any, device: str) -> Run:
    """transformers in the model's own precision; utterances of one length share a call."""
    import torch

    def run(waves: Sequence[FloatArray]) -> list[FloatArray]:
        same = len({len(wave) for wave in waves}) == 1
        groups = [np.stack(waves)] if same else [wave[None] for wave in waves]
        found: list[FloatArray] = []
        with torch.inference_mode():
            for group in groups:
                values = torch.from_numpy(group).to(device, next(model.parameters()).dtype)
                found += list(model(values).logits.float().cpu().numpy())
        return found

    return run


def measure(shape: str, device: str, tiny: bool, compiled: bool, seconds: float) -> list[dict[str, Any]]:
    """Parity and RTFx of every system for every workload.

    Args:
        seconds: for each workload.
    Returns:
        Rows with keys model, workload, system, rtfx, error, agreement.
    Raises:
        RuntimeError: the engine's float16 differs too much from float32.
    """
    import torch

    model = make_model(shape, tiny)
    with tempfile.TemporaryDirectory() as temporary:
        plain = make_engine(model, Path(temporary), device)
        graphs = make_engine(model, Path(temporary), device, cuda_graphs=True) if device == "cuda" else None
    reference = torch_run(model.to(device), device)
    half = make_model(shape, tiny).to(device, torch.float16 if device == "cuda" else torch.float32)
    rows = []
    for load in workloads(tiny):
        waves = make_waves(load.lengths_s)
        systems = {"engine fp16": engine_run(plain, load.share)}
        if graphs is not None and load.share:
            systems["engine fp16, CUDA graphs"] = engine_run(graphs, True)
        systems[f"transformers {half.dtype} sdpa"] = torch_run(half, device)
        if compiled:
            systems["transformers, torch.compile"] = torch_run(torch.compile(half, dynamic=True), device)
        rows += compare(shape, load, systems, waves, reference(waves), seconds)
    return rows


def make_waves(lengths_s: Sequence[float]) -> list[FloatArray]:
    """Noise bursts of unit variance."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(max(400, int(s * SAMPLE_RATE))).astype(np.float32) for s in lengths_s]


def compare(
    shape: str,
    load: Workload,
    systems: dict[str, Run],
    waves: Sequence[FloatArray],
    expected: Sequence[FloatArray],
    seconds: float,
) -> list[dict[str, Any]]:
    """Check each system once, then time them in turn; best of the rounds."""
    rows: list[dict[str, Any]] = []
    audio_s = sum(len(wave) for wave in waves) / SAMPLE_RATE
    for name, run in systems.items():
        error, agreement = differ(run(waves), expected)
        if name.startswith("engine") and not agreement >= MIN_AGREEMENT:
            raise RuntimeError(f"{name}, {shape}, {load.name}: argmax agreement {agreement:.4f}")
        rows.append({"model": shape, "workload": load.name, "system": name, "error": error} | {
            "agreement": agreement, "rtfx": 0.0})  # fmt: skip
    deadline = time.perf_counter() + seconds
    while True:
        for row, run in zip(rows, systems.values(), strict=True):
            start = time.perf_counter()
            run(waves)
            row["rtfx"] = max(row["rtfx"], audio_s / (time.perf_counter() - start))
        if time.perf_counter() > deadline:
            return rows


def differ(found: Sequence[FloatArray], expected: Sequence[FloatArray]) -> tuple[float, float]:
    """Relative L2 error after log-softmax, and argmax agreement."""
    from engine.acoustic.model import compute_log_softmax

    got = np.concatenate([compute_log_softmax(array) for array in found])
    want = np.concatenate([compute_log_softmax(array) for array in expected])
    error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    return error, float((got.argmax(-1) == want.argmax(-1)).mean())


def render(rows: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown."""
    lines = ["| model | workload | system | RTFx | error | same argmax |", "|---|---|---|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['workload']} | {row['system']} | {row['rtfx']:.0f} "
            f"| {row['error']:.2g} | {100 * row['agreement']:.2f} % |"
        )
    return "\n".join(lines)
