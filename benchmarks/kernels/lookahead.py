"""What ranking unfinished words by lookahead does to word errors, and how far unknown words may fall behind.

    python -m benchmarks.kernels.lookahead --text covost2_dev.tsv tatoeba_test.tsv --json lookahead.json

Sentences of the text are spelled as synthetic emissions (synthetic_emissions.py), the same ones each time;
half of them are for choosing, the others for reporting. Vocabulary, language model and known words are those
of a bundle. Each half is decoded without lookahead, and with it for several limits of what an unfinished
unknown word costs (engine.decoding.settings.UNFINISHED_UNKNOWN; -inf: none).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.errors import MeasurementError
from benchmarks.extras import load_extra
from benchmarks.kernels.synthetic_emissions import make_emissions
from benchmarks.reports.provenance import provenance
from engine.bundle.folder import Bundle, open_bundle
from engine.bundle.signature import cpu_model
from engine.decoding import CtcBeamDecoder, settings
from engine.decoding.lexicon import WordTrie, load_lexicon
from engine.kernels.vector.levels import active
from engine.manifests.text_file import read_lines
from engine.output.targets import check_apart
from engine.text import normalize_text

PROGRAM = "python -m benchmarks.kernels.lookahead"
LIMITS = (-math.inf, -8.0, -9.0, -10.0, -11.0, -12.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "unk_score_offset -4": {"unk_score_offset": -4.0},
    "lm_alpha 0.8": {"lm_alpha": 0.8},
    "beam_prune_logp -14": {"beam_prune_logp": -14.0},
    "16 beams": {"beam_width": 16},
}
SEED, N_UTTERANCES = 20, 400
SHORTEST, LONGEST = 3, 30  # words of a sentence
ROLES = ("development", "held out")


@dataclass(frozen=True)
class Sentences:
    """A set of spoken sentences: small letters, and their emissions, float32 [n_frames, n_labels] each."""

    texts: list[str]
    emissions: list[NDArray[np.float32]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    options = parse(argv)
    check_apart([options.json] if options.json else [], options.text)
    bundle = open_bundle(options.model)
    decoder = CtcBeamDecoder(
        bundle.vocabulary, bundle.file("language_model"), lexicon=bundle.file("lexicon"), lookahead=False
    )
    known = known_words(bundle, decoder)
    result: dict[str, Any] = {
        "signature": f"lm:{bundle.name}|threads:1|level:{active().name}|cpu:{cpu_model()}|seed:{SEED}",
        **provenance(PROGRAM, argv),
        "sets": {},
    }
    for path in options.text:
        for role, chosen in zip(ROLES, draw(path, bundle.vocabulary, options.utterances), strict=True):
            found = measure(chosen, decoder, known, options.settings)
            result["sets"][f"{path.stem}, {role}"] = found
            print(f"{path.stem}, {role}", json.dumps(found), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True,
        help="a German sentence a line; or id, German and English, separated by tabs",
    )  # fmt: skip
    parser.add_argument("--model", help="bundle with a language model (default: the embedded one)")
    parser.add_argument("--utterances", type=int, default=N_UTTERANCES, help="of each half (%(default)s)")
    parser.add_argument("--settings", nargs="+", choices=[*SETTINGS], default=[*SETTINGS])
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def draw(path: Path, vocabulary: Sequence[str], n_utterances: int) -> list[Sentences]:
    """Sentences for choosing, and others for reporting.

    Raises:
        MeasurementError: there are not enough sentences that the vocabulary spells.
    """
    rows = (line.split("\t") for line in read_lines(path))
    texts = dict.fromkeys(normalize_text(row[1] if len(row) == 3 else row[0]) for row in rows)
    usable = [text for text in texts if SHORTEST <= len(text.split()) <= LONGEST]
    spelled = [text for text in usable if set(text) <= {" ", *vocabulary}]
    if len(spelled) < 2 * n_utterances:
        raise MeasurementError(
            f"{len(spelled)} different sentences of {SHORTEST} to {LONGEST} words in {path}",
            f"{2 * n_utterances}", "give more text, or fewer --utterances",
        )  # fmt: skip
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(spelled))[: 2 * n_utterances]
    halves = order[:n_utterances], order[n_utterances:]
    found = []
    for half in halves:
        chosen = [spelled[i] for i in half]
        found.append(Sentences(chosen, [make_emissions(text, vocabulary, rng) for text in chosen]))
    return found


def known_words(bundle: Bundle, decoder: CtcBeamDecoder) -> set[str]:
    """The words of a bundle's lexicon."""
    assert decoder.language_model is not None  # main has opened it
    return spell(load_lexicon(bundle.file("lexicon"), decoder.labels, decoder.language_model))


def spell(trie: WordTrie) -> set[str]:
    """Every word of a trie that its language model knows."""
    words, waiting = set(), [(0, "")]
    while waiting:
        node, prefix = waiting.pop()
        if trie.word[node]:
            words.add(prefix)
        children = range(int(trie.first[node]), int(trie.first[node + 1]))
        waiting += [(child, prefix + trie.vocabulary[trie.label[child]]) for child in children]
    return words


def measure(
    sentences: Sentences, plain: CtcBeamDecoder, known: set[str], names: Sequence[str]
) -> dict[str, Any]:
    """Word error rate and CPU time of the settings with these names for one set of utterances."""
    spoken = [word for text in sentences.texts for word in text.split()]
    found: dict[str, Any] = {
        "utterances": len(sentences.texts),
        "unknown_percent": round(100 * sum(word not in known for word in spoken) / len(spoken), 1),
    }
    before = settings.UNFINISHED_UNKNOWN
    try:
        for name in tqdm(names):
            changes = SETTINGS[name]
            found[name] = rows = {"without": decode(plain.with_settings(**changes), sentences)}
            for limit in LIMITS:
                settings.UNFINISHED_UNKNOWN = limit
                searching = plain.with_settings(**changes, lookahead=True)
                rows[f"lookahead, {limit:g}"] = decode(searching, sentences)
    finally:
        settings.UNFINISHED_UNKNOWN = before
    return found


def decode(decoder: CtcBeamDecoder, sentences: Sentences) -> dict[str, float]:
    """Word error rate in percent and mean CPU milliseconds of an utterance."""
    decoder.decode(sentences.emissions[0])
    start = time.process_time()
    best = [decoder.decode(each)[0].text for each in sentences.emissions]
    spent_s = time.process_time() - start
    wer = 100 * float(load_extra("jiwer").wer(sentences.texts, best))
    return {"wer": round(wer, 2), "cpu_ms": round(1e3 * spent_s / len(best), 3)}


if __name__ == "__main__":
    raise SystemExit(main())
