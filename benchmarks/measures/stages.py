"""The measuring loop: every utterance, one at a time, timed on two clocks beside the reference kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from benchmarks.data.manifest import Utterance
from benchmarks.errors import MeasurementError
from benchmarks.measures.journal import Journal, Record
from benchmarks.measures.reference import PARTS, ReferenceKernel, now, time_reference
from benchmarks.measures.systems import Outcome, System
from benchmarks.protocol.driver import turns

REFERENCE_RUNS = 3  # before and as many after each utterance


def warm_up(system: System, utterances: Sequence[Utterance], task: str, count: int) -> float | None:
    """Run utterances without counting them: compiled kernels, page cache, lazily made buffers.

    Args:
        count: how many; the utterances are gone through again where there are fewer.
    Returns:
        Seconds of the very first one (the first result after loading); None when count is 0.
    """
    first: float | None = None
    for index in range(count):
        start = now()
        with suppress(Exception):  # it fails again, and is recorded, when it is measured
            system.run(utterances[index % len(utterances)].path, task)
        first = first if first is not None else (now() - start).wall_s
    return first


def measure(
    systems: Sequence[System],
    utterances: Sequence[Utterance],
    task: str,
    journals: Sequence[Journal],
    *,
    repeats: int = 1,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Measure every utterance with every system, in turn, into the journals.

    Systems take turns utterance by utterance, and each is first equally often, so that what else the machine
    does falls on all of them alike.

    Args:
        systems: loaded and warm.
        utterances: one pass goes through all of them.
        task: of systems.TASKS.
        journals: one for each system; what they already hold is not measured again.
        repeats: passes over the data.
        progress: called after each record, kept or new.
    """
    kernel = ReferenceKernel()
    done = [{(record.id, record.repeat) for record in journal.records} for journal in journals]
    for repeat, position, index in turns(range(len(systems)), len(utterances), repeats):
        utterance = utterances[position]
        if (utterance.id, repeat) not in done[index]:
            journals[index].add(measure_one(systems[index], utterance, task, repeat, kernel))
        progress()


def measure_one(
    system: System, utterance: Utterance, task: str, repeat: int, kernel: ReferenceKernel
) -> Record:
    """Time one utterance between two timings of the reference kernel."""
    before = time_reference(kernel, REFERENCE_RUNS)
    start = now()
    error: str | None = None
    outcome = Outcome("")
    try:
        outcome = system.run(utterance.path, task)
    except Exception as failure:  # a bug found by one file must not cost the other thousands
        error = f"{type(failure).__name__}: {failure}"
    span = outcome.span or now() - start
    after = time_reference(kernel, REFERENCE_RUNS)
    return Record(
        id=utterance.id,
        repeat=repeat,
        wall_s=span.wall_s,
        cpu_s=span.cpu_s,
        reference_wall_s={name: (before[name].wall_s + after[name].wall_s) / 2 for name in PARTS},
        reference_cpu_s={name: (before[name].cpu_s + after[name].cpu_s) / 2 for name in PARTS},
        audio_s=outcome.audio_s or 0.0,
        text_de=outcome.text_de,
        text_en=outcome.text_en,
        stages_s=dict(outcome.stages_s),
        error=error,
    )


def latest_good(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The successful records of each utterance, in order of their repeats.

    Raises:
        MeasurementError: none succeeded.
    """
    by_id: dict[str, list[Record]] = {}
    errors = []
    for record in records:
        if record.error is None:
            by_id.setdefault(record.id, []).append(record)
        else:
            errors.append(f"{record.id}: {record.error}")
    if not by_id:
        why = errors[0] if errors else "nothing was measured"
        raise MeasurementError(f"no utterance could be measured; the first: {why}")
    return by_id
