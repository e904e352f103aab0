"""transformers' generate in float32, or optimum's ORTModelForSeq2SeqLM behind the same call.

transformers_translator.py --checkpoint DIR [--optimum]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from peer_worker import Loaded, Peer, serve


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--optimum", action="store_true")


def names(options: argparse.Namespace) -> list[str]:
    """The one system."""
    return ["optimum" if options.optimum else "transformers"]


def load(options: argparse.Namespace) -> Loaded:
    """Inputs sources (lists of ids), limits, beam_size and forced (0: the model decides where it ends)."""
    torch.set_num_threads(options.threads or torch.get_num_threads())
    model, about = (open_optimum if options.optimum else open_transformers)(options)
    pad, eos = model.config.pad_token_id, model.config.eos_token_id

    def translate(inputs: Mapping[str, Any]) -> Any:
        sources, forced = inputs["sources"], inputs["forced"]
        width = max(map(len, sources))
        ids = torch.tensor([[*source, *[pad] * (width - len(source))] for source in sources])
        found = model.generate(
            input_ids=ids, attention_mask=(ids != pad).long(), num_beams=inputs["beam_size"], do_sample=False,
            max_new_tokens=max(inputs["limits"]), min_new_tokens=forced or None, max_length=None,
            bad_words_ids=[[pad]],
        )[:, 1:].tolist()  # fmt: skip
        if forced:
            return {"tokens": found}
        return {"tokens": [[token for token in row if token not in (pad, eos)] for row in found]}

    return Loaded({names(options)[0]: translate}, about)


def open_transformers(options: argparse.Namespace) -> tuple[Any, dict[str, str]]:
    """The model, and what the signature says of it."""
    from transformers import MarianMTModel

    return MarianMTModel.from_pretrained(options.checkpoint).eval(), {
        "precision": "fp32",
        "transformers": version("transformers"),
    }


def open_optimum(options: argparse.Namespace) -> tuple[Any, dict[str, str]]:
    """The same with onnxruntime; its own export."""
    from onnxruntime import SessionOptions
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    settings = SessionOptions()
    settings.intra_op_num_threads = options.threads  # more would spin on, at the cost of whoever comes next
    model = ORTModelForSeq2SeqLM.from_pretrained(options.checkpoint, export=True, session_options=settings)
    return model, {"precision": "fp32", "optimum-onnx": version("optimum-onnx")}


if __name__ == "__main__":
    serve(Peer("transformers", "translation", f"torch {torch.__version__}", configure, names, load))
