"""CTranslate2 int8, one thread: `ctranslate2_encoder.py --checkpoint DIR`; converts it first.

Only checkpoints with layer norm in every convolution: the converter knows no other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import transformers
from encoder_worker import Run, serve


def load() -> tuple[dict[str, Run], str]:
    """One system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    checkpoint = parser.parse_args().checkpoint
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    if config["feat_extract_norm"] != "layer" or not config["do_stable_layer_norm"]:
        raise ValueError("it converts only checkpoints with layer norm in the convolutions (--variant layer)")
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "model")
        ctranslate2.converters.TransformersConverter(str(checkpoint)).convert(target, quantization="int8")
        model = ctranslate2.models.Wav2Vec2(target, device="cpu", compute_type="int8", intra_threads=1)

    def run(values: Any) -> Any:
        features = ctranslate2.StorageView.from_array(np.ascontiguousarray(values[:, None]))
        return np.array(model.encode(features, to_cpu=True))

    versions = f"ctranslate2:{ctranslate2.__version__},transformers:{transformers.__version__}"
    return {"ctranslate2 int8": run}, f"{versions},1 thread"


if __name__ == "__main__":
    serve(load)
