"""What the files of a bundle are called, and whether one may be written to a place."""

from __future__ import annotations

import tempfile
from pathlib import Path

from engine.errors import BundleError

MANIFEST = "manifest.json"
CARD = "README.md"
FILE_NAMES: dict[str, str] = {
    "acoustic": "acoustic.onnx",
    "vocabulary": "vocab.json",
    "asr_memory": "asr_memory.onnx",
    "asr_decoder": "asr_decoder.onnx",
    "asr_embeddings": "asr_embeddings.bin",
    "asr_tokens": "asr_tokens.json",
    "language_model": "language_model.bin",
    "lexicon": "lexicon.npz",
    "vad": "vad.onnx",
    "punctuation": "punctuation.onnx",
    "mt_encoder": "mt_encoder.onnx",
    "mt_decoder": "mt_decoder.onnx",
    "mt_embeddings": "mt_embeddings.bin",
    "mt_tokenizer": "mt_tokenizer.model",
    "mt_tokenizer_target": "mt_tokenizer_target.model",
    "mt_vocabulary": "mt_vocabulary.json",
    "mt_names": "mt_names.npz",
}


def check_target(folder: Path) -> None:
    """Refuse to replace anything but a bundle, and a place that takes none; called before long work too.

    Raises:
        BundleError: folder is a file, holds files that no bundle has, or cannot be made.
    """
    ours = {MANIFEST, CARD, *FILE_NAMES.values()}
    try:
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else [folder.name]
        foreign = sorted(set(names) - ours) if folder.exists() else []
        place = folder.absolute().parent
        while not place.exists():
            place = place.parent
        tempfile.TemporaryDirectory(dir=place).cleanup()
    except OSError as error:
        raise BundleError(
            f"{str(folder)!r} cannot be written ({error.strerror or error})",
            "a folder whose parent can be written",
            "name another one",
        ) from error
    if foreign:
        raise BundleError(
            f"{str(folder)!r} exists and is not a bundle ({foreign[0]!r})",
            "a new or empty folder, or that of a bundle",
            "name another one",
        )
