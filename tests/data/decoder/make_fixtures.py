"""Make the files of this folder; see README.md. `oracle` runs in pyctcdecode's own environment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
STEP = 12.0  # levels of one nat
FLOOR = 120  # nothing below -10 matters to a decoder that looks at tokens above -5
N_UTTERANCES = 200
N_PIECES, N_UTTERANCES_OF_PIECES = 110, 100
HOTWORDS = ["rothenburg", "schmeckt", "dinkelsbühl", "zug"]
SETTINGS = {
    "no_lm": {"lm": False, "options": {}},
    "lm": {"lm": True, "options": {}},
    "lm_narrow": {"lm": True, "options": {"beam_width": 8, "beam_prune_logp": -6.0}},
    "hotwords": {"lm": True, "options": {"hotwords": HOTWORDS, "hotword_weight": 8.0}},
    "hotwords_no_lm": {"lm": False, "options": {"hotwords": HOTWORDS, "hotword_weight": 4.0}},
}


def make_models() -> None:
    """Estimate tiny.arpa and write the binaries."""
    from training.lm.kenlm_tools import find_tool

    arpa = HERE / "tiny.arpa"
    with (HERE / "tiny.txt").open() as text, arpa.open("w") as out:
        subprocess.run(
            [find_tool("lmplz"), "-o", "3", "--discount_fallback", "-S", "100M"],
            stdin=text,
            stdout=out,
            check=True,
        )
    kinds = {
        "probing": ["probing"], "trie": ["trie"], "quantised": ["-q", "8", "-b", "8", "trie"],
        "array": ["-q", "6", "-b", "5", "-a", "22", "trie"],
    }  # fmt: skip
    for name, options in kinds.items():
        subprocess.run(
            [find_tool("build_binary"), *options, str(arpa), str(HERE / f"tiny.{name}.bin")], check=True
        )


STRANGE = ["dinkelsbühl", "schneeschuh", "abteilung", "xylophon"]


def make_texts(n: int, rng: np.random.Generator) -> Iterator[str]:
    """Parts of the tiny text, half of them with a word that it does not have."""
    sentences = (HERE / "tiny.txt").read_text(encoding="utf-8").split("\n")[:-1]
    for _ in range(n):
        words = sentences[rng.integers(len(sentences))].split()[:6]
        if rng.random() < 0.5:
            words[rng.integers(len(words))] = STRANGE[rng.integers(len(STRANGE))]
        yield " ".join(words)


def make_emissions() -> None:
    """Spell texts by letters."""
    from benchmarks.kernels.synthetic_emissions import Weakness, make_emissions
    from engine.text import VOCABULARY

    rng, weakness = np.random.default_rng(20), Weakness(confused=0.08, dropped=0.02, inserted=0.02)
    texts = make_texts(N_UTTERANCES, rng)
    save("emissions.npz", [make_emissions(text, VOCABULARY, rng, weakness) for text in texts], VOCABULARY)


def make_piece_emissions() -> None:
    """Spell texts by the pieces that SentencePiece makes of the tiny text."""
    from benchmarks.kernels.piece_emissions import Pieces, make_emissions
    from benchmarks.kernels.synthetic_emissions import Weakness

    rng, weakness = np.random.default_rng(21), Weakness(confused=0.1, dropped=0.02)
    sentences = (HERE / "tiny.txt").read_text(encoding="utf-8").split("\n")[:-1]
    pieces = Pieces([*sentences, *STRANGE], N_PIECES)
    texts = make_texts(N_UTTERANCES_OF_PIECES, rng)
    arrays = [make_emissions(pieces.divide(text), pieces, rng, weakness) for text in texts]
    save("emissions_pieces.npz", arrays, pieces.labels)


def save(name: str, arrays: Sequence[np.ndarray], labels: Sequence[str]) -> None:
    """Write log probabilities in steps."""
    steps = [np.clip(np.round(-array * STEP), 0, FLOOR).astype(np.uint8) for array in arrays]
    offsets = np.cumsum([0, *map(len, steps)])
    encoded = np.frombuffer("\n".join(labels).encode(), np.uint8)
    np.savez_compressed(HERE / name, steps=np.concatenate(steps), offsets=offsets, labels=encoded)


def read_logits(steps: np.ndarray) -> np.ndarray:
    """Logits of one utterance; what the steps cut off is made up, so that no two scores are equal."""
    return ((steps + np.random.default_rng(len(steps)).random(steps.shape)) / -STEP).astype(np.float32)


def run_oracle() -> None:
    """Decode both emissions with pyctcdecode."""
    ask_oracle("emissions.npz", "pyctcdecode.json")
    ask_oracle("emissions_pieces.npz", "pyctcdecode_pieces.json")


def ask_oracle(emissions: str, answers: str) -> None:
    """Decode the emissions of a file with pyctcdecode."""
    from pyctcdecode import build_ctcdecoder

    archive = np.load(HERE / emissions)
    labels = archive["labels"].tobytes().decode().split("\n")
    labels = ["" if label == "<pad>" else " " if label == "|" else label for label in labels]
    unigrams = sorted({word for line in (HERE / "tiny.txt").open(encoding="utf-8") for word in line.split()})
    decoders = {
        True: build_ctcdecoder(labels, str(HERE / "tiny.probing.bin"), unigrams, alpha=0.5, beta=1.5),
        False: build_ctcdecoder(labels),
    }
    results = {}
    for name, setting in SETTINGS.items():
        options = {"beam_width": 64, **setting["options"]}
        rows = []
        for begin, end in zip(archive["offsets"][:-1], archive["offsets"][1:], strict=True):
            logits = read_logits(archive["steps"][begin:end])
            beams = decoders[setting["lm"]].decode_beams(logits, **options)[:10]
            rows.append([[beam[0], round(beam[-2], 5), round(beam[-1], 5)] for beam in beams])
        results[name] = {"setting": setting, "beams": rows}
    with (HERE / answers).open("w", encoding="utf-8") as file:
        json.dump(results, file, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    verbs = {"models": make_models, "emissions": make_emissions, "pieces": make_piece_emissions}
    {**verbs, "oracle": run_oracle}[sys.argv[1]]()
