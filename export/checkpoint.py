"""The description in a Hugging Face folder, read without running anything in it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.decoding.labels import build_labels
from engine.errors import DecodingError
from export.adapters import count_outputs, find_adapter_problems, find_language
from export.errors import ExportError
from export.json_object import read_json

__all__ = ["CheckpointInfo", "read_checkpoint", "read_extractor", "read_json", "read_vocabulary"]

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
NO_TOKENIZER = "no vocab.json and no tokenizer.json"
MENDS = {  # by what a problem contains
    "pickle": CONVERT,
    NO_TOKENIZER: "copy the tokenizer's files from where the checkpoint was fine-tuned",
    "a vocabulary of": "pass the vocab.json that the head was trained with",
    "parts of the weights": "download the checkpoint again, all its files",
    "adapter": "download the adapter's file, or pass --language with one that is there",
    "several languages": "pass --language",
}


@dataclass(frozen=True)
class CheckpointInfo:
    """The description of a CTC checkpoint.

    Attributes:
        vocabulary: tokens by output index. word_delimiter: the token between words.
        sample_rate: Hz. normalize: zero mean and unit variance for each utterance.
        trained_with_mask: padding was masked in training (the extractor's return_attention_mask).
        licence: of the model card's header; "unknown" without one.
        config: the content of config.json.
        language: of the adapter, where there is one.
    """

    architecture: str
    vocabulary: tuple[str, ...]
    blank_id: int
    word_delimiter: str
    sample_rate: int
    normalize: bool
    licence: str
    config: dict[str, Any]
    trained_with_mask: bool = False
    language: str | None = None


def read_checkpoint(
    folder: Path,
    architectures: Collection[str],
    language: str | None = None,
    explain: Callable[[str], str] = lambda architecture: "pass a fine-tuned CTC checkpoint",
) -> CheckpointInfo:
    """Read and check everything except the weights; one error lists all problems.

    Args:
        language: of a checkpoint with an adapter and a vocabulary for each of several.
        explain: what to do with a checkpoint of another architecture.
    Raises:
        ExportError: not a checkpoint, not safe to open, another architecture, or a vocabulary that does
            not fit the head.
    """
    config = read_json(folder / "config.json", required=True)
    architecture = (config.get("architectures") or ["(none)"])[0]
    known = architecture in architectures
    problems = _weight_problems(folder) + ([] if known else [f"architecture {architecture}"])
    language = language or find_language(folder)
    adapter_problems = find_adapter_problems(folder, config, language)
    problems += adapter_problems
    tokens: tuple[str, ...] = ()
    try:
        tokens = () if adapter_problems else read_vocabulary(folder, config, language)
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
            f"a save_pretrained folder of {' or '.join(architectures)} with safetensors and its vocabulary",
            _mend(problems) if known else explain(architecture),
        )
    extractor = read_extractor(folder)
    return CheckpointInfo(
        architecture=architecture,
        vocabulary=tokens,
        blank_id=int(config["pad_token_id"]),
        word_delimiter=_word_delimiter(folder, tokens),
        sample_rate=int(extractor.get("sampling_rate", 16_000)),
        normalize=bool(extractor.get("do_normalize", True)),
        licence=_licence(folder),
        config=config,
        trained_with_mask=bool(extractor.get("return_attention_mask", False)),
        language=language,
    )


def _mend(problems: list[str]) -> str:
    for sign, mend in MENDS.items():
        if any(sign in problem for problem in problems):
            return mend
    return "pass a fine-tuned CTC checkpoint"


def read_vocabulary(folder: Path, config: dict[str, Any], language: str | None = None) -> tuple[str, ...]:
    """Tokens by output index: vocab.json or tokenizer.json, and added tokens that the head has outputs for.

    Args:
        language: whose part of a vocab.json of several languages.
    Raises:
        ExportError: the tokens do not fill the head's outputs exactly.
    """
    head = int(config.get("vocab_size", 0)) if language is None else count_outputs(folder, language)
    vocabulary = _read_tokens(folder, language)
    if not all(isinstance(index, int) for index in vocabulary.values()):
        raise ExportError("vocab.json contains one vocabulary for each of several languages")
    tokens = {index: token for token, index in vocabulary.items()}
    if len(tokens) < head:
        tokens |= {index: token for token, index in read_json(folder / "added_tokens.json").items()}
        added = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
        tokens |= {int(index): entry["content"] for index, entry in added.items() if int(index) not in tokens}
        tokens = {index: token for index, token in tokens.items() if index < head}
    if sorted(tokens) != list(range(head)):
        raise ExportError(f"a vocabulary of {len(tokens)} tokens for a head of {head} outputs")
    return tuple(tokens[index] for index in range(head))


def _read_tokens(folder: Path, language: str | None) -> dict[str, Any]:
    """Token to index, as the tokenizer's files have it."""
    if (folder / "vocab.json").is_file():
        vocabulary = read_json(folder / "vocab.json")
        if language is None or language not in vocabulary:
            return vocabulary
        chosen = vocabulary[language]
        return chosen if isinstance(chosen, dict) else vocabulary
    if not (folder / "tokenizer.json").is_file():
        raise ExportError(NO_TOKENIZER)
    content = read_json(folder / "tokenizer.json")
    found = (content.get("model") or {}).get("vocab")
    if isinstance(found, list):  # a unigram model: [piece, score] in the order of their ids
        found = {entry[0]: index for index, entry in enumerate(found)}
    if not isinstance(found, dict):
        raise ExportError("tokenizer.json without a list of tokens")
    return found | {entry["content"]: entry["id"] for entry in content.get("added_tokens") or []}


def _weight_problems(folder: Path) -> list[str]:
    if (folder / SAFETENSORS[0]).is_file():
        return []
    if (folder / SAFETENSORS[1]).is_file():
        listed = read_json(folder / SAFETENSORS[1]).get("weight_map") or {}
        missing = sorted({name for name in map(str, listed.values()) if not (folder / name).is_file()})
        return [f"{len(missing)} parts of the weights are missing ({missing[0]})"] if missing else []
    pickles = [name for name in PICKLES if (folder / name).exists()]
    if pickles:
        return [f"weights only as {', '.join(pickles)}: a pickle can run code when it is opened"]
    return ["no model.safetensors"]


def read_extractor(folder: Path) -> dict[str, Any]:
    """The settings of the feature extractor."""
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
