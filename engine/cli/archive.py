"""`engine transcribe --manifest IN --shard I/N`: a shard of an archive, one line a recording."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.many import ended_by_signals
from engine.cli.settings import decoding_options, load_model
from engine.cli.terminal import complain, progress_bar, say
from engine.errors import EngineError, OptionError

if TYPE_CHECKING:
    from engine.jobs.shard_records import Status
    from engine.jobs.shards import Plan, Shard
    from engine.manifests.recordings import Recording


def add_inputs(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """What is recognised: inputs one by one, or a shard of a manifest; what is finished may be left out.

    Args:
        required: refuse a command line that names neither.
    """
    inputs = parser.add_mutually_exclusive_group(required=required)
    inputs.add_argument(
        "files", nargs="*", default=[], metavar="FILE",
        help="audio or video files, folders, patterns ('**/*.mp3'), or - for standard input",
    )  # fmt: skip
    inputs.add_argument(
        "--manifest", metavar="IN", help="a JSONL, TSV or CSV list of recordings, for archives"
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="with --manifest: part I of N, from 1/N to N/N (default: all)"
    )
    parser.add_argument(
        "--skip_existing", "--resume", action="store_true",
        help="skip recordings whose output is in --output_dir; always on with --manifest",
    )  # fmt: skip


def run_manifest(options: argparse.Namespace) -> int:
    """Work on a shard until all of its recordings have a line or a failure; exit code 1 where some failed."""
    from engine.jobs.shards import parse_shard, plan_shard
    from engine.manifests.recordings import read_recordings

    _check(options)
    shard, manifest = parse_shard(options.shard or "1/1"), Path(options.manifest)
    plan = plan_shard(read_recordings(manifest), manifest.parent, shard)
    status = _run(options, plan, shard, manifest)
    say(f"shard {shard}: {status.done} of {status.header.rows} done, {status.failed} failed")
    if status.failed:
        complain(
            f"engine: {status.failed} failed: see {options.output_dir}/{shard.stem}.failures.jsonl; "
            "the same command tries them again"
        )
    return 1 if status.failed else 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what would be ignored."""
    if options.output_dir is None:
        raise OptionError("--manifest without --output_dir", "a folder", "add --output_dir DIR")
    given = [
        name
        for name in ("output_format", "word_timestamps", "text_file", "output", "verbose")
        if getattr(options, name, None)
    ]
    if given:
        raise OptionError(
            f"--{given[0]} with --manifest",
            "neither of the two with the other",
            f"leave out --{given[0]}",
        )


def _run(options: argparse.Namespace, plan: Plan, shard: Shard, manifest: Path) -> Status:
    from engine.jobs.archive import Order, run_shard

    order = Order(plan, shard, manifest, Path(options.output_dir), options.task, decoding_options(options))
    translator = load_model(options)
    done = 0

    def tell() -> None:
        said = f"shard {shard}: {done} of {len(plan.recordings)} done"
        complain(f"engine: {said}; the same command goes on from there")

    with progress_bar(len(plan.recordings), "recording") as bar, ended_by_signals(tell) as cancel:

        def report(recording: Recording, error: EngineError | None) -> None:
            nonlocal done
            bar.update()
            if error is None:
                done += 1
            else:
                complain(f"engine: error: {recording.id}: {error}")

        return run_shard(translator, order, report, cancel)
