"""OpenVINO, one stream: `openvino_encoder.py --model NAME PATH PRECISION` for each system.

A graph is read once, given the static shape of each input that it meets, and compiled when a shape is first
seen (in the round that is not timed): static shapes are a little faster here than dynamic ones. Where the
processor has no bfloat16, OpenVINO computes in float32 instead, and the system's name says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino
from peer_worker import Loaded, Peer, serve


class Graph:
    """One model with a compiled request for each shape."""

    def __init__(self, path: str, precision: str, threads: int) -> None:
        self.core = openvino.Core()
        self.path = path
        self.settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Logits [batch, n_frames, vocab_size]."""
        values = inputs["values"]
        request = self.requests.get(values.shape) or self._compile(values.shape)
        return {"logits": np.array(request.infer({0: values}, share_inputs=True)[0])}

    def _compile(self, shape: tuple[int, ...]) -> Any:
        model = self.core.read_model(self.path)
        model.reshape({model.inputs[0].get_any_name(): list(shape)})
        compiled = self.core.compile_model(model, "CPU", self.settings)
        # Only the last shape is kept: each compiled model has its own copy of the weights.
        self.requests = {shape: compiled.create_infer_request()}
        return self.requests[shape]


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument(
        "--model", nargs=3, action="append", metavar=("NAME", "PATH", "PRECISION"), required=True
    )


def abilities() -> list[str]:
    """The number formats in which OpenVINO says that it computes here."""
    return list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def models(options: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Path and precision by name, as they run here."""
    found = options.model
    if "BF16" not in abilities():
        found = [(name.replace("bf16", "f32"), path, "f32") for name, path, _ in found]
    return {name: (path, precision) for name, path, precision in found}


def load(options: argparse.Namespace) -> Loaded:
    """The systems that the command line names."""
    runs = {name: Graph(*model, options.threads) for name, model in models(options).items()}
    return Loaded(runs, {"abilities": "+".join(abilities()), "options": "static shapes,1 stream,latency"})


if __name__ == "__main__":
    version = f"openvino {openvino.__version__.split('-')[0]}"
    serve(Peer("openvino", "encoder", version, configure, lambda options: list(models(options)), load))
