"""ONNX Runtime with its default session: `onnxruntime_encoder.py --model NAME PATH` for each graph."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import onnxruntime
from peer_worker import Loaded, Peer, Run, serve


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--model", nargs=2, action="append", metavar=("NAME", "PATH"), required=True)


def names(options: argparse.Namespace) -> list[str]:
    """The systems that the command line names."""
    return [name for name, *_ in options.model]


def load(options: argparse.Namespace) -> Loaded:
    """A session for each graph."""
    return Loaded(
        {name: open_graph(path, options.threads) for name, path in options.model},
        {"options": "default"},
    )


def open_graph(path: str, threads: int) -> Run:
    """A session with default options, but for the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"logits": session.run(None, {name: inputs["values"]})[0]}

    return run


if __name__ == "__main__":
    version = f"onnxruntime {onnxruntime.__version__}"
    serve(Peer("onnxruntime", "encoder", version, configure, names, load))
