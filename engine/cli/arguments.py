"""Options that several commands share, and the kinds of values on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from engine.options import MAX_BEAM_WIDTH, MAX_THREADS

LARGEST = 10**9
SHORTEST_CHUNK_S, LONGEST_CHUNK_S = 0.001, 60.0
LONGEST_DRAIN_S = 3600.0


def add_model(parser: argparse.ArgumentParser) -> None:
    """Options of a model: which one, on what, and how it searches."""
    parser.add_argument("--model", metavar="PATH", help="bundle folder or .onnx file (the embedded bundle)")
    parser.add_argument("--language", choices=("de",), default="de", help="the spoken language")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--compute_type", choices=("auto", "int8", "bf16", "fp16", "fp32"), default="auto")
    parser.add_argument(
        "--backend",
        choices=("auto", "kernels", "onnxruntime"),
        default="auto",
        help="what runs the encoder and the translator",
    )
    parser.add_argument("--threads", type=_threads, default=0, metavar="N", help="0: all available cores")
    parser.add_argument("--beam_size", type=_beams, metavar="N", help="1 is greedy (default: as tuned)")
    parser.add_argument(
        "--passes",
        type=int,
        choices=(1, 2),
        help="1: fast, CTC alone; 2: better text by an attention decoder (default: 2 where the model has it)",
    )


def _threads(text: str) -> int:
    return parse_integer(text, 0, MAX_THREADS)


def _beams(text: str) -> int:
    return parse_integer(text, 1, MAX_BEAM_WIDTH)


def parse_positive(text: str) -> int:
    """A whole number above 0."""
    return parse_integer(text, 1)


def parse_integer(text: str, least: int, most: int | None = None) -> int:
    """A whole number, least to most, or as large as any here."""
    wanted = f"{least} or more" if most is None else f"{least} to {most}"
    if not text.isascii() or not text.isdecimal() or not least <= float(text) <= (most or LARGEST):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number, {wanted}")
    return int(text)


def parse_port(text: str) -> int:
    """A TCP port; 0 is any that is free."""
    return parse_integer(text, 0, 65_535)


def parse_seconds(least: float, most: float) -> Callable[[str], float]:
    """Parses seconds, from least to most."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}; expected seconds, {least:g} to {most:g}")
        return value

    return parse


def parse_boolean(text: str) -> bool:
    """true, 1, yes; false, 0, no."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is not a boolean; expected true or false")
    return words[text.lower()]


def parse_chunk(text: str) -> float:
    """Seconds of a chunk of a stream."""
    return parse_seconds(SHORTEST_CHUNK_S, LONGEST_CHUNK_S)(text)
