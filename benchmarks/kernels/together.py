"""Could short requests of several clients share a call? Each stage, apart and together. One thread.

    python -m benchmarks.kernels.together --json together.json

Together is the most that sharing could save:
    encoder      one utterance as long as all of them (the kernels take one utterance a call)
    second pass  a step of the decoder with the rows of all beams
    translator   all sentences in one call, as `translate_batch` does

Each round runs every stage both ways; the medians of the calling thread's CPU time are reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import engine
from benchmarks.data.manifest import scan_data
from benchmarks.reports.provenance import provenance
from benchmarks.reports.table import align
from benchmarks.run import default_data

SIZES = (1, 2, 4, 8)
STEPS = 12  # tokens of a short clip
MAX_TOKENS = 40
Pair = tuple[str, int, Callable[[], Any], Callable[[], Any]]  # stage, requests, apart, together


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.kernels.together", description=__doc__)
    parser.add_argument("--model", help="bundle with two passes and a translator (the embedded)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a request (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    translator = engine.load(options.model, threads=1)
    figures = measure(translator, options.seconds, options.rounds)
    print(translator.signature)
    print(align(list(_rows(figures)), ["stage", "requests", "apart, ms", "together, ms", "saved"]))
    if options.json:
        report = {
            "signature": f"{translator.signature}|{options.seconds:g} s|rounds:{options.rounds}|warm-up:1",
            **provenance("python -m benchmarks.kernels.together", argv),
            "cpu_ms": figures,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(translator: engine.SpeechTranslator, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Medians in ms for every stage and number of requests; `requests` of 1 is what a stage costs."""
    item = scan_data(default_data(), None, "test").utterances[0]
    waveform = np.tile(translator.load_audio(str(item.path)), 8)
    tasks = [
        pair
        for size in SIZES
        for pair in (
            encoder_pair(translator, waveform, seconds, size),
            steps_pair(translator, waveform, seconds, size),
            translator_pair(translator, item.text_de, size),
        )
    ]  # fmt: skip
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in tasks]
    for index in range(rounds + 1):
        for (_, _, apart, together), found in zip(tasks, times, strict=True):
            pair = timed(apart), timed(together)
            if index:
                found[0].append(pair[0])
                found[1].append(pair[1])
    return [
        {"stage": stage, "requests": size, "apart": _ms(apart), "together": _ms(together)}
        for (stage, size, _, _), (apart, together) in zip(tasks, times, strict=True)
    ]


def encoder_pair(translator: Any, waveform: Any, seconds: float, size: int) -> Pair:
    """Utterances by themselves, and one of the same length; silence behind each counts in both."""
    tail_s = translator.acoustic.config.tail_silence_s
    rate = translator.acoustic.sample_rate
    alone = translator.compute_features(waveform[: round(seconds * rate)])
    joined = translator.compute_features(waveform[: round((size * (seconds + tail_s) - tail_s) * rate)])

    def apart() -> None:
        for _ in range(size):
            translator.compute_states(alone)

    return "encoder", size, apart, partial(translator.compute_states, joined)


def steps_pair(translator: Any, waveform: Any, seconds: float, size: int) -> Pair:
    """Steps of one beam after the other, and of all their rows at once."""
    second_pass, rate = translator.second_pass, translator.acoustic.sample_rate
    _, states = translator.compute_states(translator.compute_features(waveform[: round(seconds * rate)]))
    width = second_pass.config.beam_size

    def begin(n_rows: int) -> Any:
        steps = second_pass.runner.start(states, n_rows, MAX_TOKENS, None)
        steps.prefill(np.array(second_pass.config.prompt, np.int64), None)
        return steps

    def run(steps: Any, n_rows: int) -> None:
        ids, parents = np.full(n_rows, second_pass.config.prompt[0], np.int64), np.zeros(n_rows, np.int64)
        for _ in range(STEPS):
            steps.step(ids, parents, None)
            parents = np.arange(n_rows)

    def apart() -> None:
        for _ in range(size):
            run(begin(width), width)

    def together() -> None:
        begun = [begin(size * width) for _ in range(size)]  # each request has its own keys and values
        run(begun[0], size * width)

    return "second pass", size, apart, together


def translator_pair(translator: Any, text: str, size: int) -> Pair:
    """Sentences one after the other, and in one call."""
    texts = [" ".join(text.split()[index % 3 :]) for index in range(size)]

    def apart() -> None:
        for each in texts:
            translator.translate_text([each])

    return "translator", size, apart, partial(translator.translate_text, texts)


def timed(call: Callable[[], Any]) -> float:
    """Seconds of the calling thread."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def _ms(seconds: Sequence[float]) -> float:
    return 1000 * statistics.median(seconds)


def _rows(figures: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for each in sorted(figures, key=lambda found: found["stage"]):
        saved = 1 - each["together"] / each["apart"]
        cells = [each["stage"], str(each["requests"]), f"{each['apart']:.1f}", f"{each['together']:.1f}"]
        yield [*cells, f"{100 * saved:.0f} %"]


if __name__ == "__main__":
    raise SystemExit(main())
