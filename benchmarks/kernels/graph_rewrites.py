"""How much faster each graph rewrite of export/graph is in onnxruntime: the plain form and ours, in turn.

    python -m benchmarks.kernels.graph_rewrites --json benchmarks/results/graph_rewrites.json

Blocks of wav2vec2-base's shape with random weights, one thread. Before anything is timed, both forms of a
block must give the same numbers, up to rounding.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import PeerError, WrongOutputError
from benchmarks.protocol.driver import Driver, LocalSystem
from benchmarks.reports.provenance import provenance
from engine.bundle.signature import cpu_model
from engine.runtime.onnx_session import open_session, runtime_version
from engine.runtime.pair_safe import quantize_columns
from engine.types import RuntimeOptions
from export.graph.attention import Attention, emit_attention
from export.graph.builder import MICROSOFT, GraphBuilder, Precision
from export.graph.linear import Linear, emit_linear
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual
from export.graph.positional_conv import PositionalConv, emit_positional_conv, emit_positional_gemm
from export.graph.waveform_convs import WaveformConv, emit_waveform_convs

Array = NDArray[np.float32]
Emit = Callable[[GraphBuilder, str], str]
HIDDEN, N_HEADS, N_CHANNELS, SAMPLE_RATE = 768, 12, 512, 16_000
EXACT, ROUNDED = 1e-4, 0.05


@dataclass(frozen=True)
class Rewrite:
    """One block in two forms.

    Attributes:
        file: of export/graph.
        plain, ours: emit the block for a value.
        value: float32, the input of both.
        channels_first: the plain form gives [1, n_channels, n_rows], ours [1, n_rows, n_channels].
        tolerance: relative L2 distance allowed between the two.
    """

    file: str
    plain: Emit
    ours: Emit
    value: Array
    channels_first: bool = False
    precision: Precision = "float32"
    tolerance: float = EXACT


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.kernels.graph_rewrites", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    figures = {}
    for name, rewrite in rewrites(options.seconds).items():
        figures[name] = measure(rewrite, options.rounds)
        print("{:58s} {plain_ms:8.2f} ms -> {ours_ms:8.2f} ms  {ratio:5.2f}x".format(name, **figures[name]))
    if options.json:
        signature = f"audio:{options.seconds:g}s|threads:1|rounds:{options.rounds}|warm-up:1"
        signature += f"|onnxruntime:{runtime_version()}|cpu:{cpu_model()}"
        source = provenance("python -m benchmarks.kernels.graph_rewrites", argv)
        report = {"signature": signature, **source, "rewrites": figures}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def rewrites(seconds: float) -> dict[str, Rewrite]:
    """Every rewrite, by its effect, for some seconds of audio."""
    n_samples = int(seconds * SAMPLE_RATE)
    frames, waveform = _random(1, n_samples // 320, HIDDEN), _random(1, n_samples)
    first, second = _random(N_CHANNELS, 1, 10), _random(N_CHANNELS, N_CHANNELS, 3) * np.float32(0.02)
    last = _random(N_CHANNELS, N_CHANNELS, 2) * np.float32(0.02)
    by_time = (
        WaveformConv(first, None, 5, _norm(N_CHANNELS), "time"),
        *(WaveformConv(weight, None, 2) for weight in (second,) * 4 + (last,) * 2),
    )
    by_channel = tuple(
        WaveformConv(w, None, s, _norm(N_CHANNELS), "channels") for w, s in ((first, 5), (second, 2))
    )
    query, key, value, output = (
        Linear(_random(HIDDEN, HIDDEN) * np.float32(0.03), _random(HIDDEN)) for _ in range(4)
    )
    attention, norm = Attention(query, key, value, output, n_heads=N_HEADS), _norm(HIDDEN)
    positions = PositionalConv(_random(HIDDEN, 48, 128) * np.float32(0.02), _random(HIDDEN), 16)
    return {
        "attention: one fused node, one GEMM for q, k, v": Rewrite(
            "attention.py", _plain_attention(attention), lambda g, x: emit_attention(g, x, attention, None),
            frames,
        ),
        "first two convolutions, float32: channels last, GEMM": Rewrite(
            "waveform_convs.py", _plain_convs(by_channel), lambda g, x: emit_waveform_convs(g, x, by_channel),
            waveform, channels_first=True,
        ),
        "first two convolutions, int8: channels last, GEMM of bytes": Rewrite(
            "waveform_convs.py", _plain_convs(by_channel), lambda g, x: emit_waveform_convs(g, x, by_channel),
            waveform, channels_first=True, precision="int8", tolerance=ROUNDED,
        ),
        "all seven convolutions, float32: group norm folded": Rewrite(
            "group_norm.py", _plain_convs(by_time), lambda g, x: emit_waveform_convs(g, x, by_time),
            waveform, channels_first=True,
        ),
        "positional convolution: not as a batched GEMM": Rewrite(
            "positional_conv.py", lambda g, x: emit_positional_gemm(g, x, positions),
            lambda g, x: emit_positional_conv(g, x, positions), frames,
        ),
        "residual and norm: not fused to SkipLayerNormalization": Rewrite(
            "norm.py", _skip_norm(norm), lambda g, x: emit_layer_norm(g, emit_residual(g, x, x), norm),
            frames,
        ),
    }  # fmt: skip


def measure(rewrite: Rewrite, rounds: int) -> dict[str, Any]:
    """Median CPU milliseconds of both forms, in turn after a round that is not timed.

    Raises:
        PeerError: the forms differ by more than the rewrite allows, or one cannot be run.
    """
    forms = {"plain": rewrite.plain, "ours": rewrite.ours}
    systems = {name: _system(emit, rewrite, name) for name, emit in forms.items()}
    expected = systems["plain"].run({}).outputs["values"]

    def check(_: int, outputs: Mapping[str, Any]) -> float:
        difference = float(np.linalg.norm(outputs["values"] - expected) / np.linalg.norm(expected))
        if not difference <= rewrite.tolerance:
            raise WrongOutputError(
                f"{rewrite.file}: the forms differ by {difference:.2g}", f"at most {rewrite.tolerance}"
            )
        return difference

    driver = Driver(systems)
    found = driver.run([{}], rounds, check)
    if driver.lost:
        raise PeerError("; ".join(driver.lost.values()))
    plain_ms, ours_ms = (1e3 * found[name].median_s() for name in ("plain", "ours"))
    return {
        "file": f"export/graph/{rewrite.file}", "shape": list(rewrite.value.shape), "plain_ms": plain_ms,
        "ours_ms": ours_ms, "ratio": plain_ms / ours_ms, "difference": found["ours"].error,
    }  # fmt: skip


def _system(emit: Emit, rewrite: Rewrite, name: str) -> LocalSystem:
    graph = GraphBuilder(lambda block: rewrite.precision)
    graph.rename(emit(graph, "x"), "y")
    model = graph.build({"x": (1, *rewrite.value.shape[1:])}, {"y": ("a", "b", "c")})
    session = open_session(model.SerializeToString(), RuntimeOptions(device="cpu"), threads=1)
    swap = rewrite.channels_first and name == "plain"

    def run(inputs: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        values = session.run({"x": rewrite.value})[0]
        return lambda: {"values": values.swapaxes(1, 2) if swap else values}

    return LocalSystem(run)


def _plain_attention(attention: Attention) -> Emit:
    def emit(graph: GraphBuilder, value: str) -> str:
        parts = [
            graph.reshape(emit_linear(graph, value, linear), 0, 0, N_HEADS, -1)
            for linear in (attention.query, attention.key, attention.value)
        ]
        query, values = (graph.op("Transpose", parts[i], perm=[0, 2, 1, 3]) for i in (0, 2))
        keys = graph.op("Transpose", parts[1], perm=[0, 2, 3, 1])
        factor = graph.constant(np.float32((HIDDEN // N_HEADS) ** -0.5))
        weights = graph.op("Softmax", graph.op("MatMul", graph.op("Mul", query, factor), keys), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", weights, values), perm=[0, 2, 1, 3])
        return emit_linear(graph, graph.reshape(mixed, 0, 0, -1), attention.output)

    return emit


def _plain_convs(convs: tuple[WaveformConv, ...]) -> Emit:
    """As torch exports them: channels first, with a transpose on both sides of a norm over channels."""

    def emit(graph: GraphBuilder, value: str) -> str:
        rows = graph.op("Unsqueeze", value, graph.integers(1))
        for conv in convs:
            integer = graph.precision() == "int8" and conv.weight.shape[1] > 1
            rows = (_convolve_int8 if integer else _convolve)(graph, rows, conv)
            rows = graph.op("Gelu", _plain_norm(graph, rows, conv))
        return rows

    return emit


def _convolve(graph: GraphBuilder, rows: str, conv: WaveformConv) -> str:
    return graph.op("Conv", rows, graph.constant(conv.weight, "weight"), strides=[conv.stride])


def _convolve_int8(graph: GraphBuilder, rows: str, conv: WaveformConv) -> str:
    columns, scale = quantize_columns(conv.weight.reshape(len(conv.weight), -1).T)
    weight = np.ascontiguousarray(columns.T).reshape(conv.weight.shape)
    quantized, step, zero = graph.ops("DynamicQuantizeLinear", rows, n_outputs=3)
    sums = graph.op("ConvInteger", quantized, graph.constant(weight, "weight"), zero, strides=[conv.stride])
    scales = graph.op("Mul", step, graph.constant(scale[:, None], "scale"))
    return graph.op("Mul", graph.op("Cast", sums, to=1), scales)


def _plain_norm(graph: GraphBuilder, rows: str, conv: WaveformConv) -> str:
    norm = conv.norm
    if norm is None:
        return rows
    if conv.norm_over == "time":
        weight, bias = graph.constant(norm.weight), graph.constant(norm.bias)
        return graph.op("InstanceNormalization", rows, weight, bias, epsilon=norm.epsilon)
    swapped = graph.op("Transpose", rows, perm=[0, 2, 1])
    return graph.op("Transpose", emit_layer_norm(graph, swapped, norm), perm=[0, 2, 1])


def _skip_norm(norm: LayerNorm) -> Emit:
    """The result of onnxruntime's own optimiser for an addition before a norm."""

    def emit(graph: GraphBuilder, value: str) -> str:
        weight, bias = graph.constant(norm.weight), graph.constant(norm.bias)
        inputs = (value, value, weight, bias)
        return graph.op("SkipLayerNormalization", *inputs, domain=MICROSOFT, epsilon=norm.epsilon)

    return emit


def _random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def _norm(n: int) -> LayerNorm:
    return LayerNorm(1 + np.float32(0.1) * _random(n), _random(n + 1)[:n], 1e-5)


if __name__ == "__main__":
    raise SystemExit(main())
