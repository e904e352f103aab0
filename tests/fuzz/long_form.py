"""The long form of a fuzzer: blocks of cases, lines counted, the record written behind each block."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.lines import LineCounter
from tests.fuzz.record import Record

Block = Callable[[Record, int, float], object]  # record, number of cases up to which it goes, seconds left


def read_options(description: str | None, count: int, prefix: str) -> argparse.Namespace:
    """The command line: count, seed, max_s, out, and a folder that is there.

    Args:
        count: of cases, unless another is named. prefix: of the folder's name, unless one is named.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_s", type=float, default=float("inf"), help="seconds after which it stops")
    parser.add_argument("--out", type=Path, help="JSON with the counts; continued where it is there")
    parser.add_argument("--folder", type=Path, help="where the input of a case that fails is written")
    options = parser.parse_args()
    options.folder = options.folder or Path(tempfile.mkdtemp(prefix=prefix))
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


def run(options: argparse.Namespace, module: str, every: int, lines: LineCounter, block: Block) -> Record:
    """Run blocks until there are enough cases or the time is over, from where the last run ended.

    Args:
        options: from read_options. module: the fuzzer's, as the record names it.
        every: cases of a block.
        lines: what the blocks count into.
        block: runs cases and notes them in the record.
    Raises:
        Whatever a block raises; the record of the blocks before is written.
    """
    record = Record.read(options.out, options.seed) if options.out is not None else Record(options.seed)
    lines.add({path: record.seen.get(name, []) for path, name in lines.names.items()})
    began = time.monotonic()
    while record.done < options.count and time.monotonic() - began < options.max_s:
        left_s = options.max_s - (time.monotonic() - began)
        block(record, min(options.count, record.done + every), left_s)
        record.lines = lines.shares()
        record.seen = {name: sorted(lines.seen[path]) for path, name in lines.names.items()}
        if options.out is not None:
            command = f"python -m {module} --count {options.count} --seed {options.seed}"
            record.write(options.out, command)
        said = f"{record.done} of {options.count}, {record.seconds:.0f} s, lines {record.share():.1%}"
        print(said, flush=True)
    for name, missed in lines.missing().items():
        print(f"  not reached in {name}: {missed}", file=sys.stderr)
    print(dict(record.total().most_common()))
    return record
