"""The wav2vec2 encoder against other ways to run the same weights: one thread, interleaved, in one process.

    python -m benchmarks.peers.encoder --json encoder.json

Timed: the call from normalised samples to logits, features and decoding left out. Each round runs every
system once, so a change of the machine's load meets all of them. CPU seconds of the calling thread are
reported beside wall seconds: on a busy machine compare those.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.session import runtime_version
from engine.signature import cpu_model

logger = logging.getLogger("benchmarks")
CASES = {"5 s": (1, 5.0), "15 s": (1, 15.0), "30 s": (1, 30.0), "8 x 10 s": (8, 10.0)}
SAMPLE_RATE = 16_000
System = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass
class Timing:
    """Seconds of every round, and the relative L2 error of the logits against transformers."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    error: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers.encoder", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", help="CTC checkpoint; random weights of wav2vec2-base when not given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    model = load_model(options.checkpoint)
    systems = build_systems(model)
    figures = {name: measure(systems, *CASES[name], options.rounds) for name in options.cases}
    report = {"signature": signature(options), "cases": figures, "ratios": ratios(figures)}
    print(render(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def load_model(checkpoint: str | None) -> Any:
    """A CTC model in evaluation mode, one torch thread."""
    import torch
    import transformers

    torch.set_num_threads(1)
    if checkpoint:
        return transformers.AutoModelForCTC.from_pretrained(checkpoint, use_safetensors=True).eval()
    torch.manual_seed(0)
    return transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(attn_implementation="sdpa")).eval()


def build_systems(model: Any) -> dict[str, System]:
    """transformers, onnxruntime over torch's own export (float32 and dynamic int8), and our graphs."""
    from export.quantize import choose, measure_ranges
    from export.verify import onnx_run
    from export.wav2vec2 import build_wav2vec2, run_torch

    float_graph, blocks = build_wav2vec2(model)
    speech = synthetic(1, 6.0)
    ranges = measure_ranges(float_graph, blocks, "input_values", [speech[0]])
    int8_graph, _ = build_wav2vec2(model, choose(list(blocks)), ranges)
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = export_plainly(model, Path(folder))
        return {
            "transformers sdpa fp32": lambda values: run_torch(model, values),
            "onnxruntime fp32": onnx_run(plain),
            "onnxruntime dynamic int8": onnx_run(quantized),
            "ours fp32": onnx_run(float_graph),
            "ours int8": onnx_run(int8_graph),
        }


def export_plainly(model: Any, folder: Path) -> tuple[bytes, bytes]:
    """torch's export, and onnxruntime's default dynamic quantisation of it (MatMul only)."""
    import torch
    from onnxruntime.quantization import quantize_dynamic

    class LogitsOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_values: Any) -> Any:
            return self.model(input_values).logits

    plain, quantized = folder / "plain.onnx", folder / "int8.onnx"
    axes = {0: "batch", 1: "length"}
    torch.onnx.export(
        LogitsOnly().eval(),
        (torch.zeros(2, SAMPLE_RATE),),
        plain,
        input_names=["input_values"],
        output_names=["logits"],
        dynamic_axes={"input_values": axes, "logits": axes},
        opset_version=18,
        dynamo=False,
    )
    quantize_dynamic(plain, quantized, op_types_to_quantize=["MatMul"])
    return plain.read_bytes(), quantized.read_bytes()


def synthetic(batch: int, length_s: float) -> NDArray[np.float32]:
    """Signals like speech, normalised: [batch, n_samples]."""
    from export.audio_cases import speech_like

    waves = np.stack([speech_like(int(length_s * SAMPLE_RATE), SAMPLE_RATE, seed) for seed in range(batch)])
    normalised = (waves - waves.mean(1, keepdims=True)) / waves.std(1, keepdims=True)
    return normalised.astype(np.float32)


def measure(systems: dict[str, System], batch: int, length_s: float, rounds: int) -> dict[str, Any]:
    """Run every system `rounds` times, in turn, after one round that is not counted."""
    values = synthetic(batch, length_s)
    timings = {name: Timing() for name in systems}
    expected = next(iter(systems.values()))(values)
    for name, system in systems.items():
        difference = np.linalg.norm(system(values) - expected)
        timings[name].error = float(difference / np.linalg.norm(expected))
    for _ in range(rounds):
        for name, system in systems.items():
            wall, cpu = time.perf_counter(), time.thread_time()
            system(values)
            timings[name].cpu_s.append(time.thread_time() - cpu)
            timings[name].wall_s.append(time.perf_counter() - wall)
    audio_s = batch * length_s
    return {
        name: {
            "rtfx_wall": audio_s / float(np.median(timing.wall_s)),
            "rtfx_cpu": audio_s / float(np.median(timing.cpu_s)),
            "error": timing.error,
        }
        for name, timing in timings.items()
    }


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """How many times as fast "ours int8" is, by CPU time: geometric mean over the cases."""
    systems = next(iter(figures.values()))
    speed = {name: np.array([case[name]["rtfx_cpu"] for case in figures.values()]) for name in systems}
    return {name: float(np.exp(np.log(speed["ours int8"] / rates).mean())) for name, rates in speed.items()}


def signature(options: argparse.Namespace) -> str:
    """What the figures were measured with."""
    import torch
    import transformers

    weights = options.checkpoint or "random wav2vec2-base"
    return (
        f"weights:{weights}|threads:1|rounds:{options.rounds}|warm-up:1|ort:{runtime_version()}"
        f"|torch:{torch.__version__}|transformers:{transformers.__version__}|cpu:{cpu_model()}"
    )


def render(report: dict[str, Any]) -> str:
    """A table: real-time factors by CPU time (wall time in brackets), and errors."""
    lines = [report["signature"]]
    for case, systems in report["cases"].items():
        lines.append(f"\n{case:10s}{'RTFx, CPU (wall)':>22s}{'error':>10s}{'ours int8 is':>14s}")
        best = systems["ours int8"]["rtfx_cpu"]
        for name, row in systems.items():
            rates = f"{row['rtfx_cpu']:.1f} ({row['rtfx_wall']:.1f})"
            lines.append(f"  {name:26s}{rates:>16s}{row['error']:>10.2g}{best / row['rtfx_cpu']:>11.2f} x")
    means = ", ".join(f"{name} {ratio:.2f}" for name, ratio in report["ratios"].items())
    return "\n".join([*lines, f"\nours int8 over the others, geometric mean: {means}"])


if __name__ == "__main__":
    raise SystemExit(main())
