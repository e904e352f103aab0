"""One run from settings to result: read the data, load the systems, warm up, measure, score."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.data.manifest import Utterance, columns_of, cut_parts, scan_data
from benchmarks.errors import ManifestError
from benchmarks.measures.journal import Journal, write_text
from benchmarks.measures.memory import GpuWatch
from benchmarks.measures.stages import measure, warm_up
from benchmarks.measures.systems import EngineSystem, System
from benchmarks.reports.signature import data_digest, environment, sign
from benchmarks.reports.summary import Circumstances, summarize
from engine.options import Device, Passes

EXAMPLES = ("examples", "engine/bundled/examples")
PARTIAL_SUFFIX = ".partial.jsonl"
Ticker = Callable[[], object]
MakeProgress = Callable[[int, str], Ticker]


@dataclass(frozen=True)
class RunSettings:
    """What to measure, and how.

    Attributes:
        model: as for engine.load; None takes the embedded default.
        data: manifest, corpus TSV or audio folder; None takes the synthetic examples.
        clips, split: of CoVoST 2 and Common Voice.
        task: transcribe or translate; None takes what model and data allow.
        limit: only the first utterances, so many; None takes all.
        threads: of the engine; 0 takes what the process may use.
        warmup: utterances run before the clock counts.
        repeats: passes over the data; two or more measure the noise floor.
        device, beam_size, translation_beam_size, passes: as for the engine.
        by: manifest columns to break errors down by.
        strict: refuse data with notes.
    """

    model: str | None = None
    data: str | None = None
    clips: str | None = None
    split: str = "test"
    task: str | None = None
    limit: int | None = None
    threads: int = 0
    warmup: int = 2
    repeats: int = 1
    device: Device = "auto"
    beam_size: int | None = None
    translation_beam_size: int | None = None
    passes: Passes | None = None
    by: tuple[str, ...] = ()
    strict: bool = False


def default_data() -> Path:
    """The synthetic examples: those of the checkout, else those inside the installed package.

    Raises:
        ManifestError: there are none.
    """
    spec = importlib.util.find_spec("engine")
    roots = [Path(place).parent for place in (spec.submodule_search_locations or [])] if spec else []
    candidates = [root / folder / "manifest.tsv" for root in roots for folder in EXAMPLES]
    for path in candidates:
        if path.is_file():
            return path
    raise ManifestError(
        candidates[0] if candidates else "examples", ["no example data; pass --data MANIFEST"]
    )


@dataclass(frozen=True)
class Data:
    """Checked data.

    Attributes:
        path: where it was read from.
        utterances: what is measured.
        sample_rates: how many files have which rate in Hz; those that libsndfile cannot open are not in it.
        notes: what does not stop a run, but is shown with its figures.
    """

    path: Path
    utterances: tuple[Utterance, ...]
    sample_rates: dict[int, int]
    notes: tuple[str, ...]


def load_data(settings: RunSettings) -> Data:
    """Read and check the data.

    Raises:
        ManifestError: lists every problem; with --strict, notes are problems.
    """
    path = Path(settings.data) if settings.data else default_data()
    clips = Path(settings.clips) if settings.clips else None
    reading = scan_data(path, clips, settings.split)
    problems = list(reading.problems)
    if reading.utterances:
        problems += _without_column(settings.by, columns_of(reading.utterances))
    kept = reading.utterances if problems else reading.utterances[: settings.limit]
    rates = count_sample_rates([item.path for item in kept])
    notes = [*_rate_notes(rates), *_part_notes(kept)]
    if problems or (settings.strict and notes):
        raise ManifestError(path, [*problems, *notes])
    return Data(path, tuple(cut_parts(kept)), rates, tuple(notes))


def _without_column(wanted: Sequence[str], present: Collection[str]) -> list[str]:
    has = ", ".join(sorted(present)) or "none besides the texts"
    return [f"no column {name!r} to group by (it has {has})" for name in wanted if name not in present]


def _rate_notes(rates: Mapping[int, int]) -> list[str]:
    """Notes for the figures: not errors by themselves."""
    if len(rates) < 2:
        return []
    listed = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(rates.items()))
    return [f"mixed sample rates ({listed}): resampling is part of the stage audio"]


def _part_notes(utterances: Sequence[Utterance]) -> list[str]:
    n_parts = sum(item.is_part for item in utterances)
    if not n_parts:
        return []
    return [f"{n_parts} clips are parts of files: cut out before the clock started, to 16 kHz and mono"]


def count_sample_rates(paths: Sequence[Path]) -> dict[int, int]:
    """How many files have which sample rate, from their headers."""
    import soundfile

    rates: Counter[int] = Counter()
    for path in paths:
        # Files that libsndfile cannot open are other containers, or broken: the run itself will show it.
        with suppress(soundfile.LibsndfileError, OSError), soundfile.SoundFile(path) as file:
            rates[file.samplerate] += 1
    return dict(rates)


def load_engine(settings: RunSettings, utterances: Sequence[Utterance]) -> EngineSystem:
    """Load the engine for the task that was asked for, or that model and data allow.

    Raises:
        EngineError: whatever loading raises.
    """
    has_english = any(item.text_en for item in utterances)
    task = settings.task or (None if has_english else "transcribe")
    return EngineSystem(
        settings.model,
        task,
        device=settings.device,
        threads=settings.threads,
        beam_size=settings.beam_size,
        translation_beam_size=settings.translation_beam_size,
        passes=settings.passes,
    )


def run_systems(
    settings: RunSettings,
    systems: Sequence[System],
    task: str,
    data: Data,
    output: Path | None,
    make_progress: MakeProgress,
) -> list[dict[str, Any]]:
    """Measure loaded systems in turn on the same utterances.

    Args:
        settings: warm-up, repeats and columns are taken from here.
        systems: the first is the one that the result is about.
        task: of systems.TASKS.
        data: as load_data returns it.
        output: where the result will be written; an interrupted run saves its records in the same folder.
        make_progress: called with (steps, description) for each part of the work.
    Returns:
        One result for each system, in their order.
    """
    utterances = data.utterances
    digest = data_digest(utterances)
    signatures = [
        sign(system.signature, task, digest, len(utterances), settings.warmup, settings.repeats)
        for system in systems
    ]
    journals = [Journal(_partial(output, index), name) for index, name in enumerate(signatures)]
    firsts = _warm_up(systems, utterances, task, settings.warmup, make_progress)
    watch = GpuWatch()
    tick = make_progress(len(systems) * settings.repeats * len(utterances), task)
    measure(systems, utterances, task, journals, repeats=settings.repeats, progress=_both(tick, watch.sample))
    watch.sample(at_once=True)
    extra = _circumstances(settings, data, digest)
    results = []
    for system, signature, journal, first in zip(systems, signatures, journals, firsts, strict=True):
        memory = (system.peak_rss_mb, *watch.peak_mb(system.pid))
        about = Circumstances(signature, task, system.load_time_s, first, *memory, extra)
        results.append(summarize(utterances, _with_lengths(journal, journals[0]), about, settings.by))
    for journal in journals:
        journal.remove()
    return results


def _both(first: Ticker, second: Ticker) -> Ticker:
    def call() -> None:
        first()
        second()

    return call


def _warm_up(
    systems: Sequence[System],
    utterances: Sequence[Utterance],
    task: str,
    count: int,
    make_progress: MakeProgress,
) -> list[float | None]:
    tick = make_progress(len(systems), "warm-up")
    firsts = []
    for system in systems:
        firsts.append(warm_up(system, utterances, task, count))
        tick()
    return firsts


def _circumstances(settings: RunSettings, data: Data, digest: str) -> dict[str, Any]:
    """What a result contains besides its figures."""
    path = settings.data or "the synthetic examples"
    return {
        "data": {"path": path, "digest": digest, "sample_rates": data.sample_rates},
        "notes": list(data.notes),
        "settings": asdict(settings),
        "warmup": settings.warmup,
        "repeats": settings.repeats,
        "environment": environment(),
    }


def _partial(output: Path | None, index: int) -> Path | None:
    if output is None:
        return None
    return output.with_name(output.name + (f".{index}" if index else "") + PARTIAL_SUFFIX)


def _with_lengths(journal: Journal, first: Journal) -> list[Any]:
    """Copy the audio's length, which a peer does not give, from the engine's record of the same file."""
    known = {record.id: record.audio_s for record in first.records if record.audio_s}
    return [
        record if record.audio_s else replace(record, audio_s=known.get(record.id, 0.0))
        for record in journal.records
    ]


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write a result completely or not at all.

    Raises:
        BenchmarkError: the file cannot be written.
    """
    write_text(path, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
