"""Exported translators, opened in each way in which the engine may run them."""

from __future__ import annotations

from pathlib import Path

from engine.bundle.schema import TranslationConfig
from engine.errors import LayoutError
from engine.kernels.vector.levels import has_vector_kernels
from engine.runtime.onnx_session import open_session
from engine.translation.runners import KernelRunner, SessionRunner
from engine.types import RuntimeOptions
from export.layout.describe import ensure_layout

FILES = {
    "mt_encoder": "mt_encoder.onnx", "mt_decoder": "mt_decoder.onnx", "mt_embeddings": "mt_embeddings.bin",
    "mt_tokenizer": "mt_tokenizer.model", "mt_tokenizer_target": "mt_tokenizer_target.model",
    "mt_vocabulary": "mt_vocabulary.json",
}  # fmt: skip


def open_sessions(folder: Path, config: TranslationConfig) -> SessionRunner:
    """An export's graphs by onnxruntime, on one CPU thread."""
    encoder, decoder = (
        open_session(folder / FILES[role], RuntimeOptions(device="cpu"), threads=1)
        for role in ("mt_encoder", "mt_decoder")
    )
    return SessionRunner(encoder, decoder, config)


def open_kernels(folder: Path, config: TranslationConfig) -> KernelRunner | None:
    """An int8 export's graphs by the engine's own kernels; None where they do not compute this model here."""
    if not has_vector_kernels():
        return None
    tables = {FILES["mt_embeddings"]: (folder / FILES["mt_embeddings"]).read_bytes()}
    encoder, decoder = (
        ensure_layout((folder / FILES[role]).read_bytes(), role, tables)
        for role in ("mt_encoder", "mt_decoder")
    )
    try:
        return KernelRunner(encoder, decoder, tables, config)
    except LayoutError:
        return None
