"""An exported wav2vec2 in a plain onnxruntime session, greedy: what users write around an export today.

    engine-bench --model w2v.onnx --against onnxruntime_ctc --peer_args "--model w2v.onnx"

The graph takes raw samples. vocab.json lies next to it (or --vocab names it), and preprocessor_config.json if
there is one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from _audio import Model, Recognise, Stages, serve_speech

BLANKS = ("<pad>", "[PAD]", "<blank>")
EPSILON = 1e-7  # of transformers' Wav2Vec2FeatureExtractor


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--model", required=True, type=Path, help=".onnx file, or a folder with one in it")
    parser.add_argument("--vocab", type=Path, help="vocab.json (default: next to the model)")
    parser.add_argument("--provider", default="CPUExecutionProvider")


def load(options: argparse.Namespace) -> Model:
    """A session with default options, but for the number of threads."""
    path = find_graph(options.model)
    settings = onnxruntime.SessionOptions()
    if options.threads:
        settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=[options.provider])
    if len(session.get_inputs()[0].shape) != 2:
        raise ValueError(f"{path} takes {session.get_inputs()[0].shape}, expected samples [batch, n_samples]")
    about = {"beam": 1, "provider": session.get_providers()[0]}
    vocabulary = json.loads((options.vocab or path.parent / "vocab.json").read_text(encoding="utf-8"))
    return Model(recogniser(session, vocabulary, wants_normalised(path.parent)), path, about)


def find_graph(path: Path) -> Path:
    """The one graph that a path means.

    Raises:
        FileNotFoundError: a folder that holds none, or several.
    """
    if path.is_file():
        return path
    found = sorted(path.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "no .onnx file"
        raise FileNotFoundError(f"{path} holds {names}; name one")
    return found[0]


def wants_normalised(folder: Path) -> bool:
    """Whether samples are brought to mean 0 and variance 1 first; so it is unless the folder says else."""
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return bool(settings.get("do_normalize", True))


def recogniser(session: Any, vocabulary: Mapping[str, int], normalise: bool) -> Recognise:
    """From samples to text, greedily."""
    names = [item.name for item in session.get_inputs()]
    labels = {index: token for token, index in vocabulary.items()}
    blank = next((vocabulary[token] for token in BLANKS if token in vocabulary), 0)

    def recognise(waveform: Any, task: str, stages: Stages) -> tuple[str, None]:
        with stages("features"):
            if normalise:
                waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + EPSILON)
            values = {names[0]: waveform[None].astype(np.float32)}
            values |= {name: np.ones((1, len(waveform)), np.int64) for name in names[1:]}
        with stages("encoder"):
            logits = session.run(None, values)[0][0]
        with stages("decode"):
            return decode(logits, labels, blank), None

    return recognise


def decode(logits: Any, labels: Mapping[int, str], blank: int) -> str:
    """The likeliest token of each frame; repeats and blanks fall away, | is a space."""
    best = logits.argmax(axis=-1)
    kept = best[np.append(True, best[1:] != best[:-1]) & (best != blank)]
    text = "".join(labels[int(index)] for index in kept)
    return " ".join(text.replace("|", " ").split())


if __name__ == "__main__":
    serve_speech("onnxruntime_ctc", f"onnxruntime {onnxruntime.__version__}", configure, load)
