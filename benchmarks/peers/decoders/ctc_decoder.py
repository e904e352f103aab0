"""CTC beam search of other projects over the same emissions and language model.

    ctc_decoder.py --decoder pyctcdecode --labels labels.json --language_model lm.bin --words words.txt

pyctcdecode and ctc-beam-decoder have no option for the number of hypotheses: they return those of all beams,
of which the first are taken. fast-ctc-decode has no language model.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peer_worker import Loaded, Peer, serve

DECODERS = ("pyctcdecode", "ctc-beam-decoder", "fast-ctc-decode")
MIN_TOKEN_LOGP = -5.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--decoder", choices=DECODERS, required=True)
    parser.add_argument("--labels", type=Path, required=True, help="JSON list, the blank first")
    parser.add_argument("--language_model", required=True)
    parser.add_argument("--words", type=Path, required=True, help="the known words, separated by spaces")
    parser.add_argument("--beam_width", type=int, default=64)
    parser.add_argument("--n_best", type=int, default=10)


def load(options: argparse.Namespace) -> Loaded:
    """Inputs log_probs [n_frames, vocab_size] of several utterances and their offsets; outputs texts."""
    labels = json.loads(options.labels.read_text(encoding="utf-8"))
    spaced = ["" if label == "<pad>" else " " if label == "|" else label for label in labels]
    make = open_fast_ctc_decode if options.decoder == "fast-ctc-decode" else open_with_language_model
    decode, first_text = make(options, spaced)

    def run(inputs: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        log_probs = inputs["log_probs"]
        found = [decode(log_probs[a:b]) for a, b in itertools.pairwise(inputs["offsets"])]
        return lambda: {"texts": [first_text(each) for each in found]}

    decoder = options.decoder
    about = {decoder: version(decoder), "beam": options.beam_width, "n_best": options.n_best}
    return Loaded({options.decoder: run}, about)


def open_with_language_model(options: argparse.Namespace, labels: list[str]) -> tuple[Any, Any]:
    """pyctcdecode, or ctc-beam-decoder with the same interface: decode, and the text of its first result."""
    module = importlib.import_module(options.decoder.replace("-", "_"))
    words = options.words.read_text(encoding="utf-8").split()
    decoder = module.build_ctcdecoder(labels, options.language_model, words, alpha=0.5, beta=1.5)

    def decode(log_probs: Any) -> Any:
        return decoder.decode_beams(log_probs, beam_width=options.beam_width)[: options.n_best]

    def first_text(beams: Any) -> str:
        best = beams[0]
        return str(best.text if hasattr(best, "text") else best[0]).strip()

    return decode, first_text


def open_fast_ctc_decode(options: argparse.Namespace, labels: list[str]) -> tuple[Any, Any]:
    """fast-ctc-decode: decode, and the text of its result."""
    import fast_ctc_decode

    alphabet = "".join(label or "-" for label in ["-", *labels[1:]])

    def decode(log_probs: Any) -> Any:
        return fast_ctc_decode.beam_search(
            np.exp(log_probs), alphabet, options.beam_width, np.exp(MIN_TOKEN_LOGP)
        )

    return decode, lambda found: str(found[0]).strip()


def name_of(options: argparse.Namespace) -> list[str]:
    """The one decoder."""
    return [options.decoder]


if __name__ == "__main__":
    serve(Peer("ctc-decoder", "decoding", f"numpy {np.__version__}", configure, name_of, load))
