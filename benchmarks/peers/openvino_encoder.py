"""OpenVINO, one thread, one stream: `openvino_encoder.py --model NAME PATH PRECISION` for each system.

A graph is read once, given the static shape of each input that it meets, and compiled when a shape is first
seen (outside the clock): static shapes are a little faster here than dynamic ones. Where the processor has no
bfloat16, OpenVINO computes in float32 instead, and the system's name says so.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import openvino
from encoder_worker import Run, serve


class Graph:
    """One model with a compiled request for each shape."""

    def __init__(self, path: str, precision: str) -> None:
        self.core = openvino.Core()
        self.path = path
        self.settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, values: Any) -> Any:
        """Logits [batch, n_frames, vocab_size]."""
        request = self.requests.get(values.shape) or self._compile(values.shape)
        return np.array(request.infer({0: values}, share_inputs=True)[0])

    def _compile(self, shape: tuple[int, ...]) -> Any:
        model = self.core.read_model(self.path)
        model.reshape({model.inputs[0].get_any_name(): list(shape)})
        compiled = self.core.compile_model(model, "CPU", self.settings)
        # Only the last shape is kept: each compiled model has its own copy of the weights.
        self.requests = {shape: compiled.create_infer_request()}
        return self.requests[shape]


def load() -> tuple[dict[str, Run], str]:
    """The systems that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs=3, action="append", metavar=("NAME", "PATH", "PRECISION"))
    abilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    models = parser.parse_args().model
    if "BF16" not in abilities:
        models = [(name.replace("bf16", "f32"), path, "f32") for name, path, _ in models]
    systems: dict[str, Run] = {name: Graph(path, precision) for name, path, precision in models}
    version, formats = openvino.__version__.split("-")[0], "+".join(abilities)
    return systems, f"openvino:{version},{formats},static shapes,1 thread,1 stream,latency"


if __name__ == "__main__":
    serve(load)
