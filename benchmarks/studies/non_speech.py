"""`engine-bench non-speech`: how many words a recogniser invents where nobody speaks.

Silence, noise that is steady or pulses, hum and music-like tones are generated, the same in every run; --data
adds recordings of rooms. Each runs through the whole recogniser, with and without the speech detector.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import BenchmarkError
from benchmarks.measures.systems import EngineSystem
from benchmarks.options import Progress, add_engine_options
from benchmarks.reports.table import align, number
from benchmarks.run import write_json
from engine.audio.load import load_audio
from engine.types import DecodingOptions, Passes

SAMPLE_RATE = 16_000
WINDOW_S = 12.0  # of recordings, and length of every generated sound
LEVELS_DB = (-50.0, -35.0, -20.0)  # RMS, re full scale
AUDIO = (".wav", ".flac", ".ogg", ".mp3")
Waveform = NDArray[np.float32]


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("--model", metavar="PATH", help="bundle folder or .onnx file (the embedded bundle)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="recordings in which nobody speaks")
    add_engine_options(parser)
    parser.add_argument("--vad", default="energy", metavar="NAME", help="energy, silero or its .onnx file")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> int:
    """Count, print, write; returns the exit code."""
    system = EngineSystem(
        options.model, "transcribe", device=options.device or "auto", threads=options.threads or 0,
        beam_size=options.beam_size, passes=options.passes,
    )  # fmt: skip
    sounds = list(made_sounds()) + (list(recorded(options.data)) if options.data else [])
    passes: list[Passes] = [system.translator.choose_passes(system.options)]
    passes += [1] if passes == [2] and options.passes is None else []
    progress = Progress(options.quiet)
    tick = progress(2 * len(passes) * len(sounds), "non-speech")
    rows = []
    try:
        for n_passes in passes:
            for vad_filter in (True, False):
                settings = DecodingOptions(
                    passes=n_passes, vad_filter=vad_filter, vad=options.vad, beam_width=options.beam_size
                )
                rows.append(measure(system.translator, sounds, settings, tick))
    finally:
        progress.close()
    result = {"signature": system.signature, "rows": rows, **options.provenance}
    if options.json:
        write_json(result, options.json)
    print(render(result))
    return 0


def measure(
    translator: Any, sounds: Sequence[tuple[str, Waveform]], settings: DecodingOptions, tick: Any
) -> dict[str, Any]:
    """Words by kind of sound, and per minute and hour of all sound."""
    words: dict[str, list[str]] = {}
    seconds = 0.0
    for kind, waveform in sounds:
        found = translator.transcribe(waveform, SAMPLE_RATE, options=settings)
        words.setdefault(kind, []).extend(word.text for word in found.words)
        seconds += waveform.size / SAMPLE_RATE
        tick()
    total = sum(map(len, words.values()))
    return {
        "passes": settings.passes, "vad_filter": settings.vad_filter, "vad": settings.vad,
        "minutes": seconds / 60.0,
        "words": total, "words_per_minute": 60.0 * total / seconds,
        "words_per_hour": 3600.0 * total / seconds,
        "by_kind": {kind: len(found) for kind, found in words.items()}, "text": words,
    }  # fmt: skip


def made_sounds() -> Iterator[tuple[str, Waveform]]:
    """Thirteen minutes of silence, noise, hum and tones: kind and float32 [n_samples], 16 kHz."""
    rng = np.random.default_rng(20)
    times = np.arange(int(WINDOW_S * SAMPLE_RATE)) / SAMPLE_RATE
    yield "silence", np.zeros(times.size, np.float32)
    for level_db in LEVELS_DB:
        for slope in (0.0, 1.0, 2.0):
            for _ in range(2):
                yield "noise", at_level(_coloured(times.size, slope, rng), level_db)
        for hertz in (50.0, 100.0, 400.0):
            waves = [np.sin(2.0 * np.pi * hertz * k * times) / k for k in range(1, 8)]
            yield "hum", at_level(np.sum(waves, axis=0), level_db)
        for _ in range(7):
            yield "tones", at_level(_tones(times, rng), level_db)
    yield from pulsing(times)
    yield "clicks", at_level((rng.random(times.size) < 3e-4) * rng.standard_normal(times.size), -35.0)


def pulsing(times: NDArray[np.float64]) -> Iterator[tuple[str, Waveform]]:
    """White noise that goes on and off, as of machines, slower and faster than syllables."""
    rng = np.random.default_rng(7)
    for hertz in (0.5, 1.0, 2.0, 4.0, 8.0):
        for level_db in LEVELS_DB:
            is_on = np.sin(2.0 * np.pi * hertz * times) >= 0.0
            yield "pulsing noise", at_level(rng.standard_normal(times.size) * is_on, level_db)


def at_level(samples: NDArray[np.float64], level_db: float) -> Waveform:
    """Scaled to an RMS level, dB re full scale, and clipped."""
    rms = float(np.sqrt(np.mean(np.square(samples)))) + 1e-12
    return np.clip(samples * (10.0 ** (level_db / 20.0) / rms), -1.0, 1.0).astype(np.float32)


def _coloured(n_samples: int, slope: float, rng: np.random.Generator) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    spectrum /= np.maximum(np.arange(spectrum.size), 1) ** (slope / 2.0)
    return np.fft.irfft(spectrum, n_samples)


def _tones(times: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Chords of a pentatonic scale, each note struck and decaying."""
    out, start = np.zeros(times.size), 0.0
    scale = 220.0 * 2.0 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16]) / 12.0)
    while start < times[-1]:
        inside = times >= start
        since = times[inside] - start
        for pitch in rng.choice(scale, int(rng.integers(1, 4))):
            out[inside] += np.sin(2.0 * np.pi * pitch * since) * np.exp(-since * rng.uniform(1.0, 5.0))
        start += rng.uniform(0.15, 0.6)
    return out


def recorded(folder: Path) -> Iterator[tuple[str, Waveform]]:
    """Windows of the recordings in a folder.

    Raises:
        BenchmarkError: there are none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO)
    if not paths:
        raise BenchmarkError(
            f"no recording in {str(folder)!r}", f"files of {', '.join(AUDIO)}", "correct --data"
        )
    size = int(WINDOW_S * SAMPLE_RATE)
    for path in paths:
        waveform = load_audio(str(path))
        for start in range(0, max(len(waveform) - size // 2, 1), size):
            yield "recorded", waveform[start : start + size]


def render(result: Mapping[str, Any]) -> str:
    """A table, and every invented word."""
    rows = [
        [str(row["passes"]), row.get("vad", "energy") if row["vad_filter"] else "no",
         number(row["minutes"], 1), str(row["words"]), number(row["words_per_minute"], 2),
         number(row["words_per_hour"], 1)]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["passes", "speech detector", "minutes", "words", "a minute", "an hour"]
    lines = [result["signature"].replace("|", " | "), align(rows, head)]
    for row in result["rows"]:
        for kind, words in row["text"].items():
            if words:
                lines.append(f"  passes {row['passes']}, {kind}: {' '.join(words[:12])}")
    return "\n".join(lines)
