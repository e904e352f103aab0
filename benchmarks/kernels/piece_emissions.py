"""Emissions like those of a CTC model over word pieces, made from text: for decoders without a model.

    python -m benchmarks.kernels.piece_emissions --text sentences.txt --n_pieces 1024 --out pieces.npz

SentencePiece (BPE) divides the text, as in models like Parakeet CTC. Each piece is one frame, rarely two,
with blanks between them. With a rate that differs between utterances, a piece is replaced by a similar one,
left out, or divided in another way.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels.synthetic_emissions import ALIKE, Weakness
from engine.text import normalize_text

BLANK, UNKNOWN, START = "<pad>", "<unk>", "▁"
N_UTTERANCES, SEED = 200, 20
OTHER_DIVISION = 0.03  # of pieces: written as two others
WEAKNESS = Weakness(confused=0.06)
NEVER = (
    -30.0
)  # of <unk> and of "▁" alone: models hardly write them, and pyctcdecode breaks other words at them


class Pieces:
    """A vocabulary of pieces and what sounds like each.

    Attributes:
        labels: the blank, then the pieces, those that begin a word with "▁".
    """

    def __init__(self, sentences: Sequence[str], n_pieces: int) -> None:
        """Train on sentences of small letters."""
        import sentencepiece

        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=model, vocab_size=n_pieces, model_type="bpe",
            bos_id=-1, eos_id=-1, character_coverage=1.0, minloglevel=2,
        )  # fmt: skip
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        known = [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]
        self.labels = [BLANK, *known]
        self._index = {label: token for token, label in enumerate(self.labels)}
        self.alike = [self._find_alike(label) for label in self.labels]

    def divide(self, text: str) -> list[int]:
        """Tokens of a sentence, as the model was trained to write it."""
        tokens = [1 + int(token) for token in self._processor.encode(text)]
        return [token for token in tokens if self.labels[token] != START]

    def split(self, token: int, rng: np.random.Generator) -> list[int]:
        """The token as two others that spell the same, where there are such."""
        label = self.labels[token]
        ways = [(label[:n], label[n:]) for n in range(1 + label.startswith(START), len(label))]
        pairs = [pair for pair in ways if pair[0] in self._index and pair[1] in self._index]
        return [self._index[part] for part in pairs[rng.integers(len(pairs))]] if pairs else [token]

    def _find_alike(self, label: str) -> list[int]:
        """Pieces with one letter replaced by a similar one, or without the last."""
        forms = [label[:-1]]
        for at, char in enumerate(label):
            forms += [label[:at] + other + label[at + 1 :] for other in ALIKE.get(char, "") if other != "|"]
        return [self._index[form] for form in forms if form in self._index]


def make_emissions(
    tokens: Sequence[int], pieces: Pieces, rng: np.random.Generator, weakness: Weakness = WEAKNESS
) -> NDArray[np.float32]:
    """Make log probabilities float32 [n_frames, n_labels] that approximately spell tokens."""
    difficulty, size = rng.gamma(4.0, 0.25), len(pieces.labels)
    written = []
    for token in tokens:
        written += pieces.split(token, rng) if rng.random() < OTHER_DIVISION else [token]
    frames = _make_blanks(int(rng.integers(2, 6)), size, rng)
    for token in written:
        frames += _make_piece(token, pieces.alike[token], size, rng, weakness, difficulty)
        frames += _make_blanks(int(rng.integers(1, 4)), size, rng)
    logits = np.array(frames)
    logits[:, [pieces.labels.index(sign) for sign in (UNKNOWN, START)]] = NEVER
    shifted = logits - logits.max(axis=1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)


def _make_blanks(count: int, size: int, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    frames = list(rng.normal(-13.0, 1.3, (count, size)))
    for frame in frames:
        frame[0] = 0.0
        if rng.random() < 0.12:
            frame[rng.integers(1, size)] = rng.normal(-3.5, 1.2)
    return frames


def _make_piece(
    token: int, alike: list[int], size: int, rng: np.random.Generator, weakness: Weakness, difficulty: float
) -> list[NDArray[np.float64]]:
    confused = bool(alike) and rng.random() < weakness.confused * difficulty
    dropped = rng.random() < weakness.dropped * difficulty
    winner = int(rng.choice(alike)) if alike else token
    frames = []
    for _ in range(1 + int(rng.random() < 0.2)):
        frame = rng.normal(-13.0, 1.3, size)
        frame[alike] = rng.normal(-5.0, 1.3, len(alike))
        frame[rng.integers(1, size, 4)] = rng.normal(-5.0, 1.0, 4)
        frame[0], frame[token] = rng.normal(-3.5, 1.5), 0.0
        if confused:
            frame[winner] = rng.normal(0.6, weakness.spread)
        if dropped:
            frame[0] = rng.normal(0.5, 1.0)
        frames.append(frame)
    return frames


def main(argv: Sequence[str] | None = None) -> None:
    """Write an .npz as benchmarks.peers.decoding reads it."""
    about = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="benchmarks.kernels.piece_emissions", description=about)
    parser.add_argument("--text", type=Path, required=True, help="one sentence a line")
    parser.add_argument("--n_pieces", type=int, default=1024)
    parser.add_argument("--n_utterances", type=int, default=N_UTTERANCES)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    lines = options.text.read_text(encoding="utf-8").splitlines()
    sentences = [text for line in lines if (text := normalize_text(line))]
    rng, pieces = np.random.default_rng(SEED), Pieces(sentences, options.n_pieces)
    texts = [sentences[i] for i in rng.choice(len(sentences), options.n_utterances, replace=False)]
    arrays = [make_emissions(pieces.divide(text), pieces, rng) for text in texts]
    offsets = np.cumsum([0, *map(len, arrays)])
    labels, references = json.dumps(pieces.labels), json.dumps(texts)
    np.savez_compressed(options.out, lp=np.concatenate(arrays), off=offsets, labels=labels, texts=references)


if __name__ == "__main__":
    main()
