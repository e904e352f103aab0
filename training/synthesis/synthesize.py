"""`training synthesize`: a corpus of synthetic German speech from text, resumable and checksummed."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import random
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from engine.manifests import read_manifest
from engine.output.targets import check_apart
from engine.text import normalize_text
from training.common.text_files import read_text
from training.synthesis.voices import SAMPLE_RATE, PicoEngine, Voice, build_voices, speak_espeak

LOGGER = logging.getLogger("training.synthesis.synthesize")
WRITTEN = ("manifest.tsv", "train.tsv", "dev.tsv", "journal.jsonl")
COLUMNS = ("path", "text_de", "voice", "split", "duration_s", "sha256")
CHUNK = 50  # clips a worker makes between two lines of the journal


@dataclasses.dataclass(frozen=True)
class Job:
    """One clip to make; everything random about it follows from (seed, index)."""

    index: int
    text: str
    voice: Voice
    split: str
    seed: int

    @property
    def path(self) -> str:
        return f"audio/{self.index // 1000:03d}/{self.index:06d}.flac"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `training synthesize`."""
    parser.add_argument(
        "--text", type=Path, required=True, nargs="+", help="one sentence per line; .zst is unpacked"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=10_000, help="clips to make")
    parser.add_argument(
        "--pico_package", type=Path, help="folder of the npm package @echogarden/svoxpico-wasm"
    )
    parser.add_argument("--pico_lingware", type=Path, help="folder with de-DE_ta.bin and de-DE_gl0_sg.bin")
    parser.add_argument("--espeak_share", type=float, default=0.2, help="fraction of clips from espeak-ng")
    parser.add_argument(
        "--held_out", type=int, default=300, help="clips of held-out voices with held-out texts"
    )
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="manifests whose sentences are left out"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)


def read_sentences(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the non-empty lines of text files, unpacking *.zst on the way."""
    for path in paths:
        yield from (line.strip() for line in read_text(path) if line.strip())


def excluded_sentences(manifests: Iterable[Path]) -> set[str]:
    """Return the normalised texts of manifests."""
    return {normalize_text(row.text) for manifest in manifests for row in read_manifest(manifest)}


def plan_jobs(sentences: Iterable[str], options: argparse.Namespace, engines: set[str]) -> list[Job]:
    """Assign sentences to voices. The same texts, seed and limit give the same plan, so a run can resume.

    Args:
        sentences: candidate texts; too long, too short and repeated ones are skipped.
        options: limit, held_out, espeak_share, seed.
        engines: which of "pico" and "espeak" can be used.
    """
    generator = random.Random(options.seed)
    excluded = excluded_sentences(options.exclude)
    candidates: dict[str, str] = {}
    for sentence in sentences:
        text = normalize_text(sentence)
        if 6 <= len(text) <= 150 and text not in excluded:
            candidates.setdefault(text, sentence)
    texts = list(candidates.values())
    generator.shuffle(texts)
    voices = [voice for voice in build_voices() if voice.engine in engines]
    share = (
        {"espeak": options.espeak_share, "pico": 1.0 - options.espeak_share} if len(engines) == 2 else None
    )
    jobs = []
    for index, text in enumerate(texts[: options.limit]):
        held_out = index < options.held_out
        engine = generator.choices(list(share), list(share.values()))[0] if share else next(iter(engines))
        voice = generator.choice([v for v in voices if v.engine == engine and v.held_out == held_out])
        jobs.append(Job(index, text, voice, "dev" if held_out else "train", generator.getrandbits(48)))
    return jobs


class Speaker:
    """One worker's engines, opened on first use."""

    def __init__(self, pico_package: Path | None, pico_lingware: Path | None) -> None:
        self._folders = (pico_package, pico_lingware)
        self._pico: PicoEngine | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="synthesize-")

    def speak(self, job: Job) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        """Return the clip's waveform, float32 [n_samples] at 16 kHz, or None."""
        generator = random.Random(job.seed)
        if job.voice.engine == "espeak":
            return speak_espeak(job.text, job.voice, generator, Path(self._scratch.name))
        if self._pico is None:
            assert self._folders[0] is not None and self._folders[1] is not None
            self._pico = PicoEngine(self._folders[0], self._folders[1])
        return self._pico.speak(job.text, job.voice, generator)


_SPEAKERS: dict[tuple[str, str], Speaker] = {}


def make_clips(
    jobs: list[Job], output_dir: Path, pico_package: Path | None, pico_lingware: Path | None
) -> list[dict[str, Any]]:
    """Speak and write some clips; returns their manifest rows with `index` added."""
    speaker = _SPEAKERS.setdefault(
        (str(pico_package), str(pico_lingware)), Speaker(pico_package, pico_lingware)
    )
    rows = []
    for job in jobs:
        waveform = speaker.speak(job)
        if waveform is None or waveform.size < SAMPLE_RATE // 5:
            LOGGER.warning("no speech for %r by %s: left out", job.text, job.voice.name)
            continue
        target = output_dir / job.path
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_suffix(".part")
        peak = float(np.abs(waveform).max())
        soundfile.write(
            beside, waveform * min(1.0, 0.98 / max(peak, 1e-6)), SAMPLE_RATE, "PCM_16", format="FLAC"
        )
        digest = hashlib.sha256(beside.read_bytes()).hexdigest()
        beside.replace(target)
        values = (job.path, job.text, job.voice.name, job.split, f"{waveform.size / SAMPLE_RATE:.3f}", digest)
        rows.append({"index": job.index, **dict(zip(COLUMNS, values, strict=True))})
    return rows


def read_journal(path: Path) -> dict[int, dict[str, Any]]:
    """Return the rows an earlier run finished; a line cut off by a kill is dropped."""
    rows: dict[int, dict[str, Any]] = {}
    if path.exists():
        # A kill may also cut a character in two, and U+2028 within a text ends no line.
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            rows[row["index"]] = row
    return rows


def write_manifest(rows: Iterable[dict[str, Any]], target: Path) -> None:
    """Write a manifest to a temporary file, then rename it."""
    beside = target.with_suffix(".part")
    with beside.open("w", encoding="utf-8", newline="") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row in sorted(rows, key=lambda row: int(row["index"])):  # quotes are ordinary characters
            cells = (re.sub(r"[\t\r\n]+", " ", str(row.get(name, ""))) for name in COLUMNS)
            file.write("\t".join(cells) + "\n")
    beside.replace(target)


def run(options: argparse.Namespace) -> int:
    """Make the corpus; returns the exit code."""
    engines = {"espeak"} if options.espeak_share > 0 else set()
    if options.pico_package and options.pico_lingware:
        engines.add("pico")
    if not engines:
        LOGGER.error("no engine: give --pico_package and --pico_lingware, or an --espeak_share above 0")
        return 2
    check_apart([options.output_dir / name for name in WRITTEN], options.text)
    jobs = plan_jobs(read_sentences(options.text), options, engines)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    journal = options.output_dir / "journal.jsonl"
    rows = read_journal(journal)
    todo = [job for job in jobs if job.index not in rows]
    LOGGER.info("%d clips to make, %d already there", len(todo), len(rows))
    chunks = [todo[at : at + CHUNK] for at in range(0, len(todo), CHUNK)]
    folders = (options.output_dir, options.pico_package, options.pico_lingware)
    with (
        concurrent.futures.ProcessPoolExecutor(options.workers) as pool,
        journal.open("a", encoding="utf-8") as log,
    ):
        pending = [pool.submit(make_clips, chunk, *folders) for chunk in chunks]
        for done in concurrent.futures.as_completed(pending):
            for row in done.result():
                rows[row["index"]] = row
                log.write(json.dumps(row, ensure_ascii=False) + "\n")
            log.flush()
    write_manifest(rows.values(), options.output_dir / "manifest.tsv")
    for split in ("train", "dev"):
        chosen = [row for row in rows.values() if row["split"] == split]
        write_manifest(chosen, options.output_dir / f"{split}.tsv")
    hours = sum(float(row["duration_s"]) for row in rows.values()) / 3600.0
    LOGGER.info("%d clips, %.2f h -> %s", len(rows), hours, options.output_dir / "manifest.tsv")
    return 0
