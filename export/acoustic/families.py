"""Families of CTC checkpoints in Hugging Face form: what each is fed, and which graph it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.bundle.schema import FeatureConfig
from export.checkpoint import CheckpointInfo

HOP_LENGTH = 160  # of every family that reads log-mel features
STACKED = 2  # frames that Wav2Vec2-BERT joins
Fed = Literal["waveform", "stacked fbank", "nemo"]


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        title: as people call it.
        fed: "waveform"; "stacked fbank", Kaldi's features in pairs of frames; "nemo", NeMo's log-mel.
        shaped: whether it has Wav2Vec2's blocks, so that the graph is built by hand for the engine's kernels;
            other graphs are traced, and onnxruntime runs them.
    """

    title: str
    fed: Fed = "waveform"
    shaped: bool = False


FAMILIES: dict[str, Family] = {
    "Wav2Vec2ForCTC": Family("Wav2Vec2", shaped=True),
    "HubertForCTC": Family("HuBERT", shaped=True),
    "UniSpeechForCTC": Family("UniSpeech", shaped=True),
    "UniSpeechSatForCTC": Family("UniSpeech-SAT", shaped=True),
    "Data2VecAudioForCTC": Family("data2vec-audio"),
    "WavLMForCTC": Family("WavLM"),
    "SEWForCTC": Family("SEW"),
    "SEWDForCTC": Family("SEW-D"),
    "Wav2Vec2ConformerForCTC": Family("Wav2Vec2-Conformer"),
    "Wav2Vec2BertForCTC": Family("Wav2Vec2-BERT", "stacked fbank"),
    "ParakeetForCTC": Family("Parakeet CTC", "nemo"),
}
TRANSDUCER = "a transducer, which has no CTC head; export the CTC checkpoint of the same family"
PRETRAINED = "pre-trained only; pass a checkpoint that was fine-tuned with a CTC head"
OTHERS: dict[str, str] = {
    "WhisperForConditionalGeneration": "an encoder with a decoder and no CTC head; give it one with "
    "`engine-train from-whisper`, then use `engine-export log-mel` or two-pass",
    "SpeechEncoderDecoderModel": "an encoder with a decoder and no CTC head; pass a CTC checkpoint",
    "Speech2TextForConditionalGeneration": "an encoder with a decoder and no CTC head; pass a CTC checkpoint",
    "MarianMTModel": "a translator; use `engine-export marian`",
    "LogMelCTC": "trained here; use `engine-export log-mel`",
    "ConformerCTC": "trained here; use `engine-export conformer`",
    "ParakeetForTDT": TRANSDUCER,
    "ParakeetForRNNT": TRANSDUCER,
}


def explain_architecture(name: str) -> str:
    """What to do with a checkpoint of another architecture."""
    if name in OTHERS:
        return OTHERS[name]
    if any(part in name for part in ("RNNT", "TDT", "Transducer")):
        return TRANSDUCER
    if name.endswith(("ForPreTraining", "Model")):
        return PRETRAINED
    return "pass a fine-tuned CTC checkpoint"


def feature_config(family: Family, info: CheckpointInfo, n_mels: int) -> FeatureConfig:
    """What the engine computes for a family's checkpoint."""
    if family.fed == "waveform":
        return FeatureConfig(kind="waveform", sample_rate=info.sample_rate, normalize=info.normalize)
    if family.fed == "nemo":
        return FeatureConfig(
            kind="log_mel", sample_rate=info.sample_rate, n_fft=512, n_mels=n_mels, convention="nemo"
        )
    return FeatureConfig(
        kind="log_mel", sample_rate=info.sample_rate, n_fft=512, n_mels=n_mels, convention="kaldi",
        normalize=False,
    )  # fmt: skip


def count_mels(family: Family, config: Any) -> int:
    """Bands of the features, of a transformers configuration."""
    if family.fed == "nemo":
        return int(config.encoder_config.num_mel_bins)
    return int(getattr(config, "feature_projection_input_dim", 0)) // STACKED


def samples_per_frame(family: Family, config: Mapping[str, Any]) -> int:
    """Waveform samples for each row of logits. config: the content of config.json."""
    if family.fed == "nemo":
        encoder = config.get("encoder_config") or {}
        return HOP_LENGTH * int(encoder.get("subsampling_factor", 8))
    strides = config.get("conv_stride") or [5, 2, 2, 2, 2, 2, 2]
    product = math.prod(map(int, strides)) if family.fed == "waveform" else HOP_LENGTH * STACKED
    if config.get("add_adapter"):
        product *= int(config.get("adapter_stride", 2)) ** int(config.get("num_adapter_layers", 3))
    return product
