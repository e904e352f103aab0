"""Which inputs and outputs of a graph are which: ours by name, those of others by type and shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.foreign import describe_ports
from engine.bundle.schema import FeatureConfig
from engine.errors import BundleSchemaError
from engine.runtime.onnx_session import Session

INPUT_NAMES = {"waveform": "input_values", "log_mel": "input_features"}
MASK_NAME = "attention_mask"
OUTPUT_NAME = "logits"
LOG_PROBS = ("logits", "logprobs", "log_probs", "log_prob", "output", "outputs")
ROWS_FIRST = ("x", "input_features", "feats", "speech", "features")  # of others: [batch, n_frames, n_mels]
INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
FLOAT = "tensor(float)"
WAVEFORM_RANK, FEATURES_RANK = 2, 3


@dataclass(frozen=True)
class Ports:
    """Names in a graph.

    Attributes:
        features: the input of features; rows_first: as [batch, n_frames, n_mels] instead of [batch, n_mels,
            n_frames].
        mask: the input of ones and zeros, [batch, length]; lengths: that of lengths, [batch]; "" where there
            is none.
        types: of the last two, in the order of their names.
        logits: the output.
    """

    features: str
    logits: str
    rows_first: bool = False
    mask: str = ""
    lengths: str = ""
    mask_type: Any = np.int64
    lengths_type: Any = np.int64

    def feeds(self, stacked: NDArray[np.float32], ends: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """What the graph reads for features [batch, ..., width], of which so much of each row is real."""
        width = stacked.shape[-1]
        rows = np.ascontiguousarray(stacked.transpose(0, 2, 1)) if self.rows_first else stacked
        feeds: dict[str, NDArray[Any]] = {self.features: rows}
        if self.mask:
            feeds[self.mask] = (np.arange(width) < np.asarray(ends)[:, None]).astype(self.mask_type)
        if self.lengths:
            feeds[self.lengths] = np.asarray(ends, self.lengths_type)
        return feeds


def find_ports(session: Session, config: FeatureConfig) -> Ports:
    """Tell a graph's inputs and outputs apart.

    Raises:
        BundleSchemaError: others than an acoustic model has; the message names those of the graph.
    """
    floats = [name for name in session.input_names if session.input_types[name] == FLOAT]
    own = INPUT_NAMES[config.kind]
    features = own if own in floats else floats[0] if len(floats) == 1 else ""
    wanted = WAVEFORM_RANK if config.kind == "waveform" else FEATURES_RANK
    rest = [name for name in session.input_names if name != features]
    mask = [name for name in rest if _is_integer(session, name) and len(session.input_shape(name)) == 2]
    lengths = [name for name in rest if _is_integer(session, name) and len(session.input_shape(name)) == 1]
    fits = bool(features) and len(session.input_shape(features)) in (wanted, 0)
    logits = _find_logits(session)
    if not fits or len(mask) > 1 or len(lengths) > 1 or len(mask) + len(lengths) != len(rest) or not logits:
        inputs = {name: session.input_shape(name) for name in session.input_names}
        outputs = {name: session.output_shape(name) for name in session.output_names}
        shape = "[batch, n_samples]" if config.kind == "waveform" else "[batch, n_mels, n_frames]"
        raise BundleSchemaError(
            f"a graph with the inputs {describe_ports(inputs)} and outputs {describe_ports(outputs)}",
            f"one float32 input {shape}, at most a mask and lengths beside it, and logits [batch, n_frames, "
            "vocab_size]",
            "pass the graph of a whole CTC model; those of transducers and of decoders are other models",
        )
    return Ports(
        features,
        logits,
        config.kind == "log_mel" and _has_rows_first(session, features, config.n_mels),
        *(found[0] if found else "" for found in (mask, lengths)),
        *(INTEGERS[session.input_types[found[0]]] if found else np.int64 for found in (mask, lengths)),
    )


def _is_integer(session: Session, name: str) -> bool:
    return session.input_types[name] in INTEGERS


def _find_logits(session: Session) -> str:
    """By its name; or the only output of three dimensions."""
    for name in LOG_PROBS:
        if name in session.output_names:
            return name
    found = [name for name in session.output_names if len(session.output_shape(name)) == FEATURES_RANK]
    return found[0] if len(found) == 1 else ""


def _has_rows_first(session: Session, name: str, n_mels: int) -> bool:
    shape = session.input_shape(name)
    if name == INPUT_NAMES["log_mel"] and (len(shape) != FEATURES_RANK or shape[2] != n_mels):
        return False  # ours
    if len(shape) == FEATURES_RANK and n_mels in shape[1:]:
        return shape[2] == n_mels
    return name in ROWS_FIRST
