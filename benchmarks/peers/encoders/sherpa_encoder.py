"""sherpa-onnx: `sherpa_encoder.py --model NAME PATH --vocab_size N`.

A wav2vec2 CTC graph runs as its model kind "omnilingual ASR CTC" (also a wav2vec2: samples in, logits out).
It does not return logits, and its clock also covers normalisation and greedy decoding, which are small
beside the encoder. It returns the texts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sherpa_onnx
from peer_worker import Loaded, Peer, Run, serve

SAMPLE_RATE = 16_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--model", nargs=2, action="append", metavar=("NAME", "PATH"), required=True)
    parser.add_argument("--vocab_size", type=int, required=True)


def names(options: argparse.Namespace) -> list[str]:
    """The systems that the command line names."""
    return [name for name, *_ in options.model]


def load(options: argparse.Namespace) -> Loaded:
    """The systems that the command line names."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.txt"
        symbols = ["<blk>", *(f"t{index}" for index in range(1, options.vocab_size))]
        tokens.write_text("".join(f"{s} {i}\n" for i, s in enumerate(symbols)), encoding="utf-8")
        runs = {name: open_graph(path, str(tokens), options.threads) for name, path in options.model}
    return Loaded(runs, {"options": "with normalisation and greedy decoding"})


def open_graph(path: str, tokens: str, threads: int) -> Run:
    """A recogniser over one graph."""
    recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(path, tokens, num_threads=threads)

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        streams = []
        for waveform in inputs["values"]:
            streams.append(recogniser.create_stream())
            streams[-1].accept_waveform(SAMPLE_RATE, waveform)
        recogniser.decode_streams(streams)
        return {"tokens": [len(stream.result.tokens) for stream in streams]}

    return run


if __name__ == "__main__":
    version = f"sherpa-onnx {sherpa_onnx.__version__}"
    serve(Peer("sherpa", "encoder", version, configure, names, load))
