"""Build the other packages' environment, let them work, compare: `make interop`.

    python -m benchmarks.peers.interop --environment .venv-interop --json benchmarks/results/interop.json

Each step is left out where its result is there already and what it depends on has not changed, so that a
run that was interrupted goes on. Ends with 1 where something disagrees, with 2 where a step failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.peers.interop.environment import (
    build_environment,
    install_beside,
    packages_digest,
    run_step,
)
from benchmarks.peers.interop.record import record_facts
from benchmarks.reports.provenance import commit, provenance

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PROGRAM = "python -m benchmarks.peers.interop"
STEP_S = 1800
MODELS = ("tiny", "pieces", "base")  # the first two are recorded, and the first is decoded
OURS = ("numpy", "onnxruntime", "transformers", "torch", "numba")


def main(argv: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    options = parse(argv)
    python = build_environment(options.environment, options.torch)
    folder = options.environment / "work"
    cases = prepare_cases(folder, options.models)
    answers = {verb: ask(python, verb, folder) for verb in ("models", "decode", "kenlm")}
    beside = ask_beside(folder)
    rows = compare(folder, cases, answers, beside)
    versions = {"theirs": answers["models"]["versions"], "ours": {name: version(name) for name in OURS}}
    versions["ours"] |= {"python": platform.python_version()}
    versions["beside"] = beside["versions"]
    result: dict[str, Any] = {"signature": sign(versions), **provenance(PROGRAM, argv), "versions": versions}
    result |= {"agree": all(row.agrees for row in rows), "rows": [row.as_json() for row in rows]}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.record:
        record_facts(folder, answers, options.record)
    print_table(rows)
    return 0 if result["agree"] else 1


def prepare_cases(folder: Path, models: Sequence[str]) -> Any:
    """The cases, written again where they are missing or other than before."""
    from benchmarks.peers.interop.cases import write_cases

    stamp, digest = folder / "cases.stamp", digest_of(HERE / "cases.py", HERE / "oracle.py")
    digest += " ".join(models)
    if not stamp.is_file() or stamp.read_text() != digest:
        print("writing the cases ...", flush=True)
        write_cases(folder, models)
        for verb in ("models", "decode", "kenlm", "beside"):
            (folder / f"{verb}.json").unlink(missing_ok=True)
        stamp.write_text(digest)
    return json.loads((folder / "cases.json").read_text(encoding="utf-8"))


def digest_of(*paths: Path) -> str:
    """Of files and of the list of packages."""
    digest = hashlib.sha256(packages_digest().encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def ask(python: Path, verb: str, folder: Path) -> Any:
    """One step of the oracle, unless its answer is there."""
    answer = folder / f"{verb}.json"
    if not answer.is_file():
        print(f"asking the other packages: {verb} ...", flush=True)
        command = [str(python), "-P", str(HERE / "oracle.py"), verb, str(folder)]
        run_step(command, f"oracle.py {verb}", STEP_S, OMP_NUM_THREADS="2", PYTHONWARNINGS="ignore")
    return json.loads(answer.read_text(encoding="utf-8"))


def ask_beside(folder: Path) -> Any:
    """pyctcdecode inside the engine, unless its answer is there."""
    answer = folder / "beside.json"
    if not answer.is_file():
        target = install_beside(folder)
        print("pyctcdecode inside the engine ...", flush=True)
        command = [sys.executable, "-P", "-m", "benchmarks.peers.interop.beside", str(folder)]
        run_step(command, "beside", STEP_S, PYTHONPATH=f"{ROOT}:{target}", OMP_NUM_THREADS="1")
    return json.loads(answer.read_text(encoding="utf-8"))


def compare(folder: Path, cases: Any, answers: Any, beside: Any) -> Any:
    """All rows."""
    from benchmarks.peers.interop import compare as comparing

    decoded = answers["decode"]["answers"]
    print("comparing ...", flush=True)
    return [
        *comparing.compare_models(folder, cases, answers["models"]["answers"]),
        *comparing.compare_decoding(folder, cases, decoded),
        *comparing.compare_processor(folder, cases, decoded["processor"]),
        *comparing.compare_kenlm(folder, cases, answers["kenlm"]["answers"]),
        *comparing.compare_beside(beside["answers"], decoded["processor"]),
    ]


def sign(versions: Any) -> str:
    """What was compared, on what."""
    from engine.bundle.signature import cpu_model

    parts = [f"{name}:{number}" for name, number in versions["theirs"].items()]
    parts += [f"our-{name}:{number}" for name, number in versions["ours"].items()]
    return "|".join(["interop", *parts, f"cpu:{cpu_model()}", f"commit:{commit()}"])


def print_table(rows: Any) -> None:
    """A line for each comparison."""
    for row in rows:
        limit = "" if row.limit is None else f"{'<=' if row.at_most else '>='} {row.limit:g}"
        verdict = "  " if row.agrees else "NO"
        print(f"{verdict} {row.part:32.32} {row.what:64.64} {row.found:>9.4g} {limit:10} n={row.n}")
    failed = sum(not row.agrees for row in rows)
    print(f"{len(rows)} comparisons, {failed} of them beyond their limits")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--environment", type=Path, default=Path(".venv-interop"))
    parser.add_argument("--torch", default="torch==2.13.0", help="what pip installs as torch")
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="checkpoints to export")
    parser.add_argument("--record", type=Path, help="folder for the part of the answers that tests use")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (BenchmarkError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
