"""A Marian model with random weights, small enough to export in a test, and its tokenizer."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path
from typing import Any

VOCAB_SIZE = 240
SYLLABLES = (
    "ba",
    "der",
    "ein",
    "fluss",
    "gar",
    "hof",
    "hund",
    "kenn",
    "lieb",
    "mor",
    "rot",
    "ten",
    "vo",
    "zu",
    "öl",
    "ü",
)
SENTENCES = (
    "Der Hund sucht den Garten.", "mein bruder braucht einen wagen", "Der Vogel hört den Fluss",
    "Guten Morgen", "Wo ist der Bahnhof?", "Der Freund kennt das Haus und malt den Garten heute Morgen.",
    "haus", "der der der hund hund sieht", "Ja.", "Ein Vogel, ein Hund, ein Freund und ein Wagen am Fluss.",
)  # fmt: skip


def text_pairs() -> list[tuple[str, str]]:
    """Sentences of invented words, and the test's own: enough text for a tokenizer."""
    rng = random.Random(0)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(400)]
    lines = [" ".join(rng.choices(words, k=6)) + rng.choice(".?!") for _ in range(1000)]
    return [(line, line.title()) for line in [*lines, *SENTENCES * 20]]


@functools.cache
def checkpoint(activation: str = "relu", seed: int = 0, logits_bias: bool = False, **changes: Any) -> Path:
    """A folder as save_pretrained writes it, with source.spm, target.spm and vocab.json."""
    import torch
    from transformers import GenerationConfig, MarianConfig, MarianMTModel

    from training.mt.data import Pair, train_tokenizer

    folder = Path(tempfile.mkdtemp(prefix="tiny_marian_"))
    train_tokenizer([Pair(*pair, "test") for pair in text_pairs()], folder, VOCAB_SIZE)
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCAB_SIZE, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64, "max_position_embeddings": 96, "pad_token_id": VOCAB_SIZE - 1,
        "eos_token_id": 0, "decoder_start_token_id": VOCAB_SIZE - 1, "bos_token_id": None,
        "scale_embedding": True, "init_std": 0.3, "activation_function": activation,
    }  # fmt: skip
    model = MarianMTModel(MarianConfig(**{**settings, **changes})).eval()
    if logits_bias:
        torch.nn.init.normal_(model.final_logits_bias, std=1.0)
        model.final_logits_bias[0, 0] = 3.0  # sentences that end
    model.generation_config = GenerationConfig(
        bad_words_ids=[[VOCAB_SIZE - 1]], pad_token_id=VOCAB_SIZE - 1, eos_token_id=0,
        decoder_start_token_id=VOCAB_SIZE - 1, num_beams=4, max_length=64,
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


@functools.cache
def exported(precision: str = "fp32", **settings: Any) -> Any:
    """The MarianExport of checkpoint(**settings)."""
    from export.translation import marian

    # The tests compare far more than this; here it would only take time.
    marian.PARITY_SENTENCES, marian.PARITY_TOKENS, marian.MAX_CALIBRATION = 2, 6, 8
    return marian.export_marian(
        checkpoint(**settings), Path(tempfile.mkdtemp(prefix="tiny_export_")) / "out", precision=precision,
        verify_sources=SENTENCES,
    )  # fmt: skip


@functools.cache
def bundle_folder(precision: str = "fp32", **settings: Any) -> Path:
    """A bundle that holds only a translator."""
    from engine.bundle.folder import write_bundle

    done = exported(precision, **settings)
    folder = Path(tempfile.mkdtemp(prefix="tiny_bundle_")) / "bundle"
    write_bundle(
        folder,
        name="tiny",
        licence="Apache-2.0",
        files=dict(done.files),
        translation=done.config,
        card="tiny",
    )
    return folder
