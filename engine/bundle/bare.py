"""A bare ONNX model beside the settings of its checkpoint, as save_pretrained and optimum-cli write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.bundle.foreign import describe_foreign
from engine.bundle.json_file import convert_json, read_json
from engine.bundle.schema import AcousticConfig
from engine.runtime.onnx_file import OnnxFormatError
from engine.runtime.onnx_interface import Interface, read_interface

BLANKS = ("<pad>", "[PAD]", "<blank>", "<blk>")
WORD_STARTS = ("|", " ", "▁")  # tokens that part words, where no file says which
T = TypeVar("T")


class _Checkpoint(msgspec.Struct, frozen=True):
    """What is read of config.json."""

    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    pad_token_id: int | None = None
    vocab_size: int = 0
    add_adapter: bool = False
    adapter_stride: int = 2
    num_adapter_layers: int = 3


class _Extractor(msgspec.Struct, frozen=True):
    """What is read of preprocessor_config.json."""

    sampling_rate: int = 16_000
    do_normalize: bool = True
    return_attention_mask: bool = False


class _Processor(msgspec.Struct, frozen=True):
    """What is read of processor_config.json: transformers 5 nests the settings there."""

    feature_extractor: _Extractor = _Extractor()


class _Content(msgspec.Struct, frozen=True):
    """A token with how it is to be treated."""

    content: str


class _Tokenizer(msgspec.Struct, frozen=True):
    """What is read of tokenizer_config.json."""

    word_delimiter_token: str | None = "|"
    added_tokens_decoder: dict[int, _Content | str] = {}


def read_bare(
    model: Path, read_vocabulary: Callable[[Mapping[str, int]], Sequence[str]]
) -> tuple[AcousticConfig, dict[str, int]]:
    """The configuration of a model that has no manifest, from its metadata and the files beside it.

    What is missing is as usual.

    Args:
        model: the graph.
        read_vocabulary: the tokens by index, with those that are added to vocab.json.
    Returns:
        The configuration, and the tokens that are added.
    Raises:
        BundleSchemaError: a file that cannot be read, values that no model has, or features that are not
            computed here.
    """
    folder = model.parent
    checkpoint = _read(folder / "config.json", _Checkpoint)
    extractor = _read(folder / "preprocessor_config.json", _Extractor)
    if not (folder / "preprocessor_config.json").is_file():
        extractor = _read(folder / "processor_config.json", _Processor).feature_extractor
    tokenizer = _read(folder / "tokenizer_config.json", _Tokenizer)
    added = _added_tokens(folder, tokenizer, checkpoint.vocab_size)
    tokens = read_vocabulary(added)
    blank_id, delimiter = checkpoint.pad_token_id, tokenizer.word_delimiter_token
    stride = math.prod(checkpoint.conv_stride)
    if checkpoint.add_adapter:
        stride *= checkpoint.adapter_stride**checkpoint.num_adapter_layers
    content: dict[str, Any] = {
        "features": {"sample_rate": extractor.sampling_rate, "normalize": extractor.do_normalize},
        "samples_per_frame": stride,
        "blank_id": guess_blank(tokens) if blank_id is None else blank_id,
        "word_delimiter": delimiter if delimiter in tokens else guess_delimiter(tokens),
        "trained_with_mask": extractor.return_attention_mask,
    }
    content |= describe_foreign(_interface(model), _read_config(folder)) or {}
    return convert_json(content, AcousticConfig, "config.json", "a model's configuration"), added


def _read(path: Path, kind: type[T]) -> T:
    return read_json(path, kind, "a checkpoint's settings") if path.is_file() else kind()


def _added_tokens(folder: Path, tokenizer: _Tokenizer, vocab_size: int) -> dict[str, int]:
    """Tokens that a tokenizer keeps beside vocab.json and the head has outputs for."""
    path = folder / "added_tokens.json"
    found = dict(read_json(path, dict[str, int], "a map of token to index")) if path.is_file() else {}
    for at, entry in tokenizer.added_tokens_decoder.items():
        found.setdefault(entry if isinstance(entry, str) else entry.content, at)
    return {token: at for token, at in found.items() if at < vocab_size}


def _interface(model: Path) -> Interface:
    """What the graph says of itself; nothing for one that is no graph, which is told when it is loaded."""
    try:
        return read_interface(model)
    except OnnxFormatError:
        return Interface()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return read_json(path, dict[str, Any], "a checkpoint's settings") if path.is_file() else {}


def guess_delimiter(tokens: Sequence[str]) -> str:
    """The token that parts words by its usual names; a space where none is there."""
    return next((token for token in WORD_STARTS if token in tokens), " ")


def guess_blank(tokens: Sequence[str]) -> int:
    """The index of the blank by its usual names; 0 where none is there."""
    return next((tokens.index(name) for name in BLANKS if name in tokens), 0)
