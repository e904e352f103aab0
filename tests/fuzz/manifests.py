"""Mutated manifests, texts and settings: each is read or refused with a typed error, at once.

Manifests in all their forms, data sets, lists of hotwords, lexicons, language models, texts to translate,
training settings and the form fields of the service.
Long form: `python -m tests.fuzz.manifests --count 100000 --seed 0 --out tests/fuzz/results/manifests.json`.
It goes on where the file given by --out ended, and stops at the first failure.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from engine.errors import EngineError, HotwordWarning
from tests.fuzz import long_form
from tests.fuzz.lines import LineCounter
from tests.fuzz.readers import MODULES, Reader, make_readers
from tests.fuzz.record import MAX_GROWTH_MB, FuzzError, Record, peak_mb, timed

LINES_EVERY = 25  # tracing makes a case ten times as slow
WARM_UP = 300  # cases after which memory counts


def check(reader: Reader, content: bytes, folder: Path) -> str:
    """Read one input; "read" or the kind of error. Raises whatever is no typed error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", HotwordWarning)  # is how a hotword is refused
        try:
            reader.read(content, folder)
        except EngineError as error:
            if not error.got or "Traceback" in str(error) or len(str(error)) > 20_000:
                raise FuzzError(f"a message of {len(str(error))} characters") from error
            return type(error).__name__
    return "read"


def fuzz(
    count: int, seed: int, folder: Path, record: Record | None = None, max_s: float = float("inf"),
    lines: LineCounter | None = None, readers: Sequence[Reader] | None = None,
) -> Record:  # fmt: skip
    """Run cases until there are count of them or max_s is over.

    Args:
        folder: for files; a case that fails is left there. record: of a run that this one continues.
        lines: to count lines of every LINES_EVERY-th case.
    Raises:
        FuzzError: a case failed; the message says which and how.
    """
    record, readers = record or Record(seed), readers or make_readers(folder)
    began, first, base_mb = time.monotonic(), record.done, 0.0
    while record.done < count and time.monotonic() - began < max_s:
        number = record.done
        rng = np.random.default_rng([seed, number])
        reader = readers[int(rng.integers(len(readers)))]
        content = reader.mutate(rng)
        traced = lines is not None and number % LINES_EVERY == 0
        try:
            if traced:
                with lines.recording():
                    outcome = check(reader, content, folder)
            else:
                outcome = timed(partial(check, reader, content, folder), record)
            if number - first == WARM_UP:
                base_mb = peak_mb()
            if base_mb:
                record.note(0.0, 0.0, peak_mb() - base_mb)
            if record.growth_mb > MAX_GROWTH_MB:
                raise FuzzError(f"{record.growth_mb:.0f} MB")
        except (Exception, KeyboardInterrupt) as error:
            (folder / f"failed_{seed}_{number}").write_bytes(content)
            raise FuzzError(f"case {number} of seed {seed}, {reader.name}: {error!r}") from error
        record.count(reader.name, outcome)
    record.seconds += time.monotonic() - began
    return record


def main() -> None:
    """The long form."""
    options = long_form.read_options(__doc__, 100_000, "fuzz_manifests_")
    lines, readers = LineCounter(MODULES), make_readers(options.folder)

    def block(record: Record, count: int, left_s: float) -> None:
        fuzz(count, options.seed, options.folder, record, left_s, lines, readers)

    long_form.run(options, "tests.fuzz.manifests", 1000, lines, block)


if __name__ == "__main__":
    main()
