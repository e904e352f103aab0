"""The class for Ray Data on a real local cluster with several workers; skipped where Ray is not installed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs_reader
import numpy as np
import pytest

from engine.jobs.ray import Transcriber
from engine.options import DecodingOptions
from engine.pipeline import SpeechTranslator

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[cpu,dev,ray]'")
ray_data = pytest.importorskip("ray.data")

HERE = Path(__file__).resolve().parent
CLIP = HERE.parents[1] / "examples" / "audio" / "visit.flac"
FAST = DecodingOptions(passes=1, beam_width=1)
WORKERS = 2
N_BATCHES, BATCH = 14, 64  # of the measurement of time; 64 rows are 80 s of audio


class Watched(Transcriber):
    """Says which worker did a row, and what that worker has; kills one worker when it is told to."""

    def __init__(self, kill: Path | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._kill = kill

    def __call__(self, batch: Any) -> dict[str, Any]:
        if self._kill and "part 20" in batch["id"] and not self._kill.exists():
            self._kill.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        started_s = time.time()
        found = super().__call__(batch)
        own = {"worker": os.getpid(), "threads": self._translator.threads, "started_s": started_s}
        own["ended_s"] = time.time()
        return found | {name: np.full(len(found["id"]), value) for name, value in own.items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers, and one CPU more: what reads and divides the data needs one too."""
    patch = pytest.MonkeyPatch()  # workers import this module, and the checkout's engine
    patch.setenv(
        "PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray_data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()
    patch.undo()


def write_manifest(folder: Path, n_parts: int) -> Path:
    rows = [
        {"id": f"part {i}", "audio_filepath": str(CLIP), "offset": i % 10 / 4, "duration": 1.0 + i % 7 / 10}
        for i in range(n_parts)
    ]
    rows[3]["audio_filepath"] = "gone.wav"
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(data: Any, workers: int = WORKERS, batch_size: int = 2, **arguments: Any) -> list[dict[str, Any]]:
    found = data.map_batches(
        Watched, fn_constructor_kwargs={"options": FAST, **arguments}, batch_size=batch_size, num_cpus=1,
        compute=ray_data.ActorPoolStrategy(size=workers),
    )  # fmt: skip
    return found.take_all()


@pytest.mark.usefixtures("cluster")
def test_every_row_of_a_manifest_comes_back_with_its_id_from_several_workers(
    tmp_path: Path, translator: SpeechTranslator
) -> None:
    manifest = write_manifest(tmp_path, 40)
    rows = {row["id"]: row for row in run(ray_data.read_json(str(manifest)).repartition(20))}
    assert sorted(rows) == sorted(f"part {i}" for i in range(40))
    assert len({row["worker"] for row in rows.values()}) == WORKERS
    assert {row["threads"] for row in rows.values()} == {1}
    assert [name for name, row in rows.items() if row["error"]] == ["part 3"]
    assert rows["part 3"]["error"].startswith("AudioNotFoundError")
    here = Transcriber(options=FAST, threads=1)
    batch = {
        name: np.array([rows[f"part {i}"][name] for i in (0, 7, 33)])
        for name in ("id", "audio_filepath", "offset")
    }
    batch["duration"] = np.array([rows[f"part {i}"]["duration_given"] for i in (0, 7, 33)])
    wanted = here(batch)
    for i, id in enumerate(wanted["id"]):
        assert {name: rows[id][name] for name in ("text", "words")} == {
            name: wanted[name][i] for name in ("text", "words")
        }


@pytest.mark.usefixtures("cluster")
def test_files_that_ray_reads(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.flac").write_bytes(CLIP.read_bytes() if i else b"no audio")
    rows = run(ray_data.read_binary_files(str(tmp_path), include_paths=True), batch_size=1)
    found = [(Path(row["id"]).name, bool(row["error"]), "Großmutter" in row["text"]) for row in rows]
    assert sorted(found) == [
        ("0.flac", True, False), ("1.flac", False, True), ("2.flac", False, True)
    ]  # fmt: skip
    assert not any("bytes" in row for row in rows)


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_costs_no_row(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 40)
    marker = tmp_path / "killed"
    rows = run(ray_data.read_json(str(manifest)).repartition(20), kill=marker)
    assert sorted(row["id"] for row in rows) == sorted(f"part {i}" for i in range(40))
    assert marker.exists()


def test_the_example_of_the_docs_runs_as_typed(tmp_path: Path) -> None:
    (code,) = [block.text for block in docs_reader.blocks("py") if "Transcriber" in block.text]
    write_manifest(tmp_path, 5)
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for path in (tmp_path / "out-ray").iterdir() for line in path.read_text().splitlines()]
    rows = {row["id"]: row for row in map(json.loads, lines)}
    assert sorted(rows) == [f"part {i}" for i in range(5)]
    assert [id for id, row in rows.items() if row["error"]] == ["part 3"]
    assert any(row["translation"] for row in rows.values())


@pytest.mark.timing
@pytest.mark.usefixtures("cluster")
def test_two_workers_are_nearly_twice_as_fast_as_one(tmp_path: Path) -> None:
    """Wants two idle cores. Ray itself takes about 4 % of them: docs/archives.md says what was measured."""
    manifest = write_manifest(tmp_path, N_BATCHES * BATCH)
    rates = {1: [], 2: []}
    for workers in (1, 2, 1, 2):
        data = ray_data.read_json(str(manifest)).repartition(N_BATCHES).materialize()
        rates[workers].append(measure(data, workers))
    ratio = max(rates[2]) / max(rates[1])
    print(f"rows a second: {rates}; two workers {ratio:.2f} times one")
    assert ratio >= 1.9


def measure(data: Any, workers: int) -> float:
    """Rows a second while all workers had their model, and work."""
    rows = run(data, workers, batch_size=BATCH)
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for row in rows:
        first[row["worker"]] = min(row["started_s"], first.get(row["worker"], math.inf))
        last[row["worker"]] = max(row["ended_s"], last.get(row["worker"], 0.0))
    assert len(first) == workers
    begun_s, ended_s = max(first.values()), min(last.values())
    done = 0.0  # a batch that was under way at an edge counts by its share
    for row in rows:
        inside_s = min(row["ended_s"], ended_s) - max(row["started_s"], begun_s)
        done += max(0.0, inside_s) / (row["ended_s"] - row["started_s"])
    return done / (ended_s - begun_s)
