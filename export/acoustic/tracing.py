"""Any CTC model of transformers as a graph without weights: what torch's tracing exporter writes of it.

The weights stay in the model. export.acoustic.traced puts them into the graph, each in the precision that is
asked for, so a graph is never in memory with more of them than it will hold.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.acoustic.quiet import quiet_loggers
from export.errors import ExportError
from export.graph.builder import OPSET

FloatArray = NDArray[np.float32]
OUTPUT = "logits"


@dataclass(frozen=True)
class Skeleton:
    """A traced graph without weights.

    Attributes:
        graph: inputs are the model's and every weight by its name.
        weights: torch tensors by these names.
        inputs: the model's own, with the names of their axes.
    """

    graph: onnx.GraphProto
    weights: dict[str, Any]
    inputs: dict[str, tuple[Any, ...]]


def trace(
    module: Any, example: FloatArray, input_name: str, axes: tuple[Any, ...], vocab_size: int
) -> Skeleton:
    """Record what a module does with an input of free batch size and length.

    Args:
        module: torch.nn.Module in evaluation mode, of one input and one output.
        example: such an input, [1, ..., length].
        axes: of the input: an int, or the name of a free axis.
    Raises:
        ExportError: a part that the exporter cannot write.
    """
    import torch

    _bake_in_parametrizations(module)
    free = {position: name for position, name in enumerate(axes) if isinstance(name, str)}
    try:
        with _quiet(), torch.inference_mode(), tempfile.TemporaryDirectory(prefix="export-") as temporary:
            path = Path(temporary, "traced.onnx")
            torch.onnx.export(
                module,
                (torch.from_numpy(example),),
                path,
                dynamo=False,  # the other exporter needs one more package, and fixes lengths of some families
                opset_version=OPSET,
                input_names=[input_name],
                output_names=[OUTPUT],
                dynamic_axes={input_name: free, OUTPUT: {0: "batch", 1: "n_frames"}},
                export_params=False,
                do_constant_folding=False,  # it would give folded weights names that nobody knows
            )
            graph = onnx.load_model(path).graph
    except Exception as error:  # torch's kinds share no base
        raise ExportError(
            f"a model that cannot be traced ({type(error).__name__}: {str(error).splitlines()[0]})",
            "a model that torch.onnx can write",
            "report the checkpoint's config.json",
        ) from error
    weights = dict(module.named_parameters()) | dict(module.named_buffers())
    unknown = {value.name for value in graph.input} - weights.keys() - {input_name}
    if unknown:
        raise ExportError(f"a traced graph that reads {sorted(unknown)[:3]}", "weights of the model alone")
    del graph.output[0].type.tensor_type.shape.dim[:]
    for size in ("batch", "n_frames", vocab_size):
        dimension = graph.output[0].type.tensor_type.shape.dim.add()
        if isinstance(size, str):
            dimension.dim_param = size
        else:
            dimension.dim_value = size
    return Skeleton(graph, weights, {input_name: axes})


def _bake_in_parametrizations(module: Any) -> None:
    """Make plain weights of those that are computed from others, as a weight norm's are."""
    from torch.nn.utils import parametrize

    for part in module.modules():
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):
                parametrize.remove_parametrizations(part, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings: every traced graph is compared with its model at several lengths."""
    with quiet_loggers("torch.onnx", "torch.onnx._internal"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
