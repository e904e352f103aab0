"""`engine-export onnx`: a CTC graph that another program wrote, as a bundle; options say what it does not."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.acoustic.model import AcousticModel
from engine.bundle.bare import guess_blank, guess_delimiter, read_bare
from engine.bundle.folder import AcousticConfig, open_bundle, write_bundle
from engine.bundle.foreign import HOP_LENGTH, KALDI, NEMO
from engine.bundle.json_file import read_json
from engine.bundle.target import check_target
from engine.bundle.tokens_file import NAMES, read_tokens_file
from engine.errors import BundleSchemaError
from engine.runtime.external_data import read_external
from engine.types import RuntimeOptions
from export.errors import ExportError

FEATURES: dict[str, dict[str, Any]] = {
    "waveform": {"kind": "waveform"},
    "nemo": NEMO,
    "kaldi": KALDI,
    "icefall": {**KALDI, "snip_edges": False, "high_hz": -400.0, "scale": 1.0},
    "whisper": {"kind": "log_mel", "convention": "whisper"},
}
PROBE_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `onnx`."""
    parser.add_argument("graph", type=Path, help="the .onnx file of a CTC model")
    parser.add_argument("out", type=Path, help="folder of the bundle; an existing bundle is replaced")
    parser.add_argument("--tokens", type=Path, help="vocab.json or tokens.txt (beside the graph)")
    parser.add_argument("--features", choices=tuple(FEATURES), help="what the graph reads")
    parser.add_argument("--n-mels", type=int, help="bands of the features (80)")
    parser.add_argument("--sample-rate", type=int, help="Hz at which the model hears (16000)")
    parser.add_argument("--subsampling", type=int, help="samples (or feature frames) for each row of output")
    normalize = parser.add_mutually_exclusive_group()
    for flag, value in (("--normalize", True), ("--no-normalize", False)):
        normalize.add_argument(flag, dest="normalize", action="store_const", const=value, default=None)
    parser.add_argument("--blank", help="the token of the CTC blank")
    parser.add_argument("--word-delimiter", help="the token between words")
    parser.add_argument("--name", help="of the bundle (the file's)")
    parser.add_argument("--licence", default="unknown", help="of the weights")


def run(options: argparse.Namespace) -> int:
    """Write the bundle, once the graph has run.

    Raises:
        ExportError: a graph that is not self-contained, or a token that is not there. BundleError: a graph,
            a vocabulary and options that do not fit each other.
    """
    check_target(options.out)
    tokens = read_tokens(options.tokens or find_tokens(options.graph))
    config = describe(options, tokens)
    if read_external(options.graph):
        raise ExportError(
            f"{options.graph.name} keeps its weights in another file", "one self-contained file",
            "save it again without external data",
        )  # fmt: skip
    name = options.name or options.graph.stem
    card = render_card(name, options, config)
    with tempfile.TemporaryDirectory(prefix="export-") as temporary:
        vocabulary = Path(temporary, "vocab.json")
        vocabulary.write_text(json.dumps(tokens, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        files = {"acoustic": options.graph, "vocabulary": vocabulary}
        trial = Path(temporary, "bundle")
        for folder in (trial, options.out):  # the second only once the first has run
            write_bundle(folder, name=name, licence=options.licence, files=files, card=card, acoustic=config)
            if folder is trial:
                try_bundle(trial)
    print(f"wrote {options.out}")
    return 0


def find_tokens(graph: Path) -> Path:
    """The vocabulary beside a graph.

    Raises:
        ExportError: there is none.
    """
    for name in ("vocab.json", *NAMES):
        if graph.with_name(name).is_file():
            return graph.with_name(name)
    raise ExportError(f"no vocabulary beside {str(graph)!r}", "vocab.json or tokens.txt", "pass --tokens")


def read_tokens(path: Path) -> dict[str, int]:
    """Token to index, of either kind of file.

    Raises:
        ExportError: there is no such file. BundleSchemaError: it is no vocabulary.
    """
    if not path.is_file():
        raise ExportError(f"no file {str(path)!r}", "vocab.json or tokens.txt", "check --tokens")
    if path.suffix == ".json":
        return dict(read_json(path, dict[str, int], "a JSON map of token to index"))
    return read_tokens_file(path)


def describe(options: argparse.Namespace, tokens: dict[str, int]) -> AcousticConfig:
    """What the graph and the files beside it say, and over it what the options say."""
    found = _described(options, tokens)
    features = found["features"]
    given = {"n_mels": options.n_mels, "sample_rate": options.sample_rate, "normalize": options.normalize}
    features.update({key: value for key, value in given.items() if value is not None})
    if options.subsampling is not None:
        hop = 1 if features.get("kind") == "waveform" else HOP_LENGTH
        found["samples_per_frame"] = options.subsampling * hop
    if options.blank is not None:
        found["blank_id"] = _index(tokens, options.blank, "--blank")
    if options.word_delimiter is not None:
        _index(tokens, options.word_delimiter, "--word-delimiter")
        found["word_delimiter"] = options.word_delimiter
    try:
        return msgspec.convert(found, AcousticConfig)
    except msgspec.ValidationError as error:
        raise ExportError(f"options that no model has ({error})", "values within bounds") from error


def _described(options: argparse.Namespace, tokens: dict[str, int]) -> dict[str, Any]:
    """What the graph and the files beside it say, with the features of --features."""
    if not options.graph.is_file():
        raise ExportError(f"no file {str(options.graph)!r}", "an .onnx file", "check the path")
    ordered = sorted(tokens, key=tokens.__getitem__)
    try:
        found = dict(msgspec.to_builtins(read_bare(options.graph, lambda added: ordered)[0]))
    except BundleSchemaError:
        if options.features is None:
            raise
        guessed = AcousticConfig(blank_id=guess_blank(ordered), word_delimiter=guess_delimiter(ordered))
        found = dict(msgspec.to_builtins(guessed))
    if options.features is not None:
        found |= {"features": dict(FEATURES[options.features]), "samples_per_frame": 320}
    return found


def _index(tokens: dict[str, int], token: str, option: str) -> int:
    if token not in tokens:
        raise ExportError(f"{option} {token!r}", "a token of the vocabulary", "name one that is there")
    return tokens[token]


def try_bundle(folder: Path) -> None:
    """Load it and run it on noise.

    Raises:
        BundleError, ModelError: it does not run, or not as it was described.
    """
    acoustic = AcousticModel(open_bundle(folder), RuntimeOptions(device="cpu", threads=1))
    noise = np.random.default_rng(0).normal(0, 0.1, int(PROBE_S * acoustic.sample_rate))
    acoustic.compute_log_probs(acoustic.compute_features(noise.astype(np.float32)))


def render_card(name: str, options: argparse.Namespace, config: AcousticConfig) -> str:
    """A model card that claims nothing about the original."""
    features = {
        key: value
        for key, value in msgspec.to_builtins(config.features).items()
        if config.features.kind == "log_mel" or key in ("kind", "sample_rate", "normalize")
    }
    return "\n".join(
        [
            f"# {name}", "", f"Licence: {options.licence}", "",
            f"Graph of another program ({options.graph.name}), as it is. Computed by: onnxruntime.",
            "It ran on noise; it was not compared with the model that it was made from.", "",
            *(f"- {key}: {value}" for key, value in features.items()),
            f"- output: one row for every {config.samples_per_frame} samples", "",
        ]
    )  # fmt: skip
