"""Every family of CTC checkpoints at its published size: memory and time of the export, and of its bundle.

    python -m benchmarks.studies.families --work_dir families --json families.json
    python -m benchmarks.studies.families --json families.json --only 'HuBERT large' --keep

Weights are random and saved in float16 shards. The exporter runs as a user starts it, with its own options
but for the two limits that random weights cannot keep (LIMITS). Memory is the most that the process and those
it started held resident at one moment (Linux). What --json already holds is not measured again, so an
interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.errors import MeasurementError
from benchmarks.reports.provenance import provenance
from engine.bundle.signature import cpu_model
from engine.kernels.vector.levels import active
from engine.output.targets import check_apart

LIMITS = ("--min-agreement", "0.3", "--allow-slower")
SAMPLE = Path(__file__).parents[2] / "examples" / "audio" / "visit.flac"
EVERY_S = 0.1  # between two looks at a process's memory
SIZE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
LARGE = {**SIZE, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
BILLION = LARGE | {"hidden_size": 1280, "num_hidden_layers": 48, "intermediate_size": 5120}


@dataclass(frozen=True)
class Kind:
    """A published size: its family's name in transformers, its configuration, and of which model it is."""

    family: str
    of: str
    config: Mapping[str, Any] = field(default_factory=dict)
    language: str | None = None


KINDS: dict[str, Kind] = {
    "Wav2Vec2 300M": Kind("Wav2Vec2", "facebook/wav2vec2-xls-r-300m", LARGE),
    "HuBERT large": Kind("Hubert", "facebook/hubert-large-ls960-ft", LARGE),
    "WavLM large": Kind("WavLM", "microsoft/wavlm-large", LARGE),
    "data2vec-audio large": Kind("Data2VecAudio", "facebook/data2vec-audio-large-960h", SIZE),
    "UniSpeech large": Kind("UniSpeech", "microsoft/unispeech-large-1500h-cv", LARGE),
    "UniSpeech-SAT large": Kind("UniSpeechSat", "microsoft/unispeech-sat-large", LARGE),
    "SEW": Kind("SEW", "the defaults of SEWConfig"),
    "SEW-D": Kind("SEWD", "the defaults of SEWDConfig"),
    "Wav2Vec2-BERT": Kind("Wav2Vec2Bert", "facebook/w2v-bert-2.0", {"add_adapter": True}),
    "Parakeet CTC 0.6B": Kind("Parakeet", "nvidia/parakeet-ctc-0.6b"),
    "Wav2Vec2-Conformer, rotary": Kind(
        "Wav2Vec2Conformer", "facebook/wav2vec2-conformer-rope-large-960h-ft",
        {**LARGE, "position_embeddings_type": "rotary"},
    ),
    "Wav2Vec2-Conformer, relative": Kind(
        "Wav2Vec2Conformer", "facebook/wav2vec2-conformer-rel-pos-large-960h-ft", LARGE
    ),
    "MMS 1B": Kind("Wav2Vec2", "facebook/mms-1b-all", {**BILLION, "adapter_attn_dim": 16}, "deu"),
    "XLS-R 1B": Kind("Wav2Vec2", "facebook/wav2vec2-xls-r-1b", BILLION),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    options = parse(argv)
    if not Path("/proc/self/status").exists():
        raise MeasurementError("no /proc", "Linux, which tells a process's memory", "run this on Linux")
    check_apart([options.json], [SAMPLE])
    about = {"signature": f"threads:default|level:{active().name}|cpu:{cpu_model()}"}
    for name in tqdm([name for name in options.only or KINDS if name not in read(options.json)["kinds"]]):
        row = {
            **measure(name, options.work_dir, options.keep),
            **provenance("python -m benchmarks.studies.families", argv),
            **about,
        }
        report = read(options.json)  # again: another process may measure other kinds
        report["kinds"][name] = row
        write(options.json, report | provenance("python -m benchmarks.studies.families", argv) | about)
        print(json.dumps({name: row}, ensure_ascii=False), flush=True)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.studies.families", description=__doc__.split("\n")[0])
    parser.add_argument("--work_dir", type=Path, default=Path("families"), help="4 GB of free space for 1B")
    parser.add_argument("--json", type=Path, default=Path("families.json"), help="what is there is kept")
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND", help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints and bundles")
    return parser.parse_args(argv)


def read(path: Path) -> dict[str, Any]:
    """What was measured so far."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"kinds": {}} | found


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)


def measure(name: str, work_dir: Path, keep: bool = False) -> dict[str, Any]:
    """Save a checkpoint of random weights, export it, and transcribe a sample by the bundle.

    Raises:
        MeasurementError: a step failed; its last lines are in the message.
    """
    kind, folder = KINDS[name], work_dir / name.lower().replace(" ", "-").replace(",", "")
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    module = [sys.executable, "-P", "-m"]
    try:
        watch([*module, "benchmarks.kernels.family_checkpoint", name, str(checkpoint)], folder)
        language = ("--language", kind.language) if kind.language else ()
        export = watch([*module, "export", "ctc", str(checkpoint), str(bundle), *LIMITS, *language], folder)
        heard = watch(
            [*module, "engine", "transcribe", str(SAMPLE), "--model", str(bundle), "--device", "cpu"], folder
        )
        facts = json.loads((checkpoint / "facts.json").read_text(encoding="utf-8"))
        figures = read_figures(bundle)
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return {
        "of": kind.of,
        **facts,
        "export": export,
        "bundle_mb": round(size / 1e6),
        **figures,
        "transcribe": heard,
    }


def watch(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command to its end.

    Returns:
        peak_gb (resident, of it and its children together), wall_s and cpu_s.
    Raises:
        MeasurementError: another exit status than 0.
    """
    log = folder / "output.txt"
    began, peak, cpu_s = time.perf_counter(), 0, 0.0
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            while process.poll() is None:
                pages, seconds = usage(process.pid)
                peak, cpu_s = max(peak, pages), max(cpu_s, seconds)
                time.sleep(EVERY_S)
        finally:
            process.kill()
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
        raise MeasurementError(f"{' '.join(command[1:])} ended with {process.returncode}", "0", said)
    wall_s = time.perf_counter() - began
    return {"peak_gb": round(peak / 1e9, 2), "wall_s": round(wall_s), "cpu_s": round(cpu_s)}


def usage(pid: int) -> tuple[int, float]:
    """Resident bytes and CPU seconds of a process and those that it started; zeros where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            int(child)
            for path in Path(f"/proc/{pid}/task").glob("*/children")
            for child in path.read_text().split()
        ]
    except (OSError, ValueError):
        return 0, 0.0
    below = [usage(child) for child in children]
    ticks = sum(int(value) for value in fields[11:15])  # of ended children too
    resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return (
        resident + sum(found[0] for found in below),
        ticks / os.sysconf("SC_CLK_TCK") + sum(found[1] for found in below),
    )


def read_figures(bundle: Path) -> dict[str, Any]:
    """What the exporter measured against the checkpoint: agreement of frames, error, and times of float32."""
    config = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["acoustic"]
    found, rows = config["figures"], config["figures"]["rows"]
    frames = sum(row["n_frames"] for row in rows)
    return {
        "precision": config["precision"],
        "agreement": round(sum(row["agreement"] * row["n_frames"] for row in rows) / frames, 4),
        "error": max(row["error"] for row in rows),
        "speedup": found["speedup"],
        "kernels": found["kernels"],
    }


if __name__ == "__main__":
    raise SystemExit(main())
