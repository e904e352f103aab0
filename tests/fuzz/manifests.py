"""Mutated manifests, texts and settings: each is read or refused with a typed error, at once.

Manifests in all their forms, data sets, lists of hotwords, lexicons, language models, texts to translate,
training settings and the form fields of the service.
Long form: `python -m tests.fuzz.manifests --count 100000 --seed 0 --out tests/fuzz/results/manifests.json`.
It goes on where the file given by --out ended, and stops at the first failure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from engine.errors import EngineError, HotwordWarning
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


def run(count: int, seed: int, out: Path | None, max_s: float, folder: Path, every: int = 1000) -> Record:
    """The long form: lines are counted, and the record is written every so many cases."""
    record = Record.read(out, seed) if out is not None else Record(seed)
    lines, readers = LineCounter(MODULES), make_readers(folder)
    lines.add(
        {path: seen for name, seen in record.seen.items() for path, n in lines.names.items() if n == name}
    )
    began = time.monotonic()
    while record.done < count and time.monotonic() - began < max_s:
        left = max_s - (time.monotonic() - began)
        fuzz(min(count, record.done + every), seed, folder, record, left, lines, readers)
        record.lines = lines.shares()
        record.seen = {name: sorted(lines.seen[path]) for path, name in lines.names.items()}
        if out is not None:
            record.write(out, f"python -m tests.fuzz.manifests --count {count} --seed {seed}")
        print(f"{record.done} of {count}, {record.seconds:.0f} s, lines {record.share():.1%}", flush=True)
    for name, missed in lines.missing().items():
        print(f"  not reached in {name}: {missed}", file=sys.stderr)
    return record


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_s", type=float, default=float("inf"), help="seconds after which it stops")
    parser.add_argument("--out", type=Path, help="JSON with the counts; continued where it is there")
    parser.add_argument("--folder", type=Path, help="where an input that fails is written")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz_manifests_"))
    folder.mkdir(parents=True, exist_ok=True)
    record = run(options.count, options.seed, options.out, options.max_s, folder)
    print(dict(record.total().most_common()))


if __name__ == "__main__":
    main()
