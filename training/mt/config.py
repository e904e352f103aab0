"""The configuration of translation training: one dataclass a section, read from YAML without surprises."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    origin_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSection:
    """A transformers MarianConfig; init_from continues from a checkpoint folder instead."""

    init_from: str | None = None
    vocab_size: int = 8000
    d_model: int = 256
    encoder_layers: int = 6
    decoder_layers: int = 2
    attention_heads: int = 4
    ffn_dim: int = 1024
    activation: str = "relu"
    max_positions: int = 256
    branch_scale: float = 0.25


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


@dataclass(frozen=True)
class MtConfig:
    """A whole run."""

    output_dir: str
    data: DataSection
    model: ModelSection = field(default_factory=ModelSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    errors: ErrorRates = field(default_factory=ErrorRates)
    seed: int = 17


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> MtConfig:
    """Read a YAML configuration.

    Args:
        path: the file.
        overrides: values by dotted key, such as {"training.max_steps": 10}.
    Raises:
        ValueError: unknown or missing keys, all of them in one message.
    """
    import yaml

    with open(path, encoding="utf-8") as file:
        try:
            tree = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    for key, value in (overrides or {}).items():
        node, *parents = key.split(".")[::-1]
        place = tree
        for parent in parents[::-1]:
            place = place.setdefault(parent, {})
        place[node] = value
    problems: list[str] = []
    config = _build(MtConfig, tree, "", problems)
    if problems or config is None:
        raise ValueError(f"{path}: {'; '.join(problems)}; see training/configs/mt_de_en_mini.yaml")
    return config


def to_tree(config: MtConfig) -> dict[str, Any]:
    """The configuration as plain values, for run folders and model cards."""
    return dataclasses.asdict(config)


_SECTIONS = {"data": DataSection, "model": ModelSection, "training": TrainingSection, "errors": ErrorRates}


def _build(kind: Any, tree: Any, prefix: str, problems: list[str]) -> Any:
    if not isinstance(tree, Mapping):
        problems.append(f"{prefix or 'the file'} must be a mapping, got {type(tree).__name__}")
        return None
    fields = {f.name: f for f in dataclasses.fields(kind)}
    problems += [f"unknown key {prefix}{key}" for key in tree if key not in fields]
    values = {}
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if name not in tree:
            problems += [f"missing key {prefix}{name}"] if required else []
        elif kind is MtConfig and name in _SECTIONS:
            values[name] = _build(_SECTIONS[name], tree[name], f"{name}.", problems)
        else:
            values[name] = tuple(tree[name]) if isinstance(tree[name], list) else tree[name]
    return None if problems else kind(**values)
