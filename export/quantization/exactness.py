"""On which x86-64 processors a graph's integer products are exact, by its weights.

A comparison on this machine cannot show it: with VNNI every product is exact, without it those of weights
that are not pair-safe saturate (engine/runtime/pair_safe.py).
"""

from __future__ import annotations

from pathlib import Path

import onnx

from engine.runtime.integer_products import check_products
from export.errors import ExportError

EVERYWHERE = "every x86-64 level (pair-safe weights)"
WITH_VNNI = "x86-64 with VNNI; without it the engine converts the weights, which takes a third longer"
SHOWN = 3  # layers in a message


def exact_on(model: onnx.ModelProto | bytes | Path) -> str:
    """Where the integer products of a graph are exact; "" where it has none."""
    found = check_products(_source(model))
    if found.problems:
        return WITH_VNNI
    return EVERYWHERE if found.n_products else ""


def prove_exact(model: onnx.ModelProto | bytes | Path) -> str:
    """The same as exact_on, for a graph that was just made.

    Raises:
        ExportError: a product may saturate.
    """
    problems = check_products(_source(model)).problems
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ExportError(
            f"integer products that saturate on processors without VNNI: {'; '.join(problems[:SHOWN])}{more}",
            "pair-safe weights in every integer product",
            "round weights with engine.runtime.pair_safe, or export with --precision fp32",
        )
    return exact_on(model)


def _source(model: onnx.ModelProto | bytes | Path) -> bytes | Path:
    return model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
