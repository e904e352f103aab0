"""pyctcdecode's own decoder in engine.load(decoder=...), in the engine's environment, with its numpy 2.

PYTHONPATH=CHECKOUT:FOLDER/beside python -m benchmarks.peers.interop.beside FOLDER
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import engine


def main(folder: Path) -> None:
    """Write beside.json: texts by clip, of the folder that optimum-cli wrote."""
    from pyctcdecode import build_ctcdecoder

    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    case, found = cases["processor"], {}
    labels = cases["models"][case["model"]]["labels"]
    words = (folder / case["words"]).read_text(encoding="utf-8").split()
    decoder: Any = build_ctcdecoder(labels, str(folder / case["language_model"]), words, alpha=0.5, beta=1.5)
    model = engine.load(
        str(folder / "models" / case["model"] / "onnx"), device="cpu", threads=1, decoder=decoder
    )
    options = engine.DecodingOptions(vad_filter=False, beam_width=64)
    for clip, waveform in np.load(folder / "waveforms.npz").items():
        hypothesis = model.decode(model.compute_log_probs(model.compute_features(waveform)), options=options)
        found[clip] = {"decoded": hypothesis.text, "text": model.transcribe(waveform, options=options).text}
    versions = {name: version(name) for name in ("numpy", "pyctcdecode", "kenlm")}
    (folder / "beside.json").write_text(
        json.dumps({"versions": versions, "answers": found}), encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
