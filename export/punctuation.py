"""A tagger of training/ as the small ONNX graph that restores capitals and punctuation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from engine.output.punctuation import N_PIECES
from engine.output.targets import check_apart, check_target
from engine.runtime.onnx_session import open_session
from engine.runtime.pair_safe import quantize_stored
from engine.types import RuntimeOptions
from export.errors import ExportError
from export.graph.builder import END, GraphBuilder
from export.graph.linear import Linear, as_array, emit_linear
from export.graph.norm import LayerNorm, emit_layer_norm, emit_residual

MAX_ERROR = 0.1  # of a logit, relative L2: int8 weights against float32
MIN_AGREEMENT = 0.99  # share of words with the same case, and with the same punctuation
CHECKED_WORDS = 512


def export_punctuation(checkpoint: Path, out: Path) -> dict[str, float]:
    """Write the graph of a checkpoint, if it agrees with the original.

    Args:
        checkpoint: folder of `engine-train punctuation`. out: path of the .onnx file.
    Returns:
        Relative L2 error of the logits, and the shares of words with the same case and punctuation.
    Raises:
        ExportError: no such checkpoint, or the graph differs from it.
        OutputError: out is a part of the checkpoint, or no place for a file.
    """
    from training.punctuation.model import load_tagger

    check_apart([out], [*checkpoint.glob("*"), checkpoint])
    try:
        model, _ = load_tagger(checkpoint)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(
            f"{str(checkpoint)!r} cannot be loaded ({error})",
            "a folder that `engine-train punctuation` wrote", "train it again",
        ) from error  # fmt: skip
    building = out.with_name(f".{out.name}.building")
    out.parent.mkdir(parents=True, exist_ok=True)
    check_target(out)
    try:
        building.write_bytes(build_punctuation(model).SerializeToString())
        figures = compare(model, building)
        building.replace(out)
    finally:
        building.unlink(missing_ok=True)
    return figures


def build_punctuation(model: Any) -> onnx.ModelProto:
    """The graph of a Tagger: pieces int64 [n_words, N_PIECES] -> cases and marks, float32 [n_words, n]."""
    graph = GraphBuilder(lambda block: "stored")
    with graph.scope("input"):
        hidden = emit_linear(
            graph, _emit_embedding(graph, as_array(model.embedding.weight)), Linear.of(model.input)
        )
    for index, layer in enumerate(model.layers):
        with graph.scope(f"layer_{index}"):
            hidden = _emit_layer(graph, hidden, layer)
    with graph.scope("output"):
        hidden = emit_layer_norm(graph, hidden, LayerNorm.of(model.norm))
        for name, head in (("cases", model.case), ("marks", model.mark)):
            graph.rename(emit_linear(graph, hidden, Linear.of(head)), name)
    sizes = {"cases": model.case.out_features, "marks": model.mark.out_features}
    outputs = {name: ("n_words", size) for name, size in sizes.items()}
    return graph.build({}, outputs, masks={"pieces": ("n_words", N_PIECES)})


def _emit_embedding(graph: GraphBuilder, table: np.ndarray) -> str:
    """The sum of a word's pieces; the table is int8 with a scale for each of its columns."""
    rounded, scale = quantize_stored(table)
    picked = graph.op("Gather", graph.constant(rounded, "table"), "pieces", axis=0)
    wide = graph.op("Cast", picked, to=onnx.TensorProto.FLOAT)
    total = graph.op("ReduceSum", wide, graph.integers(1), keepdims=0)
    return graph.op("Mul", total, graph.constant(scale, "scale"))


def _emit_layer(graph: GraphBuilder, hidden: str, layer: Any) -> str:
    reach = layer.dilation * (layer.width // 2)
    normed = emit_layer_norm(graph, hidden, LayerNorm.of(layer.norm))
    padded = graph.op("Pad", normed, graph.integers(reach, 0, reach, 0))
    last = layer.dilation * (layer.width - 1)
    shifted = []
    for start in range(0, last + 1, layer.dilation):
        end = start - last if start < last else END
        shifted.append(graph.slice(padded, start, end, 0))
    windows = graph.op("Concat", *shifted, axis=1)
    with graph.scope("windows"):
        between = graph.op("Gelu", emit_linear(graph, windows, Linear.of(layer.windows)))
    with graph.scope("out"):
        added = emit_linear(graph, between, Linear.of(layer.output))
    return emit_residual(graph, hidden, added)


def compare(model: Any, path: Path) -> dict[str, float]:
    """Compare a graph with the model that it was made from, on random words.

    Raises:
        ExportError: they differ by more than rounding the weights explains.
    """
    import torch

    rng = np.random.default_rng(0)
    pieces = rng.integers(0, model.embedding.num_embeddings, (CHECKED_WORDS, N_PIECES))
    with torch.inference_mode():
        expected = [array[0].numpy() for array in model(torch.from_numpy(pieces)[None])]
    found = open_session(path, RuntimeOptions(device="cpu"), threads=1).run({"pieces": pieces})
    errors = [np.linalg.norm(f - e) / np.linalg.norm(e) for f, e in zip(found, expected, strict=True)]
    agreed = [np.mean(f.argmax(1) == e.argmax(1)) for f, e in zip(found, expected, strict=True)]
    figures = {
        "logits_error": round(float(max(errors)), 4),
        "case_agreement": round(float(agreed[0]), 4), "mark_agreement": round(float(agreed[1]), 4),
    }  # fmt: skip
    if max(errors) > MAX_ERROR or min(agreed) < MIN_AGREEMENT:
        raise ExportError(
            f"the graph differs from the checkpoint: {figures}",
            f"an error of at most {MAX_ERROR} and an agreement of at least {MIN_AGREEMENT}",
            "train longer: rounding harms the weights of a model that is hardly trained",
        )
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `engine-export punctuation`."""
    parser.add_argument("checkpoint", type=Path, help="folder that `engine-train punctuation` wrote")
    parser.add_argument("out", type=Path, help="path of the .onnx file")


def run(options: argparse.Namespace) -> int:
    """Export, and print how close the graph is."""
    figures = export_punctuation(options.checkpoint, options.out)
    print(" ".join(f"{name} {value}" for name, value in figures.items()))
    print(f"wrote {options.out}")
    return 0
