"""Inputs and outputs that the graphs of a second pass declare."""

from __future__ import annotations

from engine.bundle.folder import Bundle
from engine.bundle.schema import SecondPassConfig
from engine.errors import BundleSchemaError
from engine.runtime.onnx_file import OnnxFormatError, OnnxGraph, read_graph

Shapes = dict[str, tuple[int | None, ...]]  # None is any size


def check_graphs(bundle: Bundle, config: SecondPassConfig) -> None:
    """Compare the graphs of a bundle with their configuration, before anything runs them.

    Raises:
        BundleSchemaError: they do not fit, or cannot be read.
    """
    tables = {bundle.file("asr_embeddings").name: bundle.read("asr_embeddings")}
    problems = []
    for role, wanted in (("asr_memory", memory_shapes(config)), ("asr_decoder", decoder_shapes(config))):
        try:
            graph = read_graph(bundle.read(role), tables, nodes=False)
            problems += [f"{bundle.file(role).name}: {problem}" for problem in shape_problems(graph, wanted)]
        except OnnxFormatError as error:
            problems.append(f"{bundle.file(role).name}: {error}")
    raise_problems(problems)


def memory_shapes(config: SecondPassConfig) -> Shapes:
    """Inputs and outputs of asr_memory.onnx; None is any size."""
    cross = (None, config.n_heads, None, config.head_dim)
    return {"states": (None, None, config.hidden_size)} | {
        f"cross_{kind}_{layer}": cross for layer in range(config.n_layers) for kind in ("key", "value")
    }


def decoder_shapes(config: SecondPassConfig) -> Shapes:
    """Inputs and outputs of asr_decoder.onnx; None is any size."""
    cache = (None, config.n_heads, None, config.head_dim)
    names = [
        name
        for layer in range(config.n_layers)
        for kind in (f"key_{layer}", f"value_{layer}")
        for name in (f"cross_{kind}", f"past_{kind}", kind)
    ]
    ids: Shapes = {
        "input_ids": (None, None), "positions": (None,), "row_idx": (None,),
        "log_probs": (None, None, config.vocab_size),
    }  # fmt: skip
    return ids | dict.fromkeys(names, cache)


def shape_problems(graph: OnnxGraph, wanted: Shapes) -> list[str]:
    """What a graph declares otherwise."""
    found = (*graph.inputs, *graph.outputs)
    problems = [f"a graph without {name!r}" for name in wanted if name not in found]
    problems += [f"a graph with {name!r}" for name in found if name not in wanted]
    for name in found:
        shape, sizes = wanted.get(name, ()), graph.shapes.get(name, ())
        fits = len(sizes) == len(shape) and all(
            want is None or have == want for have, want in zip(sizes, shape, strict=True)
        )
        if name in wanted and not fits:
            problems.append(f"{name!r} of shape {list(sizes)}, not {list(shape)}")
    return problems


def raise_problems(problems: list[str]) -> None:
    """Raise BundleSchemaError with the first few of them, where there are any."""
    if problems:
        raise BundleSchemaError(
            "; ".join(problems[:3]) + (" ..." if len(problems) > 3 else ""),
            "configuration, tokens and graphs of one second pass",
            "export the checkpoint again with `engine-export two-pass`",
        )
