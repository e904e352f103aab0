"""Graphs that other programs wrote: what their own metadata, or the files beside them, say of features.

sherpa-onnx writes into a graph's metadata, onnx-asr a config.json beside it, transformers its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import BundleSchemaError
from engine.runtime.onnx_interface import Interface

HOP_LENGTH = 160
KALDI = {"kind": "log_mel", "convention": "kaldi", "n_fft": 512, "normalize": False}
NEMO = {"kind": "log_mel", "convention": "nemo", "n_fft": 512}
# By model_type: the features, and frames of features for each row of logits.
SHERPA: dict[str, tuple[dict[str, Any], int]] = {
    "EncDecCTCModel": (NEMO, 8),
    "EncDecCTCModelBPE": (NEMO, 8),
    "EncDecHybridRNNTCTCBPEModel": (NEMO, 8),
    "zipformer2_ctc": ({**KALDI, "snip_edges": False, "high_hz": -400.0, "scale": 1.0}, 4),
    "wenet_ctc": (KALDI, 4),
}
NEMO_TYPES = ("nemo-conformer-ctc", "parakeet_ctc")  # of onnx-asr and of transformers
RAW_TYPES = ("wav2vec2-ctc",)  # of onnx-asr: a waveform as it is
N_MELS = 80
MEND = "export the checkpoint with `engine-export ctc`, or describe the graph with `engine-export onnx`"


def describe_foreign(interface: Interface, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fields of AcousticConfig for a graph of another program; None for one that reads Wav2Vec2's waveforms.

    Args:
        interface: of the graph.
        config: the content of the config.json beside it; {} without one.
    Raises:
        BundleSchemaError: features that this engine does not compute, or a graph that is no CTC model.
    """
    kind = interface.metadata.get("model_type", "")
    if kind:
        return _from_sherpa(kind, interface)
    kind = str(config.get("model_type", ""))
    if kind in NEMO_TYPES:
        encoder = config.get("encoder_config")
        encoder = encoder if isinstance(encoder, dict) else {}
        n_mels = config.get("features_size", encoder.get("num_mel_bins", _count_mels(interface)))
        factor = config.get("subsampling_factor", encoder.get("subsampling_factor", 8))
        return _log_mel({**NEMO, "n_mels": n_mels}, factor)
    if kind in RAW_TYPES:
        stride = config.get("subsampling_factor", 320)
        return {"features": {"kind": "waveform", "normalize": False}, "samples_per_frame": stride}
    if any(shape is not None and len(shape) == 3 for shape in interface.inputs.values()):
        raise BundleSchemaError(
            f"a graph that reads features ({describe_ports(interface.inputs)}) and does not say which",
            "metadata as sherpa-onnx writes them (model_type), or a config.json of onnx-asr",
            MEND,
        )
    return None


def _from_sherpa(kind: str, interface: Interface) -> dict[str, Any]:
    metadata = interface.metadata
    if kind not in SHERPA or metadata.get("is_giga_am", "0") not in ("", "0"):
        raise BundleSchemaError(
            f"a graph of model_type {kind!r}" + (" with GigaAM's features" if kind in SHERPA else ""),
            f"a CTC model of {', '.join(SHERPA)}",
            MEND,
        )
    features, factor = SHERPA[kind]
    features = {**features, "n_mels": _count_mels(interface)}
    if features["convention"] == "nemo":
        normalized = metadata.get("normalize_type", "per_feature")
        if normalized not in ("per_feature", "", "NA"):
            raise BundleSchemaError(f"normalize_type {normalized!r}", "per_feature, or none", MEND)
        features["normalize"] = normalized == "per_feature"
    return _log_mel(features, metadata.get("subsampling_factor", factor))


def _log_mel(features: dict[str, Any], factor: Any) -> dict[str, Any]:
    try:
        return {"features": features, "samples_per_frame": HOP_LENGTH * int(factor)}
    except (TypeError, ValueError) as error:
        raise BundleSchemaError(f"subsampling_factor {factor!r}", "a whole number", MEND) from error


def _count_mels(interface: Interface) -> int:
    """The fixed dimension of the features that a graph reads, where there is one."""
    for shape in interface.inputs.values():
        if shape is not None and len(shape) == 3:
            sizes = [size for size in shape[1:] if size is not None and size > 1]
            return sizes[0] if len(sizes) == 1 else N_MELS
    return N_MELS


def describe_ports(ports: Mapping[str, Any]) -> str:
    """Names and shapes, for a message: `x [?, ?, 80]`."""
    shown = []
    for name, shape in ports.items():
        sizes = "" if shape is None else ", ".join(str(s) if isinstance(s, int) else "?" for s in shape)
        shown.append(f"{name} [{sizes}]")
    return ", ".join(shown) or "none"
