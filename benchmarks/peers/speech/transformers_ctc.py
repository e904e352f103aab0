"""Any Wav2Vec2, HuBERT or other CTC folder through transformers, greedy: what a model card's example does.

    engine-bench --model BUNDLE --against transformers_ctc --peer_args "--model CHECKPOINT --dtype bf16"

CHECKPOINT is a save_pretrained folder with safetensors and a processor. A recording runs in one piece.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers
from _audio import SAMPLE_RATE, Model, Recognise, Stages, serve_speech

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--model", required=True, help="save_pretrained folder, with its processor")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def load(options: argparse.Namespace) -> Model:
    """The model, and how it is run."""
    if options.threads:
        torch.set_num_threads(options.threads)
    processor: Any = transformers.AutoProcessor.from_pretrained(options.model)
    model = transformers.AutoModelForCTC.from_pretrained(
        options.model,
        use_safetensors=True,
        attn_implementation=options.attention,
        dtype=DTYPES[options.dtype],
    )
    about = {
        "dtype": options.dtype,
        "attention": options.attention,
        "beam": 1,
        "device": options.device,
    }
    return Model(recogniser(processor, model.eval().to(options.device)), Path(options.model), about)


def recogniser(processor: Any, model: Any) -> Recognise:
    """From samples to text, greedily."""

    def recognise(waveform: Any, task: str, stages: Stages) -> tuple[str, None]:
        with stages("features"):
            inputs = processor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            values = inputs["input_values"].to(model.device, model.dtype)
        with stages("encoder"), torch.inference_mode():
            tokens = model(values).logits.argmax(dim=-1).cpu()
        with stages("decode"):
            return processor.batch_decode(tokens)[0], None

    return recognise


if __name__ == "__main__":
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    serve_speech("transformers_ctc", versions, configure, load)
