"""Mutated bundles, with the right hashes in their manifest: each is used, or refused with a typed error.

Every case loads the bundle, recognises a short clip with one pass and with two, translates and describes it,
by our own kernels or by onnxruntime, in a process of its own that lives from case to case.
Long form: `python -m tests.fuzz.bundles --count 10000 --seed 0 --out tests/fuzz/results/bundles.json`.
It goes on where the file given by --out ended, and stops at the first failure.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tests.fuzz import long_form
from tests.fuzz.bundle_files import Files, mutate_bundle, read_seeds
from tests.fuzz.bundle_worker import MODULES, WRITERS, serve
from tests.fuzz.lines import LineCounter
from tests.fuzz.record import (
    HANG_SECONDS,
    MAX_GROWTH_MB,
    MAX_SECONDS,
    NOISE_SECONDS,
    RERUNS,
    FuzzError,
    Record,
)

LINES_EVERY = 10
BACKENDS = ("auto", "onnxruntime")
START_SECONDS = 600.0  # of a process, which may have to compile


class Worker:
    """A process and the folder that it reads bundles from."""

    def __init__(self, seeds: dict[str, Files]) -> None:
        self.seeds = seeds
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz_bundles_")
        self.folder = Path(self._folder.name)
        self._held: Files = {}
        self._start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, str(self.folder)), daemon=True)
        self._process.start()
        other.close()
        for name in self.seeds:  # kernels are loaded, and undamaged bundles run
            for backend in BACKENDS:
                wanted = {"backend": backend, "traced": False, "translate": True, "describe": True}
                found = self.run(name, {}, wanted, START_SECONDS)
                if found["outcome"] != "used":
                    raise FuzzError(f"the undamaged bundle {name!r}: {found['said']}")
        self.usual_s = found["cpu_s"]

    def run(self, name: str, changed: Files, wanted: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What run_case found; a process that died or did not answer is an outcome too, and is replaced."""
        self._place({**self.seeds[name], **changed})
        try:
            self._pipe.send(wanted)
            if self._pipe.poll(seconds):
                return self._pipe.recv()  # type: ignore[no-any-return]
            said = f"no answer after {seconds:g} s"
        except (EOFError, OSError) as error:
            self._process.join(5)
            said = f"the process died with {self._process.exitcode} ({error!r})"
        self._process.kill()
        self._process.join()
        self._start()
        return {"outcome": "!crash", "said": said, "wall_s": 0.0, "cpu_s": 0.0, "growth_mb": 0.0, "lines": {}}

    def _place(self, files: Files) -> None:
        """Write what differs; never in place, since the process may have mapped a file."""
        for name in self._held.keys() - files.keys():
            (self.folder / name).unlink()
        for name, content in files.items():
            if self._held.get(name) != content:
                beside = self.folder / ".beside"
                beside.write_bytes(content)
                beside.replace(self.folder / name)
        self._held = files


def make_case(seeds: dict[str, Files], seed: int, number: int) -> tuple[str, Files, dict[str, Any]]:
    """Bundle, changed files, and what is done with it; translated only where that may have changed."""
    rng = np.random.default_rng([seed, number])
    backend, describe = BACKENDS[int(rng.integers(len(BACKENDS)))], bool(rng.random() < 0.2)
    name, changed = mutate_bundle(seeds, rng)
    files = set(changed) - {"manifest.json"}
    translate = not files or any(file.startswith("mt_") for file in files)
    traced = number % LINES_EVERY == 0
    return name, changed, {"backend": backend, "describe": describe, "translate": translate, "traced": traced}


def run_case(worker: Worker, seed: int, number: int, record: Record) -> dict[str, Any]:
    """One case, again where it only waited for the processor; "problem" says what is wrong, if anything."""
    name, changed, wanted = make_case(worker.seeds, seed, number)
    traced = wanted["traced"]
    for _ in range(RERUNS):
        found = worker.run(name, changed, wanted, HANG_SECONDS + 30 * traced)
        waited = found["wall_s"] > MAX_SECONDS and found["cpu_s"] < NOISE_SECONDS
        if not waited:
            break
        record.reruns += 1
    if not traced:
        record.note(found["wall_s"], found["cpu_s"], found["growth_mb"])
    problem = found["said"] if found["outcome"].startswith("!") else ""
    if not traced and found["cpu_s"] > MAX_SECONDS:
        problem = f"{found['cpu_s']:.1f} s of the processor"
    if found["growth_mb"] > MAX_GROWTH_MB:
        problem = f"{found['growth_mb']:.0f} MB"
    return {**found, "problem": problem, "bundle": name, "changed": changed, "backend": wanted["backend"]}


def fuzz(
    count: int, seed: int, worker: Worker, record: Record | None = None, max_s: float = float("inf"),
    lines: LineCounter | None = None, folder: Path | None = None,
) -> Record:  # fmt: skip
    """Run cases until there are count of them or max_s is over.

    Args:
        record: of a run that this one continues. folder: receives the files of a case that fails.
    Raises:
        FuzzError: a case failed; the message says which and how.
    """
    record, began = record or Record(seed), time.monotonic()
    while record.done < count and time.monotonic() - began < max_s:
        found = run_case(worker, seed, record.done, record)
        if lines is not None:
            lines.add(found["lines"])
        if found["problem"]:
            if folder is not None:
                for name, content in found["changed"].items():
                    (folder / name).write_bytes(content)
            said = f"{found['outcome']}, {sorted(found['changed'])}, {found['backend']}: {found['problem']}"
            raise FuzzError(f"case {record.done} of seed {seed}, {found['bundle']}: {said}")
        changed = [name for name in found["changed"] if name != "manifest.json"] or ["manifest.json"]
        record.count(f"{found['bundle']}/{changed[0]}", found["outcome"])
    record.seconds += time.monotonic() - began
    return record


def main() -> None:
    """The long form."""
    options = long_form.read_options(__doc__, 10_000, "fuzz_bundles_failed_")
    lines = LineCounter(MODULES, WRITERS)
    with Worker(read_seeds()) as worker:

        def block(record: Record, count: int, left_s: float) -> None:
            fuzz(count, options.seed, worker, record, left_s, lines, options.folder)

        long_form.run(options, "tests.fuzz.bundles", 200, lines, block)


if __name__ == "__main__":
    main()
