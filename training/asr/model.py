"""Wav2Vec2ForCTC for training: built or loaded, partly frozen, masked safely, with its loss in float32."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
from transformers.utils import cached_file

from engine.text import BLANK
from training.asr.config import AsrConfig
from training.asr.conformer import ConformerConfig, ConformerCtc
from training.common.augment import mask_spans
from training.common.config import ConfigError, build_config

MASK_TIME = 0.05  # makes transformers create the mask's embedding; see `build_model`
SETTINGS: dict[str, Any] = {
    "ctc_zero_infinity": True,
    "ctc_loss_reduction": "sum",
    "layerdrop": 0.0,  # dropped layers have no gradient, which breaks accumulation and data-parallel sums
    "mask_time_prob": MASK_TIME,
    "mask_feature_prob": 0.0,
}


def build_model(config: AsrConfig, vocabulary: dict[str, int]) -> Any:
    """Load a checkpoint with a new CTC head, or make a model from random weights; then freeze and adapt."""
    if config.conformer:
        return _build_conformer(config, vocabulary)
    torch.manual_seed(config.seed)
    if config.model:
        model = _load_checkpoint(config.model, vocabulary)
    else:
        sizes = {"vocab_size": len(vocabulary), "pad_token_id": 0, **SETTINGS}
        model = Wav2Vec2ForCTC(
            Wav2Vec2Config(**{**config.scratch, **sizes, "bos_token_id": None, "eos_token_id": None})
        )
    model.config.mask_time_prob = 0.0  # `mask_spans` makes the masks: transformers' own fail on short clips
    if config.freeze_front_end and config.model:
        model.freeze_feature_encoder()
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return _add_lora(model, config.lora_rank) if config.lora_rank else model


HUB_CONVS: dict[str, Any] = {
    "num_feat_extract_layers": 7, "conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
}  # fmt: skip
LAYER_NORM: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
HUB_SIZES: dict[str, dict[str, Any]] = {  # from the hub's config.json, for an estimate before a download
    "facebook/wav2vec2-base": {},
    "facebook/wav2vec2-large": LARGE,
    "facebook/wav2vec2-large-lv60": {**LARGE, **LAYER_NORM},
    "facebook/wav2vec2-large-xlsr-53": {**LARGE, **LAYER_NORM},
    "facebook/wav2vec2-xls-r-300m": {**LARGE, **LAYER_NORM},
    "facebook/wav2vec2-xls-r-1b": {
        **LARGE, **LAYER_NORM, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 48,
    },
    "facebook/wav2vec2-xls-r-2b": {
        **LARGE, **LAYER_NORM, "hidden_size": 1920, "intermediate_size": 7680, "num_hidden_layers": 48,
    },
}  # fmt: skip


def outline_model(config: AsrConfig, n_symbols: int) -> Any:
    """Make the model of a configuration without weights (on the meta device): nothing is downloaded.

    Args:
        n_symbols: of the vocabulary.
    Raises:
        ConfigError: `model` is neither a folder nor a hub name whose sizes are known here.
    """
    vocabulary = {str(number): number for number in range(n_symbols)}
    with torch.device("meta"):
        if config.conformer:
            return _build_conformer(config, vocabulary)
        sizes = _read_sizes(config.model) if config.model else config.scratch
        if not isinstance(sizes, Wav2Vec2Config):
            sizes = Wav2Vec2Config(**{**sizes, **SETTINGS, "pad_token_id": 0})
        sizes.vocab_size = n_symbols
        model = Wav2Vec2ForCTC(sizes)
        if config.freeze_front_end and config.model:
            model.freeze_feature_encoder()
        return _add_lora(model, config.lora_rank) if config.lora_rank else model


def _read_sizes(name: str) -> Wav2Vec2Config | dict[str, Any]:
    if (Path(name) / "config.json").is_file():
        return Wav2Vec2Config.from_pretrained(name)
    if name not in HUB_SIZES:
        raise ConfigError(
            f"model: the sizes of {name} are not known before it is downloaded",
            f"a folder with its config.json, or one of {', '.join(HUB_SIZES)}",
            "download its config.json into a folder and give that",
        )
    return {**HUB_CONVS, **HUB_SIZES[name]}


def _load_checkpoint(name: str, vocabulary: dict[str, int]) -> Wav2Vec2ForCTC:
    """Load a hub name or folder; the new CTC head keeps the rows of letters that the old one knew."""
    model, info = Wav2Vec2ForCTC.from_pretrained(  # in float32, also what was saved in half precision
        name, output_loading_info=True, dtype=torch.float32, **SETTINGS
    )
    old = model.lm_head
    model.lm_head = nn.Linear(old.in_features, len(vocabulary))
    nn.init.normal_(model.lm_head.weight, std=model.config.initializer_range)
    nn.init.zeros_(model.lm_head.bias)
    known = {} if any("lm_head" in key for key in info["missing_keys"]) else read_vocabulary(name)
    with torch.no_grad():
        for symbol, row in vocabulary.items():
            if known.get(symbol, old.out_features) < old.out_features:
                model.lm_head.weight[row] = old.weight[known[symbol]]
                model.lm_head.bias[row] = old.bias[known[symbol]]
    model.config.vocab_size, model.config.pad_token_id = len(vocabulary), 0
    return model


def read_vocabulary(name: str) -> dict[str, int]:
    """Return a checkpoint's vocab.json, letters in lower case, the blank as ours; empty where it has none."""
    path = cached_file(name, "vocab.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return {}
    symbols: dict[str, int] = json.loads(Path(path).read_text(encoding="utf-8"))
    blank = next((symbols[name] for name in ("<pad>", "[PAD]") if name in symbols), None)
    lowered = {symbol.lower(): index for symbol, index in symbols.items() if len(symbol) == 1}
    return lowered if blank is None else {**lowered, BLANK: blank}


def _build_conformer(config: AsrConfig, vocabulary: dict[str, int]) -> ConformerCtc:
    sizes = dict(config.conformer)
    dropout = float(sizes.pop("dropout", 0.0))
    sizes["vocab_size"] = len(vocabulary)
    torch.manual_seed(config.seed)
    return ConformerCtc(
        build_config(ConformerConfig, sizes, "conformer", "ConformerConfig, and dropout"), dropout
    )


def _add_lora(model: Wav2Vec2ForCTC, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=["lm_head"])
    return get_peft_model(model, adapters)


def plain_model(model: Any) -> Wav2Vec2ForCTC:
    """Return the Wav2Vec2ForCTC inside LoRA's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def takes_mask(model_config: Any) -> bool:
    """Whether a model wants an attention mask.

    Layer-norm models (large, XLSR, XLS-R) do. Group-norm models (wav2vec2-base) were pretrained without:
    their norm runs over time, padding included, and a mask makes their transcripts worse.
    """
    return bool(model_config.feat_extract_norm == "layer")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Clips padded to one length.

    Attributes:
        waveforms: float32 [batch, n_samples], each normalised, zeros after its end.
        lengths: int64 [batch], samples of each clip.
        labels: the transcripts' label indices.
        clips: which samples they are; may be empty.
    """

    waveforms: Tensor
    lengths: Tensor
    labels: list[list[int]]
    clips: tuple[int, ...] = ()

    @property
    def audio_s(self) -> float:
        """Seconds of audio, padding not counted."""
        return float(self.lengths.sum()) / 16_000.0

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its waveforms on a device."""
        return dataclasses.replace(self, waveforms=self.waveforms.to(device))

    def select(self, row: int) -> Batch:
        """Return one clip as a batch."""
        waveform = self.waveforms[row : row + 1, : int(self.lengths[row])]
        return Batch(waveform, self.lengths[row : row + 1], [self.labels[row]])

    @classmethod
    def of(cls, waveforms: list[np.ndarray[Any, np.dtype[np.float32]]], labels: list[list[int]]) -> Batch:
        """Normalise each waveform to zero mean and unit variance, and pad."""
        lengths = torch.tensor([waveform.size for waveform in waveforms])
        padded = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in enumerate(waveforms):
            centred = waveform - waveform.mean()
            padded[row, : waveform.size] = torch.from_numpy(
                centred / np.sqrt(np.square(centred).mean() + 1e-7)
            )
        return cls(padded, lengths, labels)


def compute_logits(
    model: Any,
    batch: Batch,
    mask_time: float = 0.0,
    mask_span: int = 10,
    rng: np.random.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the network.

    Args:
        model: Wav2Vec2ForCTC, perhaps in LoRA's wrapper.
        batch: clips.
        mask_time, mask_span, rng: SpecAugment over time, drawn with rng; short clips stay unmasked.
    Returns:
        logits [batch, n_frames, vocab] and the valid frames of each clip, int64 [batch].
    """
    network = plain_model(model)
    frames = network._get_feat_extract_output_lengths(batch.lengths).long()
    hidden_frames = None
    if mask_time > 0.0 and rng is not None:
        n_frames = int(frames.max())
        masks = [mask_spans(int(length), mask_time, mask_span, rng) for length in frames]
        hidden_frames = torch.from_numpy(
            np.stack([np.pad(mask, (0, n_frames - mask.size)) for mask in masks])
        )
        hidden_frames = hidden_frames.to(batch.waveforms.device)
    positions = torch.arange(batch.waveforms.shape[1], device=batch.waveforms.device)
    mask = (positions[None, :] < batch.lengths[:, None].to(positions.device)).long()
    outputs = network.wav2vec2(
        batch.waveforms,
        attention_mask=mask if takes_mask(network.config) else None,
        mask_time_indices=hidden_frames,
    )
    logits = network.lm_head(network.dropout(outputs.last_hidden_state))
    return logits, frames.clamp(max=logits.shape[1])


def compute_ctc(logits: Tensor, frames: Tensor, labels: list[list[int]]) -> tuple[Tensor, int]:
    """Compute the summed CTC loss in float32.

    Args:
        logits: [batch, n_frames, vocab], any float type.
        frames: int64 [batch].
        labels: label indices of each clip.
    Returns:
        The sum of the finite losses, and how many clips had an infinite one (too much text for their
        frames); those are left out of the sum.
    """
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    lengths = torch.tensor([len(label) for label in labels])
    flat = torch.tensor([index for label in labels for index in label], device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        losses = functional.ctc_loss(
            log_probs, flat, frames.cpu(), lengths, blank=0, reduction="none", zero_infinity=False
        )
        finite = torch.isfinite(losses)
        if not bool(
            finite.all()
        ):  # zero_infinity also zeroes the gradients, which `where` alone would make NaN
            zeroed = functional.ctc_loss(
                log_probs, flat, frames.cpu(), lengths, blank=0, reduction="none", zero_infinity=True
            )
            return zeroed[finite].sum() + 0.0 * zeroed.sum(), int((~finite).sum())
    return losses.sum(), 0


def blank_ratio(logits: Tensor, frames: Tensor) -> float:
    """Return the fraction of valid frames whose best symbol is the blank."""
    valid = torch.arange(logits.shape[1])[None, :] < frames.cpu()[:, None]
    blanks = (logits.detach().argmax(-1).cpu() == 0) & valid
    return float(blanks.sum()) / max(int(valid.sum()), 1)


def save_pretrained(model: Any, vocabulary: dict[str, int], folder: Path) -> None:
    """Write a folder as transformers' save_pretrained does, with vocabulary and preprocessor settings.

    LoRA adapters are merged into the weights, in a copy.
    """
    if hasattr(model, "merge_and_unload"):
        import copy

        model = copy.deepcopy(model).merge_and_unload()
    model.config.mask_time_prob = MASK_TIME
    model.save_pretrained(folder)
    model.config.mask_time_prob = 0.0
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    settings = {
        "do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1,
        "padding_side": "right", "padding_value": 0.0, "return_attention_mask": takes_mask(model.config),
        "sampling_rate": 16_000,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
