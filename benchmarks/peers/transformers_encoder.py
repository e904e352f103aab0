"""transformers with sdpa attention, one thread: `transformers_encoder.py --checkpoint DIR`.

Systems: float32, autocast to bfloat16, and torch.compile (inductor) of each. torch.compile is given static
shapes and compiles when a shape is first seen, outside the clock.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import transformers
from encoder_worker import Run, serve


def load() -> tuple[dict[str, Run], str]:
    """Four systems over the same weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--without_compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = transformers.AutoModelForCTC.from_pretrained(
        options.checkpoint, use_safetensors=True, attn_implementation="sdpa"
    ).eval()
    systems = {
        "transformers sdpa fp32": caller(model, False),
        "transformers bf16 autocast": caller(model, True),
    }
    if not options.without_compile:
        torch._dynamo.config.cache_size_limit = 64
        compiled = torch.compile(model, dynamic=False)
        systems["transformers torch.compile fp32"] = caller(compiled, False)
        systems["transformers torch.compile bf16"] = caller(compiled, True)
    return systems, f"transformers:{transformers.__version__},torch:{torch.__version__},1 thread"


def caller(model: Any, bfloat16: bool) -> Run:
    """Logits as float32, whatever the arithmetic."""

    def run(values: Any) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return model(torch.from_numpy(values)).logits.float().numpy()

    return run


if __name__ == "__main__":
    serve(load)
