"""Beam search against its peers: one thread, in turn in one run, CPU time.

    python -m benchmarks.peers.decoding --emissions EMISSIONS.npz --language-model LM.bin --words WORDS.txt \\
        --peer-python PEERS/bin/python --json benchmarks/results/decoder.json

The peers need a separate environment (benchmarks/peers/requirements/decoding.txt). Each turn decodes ten
utterances with one decoder, so that a busy machine slows all decoders equally; one pass of each is not timed.
Every decoder returns its hypotheses with the times of all their words. A decoder whose texts are far from the
emissions' likeliest labels is left out.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.errors import PeerError, WrongOutputError
from benchmarks.protocol.driver import Driver, LocalSystem, Roster, Timing, ratios
from benchmarks.reports.provenance import commit, provenance
from engine.bundle.signature import cpu_model
from engine.decoding import CtcBeamDecoder, decode_greedy

SCRIPT = Path(__file__).parent / "decoders" / "ctc_decoder.py"
PEERS = "pyctcdecode,ctc-beam-decoder,fast-ctc-decode"
BEAM_WIDTH, N_BEST, N_HOTWORDS, TURN, PASSES = 64, 10, 200, 10, 3
THREAD_ROUNDS, THREAD_REPEATS = 15, 8
MAX_DISTANCE = 0.5  # of a decoder's characters from the greedy ones, by their number


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print or write the result."""
    options = parse(argv)
    emissions, labels, texts = load_emissions(options.emissions)
    with tempfile.TemporaryDirectory() as folder, Driver(our_decoders(labels, options)) as driver:
        driver.start(roster(options, labels, Path(folder)))
        timings = measure(driver, emissions, labels, options.passes)
        if "engine" in driver.lost:
            raise PeerError(f"the engine itself has no figures: {driver.lost['engine']}")
        report = {
            "signature": signature(options),
            **provenance("python -m benchmarks.peers.decoding", argv),
            "n_utterances": len(emissions),
            "peers": driver.signatures(),
            "left_out": driver.why_not(),
            "decoders": figures(timings, [len(items["offsets"]) - 1 for items in turns_of(emissions)], texts),
        }
    if options.thread_rounds:
        report["threads"] = time_threads(emissions, labels, options)
    text = json.dumps(report, indent=2)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def load_emissions(path: Path) -> tuple[list[Any], list[str], list[str]]:
    """Utterances, labels and reference texts of an .npz with lp, off, labels and (optional) texts."""
    archive = np.load(path)
    labels = json.loads(str(archive["labels"]))
    texts = json.loads(str(archive["texts"])) if "texts" in archive else []
    offsets, log_probs = archive["off"], archive["lp"]  # each access reads the whole array from the file
    return [log_probs[a:b] for a, b in itertools.pairwise(offsets)], labels, texts


def our_decoders(labels: list[str], options: argparse.Namespace) -> dict[str, LocalSystem]:
    """The engine with its language model, with hotwords added, and without a language model."""
    words = options.words.read_text(encoding="utf-8").split()
    decoder, plain = CtcBeamDecoder(labels, options.language_model, words), CtcBeamDecoder(labels)
    favoured = words[min(5000, len(words) // 2) :][:N_HOTWORDS]

    def caller(search: CtcBeamDecoder, hotwords: Sequence[str]) -> LocalSystem:
        def run(inputs: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
            log_probs = inputs["log_probs"]
            found = [
                search.decode(log_probs[a:b], BEAM_WIDTH, N_BEST, hotwords)
                for a, b in itertools.pairwise(inputs["offsets"])
            ]
            return lambda: {"texts": [hypotheses[0].text.strip() for hypotheses in found]}

        return LocalSystem(run)

    return {
        "engine": caller(decoder, []),
        "engine-hotwords": caller(decoder, favoured),
        "engine-no-lm": caller(plain, []),
    }


def roster(options: argparse.Namespace, labels: list[str], folder: Path) -> dict[str, Roster]:
    """The chosen peers; none without their interpreter."""
    if not options.peer_python:
        return {}
    path = folder / "labels.json"
    path.write_text(json.dumps(labels), encoding="utf-8")
    shared = (
        *("--labels", str(path)),
        *("--language_model", str(options.language_model)),
        *("--words", str(options.words)),
        *("--beam_width", str(BEAM_WIDTH)),
        *("--n_best", str(N_BEST)),
    )
    return {
        name: Roster(SCRIPT, ("--decoder", name, *shared), options.peer_python)
        for name in options.peers.split(",")
    }


def turns_of(emissions: Sequence[Any]) -> list[dict[str, Any]]:
    """The inputs of each turn: log_probs [n_frames of all, vocab_size] and offsets [n_utterances + 1]."""
    found = []
    for start in range(0, len(emissions), TURN):
        group = emissions[start : start + TURN]
        offsets = np.cumsum([0, *map(len, group)]).tolist()
        found.append({"log_probs": np.concatenate(group), "offsets": offsets})
    return found


def measure(driver: Driver, emissions: Sequence[Any], labels: list[str], passes: int) -> dict[str, Timing]:
    """Every decoder over all utterances, `passes` times after one pass that is not timed."""
    greedy = [decode_greedy(utterance, labels).text for utterance in emissions]
    expected = [greedy[start : start + TURN] for start in range(0, len(greedy), TURN)]
    return driver.run(
        turns_of(emissions), passes, lambda index, outputs: check(outputs.get("texts"), expected[index])
    )


def check(texts: Any, greedy: Sequence[str]) -> float:
    """How far the texts are from the greedy ones: edits of characters by the number of characters.

    Raises:
        WrongOutputError: not one text for each utterance, or texts that do not fit the emissions.
    """
    import jiwer

    if not isinstance(texts, list) or len(texts) != len(greedy) or not all(isinstance(t, str) for t in texts):
        raise WrongOutputError(f"texts {str(texts)[:60]}", f"{len(greedy)} texts")
    if not "".join(greedy):
        return 0.0
    distance = float(jiwer.cer(" ".join(greedy), " ".join(texts)))
    if distance > MAX_DISTANCE:
        raise WrongOutputError(f"texts whose characters differ from the greedy ones by {distance:.0%}")
    return distance


def figures(
    timings: Mapping[str, Timing], sizes: Sequence[int], texts: list[str]
) -> dict[str, dict[str, float | None]]:
    """CPU milliseconds per utterance, the median ratio to the engine turn by turn, and word errors.

    Args:
        sizes: utterances of each turn.
        texts: the references; empty where there are none.
    """
    turns_ms = {
        name: [1e3 * seconds / n for times, n in zip(timing.cpu_s, sizes, strict=True) for seconds in times]
        for name, timing in timings.items()
    }
    to_engine = ratios(turns_ms, "engine")
    return {
        name: {
            "cpu_ms_mean": round(mean(times), 3),
            "cpu_ms_median": round(median(times), 3),
            "ratio_to_engine": round(to_engine[name], 2),
            "wer": round(100 * word_errors(texts, timings[name]), 2) if texts else None,
        }
        for name, times in turns_ms.items()
    }


def word_errors(references: list[str], timing: Timing) -> float:
    """Word error rate of the last pass."""
    import jiwer

    return float(jiwer.wer(references, [text for outputs in timing.outputs for text in outputs["texts"]]))


def signature(options: argparse.Namespace) -> str:
    """What was measured, on what."""
    parts = {"beam": BEAM_WIDTH, "n_best": N_BEST, "threads": 1, "lm": options.language_model.name}
    parts |= {"emissions": options.emissions.name, "passes": options.passes, "warm-up": 1}
    parts |= {"cpu": cpu_model(), "commit": commit(), "python": platform.python_version()}
    for package in ("numba", "numpy"):
        try:
            parts[package] = version(package)
        except PackageNotFoundError:
            parts[package] = "none"
    return "|".join(f"{key}:{value}" for key, value in parts.items())


def time_threads(emissions: list[Any], labels: list[str], options: argparse.Namespace) -> dict[str, float]:
    """decode_batch on two threads against one, wall time, median of several rounds in turn.

    cores_given is the CPU time divided by the wall time of two threads: below 2, other programs used the
    rest, and the ratio describes the machine and not the decoder.
    """
    words = options.words.read_text(encoding="utf-8").split()
    decoder = CtcBeamDecoder(labels, options.language_model, words)
    batch = emissions * THREAD_REPEATS
    gc.collect()
    gc.freeze()  # otherwise some passes include the time of scanning all imported objects
    ratios, cores = [], []
    for _ in range(options.thread_rounds + 1):
        wall_s, cpu_s = [], []
        for threads in (1, 2):
            start, cpu_start = time.perf_counter(), time.process_time()
            decoder.decode_batch(batch, threads, beam_width=BEAM_WIDTH, n_best=N_BEST)
            wall_s.append(time.perf_counter() - start)
            cpu_s.append(time.process_time() - cpu_start)
        ratios.append(wall_s[0] / wall_s[1])
        cores.append(cpu_s[1] / wall_s[1])
    return {
        "two_threads_over_one": round(median(ratios[1:]), 2),
        "best_round": round(max(ratios[1:]), 2),
        "cores_given": round(median(cores[1:]), 2),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers.decoding", description=__doc__.split("\n")[0])
    parser.add_argument("--emissions", type=Path, required=True)
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True, help="the known words, separated by spaces")
    parser.add_argument("--peer-python", help="interpreter of the peers' environment")
    parser.add_argument("--peers", default=PEERS)
    parser.add_argument("--passes", type=int, default=PASSES, help="over all utterances that count")
    parser.add_argument(
        "--thread_rounds",
        type=int,
        default=THREAD_ROUNDS,
        help="rounds of two threads against one; 0 skips this part",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if options.passes < 1:
        parser.error("--passes takes at least 1")
    return options


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except PeerError as error:
        raise SystemExit(f"error: {error}") from error
