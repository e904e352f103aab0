"""CTranslate2 int8 from a Marian checkpoint.

ctranslate2_translator.py --checkpoint DIR --vocabulary mt_vocabulary.json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ctranslate2
from peer_worker import Loaded, Peer, serve

NAME = "ctranslate2"


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--vocabulary", type=Path, required=True, help="JSON: id by piece")


def load(options: argparse.Namespace) -> Loaded:
    """Convert and load.

    Inputs sources (lists of ids), limits, beam_size and forced (0: the model decides where it ends).
    CTranslate2 has one limit for the batch.
    """
    ids = json.loads(options.vocabulary.read_text(encoding="utf-8"))
    pieces = sorted(ids, key=ids.__getitem__)
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "ct2")
        converter = ctranslate2.converters.TransformersConverter(options.checkpoint)
        converter.convert(target, quantization="int8")
        model = ctranslate2.Translator(
            target, device="cpu", compute_type="int8", intra_threads=options.threads
        )

    def translate(inputs: Mapping[str, Any]) -> dict[str, Any]:
        forced = inputs["forced"]
        tokens = [[pieces[i] for i in source] for source in inputs["sources"]]
        results = model.translate_batch(
            tokens, beam_size=inputs["beam_size"], max_decoding_length=max(inputs["limits"]),
            min_decoding_length=forced or 1, length_penalty=1.0, return_end_token=bool(forced),
            max_batch_size=0,
        )  # fmt: skip
        return {"tokens": [[ids.get(piece, 1) for piece in result.hypotheses[0]] for result in results]}

    return Loaded(
        {NAME: translate}, {"precision": "int8", "isa": os.environ.get("CT2_FORCE_CPU_ISA", "default")}
    )


if __name__ == "__main__":
    version = f"ctranslate2 {ctranslate2.__version__}"
    serve(Peer("ctranslate2", "translation", version, configure, lambda options: [NAME], load))
