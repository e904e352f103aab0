"""What ranking unfinished words by lookahead does to word errors, and how far unknown words may fall behind.

    python -m benchmarks.kernels.lookahead --emissions dev.npz held_out.npz --language-model lm.bin \
        --words words.txt --json lookahead.json

Emissions are those of benchmarks.peers.decoding. For each set: without lookahead, and with it for several
limits of what an unfinished unknown word costs (engine.decoding.settings.UNFINISHED_UNKNOWN; -inf: none).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extras import load_extra
from benchmarks.reports.provenance import provenance
from engine.bundle.signature import cpu_model
from engine.decoding import CtcBeamDecoder, settings

PROGRAM = "python -m benchmarks.kernels.lookahead"
LIMITS = (-math.inf, -8.0, -9.0, -10.0, -11.0, -12.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "unk_score_offset -4": {"unk_score_offset": -4.0},
    "lm_alpha 0.8": {"lm_alpha": 0.8},
    "beam_prune_logp -14": {"beam_prune_logp": -14.0},
    "16 beams": {"beam_width": 16},
}


def measure(path: Path, language_model: Path, words: list[str], names: Sequence[str]) -> dict[str, Any]:
    """Word error rate and CPU time of the settings with these names for one set of utterances."""
    archive = np.load(path)
    emissions = [archive["lp"][a:b] for a, b in itertools.pairwise(archive["off"])]
    labels, texts = json.loads(str(archive["labels"])), json.loads(str(archive["texts"]))
    known = set(words)
    spoken = [word for text in texts for word in text.split()]
    found: dict[str, Any] = {
        "utterances": len(texts),
        "unknown_percent": round(100 * sum(word not in known for word in spoken) / len(spoken), 1),
    }
    plain = CtcBeamDecoder(labels, language_model, words, lookahead=False)
    for name in names:
        changes = SETTINGS[name]
        rows = {"without": decode(plain.with_settings(**changes), emissions, texts)}
        for limit in LIMITS:
            settings.UNFINISHED_UNKNOWN = limit
            decoder = plain.with_settings(**changes, lookahead=True)
            rows[f"lookahead, {limit:g}"] = decode(decoder, emissions, texts)
        found[name] = rows
    return found


def decode(decoder: CtcBeamDecoder, emissions: list[Any], texts: list[str]) -> dict[str, float]:
    """Word error rate in percent and mean CPU milliseconds of an utterance."""
    decoder.decode(emissions[0])
    start = time.process_time()
    best = [decoder.decode(each)[0].text for each in emissions]
    spent_s = time.process_time() - start
    wer = 100 * float(load_extra("jiwer").wer(texts, best))
    return {"wer": round(wer, 2), "cpu_ms": round(1e3 * spent_s / len(emissions), 3)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--emissions", type=Path, nargs="+", required=True)
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True, help="the known words, separated by spaces")
    parser.add_argument("--settings", nargs="+", choices=[*SETTINGS], default=[*SETTINGS])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    words = options.words.read_text(encoding="utf-8").split()
    result: dict[str, Any] = {**provenance(PROGRAM, argv), "cpu": cpu_model(), "sets": {}}
    for path in options.emissions:
        result["sets"][path.stem] = found = measure(path, options.language_model, words, options.settings)
        print(path.stem, json.dumps(found), flush=True)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
