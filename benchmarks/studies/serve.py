"""`engine-bench serve`: the HTTP service under load.

The service is a child process of this one, on a free port of 127.0.0.1, or the one at `--url`, which must be
on this machine. One client asks for every kind of request first; whatever many clients get later is compared
with that, byte for byte. Clients and service share the cores of this machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.load import parts
from benchmarks.load.requests import Waveform, long_recording, make_kinds
from benchmarks.load.service import ChildService, Service
from benchmarks.options import Progress, fraction, listed, natural, positive
from benchmarks.reports.signature import environment
from benchmarks.reports.table import align, number
from benchmarks.run import RunSettings, load_data, write_json
from engine.audio.load import load_audio
from engine.bundle.folder import open_bundle
from engine.bundle.signature import bundle_digest, describe
from engine.bundle.signature import environment as versions

EXIT_OK, EXIT_FAILED = 0, 1
PARTS = ("closed", "load", "leave", "uploads", "long", "sessions")
MOST_CLIENTS, MOST_REQUESTS, MOST_S = 200, 100_000, 600.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("--url", help="of a service on this machine (starts its own)")
    parser.add_argument(
        "--model", metavar="PATH", help="bundle of the service that is started (the embedded)"
    )
    parser.add_argument("--data", metavar="MANIFEST", help="recordings to cut (the synthetic examples)")
    parser.add_argument(
        "--threads", type=natural, default=0, metavar="N", help="of the service; 0: all cores"
    )
    parser.add_argument(
        "--parts",
        type=listed(_part),
        default=["closed"],
        metavar="P,P",
        help=f"of {','.join(PARTS)} (closed)",
    )
    parser.add_argument("--clients", type=positive, default=20, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--requests", type=positive, default=10, metavar="N", help="of each client (%(default)s)"
    )
    parser.add_argument("--kinds", type=positive, default=52, metavar="N", help="of requests (%(default)s)")
    parser.add_argument(
        "--load", type=listed(fraction), default=[0.8], metavar="F,F", help="shares of the capacity (0.8)"
    )
    parser.add_argument(
        "--seconds",
        type=fraction,
        default=30.0,
        help="of each load, of the capacity and of sessions (%(default)g)",
    )
    parser.add_argument(
        "--capacity", type=fraction, metavar="N", help="requests a second, for --load (measured)"
    )
    parser.add_argument(
        "--sessions", type=listed(positive), default=[4, 8, 16], metavar="N,N", help="live at a time (4,8,16)"
    )
    parser.add_argument(
        "--passes", type=positive, choices=(1, 2), help="of the service, where a request says nothing (2)"
    )
    parser.add_argument("--slow", type=natural, default=60, metavar="N", help="slow uploads (%(default)s)")
    parser.add_argument("--endless", type=natural, default=8, metavar="N", help="endless ones (%(default)s)")
    parser.add_argument(
        "--endless_mb_s", type=fraction, default=10.0, metavar="MB", help="of all of these (%(default)g)"
    )
    parser.add_argument(
        "--long_s", type=fraction, default=2400.0, metavar="S", help="length of a long file (%(default)g)"
    )
    parser.add_argument(
        "--long_files", type=listed(positive), default=[1, 2, 4], metavar="N,N", help="at a time (1,2,4)"
    )
    parser.add_argument(
        "--max_rss_growth_mb", type=fraction, default=20.0, metavar="MB",
        help="exit with 1 beyond it, after the first 100 requests (%(default)g)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code."""
    _check(options)
    waveforms = [load_audio(str(item.path)) for item in load_data(RunSettings(data=options.data)).utterances]
    kinds = make_kinds(waveforms, options.kinds)
    wants_long = {"leave", "long"} & set(options.parts)
    long_audio = long_recording(waveforms, options.long_s) if wants_long else b""
    progress = Progress(options.quiet)
    try:
        with _open(options) as service:
            right = parts.learn(service, kinds, progress)
            bench = parts.Bench(service, kinds, right, long_audio, progress)
            result = measure(bench, options, waveforms)
            result = {"signature": _signature(service, options), **result}
    finally:
        progress.close()
    result |= {"environment": environment(), **options.provenance}
    if options.json:
        write_json(result, options.json)
    print(render(result))
    return EXIT_FAILED if problems(result, options.max_rss_growth_mb) else EXIT_OK


def measure(bench: parts.Bench, options: argparse.Namespace, waveforms: Sequence[Waveform]) -> dict[str, Any]:
    """All parts that were asked for."""
    result: dict[str, Any] = {"kinds": len(bench.kinds), "alone": parts.alone(bench)}
    if "closed" in options.parts:
        result["closed"] = parts.closed(bench, options.clients, options.requests)
    if "load" in options.parts:
        result["load"] = [
            parts.loaded(bench, share, options.seconds, options.clients, options.capacity)
            for share in options.load
        ]
    if "leave" in options.parts:
        with _open_wyoming(options) as wyoming:
            result["leave"] = parts.left_alone(bench, waveforms, wyoming)
    if "uploads" in options.parts:
        result["uploads"] = parts.uploads(
            bench, options.slow, options.endless, 1e6 * options.endless_mb_s, 2 * len(bench.kinds)
        )
    if "long" in options.parts:
        result["long"] = [parts.beside_long(bench, n_long) for n_long in options.long_files]
    if "sessions" in options.parts:
        result["sessions"] = parts.sessions(bench, waveforms, options.sessions, options.seconds)
    return result


def problems(result: Mapping[str, Any], max_rss_growth_mb: float) -> list[str]:
    """What no load may cause: wrong or missing answers, and memory that grows."""
    measured = [result.get("closed"), *result.get("load", ()), result.get("uploads")]
    measured += [*result.get("long", ()), *result.get("sessions", ())]
    found = [what for each in measured if each and each["n_wrong"] for what in each.get("wrong") or ["wrong"]]
    growth = (result.get("closed") or {}).get("rss_growth_mb") or 0.0
    return found + ([f"{growth:g} MB more memory"] if growth > max_rss_growth_mb else [])


def _check(options: argparse.Namespace) -> None:
    """Refuse a load without bounds."""
    for name, most in (
        ("clients", MOST_CLIENTS), ("requests", MOST_REQUESTS), ("seconds", MOST_S), ("kinds", 1000),
        ("slow", 500), ("endless", 100), ("long_s", 3600.0),
    ):  # fmt: skip
        if getattr(options, name) > most:
            raise BenchmarkError(f"--{name} {getattr(options, name):g}", f"at most {most:g}", "lower it")
    if options.capacity is not None and not 0 < options.capacity <= 1000:
        raise BenchmarkError(f"--capacity {options.capacity:g}", "above 0, at most 1000", "correct it")
    if any(not 0 < share <= 2 for share in options.load) or not options.endless_mb_s:
        raise BenchmarkError("a --load or --endless_mb_s of 0, or a --load above 2", "0.8, for instance")


def _open(options: argparse.Namespace) -> Service:
    if options.url:
        return Service(options.url)
    passes = ["--passes", str(options.passes)] if options.passes else []
    return ChildService([*_model_arguments(options), *passes])


def _open_wyoming(options: argparse.Namespace) -> AbstractContextManager[Service | None]:
    """A service of that protocol; none beside one that runs already."""
    if options.url:
        return nullcontext()
    return ChildService(_model_arguments(options), command="wyoming")


def _model_arguments(options: argparse.Namespace) -> list[str]:
    arguments = ["--threads", str(options.threads)]
    return [*arguments, *(["--model", options.model] if options.model else [])]


def _signature(service: Service, options: argparse.Namespace) -> str:
    if service.pid is None:
        return describe({"model": service.model(), "service": "of its own", **versions()})
    bundle = open_bundle(options.model)
    model = f"{bundle.name}@{bundle_digest(bundle)}"
    return describe({"model": model, "threads": options.threads or "all", **versions()})


def _part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"{text!r}; expected of {', '.join(PARTS)}")
    return text


def render(result: Mapping[str, Any]) -> str:
    """Short tables."""
    rows = [_row("one client", result["alone"]["n"], None, result["alone"]["latency_ms"])]
    closed = result.get("closed")
    if closed:
        rows.append(
            _row(f"{closed['clients']} clients", closed["n"], closed["n_wrong"], closed["latency_ms"])
        )
    for each in result.get("load", ()):
        rows.append(_row(f"load {each['share']:g}", each["n"], each["n_wrong"], each["latency_ms"]))
        rows.append(_row("a perfect queue", parts.QUEUED, None, each["queue_ms"]))
        paced = each["paced"]
        name = f"load {paced['share']:.2g}, {paced['clients']} clients"
        rows.append(_row(name, paced["n"], paced["n_wrong"], paced["latency_ms"]))
    if "uploads" in result:
        rows += [
            _row(f"{key} uploads", result["uploads"][key]["n"], result["uploads"][key]["n_wrong"],
                 result["uploads"][key]["latency_ms"])
            for key in ("without", "with")
        ]  # fmt: skip
    for each in result.get("long", ()):
        rows.append(_row(f"beside {each['n_long']} long", each["n"], each["n_wrong"], each["latency_ms"]))
    tables = [result["signature"].replace("|", " | ")]
    tables.append(align(rows, ["milliseconds", "requests", "wrong", "mean", "median", "95 %", "most"]))
    if closed:
        tables.append(_closed_line(closed))
    if "sessions" in result:
        tables.append(_sessions_table(result["sessions"]))
    if "leave" in result:
        left = [
            [each["case"], number(each["cpu_ms"]["mean"], 0), number(each["cpu_ms"]["max"], 0),
             number(each["wall_ms"]["max"], 0)]
            for each in result["leave"]
        ]  # fmt: skip
        tables.append(align(left, ["after the client left, ms", "CPU, mean", "CPU, most", "clock, most"]))
    return "\n\n".join(tables)


def _sessions_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for each in found:
        lags = [each[f"{kind}_lag_ms"] or {} for kind in ("partial", "final")]
        figures = [number(lag.get(key), 0) for lag in lags for key in ("p50", "p95", "max")]
        rows.append(
            [str(each["sessions"]), str(each["n_wrong"]), *figures, number(each["cores"]["service"], 2)]
        )
    names = [f"{kind}, {what}" for kind in ("partial", "final") for what in ("median", "95 %", "most")]
    return align(rows, ["live sessions, ms", "wrong", *names, "cores"])


def _closed_line(closed: Mapping[str, Any]) -> str:
    statuses = ", ".join(f"{status}: {count}" for status, count in closed["statuses"].items())
    growth = f"{number(closed['rss_growth_mb'])} MB more memory after the first {parts.WARM_REQUESTS}"
    speed = f"{closed['requests_per_s']:.1f} requests/s, {closed['cpu_ms_per_request']:.0f} ms of CPU each"
    return f"{speed}; {growth}; {statuses}"


def _row(name: str, n: int, n_wrong: int | None, latency: Mapping[str, float] | None) -> list[str]:
    figures = [number(latency[key] if latency else None, 0) for key in ("mean", "p50", "p95", "max")]
    return [name, str(n), number(n_wrong, 0), *figures]
