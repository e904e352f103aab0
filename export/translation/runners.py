"""Exported translators, opened in each way in which the engine may run them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from engine.bundle.schema import TranslationConfig
from engine.translation.runners import ROLES, KernelRunner, SessionRunner
from export.verification.graph_pair import open_pair_kernels, open_pair_sessions

FILES = {
    "mt_encoder": "mt_encoder.onnx", "mt_decoder": "mt_decoder.onnx", "mt_embeddings": "mt_embeddings.bin",
    "mt_tokenizer": "mt_tokenizer.model", "mt_tokenizer_target": "mt_tokenizer_target.model",
    "mt_vocabulary": "mt_vocabulary.json",
}  # fmt: skip


def open_sessions(folder: Path, config: TranslationConfig) -> SessionRunner:
    """An export's graphs with onnxruntime, on one CPU thread."""
    return SessionRunner(*open_pair_sessions(folder, FILES, ROLES), config)


def open_kernels(folder: Path, config: TranslationConfig) -> KernelRunner | None:
    """An int8 export's graphs with the engine's own kernels; None where they do not compute it here."""
    return open_pair_kernels(folder, FILES, ROLES, partial(KernelRunner, config=config))
