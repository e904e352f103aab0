"""The description in a Hugging Face folder, read without running anything in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.decoding.labels import build_labels
from engine.errors import DecodingError
from export.errors import ExportError

PICKLES = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.ckpt",
    "tf_model.h5",
    "flax_model.msgpack",
)
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
CONVERT = (
    "convert it where you trust its origin: AutoModelForCTC.from_pretrained(folder).save_pretrained(folder2)"
)


@dataclass(frozen=True)
class CheckpointInfo:
    """The description of a CTC checkpoint.

    Attributes:
        vocabulary: tokens by output index. word_delimiter: the token between words.
        sample_rate: Hz. normalize: zero mean and unit variance for each utterance.
        trained_with_mask: padding was masked in training (the extractor's return_attention_mask).
        licence: of the model card's header; "unknown" without one.
    """

    architecture: str
    vocabulary: tuple[str, ...]
    blank_id: int
    word_delimiter: str
    sample_rate: int
    normalize: bool
    licence: str
    samples_per_frame: int
    trained_with_mask: bool = False


def read_checkpoint(folder: Path, architectures: tuple[str, ...]) -> CheckpointInfo:
    """Read and check everything except the weights; one error lists all problems.

    Raises:
        ExportError: not a checkpoint, not safe to open, another architecture, or a vocabulary that does
            not fit the head.
    """
    config = read_json(folder / "config.json", required=True)
    problems = [*_weight_problems(folder), *_architecture_problems(config, architectures)]
    extractor = _feature_extractor(folder)
    if extractor.get("feature_size", 1) != 1:
        problems.append(f"feature_size {extractor['feature_size']}, not 1 (a waveform)")
    tokens: tuple[str, ...] = ()
    try:
        tokens = read_vocabulary(folder, config)
    except ExportError as error:
        problems.append(error.got)
    blank_id = config.get("pad_token_id")
    if not isinstance(blank_id, int) or (tokens and not 0 <= blank_id < len(tokens)):
        problems.append(f"pad_token_id {blank_id!r} (the CTC blank) is not in the vocabulary")
    elif tokens:
        problems += _label_problems(folder, tokens, blank_id)
    if problems:
        raise ExportError(
            f"{str(folder)!r}: " + "; ".join(problems),
            f"a save_pretrained folder of {' or '.join(architectures)} with safetensors and its vocab.json",
            CONVERT
            if any("pickle" in problem for problem in problems)
            else "pass a fine-tuned CTC checkpoint",
        )
    return CheckpointInfo(
        architecture=config["architectures"][0],
        vocabulary=tokens,
        blank_id=int(config["pad_token_id"]),
        word_delimiter=_word_delimiter(folder, tokens),
        sample_rate=int(extractor.get("sampling_rate", 16_000)),
        normalize=bool(extractor.get("do_normalize", True)),
        licence=_licence(folder),
        samples_per_frame=_product(config.get("conv_stride", [5, 2, 2, 2, 2, 2, 2])),
        trained_with_mask=bool(extractor.get("return_attention_mask", False)),
    )


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """A JSON object; {} for a missing file that is not required.

    Raises:
        ExportError: a required file is missing, or it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not required:
            return {}
        raise ExportError(
            f"{str(path.parent)!r} has no {path.name}", "a save_pretrained folder", "check the path"
        ) from error
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{path.name} cannot be read ({error})", "a JSON object", "restore the file"
        ) from error
    if not isinstance(content, dict):
        raise ExportError(f"{path.name} holds {type(content).__name__}", "a JSON object", "restore the file")
    return content


def read_vocabulary(folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """Tokens by output index: vocab.json, and added tokens where the head has outputs for them.

    Raises:
        ExportError: the tokens do not fill the head's outputs exactly.
    """
    head = int(config.get("vocab_size", 0))
    vocabulary = read_json(folder / "vocab.json", required=True)
    if not all(isinstance(index, int) for index in vocabulary.values()):
        raise ExportError("vocab.json contains one vocabulary for each of several languages")
    tokens = {index: token for token, index in vocabulary.items()}
    if len(tokens) < head:
        tokens |= {index: token for token, index in read_json(folder / "added_tokens.json").items()}
        added = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
        tokens |= {int(index): entry["content"] for index, entry in added.items() if int(index) not in tokens}
    if sorted(tokens) != list(range(head)):
        raise ExportError(f"a vocabulary of {len(tokens)} tokens for a head of {head} outputs")
    return tuple(tokens[index] for index in range(head))


def _weight_problems(folder: Path) -> list[str]:
    if any((folder / name).is_file() for name in SAFETENSORS):
        return []
    pickles = [name for name in PICKLES if (folder / name).exists()]
    if pickles:
        return [f"weights only as {', '.join(pickles)}: a pickle can run code when it is opened"]
    return ["no model.safetensors"]


def _architecture_problems(config: dict[str, Any], architectures: tuple[str, ...]) -> list[str]:
    found = config.get("architectures") or ["(none)"]
    return [] if found[0] in architectures else [f"architecture {found[0]}"]


def _feature_extractor(folder: Path) -> dict[str, Any]:
    processor = read_json(folder / "processor_config.json").get("feature_extractor")
    return processor if isinstance(processor, dict) else read_json(folder / "preprocessor_config.json")


def _word_delimiter(folder: Path, tokens: tuple[str, ...]) -> str:
    named = read_json(folder / "tokenizer_config.json").get("word_delimiter_token", "|")
    name = named.get("content", "|") if isinstance(named, dict) else str(named)
    return name if name in tokens else " "


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    header = card.read_text(encoding="utf-8", errors="replace").split("---")
    lines = header[1].splitlines() if len(header) > 2 else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("license:")), "unknown")


def _label_problems(folder: Path, tokens: tuple[str, ...], blank_id: int) -> list[str]:
    """What the decoder would refuse, found before anything is computed."""
    try:
        build_labels(tokens, blank_id, _word_delimiter(folder, tokens))
    except DecodingError as error:
        return [error.got]
    return []


def _product(values: list[int]) -> int:
    result = 1
    for value in values:
        result *= int(value)
    return result
