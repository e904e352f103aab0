"""What each subcommand takes and does."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError, PeerError
from benchmarks.extras import SCORING, check_extras
from benchmarks.gate import Limits, judge, load_result, verdict_of
from benchmarks.measures.systems import EngineSystem, PeerSystem, System
from benchmarks.options import (
    Progress,
    add_data_options,
    add_engine_options,
    add_measuring_options,
    check_outputs,
    fraction,
    listed,
    measure_engine,
    positive,
    settings_of,
)
from benchmarks.reports.html import write_report
from benchmarks.reports.table import (
    render_cascade,
    render_cold_start,
    render_comparison,
    render_findings,
    render_result,
    render_sweep,
)
from benchmarks.run import load_data, load_engine, write_json
from benchmarks.studies.cascade import run_cascade, variants
from benchmarks.studies.compare import compare_results
from benchmarks.studies.sweep import Grid, cold_start, run_sweep
from engine.output.targets import check_apart

EXIT_OK, EXIT_FAILED, EXIT_UNMEASURED = 0, 1, 2
GATE_REPEATS = 5


def configure_run(parser: argparse.ArgumentParser) -> None:
    """Options of the plain command."""
    add_data_options(parser)
    add_engine_options(parser)
    add_measuring_options(parser)
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="group errors by a manifest column (repeatable)",
    )
    parser.add_argument("--compare", metavar="MODEL2", help="compare with a second model, both run in turn")
    parser.add_argument(
        "--against", metavar="PEER", help="compare with a peer (benchmarks/peers), both run in turn"
    )
    parser.add_argument(
        "--both_passes", action="store_true", help="compare with the first pass alone, both run in turn"
    )
    parser.add_argument(
        "--peer_python", default=sys.executable, metavar="PATH", help="interpreter of the peer"
    )
    parser.add_argument("--peer_args", default="", metavar="ARGS", help="arguments of the peer's script")
    parser.add_argument(
        "--cascade", action="store_true", help="BLEU from gold and from recognised transcripts"
    )
    parser.add_argument(
        "--cold_start", action="store_true", help="import, load and first result, in a new process"
    )
    parser.add_argument("--report", metavar="HTML", help="write a page with plots")
    parser.add_argument(
        "--history", nargs="+", default=[], metavar="JSON", help="earlier results for the page"
    )


def run(options: argparse.Namespace) -> int:
    """Measure, print, write."""
    settings = settings_of(options)
    if options.compare and options.against:
        raise BenchmarkError("--compare and --against together", "one of them", "run twice")
    if options.report:
        check_extras("matplotlib")
    first, *rest = measure_engine(options, settings, lambda system: _others(options, system))
    result = {**first, **options.provenance}
    if options.both_passes:
        result["one_pass"] = compare_results(first, rest[0])
    if options.compare or options.against:
        result["comparison"] = compare_results(first, rest[-1])
    if options.cascade:
        result["cascade"] = _cascade(options)
    if options.cold_start:
        path = load_data(settings).utterances[0].path
        result["cold_start"] = cold_start(settings, path, result["task"])
    _publish(result, options)
    failed = result["failures"] or any(other["failures"] for other in rest)
    return EXIT_FAILED if failed else EXIT_OK


def _others(options: argparse.Namespace, first: EngineSystem) -> list[System]:
    """The systems that take turns with the engine: its first pass only, then a second model or a peer."""
    found: list[System] = []
    if options.both_passes:
        if first.translator.choose_passes(first.options) == 1:
            raise BenchmarkError("--both_passes with one pass", "a model with two passes, without --passes 1")
        found.append(load_engine(replace(settings_of(options), task=first.task, passes=1), ()))
    if options.compare:
        found.append(_second_model(options, first))
    elif options.against:
        found.append(_peer(options, first))
    return found


def _second_model(options: argparse.Namespace, first: EngineSystem) -> System:
    settings = replace(settings_of(options), model=options.compare, task=first.task)
    return load_engine(settings, ())


def _peer(options: argparse.Namespace, first: EngineSystem) -> System:
    peer = PeerSystem(
        options.against,
        python=options.peer_python,
        arguments=shlex.split(options.peer_args),
        threads=options.threads or first.translator.threads,
    )
    if first.task not in peer.tasks:
        peer.close()
        raise PeerError(f"{peer.name} cannot {first.task}", fix=f"add --task {peer.tasks[0]}")
    return peer


def _cascade(options: argparse.Namespace) -> dict[str, Any]:
    settings = replace(settings_of(options), task="translate")
    utterances = load_data(settings).utterances
    system = load_engine(settings, utterances)
    progress = Progress(options.quiet)
    try:
        return run_cascade(system, utterances, progress(len(variants(system)), "cascade"))
    finally:
        progress.close()


def _publish(result: dict[str, Any], options: argparse.Namespace) -> None:
    """JSON first: if a plot fails, the measurement must not be lost."""
    if options.json:
        write_json(result, Path(options.json))
    print(render_result(result))
    for key, render in (
        ("one_pass", render_comparison),
        ("comparison", render_comparison),
        ("cascade", render_cascade),
        ("cold_start", render_cold_start),
    ):
        if key in result:
            print("", render(result[key]), sep="\n")
    if options.report:
        history = [load_result(Path(name)) for name in options.history]
        write_report([*history, result], Path(options.report))
        print(f"\nreport: {options.report}")


def configure_gate(parser: argparse.ArgumentParser) -> None:
    """Options of `gate`; what is not given is taken from the baseline."""
    default = Limits()
    parser.add_argument("--baseline", required=True, metavar="JSON", help="result file to compare with")
    parser.add_argument("--current", metavar="JSON", help="judge this result file instead of measuring")
    parser.add_argument(
        "--update", action="store_true", help="measure and write the baseline, without a comparison"
    )
    parser.add_argument(
        "--max-wer-increase",
        "--max_wer_increase",
        type=fraction,
        default=default.max_wer_increase,
        metavar="F",
        help="as a fraction: 0.01 is one point (%(default)s)",
    )
    parser.add_argument(
        "--max-bleu-decrease",
        "--max_bleu_decrease",
        type=fraction,
        default=default.max_bleu_decrease,
        metavar="B",
        help="in BLEU points (%(default)s)",
    )
    parser.add_argument(
        "--max-slowdown",
        "--max_slowdown",
        type=fraction,
        default=default.max_slowdown,
        metavar="F",
        help="share of the baseline's time: 0.05 is five percent (%(default)s)",
    )
    parser.add_argument(
        "--machine-tolerance",
        "--machine_tolerance",
        type=fraction,
        default=default.machine_tolerance,
        metavar="F",
        help="added to it when the baseline comes from another processor (%(default)s)",
    )
    add_data_options(parser)
    add_engine_options(parser)
    add_measuring_options(parser)


def gate(options: argparse.Namespace) -> int:
    """Compare a run with a baseline."""
    path = Path(options.baseline)
    if options.update:
        result = measure_engine(options, settings_of(options, repeats=GATE_REPEATS))[0]
        write_json({**result, **options.provenance}, path)
        print(render_result(result), f"\nbaseline: {path}", sep="\n")
        return EXIT_FAILED if result["failures"] else EXIT_OK
    check_extras(*SCORING)
    baseline = load_result(path)
    if options.json:
        check_apart([options.json], filter(None, [path, options.current]))
    if options.current:
        current = load_result(Path(options.current))
    else:
        known = {**baseline["settings"], "task": baseline["task"]}
        current = measure_engine(options, settings_of(options, **known))[0]
        if options.json:
            write_json({**current, **options.provenance}, Path(options.json))
    limits = Limits(
        options.max_wer_increase, options.max_bleu_decrease, options.max_slowdown, options.machine_tolerance
    )
    findings = judge(current, baseline, limits)
    verdict = verdict_of(findings)
    print(render_findings(findings, verdict, current, baseline))
    return {"pass": EXIT_OK, "regression": EXIT_FAILED, "undecided": EXIT_UNMEASURED}[verdict]


def configure_sweep(parser: argparse.ArgumentParser) -> None:
    """Options of `sweep`."""
    add_data_options(parser)
    add_engine_options(parser)
    add_measuring_options(parser)
    parser.add_argument(
        "--threads_list", type=listed(positive), default=[1], metavar="N,N", help="engine threads (1)"
    )
    parser.add_argument(
        "--batch_size",
        type=listed(positive),
        default=[1],
        metavar="N,N",
        help="recordings given to one call of transcribe_batch; 1 calls transcribe (1)",
    )
    parser.add_argument(
        "--concurrency", type=listed(positive), default=[1], metavar="N,N", help="callers at once (1)"
    )
    parser.add_argument(
        "--lengths", type=listed(fraction), default=[], metavar="S,S", help="cut the audio to these seconds"
    )


def sweep(options: argparse.Namespace) -> int:
    """Speed over a grid of threads, batch sizes, callers and lengths."""
    settings = settings_of(options)
    data = load_data(settings)
    check_outputs(options, data)
    progress = Progress(options.quiet)
    grid = Grid(options.threads_list, options.batch_size, options.concurrency, options.lengths)
    try:
        result = run_sweep(settings, data, grid, progress(len(grid) * settings.repeats, "sweep"))
    finally:
        progress.close()
    if options.json:
        write_json({**result, **options.provenance}, Path(options.json))
    print(render_sweep(result))
    return EXIT_OK


def configure_report(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument(
        "results", nargs="+", metavar="JSON", help="result files; the last one is the subject"
    )
    parser.add_argument("--output", required=True, metavar="HTML", help="the page")


def report(options: argparse.Namespace) -> int:
    """Write a page about the last result, with the others as its history."""
    check_extras("matplotlib")
    check_apart([options.output], options.results)
    results: Sequence[dict[str, Any]] = [load_result(Path(name)) for name in options.results]
    write_report(results, Path(options.output))
    print(f"report: {options.output}")
    return EXIT_OK
