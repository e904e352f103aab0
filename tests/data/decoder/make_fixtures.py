"""Make the files of this folder; see README.md. `oracle` runs in pyctcdecode's own environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
STEP = 12.0  # levels of one nat
FLOOR = 120  # nothing below -10 matters to a decoder that looks at tokens above -5
N_UTTERANCES = 200
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


def make_emissions() -> None:
    """Spell the tiny text, half of it with words it does not know."""
    from benchmarks.kernels.synthetic_emissions import Weakness, make_emissions
    from engine.text import VOCABULARY

    rng = np.random.default_rng(20)
    sentences = (HERE / "tiny.txt").read_text(encoding="utf-8").split("\n")[:-1]
    strange = ["dinkelsbühl", "schneeschuh", "abteilung", "xylophon"]
    arrays = []
    for _ in range(N_UTTERANCES):
        words = sentences[rng.integers(len(sentences))].split()[:6]
        if rng.random() < 0.5:
            words[rng.integers(len(words))] = strange[rng.integers(len(strange))]
        weakness = Weakness(confused=0.08, dropped=0.02, inserted=0.02)
        log_probs = make_emissions(" ".join(words), VOCABULARY, rng, weakness)
        arrays.append(np.clip(np.round(-log_probs * STEP), 0, FLOOR).astype(np.uint8))
    offsets = np.cumsum([0, *(len(array) for array in arrays)])
    labels = np.frombuffer("\n".join(VOCABULARY).encode(), np.uint8)
    np.savez_compressed(HERE / "emissions.npz", steps=np.concatenate(arrays), offsets=offsets, labels=labels)


def read_logits(steps: np.ndarray) -> np.ndarray:
    """Logits of one utterance; what the steps cut off is made up, so that no two scores are equal."""
    return ((steps + np.random.default_rng(len(steps)).random(steps.shape)) / -STEP).astype(np.float32)


def run_oracle() -> None:
    """Decode the emissions with pyctcdecode."""
    from pyctcdecode import build_ctcdecoder

    archive = np.load(HERE / "emissions.npz")
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
    with (HERE / "pyctcdecode.json").open("w", encoding="utf-8") as file:
        json.dump(results, file, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    {"models": make_models, "emissions": make_emissions, "oracle": run_oracle}[sys.argv[1]]()
