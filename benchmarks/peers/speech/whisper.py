"""Whisper through transformers, from a local folder; transcribes, and translates to English.

    engine-bench --against whisper --peer_args "--model whisper-base --beam_size 5"

For the task translate it decodes twice from one encoding: German, then English. Recordings beyond 30 s go
through transformers' own long-form generation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers
from _audio import SAMPLE_RATE, Model, Stages, serve_speech

WINDOW_S = 30
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--model", required=True, help="save_pretrained folder, with its processor")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--beam_size", type=int, default=1)
    parser.add_argument("--language", default="de")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def load(options: argparse.Namespace) -> Model:
    """The model, and how it is run."""
    if options.threads:
        torch.set_num_threads(options.threads)
    processor: Any = transformers.AutoProcessor.from_pretrained(options.model)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(
        options.model, use_safetensors=True, attn_implementation="sdpa", dtype=DTYPES[options.dtype]
    )
    about = {
        "dtype": options.dtype,
        "beam": options.beam_size,
        "device": options.device,
    }
    whisper = Whisper(processor, model.eval().to(options.device), options)
    return Model(whisper.recognise, Path(options.model), about)


class Whisper:
    """A model with its processor."""

    def __init__(self, processor: Any, model: Any, options: argparse.Namespace) -> None:
        self._processor, self._model = processor, model
        self._fixed = {"num_beams": options.beam_size, "language": options.language}

    def recognise(self, waveform: Any, task: str, stages: Stages) -> tuple[str, str | None]:
        """German, and English for the task translate."""
        with stages("features"):
            inputs = self._features(waveform)
        if "attention_mask" not in inputs:
            with stages("encoder"), torch.inference_mode():
                encoded = self._model.get_encoder()(inputs.pop("input_features"))
            inputs = {"encoder_outputs": encoded}
        with stages("decode"):
            german = self._generate(inputs, "transcribe")
        if task == "transcribe":
            return german, None
        with stages("translate"):
            return german, self._generate(inputs, "translate")

    def _features(self, waveform: Any) -> dict[str, Any]:
        """Log-mel of one window of 30 s, or with its mask that of a longer recording."""
        is_long = len(waveform) > WINDOW_S * SAMPLE_RATE
        how = {"truncation": False, "padding": "longest", "return_attention_mask": True} if is_long else {}
        found = self._processor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt", **how)
        inputs = {"input_features": found["input_features"].to(self._model.device, self._model.dtype)}
        if is_long:
            inputs["attention_mask"] = found["attention_mask"].to(self._model.device)
        return inputs

    def _generate(self, inputs: dict[str, Any], task: str) -> str:
        with torch.inference_mode():
            found = self._model.generate(
                **inputs, task=task, return_timestamps="attention_mask" in inputs, **self._fixed
            )
        tokens = found["sequences"] if isinstance(found, dict) else found
        return str(self._processor.batch_decode(tokens, skip_special_tokens=True)[0]).strip()


if __name__ == "__main__":
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    serve_speech("whisper", versions, configure, load, ("transcribe", "translate"))
