"""CTranslate2 int8: `ctranslate2_encoder.py --checkpoint DIR`; converts it first.

Only checkpoints with layer norm in every convolution: the converter knows no other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import transformers
from peer_worker import Loaded, Peer, serve

NAME = "ctranslate2 int8"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--checkpoint", type=Path, required=True)


def load(options: argparse.Namespace) -> Loaded:
    """Convert and load; values [batch, n_samples] -> logits [batch, n_frames, vocab_size]."""
    config = json.loads((options.checkpoint / "config.json").read_text(encoding="utf-8"))
    if config["feat_extract_norm"] != "layer" or not config["do_stable_layer_norm"]:
        raise ValueError("it converts only checkpoints with layer norm in the convolutions (--variant layer)")
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "model")
        converter = ctranslate2.converters.TransformersConverter(str(options.checkpoint))
        converter.convert(target, quantization="int8")
        model = ctranslate2.models.Wav2Vec2(
            target, device="cpu", compute_type="int8", intra_threads=options.threads
        )

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        features = ctranslate2.StorageView.from_array(np.ascontiguousarray(inputs["values"][:, None]))
        return {"logits": np.array(model.encode(features, to_cpu=True))}

    return Loaded({NAME: run})


if __name__ == "__main__":
    versions = f"ctranslate2 {ctranslate2.__version__}, transformers {transformers.__version__}"
    serve(Peer("ctranslate2", "encoder", versions, configure, lambda options: [NAME], load))
