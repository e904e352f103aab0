"""Beam search against its peers, interleaved, one thread, CPU time.

    python -m benchmarks.peers.decoding --emissions EMISSIONS.npz --language-model LM.bin --words WORDS.txt \\
        --peer-python PEERS/bin/python --json benchmarks/results/decoder.json

The peers need an environment of their own: python -m venv PEERS and PEERS/bin/pip install "numpy<2"
pyctcdecode kenlm fast-ctc-decode ctc-beam-decoder. Each round times a few utterances with every
decoder in turn, so that a busy machine slows all of them alike. The first pass of each is not timed.
Every decoder returns its readings with the times of all their words. pyctcdecode and ctc-beam-decoder have no
option for how many: they make those of all beams, of which ten are taken.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.reports.provenance import provenance

BEAM_WIDTH, N_BEST, N_HOTWORDS, ROUND, PASSES = 64, 10, 200, 10, 3
THREAD_ROUNDS, THREAD_REPEATS = 15, 8
Decode = Callable[[Any], Any]


def main() -> int:
    """Measure, and print or write the result."""
    options = _parse()
    emissions, labels, texts = load_emissions(options.emissions)
    if options.serve:
        return serve(build(options.serve, labels, options), emissions)
    names = {"engine": sys.executable, "engine-hotwords": sys.executable, "engine-no-lm": sys.executable}
    names |= dict.fromkeys(options.peers.split(","), options.peer_python) if options.peer_python else {}
    workers = {name: _start(name, python) for name, python in names.items()}
    rounds: dict[str, list[float]] = {name: [] for name in workers}
    order = list(workers)
    for begin in [0, *PASSES * list(range(0, len(emissions), ROUND))]:  # the first warms up
        for name in order:
            rounds[name].append(_ask(workers[name], {"begin": begin, "end": begin + ROUND})["ms"])
        order.append(order.pop(0))  # who comes first finds the language model's pages in no cache
    source = provenance("python -m benchmarks.peers.decoding")
    report: dict[str, Any] = {"signature": signature(options), **source, "n_utterances": len(emissions)}
    report["decoders"] = {}
    for name, worker in workers.items():
        hypotheses = _ask(worker, {"texts": True})["texts"]
        times = rounds[name][1:]
        report["decoders"][name] = {
            "cpu_ms_mean": round(sum(times) / len(times), 3),
            "cpu_ms_median": round(median(times), 3),
            "ratio_to_engine": round(
                median(a / b for a, b in zip(times, rounds["engine"][1:], strict=True)), 2
            ),
            "wer": round(100 * _word_errors(texts, hypotheses), 2) if texts else None,
        }
        worker.stdin.close()
        worker.wait()
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


def build(name: str, labels: list[str], options: argparse.Namespace) -> Decode:
    """One decoder as a function from emissions to a list of readings or a text."""
    words = options.words.read_text(encoding="utf-8").split()
    spaced = ["" if label == "<pad>" else " " if label == "|" else label for label in labels]
    if name.startswith("engine"):
        decoder = _build_engine(name, labels, options)
        favoured = words[5000 : 5000 + N_HOTWORDS] if name == "engine-hotwords" else []
        return lambda e: decoder.decode(e, BEAM_WIDTH, N_BEST, favoured)
    if name in ("pyctcdecode", "ctc-beam-decoder"):
        build_ctcdecoder = importlib.import_module(name.replace("-", "_")).build_ctcdecoder
        peer = build_ctcdecoder(spaced, str(options.language_model), words, alpha=0.5, beta=1.5)
        return lambda e: peer.decode_beams(e, beam_width=BEAM_WIDTH)[:N_BEST]
    if name == "fast-ctc-decode":
        import fast_ctc_decode

        plain = "".join(label or "-" for label in ["-", *spaced[1:]])
        return lambda e: fast_ctc_decode.beam_search(np.exp(e), plain, BEAM_WIDTH, np.exp(-5.0))
    raise SystemExit(f"no peer called {name}")


def _build_engine(name: str, labels: list[str], options: argparse.Namespace) -> Any:
    from engine.decoding import CtcBeamDecoder

    if name == "engine-no-lm":
        return CtcBeamDecoder(labels)
    words = options.words.read_text(encoding="utf-8").split()
    return CtcBeamDecoder(labels, options.language_model, words)


def serve(decode: Decode, emissions: list[Any]) -> int:
    """Answer one request a line on standard input: time a range, or give all texts."""
    for line in sys.stdin:
        request = json.loads(line)
        if "texts" in request:
            answer: dict[str, Any] = {"texts": [_text(decode(e)) for e in emissions]}
        else:
            batch = emissions[request["begin"] : request["end"]]
            start = time.process_time()
            for utterance in batch:
                decode(utterance)
            answer = {"ms": 1000 * (time.process_time() - start) / len(batch)}
        print(json.dumps(answer), flush=True)
    return 0


def signature(options: argparse.Namespace) -> str:
    """What was measured, on what."""
    parts = {"beam": BEAM_WIDTH, "n_best": N_BEST, "threads": 1, "lm": options.language_model.name}
    parts |= {"emissions": options.emissions.name, "cpu": _read_cpu(), "commit": _read_commit()}
    parts["python"] = platform.python_version()
    for package in ("numba", "numpy"):
        try:
            parts[package] = version(package)
        except PackageNotFoundError:
            parts[package] = "none"
    return "|".join(f"{key}:{value}" for key, value in parts.items())


def _read_cpu() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read_commit() -> str:
    """The commit measured, marked where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    with suppress(OSError, subprocess.CalledProcessError):
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
        return commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")
    return "unknown"


def time_threads(emissions: list[Any], labels: list[str], options: argparse.Namespace) -> dict[str, float]:
    """decode_batch on two threads against one, wall time, median of several rounds in turn.

    cores_given is the CPU time over the wall time of two threads: below 2, others had the rest,
    and the ratio tells of the machine and not of the decoder.
    """
    decoder = _build_engine("engine", labels, options)
    batch = emissions * THREAD_REPEATS
    gc.collect()
    gc.freeze()  # or one pass or the other pays for looking through all that was imported
    ratios, cores = [], []
    for _ in range(THREAD_ROUNDS + 1):
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


def _text(result: Any) -> str:
    best = result[0] if isinstance(result, list) else result
    text = best.text if hasattr(best, "text") else best[0]
    return str(text).strip()


def _word_errors(references: list[str], hypotheses: list[str]) -> float:
    import jiwer

    return float(jiwer.wer(references, hypotheses))


def _start(name: str, python: str) -> Any:
    command = [python, "-m", "benchmarks.peers.decoding", *sys.argv[1:], "--serve", name]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _ask(worker: Any, request: dict[str, Any]) -> dict[str, Any]:
    worker.stdin.write(json.dumps(request) + "\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"{' '.join(worker.args)} ended")
    return dict(json.loads(line))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--emissions", type=Path, required=True)
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True, help="the known words, separated by spaces")
    parser.add_argument("--peer-python", help="interpreter of the peers' environment")
    parser.add_argument("--peers", default="pyctcdecode,ctc-beam-decoder,fast-ctc-decode")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
