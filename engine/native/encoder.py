"""Exported encoders on an x86-64 CPU, by kernels of our own instead of onnxruntime's.

One utterance a call; rows may be shared out over threads, which changes no result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.bundle.layout import FIX, EncoderSpec
from engine.errors import LayoutError
from engine.kernels.encoder.layer import BLOCK_ROWS, Scratch, Utterance, finish_rows, project_rows
from engine.native.buffers import make_scratch, make_utterance, place_sinks
from engine.native.heads import Head, read_head
from engine.native.layers import Layer, read_layers
from engine.native.stems import MelStem, WaveformStem, read_stem
from engine.native.weights import Weights, open_graph
from engine.native.workers import Workers
from engine.runtime.arrays import plain_float32
from engine.runtime.cancel import CancelToken

F32Array = NDArray[np.float32]


class NativeEncoder:
    """A graph that `export/` wrote, from features to logits. Safe to call from many threads at once.

    Attributes:
        input_name: of the graph. vocab_size: columns of the logits.
        states_size: channels of the graph's states; None where it has no such output.
    """

    def __init__(self, data: bytes, integers: bool = True) -> None:
        """Read and pack the weights.

        Args:
            data: the ONNX file.
            integers: multiply in int8 what the graph multiplies so; else everything in bfloat16.
        Raises:
            LayoutError: no layout table, or one that does not fit or that the kernels do not compute.
            OnnxFormatError: the bytes are no ONNX model.
        """
        open_graph(data, EncoderSpec, self._build, integers=integers)

    def _build(self, weights: Weights, spec: EncoderSpec) -> None:
        self.stem: MelStem | WaveformStem = read_stem(weights, spec.stem)
        d = self.stem.n_channels
        self.layers: list[Layer] = read_layers(weights, spec.layers, d)
        self.head: Head = read_head(weights, spec, d)
        self.input_name = self.stem.input_name
        if spec.input_name != self.input_name:
            raise LayoutError(f"an input {spec.input_name!r}", repr(self.input_name), FIX)
        self.vocab_size = self.head.output.n_out
        self.states_size = d if spec.gives_states and spec.norm is not None else None

    def run(self, features: F32Array, threads: int = 1, cancel: CancelToken | None = None) -> F32Array:
        """Compute the logits of one utterance.

        Args:
            features: what the graph takes, without the batch axis: float32 [n_samples] or [n_mels, n_frames].
            threads: rows are shared out over so many.
            cancel: looked at between layers.
        Returns:
            float32 [n_frames, vocab_size].
        Raises:
            CancelledError: cancel was set.
            AudioShapeError, AudioTooShortError, AudioLimitError: features that the graph does not take.
        """
        return self.run_states(features, threads, cancel)[0]

    def run_states(
        self, features: F32Array, threads: int = 1, cancel: CancelToken | None = None
    ) -> tuple[F32Array, F32Array]:
        """Logits as `run` gives them, and what the head reads: float32 [n_frames, states_size]."""
        features = plain_float32(features)
        self.stem.check(features)
        with Workers(threads, cancel) as workers:
            hidden = self.stem.run(features, workers)
            state = make_utterance(hidden, self.layers)
            d, n_positions = hidden.shape[1], len(state.bias)
            scratches = [make_scratch(self.layers, d, n_positions) for _ in range(workers.count)]
            for layer in self.layers:
                run_layer(layer, state, scratches, workers)
            return self.head.run(hidden, workers), hidden  # the head normalises in place


def run_layer(layer: Layer, state: Utterance, scratches: list[Scratch], workers: Workers) -> None:
    """One layer, in place on state.hidden."""
    n_frames = len(state.hidden)
    workers.share(
        n_frames, BLOCK_ROWS, lambda w, a, b: project_rows(layer.weights, state, scratches[w], a, b)
    )
    if layer.sinks is not None:  # behind the projection, whose last odd row clears the other half of its pair
        place_sinks(state, layer.weights, layer.sinks)
    workers.share(n_frames, BLOCK_ROWS, lambda w, a, b: finish_rows(layer.weights, state, scratches[w], a, b))
