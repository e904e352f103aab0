"""Folders and archives with the real model: killed, interrupted, resumed; shards that miss or overlap."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import docs_reader
import numpy as np
import pytest
import soundfile

from engine.cli import main
from engine.cli.outputs import Delivery
from engine.jobs.merge import inspect_archive
from engine.jobs.shard_files import ShardFiles
from engine.pipeline import SpeechTranslator

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "examples" / "audio" / "visit.flac"
FAST = ("--passes", "1", "--beam_size", "1")
N_PARTS = 8


@pytest.fixture
def ready(translator: SpeechTranslator, monkeypatch: pytest.MonkeyPatch) -> SpeechTranslator:
    """The command line takes the model that is loaded already."""
    monkeypatch.setattr("engine.cli.files.load_model", lambda options: translator)
    monkeypatch.setattr("engine.cli.archive.load_model", lambda options: translator)
    return translator


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Eight parts of one recording, the whole of it, and two lines that fail."""
    shutil.copy(CLIP, tmp_path / "clip.flac")
    (tmp_path / "broken.wav").write_text("no audio")
    rows: list[dict[str, Any]] = [
        {"audio_filepath": "clip.flac", "offset": (i + 1) / 4, "duration": 1.0 + i / 100}
        for i in range(N_PARTS)
    ]
    rows[5:5] = [
        {"audio_filepath": "broken.wav", "duration": 9.0, "text": ""},
        {"audio_filepath": "clip.flac"},
    ]
    rows.append({"audio_filepath": "clip.flac", "offset": 99, "duration": 1})
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def transcribe(manifest: Path, out: Path, *more: str) -> int:
    return main(["transcribe", "--manifest", str(manifest), "--output_dir", str(out), *FAST, *more])


def start(work: Callable[[], int], errors: Path | None = None) -> int:
    """Work in a process of its own; returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
        if errors is not None:
            sys.stderr = errors.open("w")
        code = work()
        sys.stderr.flush()
        os._exit(code)
    except BaseException:
        os._exit(99)


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.usefixtures("ready")
def test_a_line_says_everything_and_times_count_from_the_start_of_the_file(
    manifest: Path, tmp_path: Path
) -> None:
    assert transcribe(manifest, tmp_path / "out") == 1
    lines = {line["id"]: line for line in read_lines(tmp_path / "out" / "shard-00001-of-00001.jsonl")}
    assert len(lines) == N_PARTS + 1
    whole, part = lines["clip.flac"], lines["clip.flac@1+1.03"]
    assert list(whole) == [
        "id", "audio_filepath", "offset", "duration", "text", "words", "model", "warnings"
    ]  # fmt: skip
    assert (whole["audio_filepath"], whole["offset"], whole["duration"]) == ("clip.flac", 0.0, 4.336)
    assert (
        "Großmutter" in whole["text"] and whole["model"].startswith("de-en-base@") and whole["warnings"] == []
    )
    assert (part["offset"], part["duration"]) == (1.0, 1.03)
    assert part["words"] and all(1.0 <= word["start"] < word["end"] <= 2.05 for word in part["words"])
    failures = read_lines(tmp_path / "out" / "shard-00001-of-00001.failures.jsonl")
    assert [(each["id"], each["error"]) for each in failures] == [
        ("broken.wav", "AudioDecodeError"), ("clip.flac@99+1", "AudioValueError")
    ]  # fmt: skip


@pytest.mark.usefixtures("ready")
def test_a_translation_is_on_the_line_when_it_was_asked_for(tmp_path: Path) -> None:
    manifest = tmp_path / "in.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(CLIP)}))
    assert main(["translate", "--manifest", str(manifest), "--output_dir", str(tmp_path / "out"), *FAST]) == 0
    (line,) = read_lines(tmp_path / "out" / "shard-00001-of-00001.jsonl")
    assert "grandmother" in line["translation"] and "Großmutter" in line["text"]


@pytest.mark.usefixtures("ready")
def test_killed_again_and_again_it_ends_with_the_bytes_of_an_undisturbed_run(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    assert transcribe(manifest, tmp_path / "whole") == 1
    took_s = time.monotonic() - started
    rng, out, killed = random.Random(1), tmp_path / "out", 0
    for _ in range(6):
        child = start(lambda: transcribe(manifest, out))
        time.sleep(rng.uniform(0, took_s))
        os.kill(child, signal.SIGKILL)
        ended = end(child)
        killed += ended == -signal.SIGKILL
        if ended == 1:
            break
    assert killed >= 1
    assert transcribe(manifest, out) == 1
    assert contents(out) == contents(tmp_path / "whole")
    assert "9 of 11 done, 2 failed" in capsys.readouterr().out


@pytest.mark.usefixtures("ready")
def test_shards_together_have_every_line_once_and_merge_says_what_is_missing(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out, joined = tmp_path / "whole", tmp_path / "out", tmp_path / "all.jsonl"
    transcribe(manifest, whole)
    for number in (1, 3):
        transcribe(manifest, out, "--shard", f"{number}/3")
    capsys.readouterr()
    assert main(["merge", str(out), "--output", str(joined)]) == 1
    said = capsys.readouterr()
    assert "2 of 3 shards finished" in said.out
    assert "error: shard 2/3 is missing" in said.err and "was not written" in said.err
    assert not joined.exists()
    transcribe(manifest, out, "--shard", "2/3")
    assert main(["merge", str(out), "--output", str(joined)]) == 1
    assert "2 recordings failed" in capsys.readouterr().err
    key = str
    assert sorted(map(key, read_lines(joined))) == sorted(
        map(key, read_lines(whole / "shard-00001-of-00001.jsonl"))
    )
    assert len(read_lines(tmp_path / "all.failures.jsonl")) == 2
    assert transcribe(manifest, out, "--shard", "1/2") == 1
    assert "shards 3, now 2" in capsys.readouterr().err
    result = out / "shard-00001-of-00003.jsonl"
    content = result.read_bytes()
    assert main(["merge", str(out), "--output", str(result)]) == 1
    assert "also the input" in capsys.readouterr().err and result.read_bytes() == content


@pytest.mark.usefixtures("ready")
def test_shards_that_overlap_were_changed_or_are_not_finished(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        transcribe(manifest, out, "--shard", f"{number}/2")
    assert inspect_archive(out).problems == []
    second = out / "shard-00002-of-00002.jsonl"
    content = second.read_bytes()
    second.write_bytes((out / "shard-00001-of-00002.jsonl").read_bytes())
    problems = inspect_archive(out).problems
    assert any("is in shard 1/2 and in shard 2/2" in problem for problem in problems)
    assert any("shard 2/2 is not as it was written" in problem for problem in problems)
    second.write_bytes(content)
    status = out / "shard-00002-of-00002.status.json"
    status.write_text(status.read_text().replace('"beam_width": 1', '"beam_width": 2'))
    assert ["options.search.beam_width 2" in problem for problem in inspect_archive(out).problems] == [True]
    status.unlink()
    assert inspect_archive(out).problems == ["shard 2/2 is missing"]
    header = json.loads((out / "shard-00001-of-00002.status.json").read_text())["header"] | {"shard": 2}
    (out / "shard-00002-of-00002.partial.jsonl").write_text(
        json.dumps({"header": header}) + '\n{"id":"a"}\n{"i'
    )
    assert "shard 2/2 is unfinished, 1 of" in inspect_archive(out).problems[0]
    assert main(["merge", str(tmp_path)]) == 1
    assert "no shards in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["transcribe", "--manifest", "in.jsonl"], "--output_dir"),
        (
            ["transcribe", "--manifest", "in.jsonl", "--output_dir", "o", "--shard", "0/4"],
            "the first of 16 is 1/16",
        ),
        (
            ["transcribe", "--manifest", "in.jsonl", "--output_dir", "o", "--output_format", "srt"],
            "--output_format",
        ),
        (["translate", "--manifest", "in.jsonl", "--output_dir", "o", "--text_file", "t"], "--text_file"),
        (["transcribe", "x.wav", "--shard", "1/4"], "--manifest"),
        (["transcribe", "x.wav", "--skip_existing"], "--output_dir"),
        (["transcribe", "--manifest", "nowhere.jsonl", "--output_dir", "o"], "no such file"),
    ],
)
def test_what_would_be_ignored_is_refused_before_the_model_is_loaded(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("engine: error: ") and said in error
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight short recordings in two folders, one of them broken."""
    waveform, rate = soundfile.read(CLIP, dtype="float32")
    for i in range(8):
        path = tmp_path / "in" / ("b" if i % 2 else "a") / f"{i // 2}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.asarray(waveform[: rate + 2000 * i]), rate)
    (tmp_path / "in" / "a" / "2.wav").write_text("no audio")
    return tmp_path / "in"


def test_a_folder_keeps_its_structure_and_only_what_is_missing_is_done(
    folder: Path, tmp_path: Path, ready: SpeechTranslator, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    run = ["transcribe", str(folder), "--output_dir", str(out), "--skip_existing", *FAST]
    assert main([*run, "--output_format", "txt"]) == 1
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.txt"))
    assert names == ["a/0.txt", "a/1.txt", "a/3.txt", "b/0.txt", "b/1.txt", "b/2.txt", "b/3.txt"]
    said = capsys.readouterr().err
    assert "engine: 7 of 8 done, 1 failed: " in said and said.count("a/2.wav") >= 2
    (out / "a" / "1.txt").unlink()
    (out / "b" / "0.txt").write_text("mine")
    done: list[str] = []
    batch = ready.transcribe_batch
    monkeypatch.setattr(
        ready, "transcribe_batch", lambda sources, **options: batch(note(sources, done), **options)
    )
    assert main([*run, "--output_format", "txt"]) == 1
    assert [Path(path).name for path in done] == ["1.wav", "2.wav"]
    assert (out / "b" / "0.txt").read_text() == "mine"
    assert "7 of 8 done (6 of them earlier), 1 failed" in capsys.readouterr().err
    assert main([*run, "--output_format", "srt"]) == 1  # of another format nothing is there


def note(sources: Any, done: list[str]) -> Any:
    for source in sources:
        done.append(source)
        yield source


def test_nothing_is_loaded_where_everything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.cli.files.load_model", lambda options: pytest.fail("loaded"))
    (tmp_path / "visit.txt").write_text("da")
    run = ["transcribe", str(CLIP), "--output_dir", str(tmp_path), "--output_format", "txt", "--resume"]
    assert main(run) == 0
    assert "1 of 1 done (1 of them earlier)" in capsys.readouterr().err


@pytest.mark.usefixtures("ready")
def test_ctrl_c_in_a_folder_leaves_whole_files_and_says_how_to_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors.txt"
    run = ["transcribe", str(folder), "--output_dir", str(out), "--output_format", "txt", *FAST]
    child = start(lambda: main(run), errors)
    while not list(out.rglob("*.txt")):
        time.sleep(0.005)
    os.kill(child, signal.SIGINT)
    assert end(child) == 130
    n_done = len(list(out.rglob("*.txt")))
    said = errors.read_text()
    assert 1 <= n_done < 7
    assert f"engine: {n_done} of 8 done; run again with --skip_existing\n" in said and "Traceback" not in said
    assert [path for path in out.rglob("*") if path.is_file() and path.suffix != ".txt"] == []
    assert main([*run, "--skip_existing"]) == 1
    assert len(list(out.rglob("*.txt"))) == 7
    assert f"({n_done} of them earlier)" in capsys.readouterr().err


@pytest.mark.usefixtures("ready")
def test_ctrl_c_between_a_file_and_its_count(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors.txt"
    write = Delivery.write

    def write_and_interrupt(self: Delivery, *rest: Any) -> None:
        write(self, *rest)
        if len(list(out.rglob("*.txt"))) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Delivery, "write", write_and_interrupt)
    run = ["transcribe", str(folder), "--output_dir", str(out), "--output_format", "txt", *FAST]
    assert end(start(lambda: main(run), errors)) == 130
    assert len(list(out.rglob("*.txt"))) == 3
    assert "engine: 3 of 8 done; run again with --skip_existing\n" in errors.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("ready")
def test_a_shard_that_is_stopped_says_how_to_go_on(
    manifest: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors.txt"
    child = start(lambda: transcribe(manifest, out), errors)
    partial = out / "shard-00001-of-00001.partial.jsonl"
    while not partial.exists() or partial.read_bytes().count(b"\n") < 3:
        time.sleep(0.005)
    os.kill(child, number)
    assert end(child) == code
    assert "of 11 done; the same command goes on from there" in errors.read_text()
    assert partial.read_bytes().count(b"\n") >= 3 and len(list(out.iterdir())) == 1


@pytest.mark.usefixtures("ready")
def test_ctrl_c_between_a_line_of_a_shard_and_its_count(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, errors, added = tmp_path / "out", tmp_path / "errors.txt", []
    add = ShardFiles.add

    def add_and_interrupt(self: ShardFiles, *rest: Any) -> None:
        add(self, *rest)
        added.append(rest)
        if len(added) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ShardFiles, "add", add_and_interrupt)
    assert end(start(lambda: transcribe(manifest, out), errors)) == 130
    assert "engine: shard 1/1: 4 of 11 done; the same command goes on from there" in errors.read_text()


@pytest.mark.usefixtures("ready")
def test_ctrl_c_is_not_held_up_by_a_reader_of_what_is_said(folder: Path, tmp_path: Path) -> None:
    """Standard output is a pipe that is full and that nobody reads."""
    out, errors = tmp_path / "out", tmp_path / "errors.txt"
    run = ["transcribe", str(folder), "--output_dir", str(out), "--output_format", "txt", "--verbose", *FAST]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(1 << 12))
    os.set_blocking(writer, True)

    def work() -> int:
        sys.stdout = os.fdopen(writer, "w")
        return main(run)

    child = start(work, errors)
    while not list(out.rglob("*.txt")):
        time.sleep(0.005)
    os.kill(child, signal.SIGINT)
    assert end(child) == 130
    n_done = len(list(out.rglob("*.txt")))
    assert f"engine: {n_done} of 8 done; run again with --skip_existing\n" in errors.read_text()
    os.close(reader)


@pytest.mark.usefixtures("ready")
def test_channels_heard_apart_have_their_speakers_and_parts_are_refused(tmp_path: Path) -> None:
    samples, rate = soundfile.read(CLIP, dtype="float32")
    other = np.roll(samples, rate) * 0.9
    soundfile.write(tmp_path / "call.flac", np.stack([samples, other], axis=1), rate)
    rows = [{"audio_filepath": "call.flac"}, {"audio_filepath": "call.flac", "offset": 1, "duration": 2}]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert transcribe(path, tmp_path / "out", "--channels", "separate") == 1
    (line,) = read_lines(tmp_path / "out" / "shard-00001-of-00001.jsonl")
    assert {word["speaker"] for word in line["words"]} == {"Speaker 1", "Speaker 2"}
    (failed,) = read_lines(tmp_path / "out" / "shard-00001-of-00001.failures.jsonl")
    assert failed["error"] == "OptionError" and "a whole file" in failed["message"]


@pytest.mark.usefixtures("ready")
def test_audio_on_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for content, code in ((CLIP.read_bytes(), 0), (bytes(32_000), 1), (b"", 1)):
        with (tmp_path / "stdin").open("w+b") as file:
            file.write(content)
            file.seek(0)
            monkeypatch.setattr(sys, "stdin", os.fdopen(os.dup(file.fileno()), "r"))
            assert main(["transcribe", "-", "--output_dir", str(tmp_path / "out"), *FAST]) == code
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[0] == "stdin.json"
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 2 and all(line.startswith("engine: error: standard input: ") for line in errors)


def test_the_slurm_script_of_the_docs_runs_as_typed(tmp_path: Path) -> None:
    (script,) = [block.text for block in docs_reader.blocks("bash") if block.text.startswith("#!/bin/bash")]
    (tmp_path / "transcribe.sbatch").write_text(script)
    rows = [{"audio_filepath": str(CLIP)}, {"audio_filepath": str(CLIP), "offset": 1, "duration": 2}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SLURM_ARRAY_TASK_ID": "2"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "-e", "transcribe.sbatch"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "shard 2/16: 1 of 1 done, 0 failed\n"
    (line,) = read_lines(tmp_path / "out" / "shard-00002-of-00016.jsonl")
    assert line["id"].endswith("@1+2") and line["text"]
