"""The cases that engine and oracle both work on: models, emissions, language models, sentences."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "tests" / "data" / "decoder"
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyzäöüß")
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
HOTWORDS = ["rothenburg", "schmeckt", "dinkelsbühl", "zug"]
SETTINGS: Mapping[str, tuple[bool, dict[str, Any]]] = {
    "no_lm": (False, {}),
    "lm": (True, {}),
    "lm_narrow": (True, {"beam_width": 8, "beam_prune_logp": -6.0}),
    "hotwords": (True, {"hotwords": HOTWORDS, "hotword_weight": 8.0}),
    "hotwords_no_lm": (False, {"hotwords": HOTWORDS, "hotword_weight": 4.0}),
}
N_UTTERANCES, N_SENTENCES, SEED = 60, 400, 7
CLIPS_S = (1.0, 2.7, 5.0)
SAMPLE_RATE = 16_000
SPEECH_SAMPLES, PIECE_SAMPLES = 24 * SAMPLE_RATE, 8 * SAMPLE_RATE  # of each example


def write_cases(folder: Path, models: Sequence[str]) -> dict[str, Any]:
    """Write cases.json and all that it names, with these models; returns its content."""
    folder.mkdir(parents=True, exist_ok=True)
    waveforms: dict[str, Any] = {**make_waveforms()}
    np.savez(folder / "waveforms.npz", **waveforms)
    decoding, pieces = write_decoding(folder)
    pruned = prune_arpa((FIXTURES / "tiny.arpa").read_text(encoding="utf-8"))
    (folder / "pruned.arpa").write_text(pruned, encoding="utf-8")
    (folder / "pruned.arpa.gz").write_bytes(gzip.compress(pruned.encode(), mtime=0))
    text = (FIXTURES / "tiny.txt").read_text(encoding="utf-8")
    cases = {
        "models": {name: made for name, made in list_models(pieces).items() if name in models},
        "decoding": {**decoding, **write_speech(folder)},
        "processor": {"model": "tiny", "language_model": "tiny.probing.bin", "words": "tiny.words"},
        "kenlm": {"models": list_language_models(folder), "sentences": make_sentences(text.split())},
    }
    (folder / "cases.json").write_text(json.dumps(cases, ensure_ascii=False), encoding="utf-8")
    return cases


def write_decoding(folder: Path, n: int = N_UTTERANCES) -> tuple[dict[str, Any], list[str]]:
    """Write emissions and language models of the fixtures; returns the cases, and the labels of the pieces.

    Args:
        n: utterances over letters, and over pieces.
    """
    for kind in ("arpa", "probing.bin", "trie.bin", "quantised.bin", "array.bin"):
        shutil.copy(FIXTURES / f"tiny.{kind}", folder)
    words = set((FIXTURES / "tiny.txt").read_text(encoding="utf-8").split())
    (folder / "tiny.words").write_text("\n".join(sorted(words)), encoding="utf-8")
    letters, pieces = (write_emissions(folder, name, n) for name in ("emissions", "emissions_pieces"))
    cases = {f"letters {name}": make_case("emissions", letters, name) for name in SETTINGS}
    return cases | {
        f"pieces {name}": make_case("emissions_pieces", pieces, name) for name in SETTINGS
    }, pieces


def make_waveforms() -> dict[str, NDArray[np.float32]]:
    """Tones in noise, loud and quiet: float32 [n_samples], 16 kHz."""
    rng, found = np.random.default_rng(SEED), {}
    for number, seconds in enumerate(CLIPS_S):
        time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = 120 * 2 ** np.cumsum(rng.normal(0, 2e-3, len(time_s)))
        tone = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / SAMPLE_RATE) / k for k in range(1, 12))
        loudness = 0.5 + 0.5 * np.sin(2 * np.pi * 3.1 * time_s)
        values = 0.1 * tone * loudness + rng.normal(0, 0.01, len(time_s))
        found[f"clip_{number}"] = values.astype(np.float32)
    return found


def list_models(pieces: Sequence[str]) -> dict[str, Any]:
    """Checkpoints: letters and pieces, tiny; and one of wav2vec2-base's shape."""
    plain = {"mask": False, "word_delimiter": "|", "sharpen": 12.0}
    large = {"labels": LETTERS, "config": {"vocab_size": len(LETTERS), "pad_token_id": 0}}
    return {
        "tiny": {
            "labels": LETTERS,
            "config": {**TINY, "vocab_size": len(LETTERS), "pad_token_id": 0},
            **plain,
        },
        "pieces": {
            "labels": [*pieces],
            "config": {**TINY, "vocab_size": len(pieces), "pad_token_id": 0},
            **plain,
            "word_delimiter": "▁",
        },
        "base": {**large, **plain},
    }


def write_emissions(folder: Path, name: str, n: int) -> list[str]:
    """Write the logits of the first utterances of a fixture; returns the labels."""
    read_logits = importlib.import_module("tests.data.decoder.make_fixtures").read_logits
    archive = np.load(FIXTURES / f"{name}.npz")
    ends = itertools.pairwise(archive["offsets"][: n + 1])
    arrays = {f"{i:03}": read_logits(archive["steps"][a:b]) for i, (a, b) in enumerate(ends)}
    np.savez(folder / f"{name}.npz", **arrays)
    return archive["labels"].tobytes().decode().split("\n")


def make_case(logits: str, labels: Sequence[str], setting: str) -> dict[str, Any]:
    """One way to decode one set of emissions."""
    scored, options = SETTINGS[setting]
    return {
        "logits": f"{logits}.npz",
        "labels": [*labels],
        "language_model": "tiny.probing.bin" if scored else None,
        "words": "tiny.words",
        "options": {"beam_width": 64, **options},
    }


def write_speech(folder: Path) -> dict[str, Any]:
    """The embedded model's emissions of the examples, with its own language model of 180,000 words."""
    import engine
    from engine.audio.load import load_audio
    from engine.decoding import NgramModel
    from engine.text import VOCABULARY

    bundle = ROOT / "engine" / "bundled" / "de-en-base"
    model = engine.load(str(bundle), device="cpu", threads=1)
    paths = sorted((ROOT / "examples" / "audio").glob("*.flac"))
    arrays: dict[str, Any] = {}
    for path in paths:
        waveform = load_audio(path)
        for begin in range(0, min(len(waveform), SPEECH_SAMPLES), PIECE_SAMPLES):
            features = model.compute_features(waveform[begin : begin + PIECE_SAMPLES])
            arrays[f"{path.stem}_{begin:07}"] = model.compute_log_probs(features)
    np.savez(folder / "speech.npz", **arrays)
    shutil.copy(bundle / "language_model.bin", folder / "large.trie.bin")
    words = list_lexicon(bundle / "lexicon.npz")
    known = NgramModel(folder / "large.trie.bin").find_words(words)
    kept = [word for word, number in zip(words, known.tolist(), strict=True) if number]
    (folder / "large.words").write_text("\n".join(kept), encoding="utf-8")
    case = {"logits": "speech.npz", "labels": [*VOCABULARY], "language_model": "large.trie.bin"}
    return {"speech lm": {**case, "words": "large.words", "options": {"beam_width": 64}}}


def list_lexicon(path: Path) -> list[str]:
    """The words of a lexicon that the embedded bundle holds; its language model has none."""
    arrays = dict(np.load(path))  # an archive reads an array again at every access
    labels = arrays["label"].tolist()
    letters = arrays["vocabulary"].tobytes().decode().split("\0")
    ends = np.unpackbits(arrays["ends_word"]).astype(bool)
    first = np.concatenate([[1], 1 + np.cumsum(arrays["n_children"], dtype=np.int64)]).tolist()
    spelled, words = [""] * len(labels), []
    for node, text in enumerate(spelled):
        if ends[node]:
            words.append(text)
        for child in range(first[node], first[node + 1]):
            spelled[child] = text + letters[labels[child]]
    return words


def list_language_models(folder: Path) -> dict[str, str]:
    """Every kind of file that both read."""
    names = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".arpa", ".bin", ".gz")]
    return {name: name for name in names}


def prune_arpa(text: str) -> str:
    """An ARPA file of order 3 without a part of its n-grams, as a model that was pruned by thresholds.

    Each third trigram goes; then the bigrams that begin or end no trigram, each second one.
    """
    sections = [block.split("\n") for block in text.split("\n\n")]
    (head, unigrams, bigrams, trigrams, end), pruned = sections[:5], {}
    pruned[3] = [line for number, line in enumerate(trigrams[1:]) if number % 3]
    used = {words[at : at + 2] for words in map(_words_of, pruned[3]) for at in (0, 1)}
    pruned[2] = [line for number, line in enumerate(bigrams[1:]) if _words_of(line)[:2] in used or number % 2]
    counts = [f"ngram {size}={len(lines)}" for size, lines in sorted(pruned.items())]
    blocks = [[*head[:-2], *counts], unigrams, [bigrams[0], *pruned[2]], [trigrams[0], *pruned[3]], end]
    return "\n\n".join("\n".join(block) for block in blocks)


def _words_of(line: str) -> tuple[str, ...]:
    """The words of an n-gram's line."""
    return tuple(line.split("\t")[1].split(" "))


def make_sentences(words: Sequence[str]) -> list[str]:
    """Runs of the training text, spliced, with words that no model knows."""
    rng, sentences = np.random.default_rng(SEED), []
    for _ in range(N_SENTENCES):
        parts: list[str] = []
        while len(parts) < rng.integers(1, 12):
            begin, n = int(rng.integers(len(words))), int(rng.integers(1, 5))
            parts += words[begin : begin + n]
            parts += ["unbekanntes"] * int(rng.random() < 0.2)
        sentences.append(" ".join(parts))
    return sentences
