"""sherpa-onnx, one thread: `sherpa_encoder.py --model NAME PATH --vocab_size N`.

A wav2vec2 CTC graph runs as its model kind "omnilingual ASR CTC" (also a wav2vec2: samples in, logits out).
It does not give its logits away, and its clock also covers normalisation and greedy decoding, little beside
the work.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import sherpa_onnx
from encoder_worker import Run, serve

SAMPLE_RATE = 16_000


def load() -> tuple[dict[str, Run], str]:
    """The systems that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs=2, action="append", metavar=("NAME", "PATH"))
    parser.add_argument("--vocab_size", type=int, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.txt"
        symbols = ["<blk>", *(f"t{index}" for index in range(1, options.vocab_size))]
        tokens.write_text("".join(f"{s} {i}\n" for i, s in enumerate(symbols)), encoding="utf-8")
        systems = {name: open_graph(path, str(tokens)) for name, path in options.model}
    return systems, f"sherpa-onnx:{sherpa_onnx.__version__},1 thread,with normalising and greedy decoding"


def open_graph(path: str, tokens: str) -> Run:
    """A recogniser over one graph."""
    recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(path, tokens, num_threads=1)

    def run(values: Any) -> None:
        streams = []
        for waveform in values:
            streams.append(recogniser.create_stream())
            streams[-1].accept_waveform(SAMPLE_RATE, waveform)
        recogniser.decode_streams(streams)

    return run


if __name__ == "__main__":
    serve(load)
