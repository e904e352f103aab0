"""`engine-train mt-vocabulary`: a trained translation model with other pieces, to train on from there.

The layers stay. The embedding of each new piece is that of the same old piece; of the old one with a capital
where the new pieces are case-folded; or else the mean of the old pieces that spell it. Training on with it
begins near the loss of the model before, so the time it took is not lost.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import sentencepiece as spm
import torch
from torch import Tensor

from engine.output.targets import check_apart
from training.common.checkpoint import replace_folder
from training.mt.config import MtConfig, load_config
from training.mt.data import PAD_PIECE

logger = logging.getLogger("training")
SPACE = "\u2581"  # SentencePiece's, at the start of a word


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `training mt-vocabulary`."""
    parser.add_argument("--model", required=True, type=Path, help="folder of a model of `engine-train mt`")
    parser.add_argument(
        "--config", required=True, help="its data and model sections say what pieces to learn"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key")
    parser.add_argument("--out", required=True, type=Path, help="folder to write, for model.init_from")


def run(args: argparse.Namespace) -> int:
    """Write the model; 0, or 1 with a message in the log."""
    from training.mt.command import read_overrides

    try:
        change_vocabulary(args.model, load_config(args.config, read_overrides(args.set)), args.out)
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        return 1
    return 0


def change_vocabulary(folder: Path, config: MtConfig, out: Path) -> None:
    """Write a model of other pieces.

    Args:
        folder: of the model, with its tokenizer.
        config: of the run that follows: its text, and vocab_size, byte_fallback and fold_case.
        out: folder to write; replaced if it exists.
    Raises:
        ValueError: no such checkpoint, or unusable text. OSError.
    """
    from transformers import MarianMTModel

    from training.mt.command import checkpoint_folder, learn_pieces, marian_config
    from training.mt.model import FastMarian, from_marian, to_marian

    check_apart([out], [folder, *map(Path, config.data.train)])
    old = from_marian(MarianMTModel.from_pretrained(checkpoint_folder(str(folder)), dtype=torch.float32))

    def write(target: Path) -> None:
        learn_pieces(config, target)
        pieces = _read(target)
        embedding, counts = move_embedding(old.embedding.detach(), folder, pieces)
        model = old.config
        settings = marian_config(config, len(pieces))
        for name in ("d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim",
                     "encoder_attention_heads", "decoder_attention_heads", "activation_function",
                     "max_position_embeddings"):  # fmt: skip
            setattr(settings, name, getattr(model, name))
        new = FastMarian(settings)
        new.load_state_dict({**old.state_dict(), "embedding": embedding})
        to_marian(new).save_pretrained(target)
        logger.info("%d pieces: %s", len(pieces), ", ".join(f"{n} {kind}" for kind, n in counts.items()))

    replace_folder(out, write)


def move_embedding(embedding: Tensor, folder: Path, pieces: dict[str, int]) -> tuple[Tensor, dict[str, int]]:
    """Embeddings of new pieces out of those of a trained model.

    Args:
        embedding: float32 [n_old, d]. folder: of its tokenizer.
        pieces: new ids by piece.
    Returns:
        float32 [n_new, d], and how many pieces were the same, capitalised or spelled by others.
    """
    old = _read(folder)
    spell = spm.SentencePieceProcessor(model_file=str(folder / "target.spm"))
    moved = torch.zeros(len(pieces), embedding.shape[1])
    counts = {"same": 0, "capitalised": 0, "spelled": 0}
    for piece, index in pieces.items():
        if piece == PAD_PIECE:
            continue
        capital = SPACE + piece[1:2].upper() + piece[2:] if piece.startswith(SPACE) else piece
        kind, rows = "same", [old.get(piece)]
        if rows == [None]:
            kind, rows = "capitalised", [old.get(capital)]
        if rows == [None]:
            kind, rows = "spelled", spell.encode(piece.replace(SPACE, " ").strip())
        counts[kind] += 1
        if rows:
            moved[index] = embedding[torch.tensor(rows)].mean(0)
    return moved, counts


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    return found
