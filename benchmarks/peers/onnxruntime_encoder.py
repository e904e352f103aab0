"""ONNX Runtime with its default session, one thread: `onnxruntime_encoder.py --model NAME PATH` each."""

from __future__ import annotations

import argparse
from typing import Any

import onnxruntime
from encoder_worker import Run, serve


def load() -> tuple[dict[str, Run], str]:
    """The systems that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs=2, action="append", metavar=("NAME", "PATH"))
    systems = {name: open_graph(path) for name, path in parser.parse_args().model}
    return systems, f"onnxruntime:{onnxruntime.__version__},default options,1 thread"


def open_graph(path: str) -> Run:
    """A session as its makers ship it, but for the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(values: Any) -> Any:
        return session.run(None, {name: values})[0]

    return run


if __name__ == "__main__":
    serve(load)
