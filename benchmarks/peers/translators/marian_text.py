"""A Marian checkpoint by transformers in float32, from text to text, such as opus-mt-de-en.

marian_text.py --checkpoint DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from peer_worker import Loaded, Peer, serve

BATCH = 16  # sentences, of similar length
MAX_TOKENS = 256  # of a source or a translation, where the model has positions for them


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--checkpoint", required=True, help="folder with config.json, weights and tokenizer")


def load(options: argparse.Namespace) -> Loaded:
    """Inputs texts and beam_size; outputs texts, in the same order."""
    from transformers import MarianMTModel, MarianTokenizer

    torch.set_num_threads(options.threads or torch.get_num_threads())
    tokenizer = MarianTokenizer.from_pretrained(options.checkpoint)
    model = MarianMTModel.from_pretrained(options.checkpoint).eval()
    limit = min(MAX_TOKENS, model.config.max_position_embeddings) - 1

    def translate(inputs: Mapping[str, Any]) -> dict[str, Any]:
        texts = inputs["texts"]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = [""] * len(texts)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = tokenizer(
                [texts[i] for i in rows], return_tensors="pt", padding=True, truncation=True,
                max_length=limit,
            )  # fmt: skip
            with torch.inference_mode():
                ids = model.generate(
                    **batch, num_beams=inputs["beam_size"], do_sample=False, max_new_tokens=limit,
                    max_length=None,
                )  # fmt: skip
            for row, text in zip(rows, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                found[row] = text
        return {"texts": found}

    settings = {"precision": "fp32", "batch": BATCH, "transformers": version("transformers")}
    return Loaded({"transformers": translate}, settings)


if __name__ == "__main__":
    library = f"torch {torch.__version__}"
    serve(Peer("marian", "translation", library, configure, lambda options: ["transformers"], load))
