"""Inputs and outputs that the graphs of a second pass declare."""

from __future__ import annotations

from engine.errors import BundleSchemaError
from engine.manifest import SecondPassConfig
from engine.session import Session

Shapes = dict[str, tuple[int | None, ...]]  # None is any size


def check_graphs(memory: Session, decoder: Session, config: SecondPassConfig) -> None:
    """Compare two loaded graphs with their configuration.

    Raises:
        BundleSchemaError: they do not fit.
    """
    raise_problems(
        [*shape_problems(memory, memory_shapes(config)), *shape_problems(decoder, decoder_shapes(config))]
    )


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


def shape_problems(session: Session, wanted: Shapes) -> list[str]:
    """What a graph declares otherwise."""
    found = {name: session.input_shape(name) for name in session.input_names}
    found |= {name: session.output_shape(name) for name in session.output_names}
    problems = [f"a graph without {name!r}" for name in wanted if name not in found]
    problems += [f"a graph with {name!r}" for name in found if name not in wanted]
    for name, shape in wanted.items():
        sizes = found.get(name)
        fits = sizes is None or (
            len(sizes) == len(shape)
            and all(want is None or have == want for have, want in zip(sizes, shape, strict=True))
        )
        if not fits:
            problems.append(f"{name!r} of shape {sizes}, not {list(shape)}")
    return problems


def raise_problems(problems: list[str]) -> None:
    """Raise BundleSchemaError with the first few of them, where there are any."""
    if problems:
        raise BundleSchemaError(
            "; ".join(problems[:3]) + (" ..." if len(problems) > 3 else ""),
            "configuration, tokens and graphs of one second pass",
            "export the checkpoint again with `engine-export two-pass`",
        )
