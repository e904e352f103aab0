"""The configuration of translation training: one dataclass per section, read from YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.common.config import (
    ConfigError,
    build_config,
    check_choice,
    check_not_negative,
    check_positive,
    check_share,
    raise_problems,
    read_tree,
)
from training.mt.text_augment import ErrorRates


@dataclass(frozen=True)
class DataSection:
    """What is trained on; paths are relative to the working directory."""

    train: tuple[str, ...]
    dev: Mapping[str, str]
    lexicon: str | None = None
    lexicon_text: tuple[str, ...] = ()
    max_tokens: int = 96
    spoken_share: float = 0.5
    two_pass_share: float = 0.0
    sample_pieces: float = 0.0
    joined: int = 0
    origin_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [] if self.train else ["train: no file given"]
        problems += check_positive(self, ("max_tokens",)) + check_share(
            self, ("spoken_share", "two_pass_share", "sample_pieces")
        )
        problems += check_not_negative(self, ("joined",))
        if self.spoken_share + self.two_pass_share > 1.0:
            problems.append("spoken_share and two_pass_share: got more than 1 together")
        problems += [
            f"origin_weights.{origin}: got {weight}, want 0 or more"
            for origin, weight in self.origin_weights.items()
            if weight < 0.0
        ]
        raise_problems(problems)


@dataclass(frozen=True)
class ModelSection:
    """A transformers MarianConfig; init_from continues from a checkpoint folder instead."""

    init_from: str | None = None
    vocab_size: int = 8000
    byte_fallback: bool = False
    fold_case: bool = True
    d_model: int = 256
    encoder_layers: int = 6
    decoder_layers: int = 2
    attention_heads: int = 4
    ffn_dim: int = 1024
    activation: str = "relu"
    max_positions: int = 256
    branch_scale: float = 0.25
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "encoder_layers", "decoder_layers", "attention_heads", "ffn_dim")
        problems = check_positive(self, (*sizes, "max_positions")) + check_share(self, ("dropout",))
        if not problems and self.d_model % self.attention_heads:
            problems.append(f"d_model: got {self.d_model}, want a multiple of {self.attention_heads} heads")
        raise_problems(problems)


@dataclass(frozen=True)
class TrainingSection:
    """How it is trained; every key is explained in configs/mt_de_en_mini.yaml."""

    max_steps: int = 10_000
    max_minutes: float = 0.0
    batch_tokens: int = 8192
    accumulate: int = 1
    optimizer: str = "muon"
    lr: float = 0.02
    adam_lr: float = 0.002
    schedule: str = "linear"
    warmup_steps: int = 200
    label_smoothing: float = 0.1
    sampled_vocab: int = 0
    full_vocab_share: float = 0.25
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    precision: str = "fp32"
    gate_tokens: int = 4_000_000
    gate_margin: float = 0.15
    checkpoint_minutes: float = 5.0
    average_checkpoints: int = 4
    eval_minutes: float = 15.0
    eval_sentences: int = 300
    early_stop_evals: int = 0
    log_steps: int = 20

    def __post_init__(self) -> None:
        problems = check_choice("optimizer", self.optimizer, ("muon", "adamw"))
        problems += check_choice("schedule", self.schedule, ("linear", "cosine", "inverse_sqrt"))
        problems += check_choice("precision", self.precision, ("fp32", "bf16"))
        problems += check_positive(self, ("max_steps", "batch_tokens", "accumulate", "log_steps"))
        problems += check_not_negative(
            self, ("lr", "adam_lr", "max_minutes", "clip_norm", "weight_decay", "checkpoint_minutes",
                   "eval_minutes", "eval_sentences", "sampled_vocab", "average_checkpoints")
        )  # fmt: skip
        raise_problems(problems + check_share(self, ("label_smoothing", "full_vocab_share")))


@dataclass(frozen=True)
class MtConfig:
    """A whole run."""

    output_dir: str
    data: DataSection
    model: ModelSection = field(default_factory=ModelSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    errors: ErrorRates = field(default_factory=ErrorRates)
    seed: int = 17

    def __post_init__(self) -> None:
        if not self.model.init_from and self.data.max_tokens > self.model.max_positions:
            got = f"data.max_tokens: got {self.data.max_tokens}, want at most model.max_positions, "
            raise_problems([f"{got}{self.model.max_positions}"])


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> MtConfig:
    """Read a YAML configuration.

    Args:
        path: the file.
        overrides: values by dotted key, such as {"training.max_steps": 10}.
    Raises:
        ConfigError: unknown or missing keys, wrong types, impossible values, all of them in one message.
    """
    tree = read_tree(Path(path))
    for key, value in (overrides or {}).items():
        *parents, name = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{key}: {parent} is a value, not a section", "SECTION.KEY=VALUE")
        place[name] = value
    return build_config(MtConfig, tree, str(path), "training/configs/mt_de_en_mini.yaml")


def to_tree(config: MtConfig) -> dict[str, Any]:
    """The configuration as plain values, for run folders and model cards."""
    return dataclasses.asdict(config)
