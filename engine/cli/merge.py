"""`engine merge FOLDER`: which shards of an archive are there, and, where all are, one file of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.cli.terminal import complain, say
from engine.jobs.merge import inspect_archive, merge_archive
from engine.output.targets import Inputs, check_target

MAX_SHOWN = 20


def add_merge(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand's options."""
    purpose = "check that no shard of an archive is missing, unfinished or duplicated, and join the shards"
    parser = commands.add_parser("merge", help=purpose, description=purpose)
    parser.add_argument("folder", metavar="FOLDER", help="the --output_dir of engine transcribe --manifest")
    parser.add_argument(
        "--output", metavar="OUT.jsonl", help="file for the joined lines (default: check only)"
    )
    parser.set_defaults(run=run_merge)


def run_merge(options: argparse.Namespace) -> int:
    """Say how the shards are; exit code 1 where the archive is not complete, or recordings failed."""
    folder = Path(options.folder)
    if options.output:
        check_target(options.output, Inputs(folder.glob("shard-*")))
    archive = merge_archive(folder, Path(options.output)) if options.output else inspect_archive(folder)
    say(
        f"{len(archive.finished)} of {archive.n_shards} shards finished: "
        f"{archive.n_done} recordings done, {archive.n_failed} failed"
    )
    for problem in archive.problems[:MAX_SHOWN]:
        complain(f"engine: error: {problem}")
    if len(archive.problems) > MAX_SHOWN:
        complain(f"engine: error: and {len(archive.problems) - MAX_SHOWN} more")
    if archive.problems:
        if options.output:
            complain(f"engine: {options.output} was not written")
        return 1
    if archive.n_failed:
        complain(f"engine: {archive.n_failed} recordings failed; their shards can be run again")
    return 1 if archive.n_failed else 0
