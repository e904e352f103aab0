"""The wav2vec2 encoder against other ways to run the same weights: one core, in turn, in one run.

    python -m benchmarks.peers.encoder --checkpoint none --cases "5 s" "15 s" --peer_python \\
        openvino=PEERS/openvino/bin/python --json encoder.json

benchmarks/peers/README.md explains what is timed, what is not, and how to make the peers' environments.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.errors import PeerError
from benchmarks.peers import encoder_models as models
from benchmarks.peers.encoder_memory import alone, measure_memory
from benchmarks.peers.encoder_report import measure, merge, ratios, render
from benchmarks.peers.our_encoder import NAMES, kernel_level, open_systems, write_graphs
from benchmarks.protocol.driver import Driver, LocalSystem, Roster
from benchmarks.protocol.worker.peer_worker import level
from benchmarks.reports.provenance import commit, provenance
from engine.bundle.signature import cpu_model

CASES = {"5 s": (1, 5.0), "15 s": (1, 15.0), "30 s": (1, 30.0), "8 x 10 s": (8, 10.0)}
SCRIPTS = Path(__file__).parent / "encoders"
OWN = SCRIPTS / "engine_encoder.py"
GRAPHS: dict[str, tuple[tuple[str, ...], ...]] = {  # by peer: system, file, and OpenVINO's precision
    "onnxruntime": (
        ("onnxruntime fp32", "plain"),
        ("onnxruntime dynamic int8", "dynamic"),
        ("onnxruntime static int8 QDQ", "static"),
    ),
    "openvino": (
        ("openvino bf16", "plain", "bf16"),
        ("openvino int8 MatMul+Conv, f32", "static", "f32"),
        ("openvino int8 MatMul+Conv, bf16", "static", "bf16"),
        ("openvino int8 MatMul, bf16", "static_matmul", "bf16"),
    ),
    "sherpa": (("sherpa-onnx fp32", "plain"), ("sherpa-onnx dynamic int8", "dynamic")),
}
PEERS = ("transformers", "onnxruntime", "openvino", "ctranslate2", "sherpa")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    from export.acoustic.wav2vec2 import run_torch

    options = parse(argv)
    core = pin(options.core)
    model = models.load_model(options.checkpoint, options.variant)
    calibration = models.calibration_set(models.load_speech(options.calibration, measured=False))
    with tempfile.TemporaryDirectory() as folder:
        files = models.prepare_graphs(model, calibration, options.models or Path(folder), needed(options))
        ours = write_graphs(model, calibration, files["plain"].parent / "ours", options.systems or NAMES)
        if options.prepare:
            return 0
        speech = models.load_speech(options.audio, measured=True)
        cases = {case: models.cut(speech, *CASES[case]) for case in options.cases}
        expected = {case: run_torch(model, values) for case, values in cases.items()}
        vocab_size = model.config.vocab_size
        del model  # a large one needs as much memory as all others together
        report = compare(options, cases, expected, ours, roster(options, files, vocab_size))
        if options.memory:
            longest = max(cases, key=lambda case: cases[case].shape[1])
            peers = {
                name: Roster(OWN, ("--model", name, str(path)), sys.executable) for name, path in ours.items()
            }
            peers |= alone(roster(options, files, vocab_size))
            report["memory_mb"] = {longest: measure_memory(peers, cases[longest], options.systems)}
    report["signature"] = f"{signature(options)}|core:{core}"
    report["runs"] = [provenance("python -m benchmarks.peers.encoder", argv)]
    if options.json:
        if options.json.exists():
            report = merge(report, json.loads(options.json.read_text(encoding="utf-8")))
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(render(report))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers.encoder", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="none", help="a save_pretrained folder; none: random weights")
    parser.add_argument("--variant", choices=list(models.VARIANTS), default="base", help="of random weights")
    parser.add_argument("--audio", type=Path, help="manifest whose odd clips are timed; default: synthetic")
    parser.add_argument("--calibration", type=Path, help="manifest whose even clips calibrate int8")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="rows to measure; default: all")
    parser.add_argument("--peer_python", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--core", type=int, help="the core that everything runs on; default: the last one")
    parser.add_argument(
        "--models", type=Path, help="folder for the peers' graphs, used again by the next run"
    )
    parser.add_argument(
        "--memory", action="store_true", help="run each system alone in a process too: its most memory"
    )
    parser.add_argument("--prepare", action="store_true", help="only make the graphs")
    parser.add_argument(
        "--json", type=Path, help="result file; its cases with an equal signature are not measured again"
    )
    options = parser.parse_args(argv)
    given = dict(pair.partition("=")[::2] for pair in options.peer_python)
    wrong = [name for name, python in given.items() if name not in PEERS or not python]
    if wrong or options.rounds < 1 or (options.prepare and not options.models):
        parser.error(
            f"--peer_python takes NAME=PYTHON of {', '.join(PEERS)}, --rounds at least 1, --prepare --models"
        )
    options.peer_python = given
    return options


def pin(core: int | None) -> int:
    """Bind this process and every one that it starts to one core; -1 where the system cannot."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if not hasattr(os, "sched_setaffinity"):
        return -1
    chosen = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {chosen})
    return chosen


def compare(
    options: argparse.Namespace,
    inputs: Mapping[str, Any],
    expected: Mapping[str, Any],
    ours: Mapping[str, Path],
    peers: Mapping[str, Roster],
) -> dict[str, Any]:
    """Time ours and every peer; the report without its signature.

    Args:
        inputs, expected: by case, samples and the reference's logits.
    """
    with Driver({name: LocalSystem(run) for name, run in open_systems(ours).items()}) as driver:
        driver.start(peers)
        driver.choose(options.systems)
        cases = {
            case: measure(driver, values, expected[case], options.rounds) for case, values in inputs.items()
        }
    return {
        "cases": cases,
        "ratios": ratios(cases),
        "peers": driver.signatures(),
        "left_out": driver.why_not(),
    }


def roster(options: argparse.Namespace, files: dict[str, Path], vocab_size: int) -> dict[str, Roster]:
    """The chosen peers' scripts and arguments."""
    path = {name: str(file) for name, file in files.items()}
    chosen = {
        peer: [(name, *rest) for name, *rest in listed if is_chosen(name, options.systems)]
        for peer, listed in GRAPHS.items()
    }
    arguments: dict[str, list[str]] = {
        "transformers": ["--checkpoint", path["checkpoint"]],
        "ctranslate2": ["--checkpoint", path["checkpoint"]],
        **{
            peer: [part for name, file, *rest in listed for part in ("--model", name, path[file], *rest)]
            for peer, listed in chosen.items()
        },
    }
    arguments["sherpa"] = ["--vocab_size", str(vocab_size), *arguments["sherpa"]]
    wanted = [name for name in options.peers if name not in chosen or chosen[name]]
    return {
        name: Roster(
            SCRIPTS / f"{name}_encoder.py",
            tuple(arguments[name]),
            options.peer_python.get(name, sys.executable),
        )
        for name in wanted
    }


def is_chosen(name: str, systems: Sequence[str] | None) -> bool:
    """Whether a row will be measured; OpenVINO calls rows in bfloat16 f32 where the processor lacks that."""
    return systems is None or name in systems or name.replace("bf16", "f32") in systems


def needed(options: argparse.Namespace) -> set[str]:
    """The files that the chosen peers run."""
    files = {"checkpoint"} if {"transformers", "ctranslate2"} & set(options.peers) else set()
    for peer, listed in GRAPHS.items():
        if peer in options.peers:
            files |= {file for name, file, *_ in listed if is_chosen(name, options.systems)}
    return files | {"plain"} if files - {"checkpoint"} else files  # the others are made of it


def signature(options: argparse.Namespace) -> str:
    """What the figures were measured with; the peers' own versions are in the report's "peers"."""
    weights = f"random wav2vec2-base ({options.variant})"
    if options.variant not in ("base", "layer"):
        weights = f"random {options.variant}"
    if options.checkpoint != "none":
        weights = Path(options.checkpoint).name
    installed = [f"{name}:{package_version(name)}" for name in ("torch", "transformers", "onnxruntime-gpu")]
    return "|".join(
        [
            f"weights:{weights}",
            f"audio:{short(options.audio)}",
            f"calibration:{short(options.calibration)}",
            f"threads:1|rounds:{options.rounds}|warm-up:1",
            *installed,
            f"commit:{commit()}",
            f"cpu:{cpu_model()}",
            f"kernels:{kernel_level()}",
            f"level:{level()}",
        ]
    )


def short(manifest: Path | None) -> str:
    """A manifest's file and folder, without their path on this machine."""
    return "synthetic" if manifest is None else f"{manifest.resolve().parent.name}/{manifest.name}"


def package_version(name: str) -> str:
    """The version of an installed package; "-" where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except PeerError as error:
        raise SystemExit(f"error: {error}") from error
