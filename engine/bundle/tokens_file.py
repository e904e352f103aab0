"""Vocabularies as sherpa-onnx and onnx-asr keep them: a token and its index on each line."""

from __future__ import annotations

from pathlib import Path

from engine.errors import BundleSchemaError

NAMES = ("tokens.txt", "vocab.txt")
RESTORE = "restore the file that came with the model"


def read_tokens_file(path: Path) -> dict[str, int]:
    """Token to index.

    Raises:
        BundleSchemaError: not UTF-8, or a line without an index, or a token or an index twice.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeError as error:
        raise BundleSchemaError(f"{path.name} is not UTF-8", "a line for each token", RESTORE) from error
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        token, _, index = line.rstrip("\r").rpartition(" ")
        token = token or " "  # the token of a space: its line begins with the index
        if not index.isdecimal() or not index.isascii() or token in found:
            raise BundleSchemaError(
                f"line {number} of {path.name} is {line[:40]!r}", "a token, a space and its index", RESTORE
            )
        found[token] = int(index)
    return found
