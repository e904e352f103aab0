"""A run that is really killed, in a process of its own, keeps what it measured and goes on from there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bench_fake import write_data

from benchmarks.measures.journal import Journal, Record

HERE = Path(__file__).resolve().parent
RUNNER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from bench_fake import FakeTranslator, write_data
import engine
from benchmarks.cli import main
from pathlib import Path

folder, log, *arguments = sys.argv[1:]
answers = {name: ("ja", "yes") for name in ("clip%02d.wav" % i for i in range(6))}

class Logged(FakeTranslator):
    def transcribe(self, source, **options):
        with open(log, "a") as file:
            file.write(Path(source).name + "\\n")
        time.sleep(0.15)
        return super().transcribe(source, **options)

engine.load = lambda *a, **k: Logged(answers)
sys.exit(main(["--data", folder + "/manifest.tsv", "--json", folder + "/out.json", "--quiet", *arguments]))
"""


class Bench:
    """engine-bench with a slow stand-in for the model."""

    def __init__(self, folder: Path) -> None:
        write_data(folder, 6)
        (folder / "runner.py").write_text(RUNNER)
        self.folder, self.partial, self.out = folder, folder / "out.json.partial.jsonl", folder / "out.json"

    def start(self, log: str) -> subprocess.Popen[str]:
        arguments = [str(self.folder), str(self.folder / log), "--warmup", "0", "--repeats", "2"]
        return subprocess.Popen(
            [sys.executable, str(self.folder / "runner.py"), *arguments],
            env={"PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "PATH": "/usr/bin:/bin"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    def kept(self) -> list[dict[str, Any]]:
        if not self.partial.is_file():
            return []
        lines = self.partial.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[1:-1]]  # after the signature, before a cut

    def calls(self, log: str) -> list[str]:
        return (self.folder / log).read_text().split()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, how: signal.Signals) -> None:
    bench = Bench(tmp_path)
    first = bench.start("first.log")
    deadline = time.monotonic() + 60
    while len(bench.kept()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(how)
    message = first.communicate(timeout=30)[1]
    killed = how == signal.SIGKILL
    assert first.returncode == (-how if killed else 128 + how)
    assert ("continues from there" in message) is not killed
    assert not bench.out.exists()
    kept = bench.kept()
    assert 3 <= len(kept) < 12
    second = bench.start("second.log")
    assert second.communicate(timeout=60)[1] == ""
    assert second.returncode == 0
    assert len(bench.calls("second.log")) == 12 - len(kept)
    result = json.loads(bench.out.read_text(encoding="utf-8"))
    assert (result["n_utterances"], [len(row["wall_s"]) for row in result["utterances"]]) == (6, [2] * 6)
    measured_first = {(record["id"], record["repeat"]): record["wall_s"] for record in kept}
    rows = {row["id"]: row["wall_s"] for row in result["utterances"]}
    assert all(rows[name][repeat] == wall_s for (name, repeat), wall_s in measured_first.items())
    assert not bench.partial.exists()


def test_a_journal_that_was_cut_within_a_character_keeps_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.partial.jsonl"
    journal = Journal(path, "signature")
    records = [Record(f"{i}.wav", 0, 1.0, 1.0, {}, {}, text_de="ein\u2028Satz\x85, schön") for i in range(2)]
    for record in records:
        journal.add(record)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex("ö".encode()) + 1])
    assert Journal(path, "signature").records == records[:1]
    assert Journal(path, "another signature").records == []
