"""Which blocks of an encoder become int8, decided by measurement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

from engine.runtime.onnx_session import open_session
from engine.types import RuntimeOptions
from export.graph.builder import Choice, Precision
from export.rewrites.unpacked_once import serialize_unpacked_once

logger = logging.getLogger("export")
FloatArray = NDArray[np.float32]
# The head is a fraction of a percent of the work, and each of its roundings changes the logits.
ALWAYS_FLOAT = ("head/output",)
CPU = RuntimeOptions(device="cpu")

Graph = TypeVar("Graph")  # what a choice of precisions makes: one model, or several that belong together
Build = Callable[[Choice, Mapping[str, FloatArray] | None], tuple[Graph, Any]]
Measure = Callable[[Graph], tuple[float, float]]


def measure_ranges(
    model: onnx.ModelProto, blocks: Mapping[str, str], input_name: str, features: Sequence[FloatArray]
) -> dict[str, FloatArray]:
    """Find the largest magnitude of each channel that a block reads.

    Args:
        model: the float32 graph, which is as it was afterwards.
        blocks: block to the value it reads, [batch, n_rows, n_channels].
        features: one array for each utterance, without the batch axis.
    Returns:
        block to float32 [n_channels].
    """
    names = {block: f"probe/{block}" for block in blocks}
    graph = model.graph
    counts = len(graph.initializer), len(graph.node), len(graph.output)
    graph.initializer.append(numpy_helper.from_array(np.array([0, 1]), "probe/axes"))
    for block, value in blocks.items():
        absolute = f"{names[block]}/abs"
        graph.node.append(helper.make_node("Abs", [value], [absolute]))
        graph.node.append(helper.make_node("ReduceMax", [absolute, "probe/axes"], [names[block]], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(names[block], TensorProto.FLOAT, [None]))
    probed = serialize_unpacked_once(model)
    for added, count in zip((graph.initializer, graph.node, graph.output), counts, strict=True):
        del added[count:]  # no copy of the graph: a large model's weights take gigabytes
    session = open_session(probed, CPU, threads=1, unpack_weights=True)
    del probed
    ranges: dict[str, FloatArray] = {}
    for array in features:
        found = session.run({input_name: array[None]}, list(names.values()))
        for block, magnitudes in zip(names, found, strict=True):
            ranges[block] = np.maximum(ranges.get(block, np.float32(0)), magnitudes)
    return ranges


def choose(int8: Collection[str]) -> Choice:
    """Quantise some blocks; the others use float32 arithmetic with weights that are stored as int8."""

    def precision(block: str) -> Precision:
        if block in ALWAYS_FLOAT:
            return "float32"
        return "int8" if block in int8 else "stored"

    return precision


def measure_sensitivity(
    build: Build[Graph], candidates: Sequence[str], ranges: Mapping[str, FloatArray], measure: Measure[Graph]
) -> dict[str, float]:
    """The relative error of each block alone: it computes in int8, all others in float32.

    A terminal shows how far it is: a block takes seconds, a large model has a hundred.

    Arguments as for search_blocks.
    """
    blocks = tqdm(candidates, desc="blocks alone in int8", unit="block", disable=None, delay=2)
    return {block: measure(build(_alone(block), ranges)[0])[0] for block in blocks}


def _alone(chosen: str) -> Choice:
    return lambda block: "int8" if block == chosen else "float32"


def search_blocks(
    build: Build[Graph],
    candidates: Sequence[str],
    ranges: Mapping[str, FloatArray],
    measure: Measure[Graph],
    min_agreement: float,
    errors: Mapping[str, float] | None = None,
) -> tuple[Graph, list[str]]:
    """Quantise as many blocks as the wanted agreement allows.

    Args:
        build: makes the graph for a choice of precisions.
        candidates: the blocks to quantise if possible.
        measure: relative error and argmax agreement of a graph against the original model.
        min_agreement: the smallest acceptable share of frames with the same argmax.
        errors: of measure_sensitivity; None: measured here if needed.
    Returns:
        The graph, and the candidates that use float32 arithmetic. Blocks become float32 in the order of
        the error that each makes alone, until the agreement is reached or none is left.
    """
    model = build(choose(candidates), ranges)[0]
    if measure(model)[1] >= min_agreement:
        return model, []
    errors = errors or measure_sensitivity(build, candidates, ranges, measure)
    kept: list[str] = []
    for block in sorted(candidates, key=errors.__getitem__, reverse=True):
        kept.append(block)
        model = build(choose([other for other in candidates if other not in kept]), ranges)[0]
        error, agreement = measure(model)
        logger.info("float32 in %s: error %.4f, agreement %.4f", ", ".join(kept), error, agreement)
        if agreement >= min_agreement:
            break
    return model, kept
