"""Is anything slower than in an earlier version? Two checkouts in turn in one run, stage by stage.

    git worktree add ../earlier COMMIT && (cd ../earlier && python -m engine.warmup)
    python -m benchmarks.studies.versions ../earlier --data clips.tsv --json versions.json

Both run in processes of their own, on the same clips and texts, with one thread. Figures are CPU time; a
ratio above 1 says that this checkout is faster. Where outputs differ, the report says in how many calls.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import engine
from benchmarks.errors import MeasurementError, WrongOutputError
from benchmarks.protocol.driver import Driver, Roster, finite, ratios
from benchmarks.reports.provenance import commit, provenance
from benchmarks.run import RunSettings, load_data
from engine.audio.parts import load_part
from engine.bundle.signature import cpu_model

SCRIPT = Path(__file__).parents[1] / "peers" / "our_checkout.py"
HERE = Path(engine.__file__).parents[1]
IMPORTS = ("import engine", "import engine; engine.load(threads=1)")
LONGEST_S = 300.0  # of one start
PIECE = 20 * 16_000  # samples that an encoder takes at once
Inputs = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    options = parse(argv)
    checkouts = {"earlier": options.earlier.resolve(), "this": HERE}
    with Driver() as driver:
        driver.start(
            {
                label: Roster(SCRIPT, ("--checkout", str(path), "--label", label), sys.executable)
                for label, path in checkouts.items()
            }
        )
        if driver.left_out:
            raise MeasurementError(
                "; ".join(driver.left_out.values()), "two checkouts that load", "compile the earlier one"
            )
        inputs = make_inputs(options, driver)
        stages = {name: compare(driver, name, inputs[name], options.rounds) for name in tqdm(inputs)}
        starts = {code: start(code, checkouts, options.starts) for code in IMPORTS}
        report = {
            "signature": f"threads:1|rounds:{options.rounds}|cpu:{cpu_model()}",
            **provenance("python -m benchmarks.studies.versions", argv),
            "earlier": commit(options.earlier),
            "checkouts": driver.signatures(),
            "stages": stages,
            "starts": starts,
        }
    show({**stages, **starts})
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.studies.versions", description=__doc__.split("\n")[0])
    parser.add_argument("earlier", type=Path, help="checkout of the earlier version, its kernels compiled")
    parser.add_argument("--data", help="clips to recognise; the examples where not given")
    parser.add_argument("--limit", type=int, default=20, help="clips, at most")
    parser.add_argument(
        "--texts", type=Path, help="German lines to translate; the transcripts where not given"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=9, help="new processes of each kind")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def make_inputs(options: argparse.Namespace, driver: Driver) -> dict[str, list[Inputs]]:
    """What each stage is given, the same for both versions; emissions come from this one."""
    utterances = load_data(RunSettings(data=options.data, limit=options.limit)).utterances
    clips: list[Inputs] = [
        {"waveform": load_part(row.path, row.offset_s, row.duration_s)} for row in utterances
    ]
    pieces: list[Inputs] = [{"waveform": clip["waveform"][:PIECE]} for clip in clips]
    encoder = driver.systems["this: encoder"]
    emissions: list[Inputs] = [{"log_probs": encoder.run(piece).outputs["log_probs"]} for piece in pieces]
    two = driver.systems["this: two passes"]
    if options.texts:
        lines = options.texts.read_text(encoding="utf-8").splitlines()[:32]
    else:
        lines = [two.run(clip).outputs["texts"][0] for clip in clips]
    return {
        "features": pieces,
        "encoder": pieces,
        "one pass": clips,
        "two passes": clips,
        "search": emissions,
        "line": [{"texts": [line]} for line in lines[:8]],
        "lines": [{"texts": lines}],
    }


def compare(driver: Driver, stage: str, items: Sequence[Inputs], rounds: int) -> dict[str, Any]:
    """CPU milliseconds of a round of both versions, their ratio, and in how many calls they differ."""
    names = [f"{label}: {stage}" for label in ("earlier", "this")]
    found = driver.run(items, rounds, check, names)
    if driver.lost:
        raise MeasurementError("; ".join(driver.lost.values()), "both versions to run", "see the reason")
    earlier, this = (found[name] for name in names)
    calls = {name: [time for times in found[name].cpu_s for time in times] for name in names}
    return {
        "earlier_ms": 1e3 * earlier.median_s(),
        "this_ms": 1e3 * this.median_s(),
        "ratio": ratios(calls, names[1])[names[0]],
        "calls": len(items),
        "different": sum(not same(a, b) for a, b in zip(earlier.outputs, this.outputs, strict=True)),
    }


def check(_: int, outputs: Inputs) -> None:
    """An output that says something.

    Raises:
        WrongOutputError: no texts, or numbers that are not finite.
    """
    for name, values in outputs.items():
        if name != "texts":
            finite(name, values)
        elif not all(values):
            raise WrongOutputError("an empty text", "words")


def same(first: Inputs, second: Inputs) -> bool:
    """Whether two outputs are equal, to the last bit."""
    return all(np.array_equal(first[name], second[name]) for name in first)


def start(code: str, checkouts: Mapping[str, Path], rounds: int) -> dict[str, Any]:
    """CPU milliseconds of new processes, in turn; the first of each is not counted."""
    spent: dict[str, list[float]] = {label: [] for label in checkouts}
    for number in range(rounds + 1):
        for label, path in checkouts.items():
            before = children_s()
            environment = {**os.environ, "PYTHONPATH": str(path)}
            command = [sys.executable, "-P", "-c", code]
            subprocess.run(command, env=environment, check=True, timeout=LONGEST_S)
            if number:
                spent[label].append(1e3 * (children_s() - before))
    return {
        **{f"{label}_ms": float(np.median(times)) for label, times in spent.items()},
        "ratio": ratios(spent, "this")["earlier"],
        "calls": rounds,
    }


def children_s() -> float:
    """CPU seconds of all processes that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """A table."""
    print(f"{'':44s} {'earlier':>10s} {'this':>10s} {'ratio':>6s}")
    for name, row in rows.items():
        differ = f"  {row['different']} of {row['calls']} differ" if row.get("different") else ""
        print(f"{name:44s} {row['earlier_ms']:7.1f} ms {row['this_ms']:7.1f} ms {row['ratio']:6.3f}{differ}")


if __name__ == "__main__":
    sys.exit(main())
