"""Int8 bundles as earlier exports wrote them: random models whose codes are not pair-safe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from engine.bundle.folder import write_bundle
from engine.bundle.schema import AcousticConfig, FeatureConfig
from engine.runtime.pair_safe import quantize_stored

MEL_KINDS = ("lstm", "sinks")
PATCHED = ("linear", "waveform_convs", "heads", "marian")
LOG_MEL = FeatureConfig(kind="log_mel", n_mels=80, convention="whisper")


def quantize_plain(weight: NDArray[np.float32], **_: Any) -> tuple[NDArray[np.int8], np.float32]:
    """One scale, any codes."""
    scale = np.float32(np.abs(weight).max() / 127)
    return np.rint(weight / scale).astype(np.int8), scale


@contextmanager
def plain_codes() -> Iterator[None]:
    """Graphs that are built inside get codes that are not pair-safe."""
    patches = [mock.patch(f"export.graph.{name}.quantize_columns", quantize_stored) for name in PATCHED]
    patches.append(mock.patch("export.graph.marian.quantize_tensor", quantize_plain))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def acoustic_graph(kind: str) -> bytes:
    """The int8 graph of a tiny encoder of tests.reference.tiny_encoders."""
    from tests.reference import tiny_encoders

    make = tiny_encoders.log_mel_encoder if kind in MEL_KINDS else tiny_encoders.waveform_encoder
    with plain_codes():
        graph: bytes = make.__wrapped__(kind).graphs["int8"]
    return graph


def translator_files(folder: Path, by_column: bool = False) -> tuple[dict[str, Path], Any]:
    """Files by role and the configuration of a tiny int8 translator."""
    from export.translation import marian
    from tests.reference import tiny_marian

    checkpoint = tiny_marian.checkpoint(
        d_model=64, encoder_attention_heads=2, decoder_attention_heads=2, init_std=0.1
    )
    model = marian._load(checkpoint)
    tokenizer = marian._load_tokenizer(checkpoint)
    sources = tokenizer.encode(tiny_marian.SENTENCES)
    ranges = marian.calibrate(model, lambda: marian._generate(model, sources, beam_size=1))
    with plain_codes():
        written = marian._write(model, folder, ranges, by_column)
    files = {role: folder / name for role, name in marian.FILES.items()}
    for role, source in marian.TOKENIZER_SOURCES.items():
        files[role] = checkpoint / source
    return files, written.config


def write_plain_bundle(
    folder: Path,
    kind: str | None = "lstm",
    translator: bool = False,
    by_column: bool = False,
    card: str = "# tiny\n",
) -> Path:
    """A bundle with an acoustic model of a kind, a translator, or both."""
    scratch = folder.with_name(f"{folder.name}-parts")
    scratch.mkdir()
    files: dict[str, Path] = {}
    acoustic = translation = None
    if kind is not None:
        files = {"acoustic": scratch / "graph.onnx", "vocabulary": scratch / "vocab.json"}
        files["acoustic"].write_bytes(acoustic_graph(kind))
        tokens = ["<pad>", "|", *(chr(97 + i) for i in range(29))]
        files["vocabulary"].write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        mel = kind in MEL_KINDS
        acoustic = AcousticConfig(
            features=LOG_MEL if mel else FeatureConfig(),
            precision="int8",
            max_window_s=4.0,
            figures={"speedup": 2.0},
        )
    if translator:
        parts, translation = translator_files(scratch / "mt", by_column)
        files |= parts
    write_bundle(
        folder,
        name="tiny",
        licence="CC0",
        files=files,
        card=card,
        acoustic=acoustic,
        translation=translation,
        figures={"WER": 1},
    )
    return folder
