"""transformers with sdpa attention: `transformers_encoder.py --checkpoint DIR`.

Systems: float32, autocast to bfloat16, and torch.compile (inductor) of each. torch.compile is given static
shapes and compiles when a shape is first seen, in the round that is not timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from peer_worker import Loaded, Peer, Run, serve

PLAIN = ("transformers sdpa fp32", "transformers bf16 autocast")
COMPILED = ("transformers torch.compile fp32", "transformers torch.compile bf16")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--without_compile", action="store_true")


def capabilities(options: argparse.Namespace) -> tuple[str, ...]:
    """The systems that will be loaded."""
    return PLAIN if options.without_compile else (*PLAIN, *COMPILED)


def load(options: argparse.Namespace) -> Loaded:
    """All systems over the same weights."""
    torch.set_num_threads(options.threads or torch.get_num_threads())
    model = transformers.AutoModelForCTC.from_pretrained(
        options.checkpoint, use_safetensors=True, attn_implementation="sdpa"
    ).eval()
    runs = dict(zip(PLAIN, (caller(model, False), caller(model, True)), strict=True))
    if not options.without_compile:
        torch._dynamo.config.cache_size_limit = 64
        compiled = torch.compile(model, dynamic=False)
        runs |= dict(zip(COMPILED, (caller(compiled, False), caller(compiled, True)), strict=True))
    return Loaded(runs)


def caller(model: Any, bfloat16: bool) -> Run:
    """Logits as float32, whatever the arithmetic."""

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return {"logits": model(torch.from_numpy(inputs["values"])).logits.float().numpy()}

    return run


if __name__ == "__main__":
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    serve(Peer("transformers", "encoder", versions, configure, capabilities, load))
