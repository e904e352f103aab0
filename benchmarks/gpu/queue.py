"""Commands for a machine with an NVIDIA GPU: each ends within ten minutes and prints a short table.

    python -m benchmarks.gpu.queue encoder --wheel-dir wheels --out out       parity and speed of the encoder
    python -m benchmarks.gpu.queue mt --out out -- --set data.train=[x.tsv]   the translation model, full size
    python -m benchmarks.gpu.queue mt --out out -- --config training/configs/mt_de_en_teacher.yaml
    python -m benchmarks.gpu.queue mt-distil --out out -- --teacher out/mt_run/final --data train.tsv.zst
    python -m benchmarks.gpu.queue from-whisper --out out -- --whisper W --train T.tsv --eval E.tsv
    python -m benchmarks.gpu.queue asr --out out -- --config X.yaml           an acoustic model, full size
    python -m benchmarks.gpu.queue encoder --device cpu --tiny                a dry run anywhere

Arguments after "--" are passed to `python -m training`. The training commands write their weights to
OUT/parts as float16 in parts (`benchmarks.gpu.parts join` joins them).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.parts import split
from benchmarks.gpu.wheels import install
from benchmarks.reports.provenance import provenance

NO_GPU = 2
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {"mt": "mt_de_en_mini.yaml", "asr": "asr_scratch.yaml"}
FINAL = {"mt": "final", "asr": "model", "from-whisper": "best"}  # where training leaves its checkpoint
WORKLOADS = 5
CARRIED = "GPU_QUEUE_WHEELS"
TRAINING_SHARE = 0.8  # of the minutes; the rest is for data, evaluation and writing


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, 2 where there is no GPU."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    options = build_parser().parse_args(arguments[:at])
    if options.device == "cuda" and not gpu_name():
        print(
            "benchmarks.gpu: no NVIDIA GPU is visible here (nvidia-smi finds none); "
            "run it on a machine with one, or dry: --device cpu --tiny",
            file=sys.stderr,
        )
        return NO_GPU
    options.out.mkdir(parents=True, exist_ok=True)
    if options.wheel_dir and os.environ.get(CARRIED) != str(options.wheel_dir):
        # A new process: the packages must be found before any of their modules is imported.
        site = install(options.wheel_dir, Path(tempfile.mkdtemp(prefix="site-")))
        environment = {
            **os.environ,
            "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
            CARRIED: str(options.wheel_dir),
        }
        command = [sys.executable, "-P", "-m", "benchmarks.gpu.queue", *arguments]
        return subprocess.run(command, env=environment, check=False, timeout=_limit_s(options)).returncode
    more = arguments[at + 1 :]
    if options.command == "encoder":
        return run_encoder(options)
    return run_distil(options, more) if options.command == "mt-distil" else run_training(options, more)


def build_parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.queue", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("encoder", "mt-distil", *FINAL):
        command = commands.add_parser(name)
        command.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
        command.add_argument("--tiny", action="store_true", help="models and data of a dry run")
        command.add_argument("--wheel-dir", type=Path, help="packages that the machine lacks")
        command.add_argument("--out", type=Path, default=Path("gpu-out"))
        command.add_argument("--minutes", type=float, default=9.0, help="for the whole command")
        if name == "encoder":
            command.add_argument("--models", nargs="*", choices=("base", "large"), default=["base", "large"])
            command.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
        else:
            command.add_argument("--part-mb", type=float, default=15.0)
    return parser


def _limit_s(options: argparse.Namespace) -> float:
    """After which a child that hangs is ended."""
    return 60.0 * float(options.minutes) + 3600.0


def gpu_name() -> str:
    """The first GPU's name by nvidia-smi; "" where there is none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""


def run_encoder(options: argparse.Namespace) -> int:
    """Parity and speed of the encoder."""
    import onnxruntime
    import torch
    import transformers

    from benchmarks.gpu import encoder

    started = time.perf_counter()
    compiled = options.device == "cuda" and not options.no_compile
    budget_s = 0.3 if options.tiny else options.minutes * 60 / (4 * WORKLOADS * len(options.models))
    rows = []
    for shape in options.models:
        rows += encoder.measure(shape, options.device, options.tiny, compiled, budget_s)
    signature = (
        f"device:{gpu_name() or platform.processor() or 'cpu'}|torch:{torch.__version__}"
        f"|transformers:{transformers.__version__}|onnxruntime:{onnxruntime.__version__}"
        f"|weights:random|tiny:{options.tiny}|seconds:{time.perf_counter() - started:.0f}"
    )
    print(signature, encoder.render(rows), sep="\n")
    report = {"signature": signature, **provenance("python -m benchmarks.gpu.queue"), "rows": rows}
    (options.out / "encoder.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def run_distil(options: argparse.Namespace, more: Sequence[str]) -> int:
    """Translate a corpus with a teacher for the given minutes; the same command goes on where it stopped."""
    out = options.out / "distilled.tsv"
    command = [sys.executable, "-P", "-m", "training", "mt-distil", *more, "--out", str(out)]
    return _run_child([*command, "--minutes", f"{TRAINING_SHARE * options.minutes:g}"], options)


def _run_child(command: Sequence[str], options: argparse.Namespace) -> int:
    environment = dict(os.environ)
    environment["PYTHONPATH"] = f"{environment.get('PYTHONPATH', '')}{os.pathsep}{ROOT}".lstrip(os.pathsep)
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.run(command, env=environment, check=False, timeout=_limit_s(options)).returncode


def run_training(options: argparse.Namespace, more: Sequence[str]) -> int:
    """Train for the given minutes and write the weights in parts."""
    run_dir = options.out / f"{options.command}_run"
    command = [sys.executable, "-P", "-m", "training", options.command, *more]
    if options.command in CONFIGS and "--config" not in more:
        command += ["--config", str(ROOT / "training/configs" / CONFIGS[options.command])]
    minutes = f"{TRAINING_SHARE * options.minutes:g}"
    if options.command == "mt":
        command += ["--set", f"output_dir={run_dir}", "--set", f"training.max_minutes={minutes}"]
    else:
        command += ["--output_dir", str(run_dir), "--max_minutes", minutes]
    started = time.perf_counter()
    if code := _run_child(command, options):
        return code
    names = split(run_dir / FINAL[options.command], options.out / "parts", int(options.part_mb * 2**20))
    took_s = time.perf_counter() - started
    print("| trained | device | seconds | files |", "|---|---|---:|---:|", sep="\n")
    print(f"| {options.command} | {gpu_name() or 'cpu'} | {took_s:.0f} | {len(names)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
