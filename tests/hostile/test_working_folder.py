"""A working directory may be anybody's: nothing that lies there is run, by no child process of ours."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.bundle.folder import open_bundle

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "examples" / "audio" / "visit.flac"
FOLDERS = ("engine", "export", "training", "benchmarks")
EVIL = "from pathlib import Path; Path(__file__).with_name('ran').touch(); raise SystemExit(3)"
NAMES = ("engine", "numpy", "numba", "json", "benchmarks", "tomllib", "av", "soundfile")


def commands_with_our_interpreter() -> list[tuple[str, ast.expr | None]]:
    """Every list that begins with sys.executable, and what follows it there."""
    found = []
    for path in [
        ROOT / "setup.py",
        *(p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                found.append((place, node.elts[1] if len(node.elts) > 1 else None))
    return found


def test_every_interpreter_of_ours_starts_without_the_working_directory() -> None:
    found = commands_with_our_interpreter()
    assert len(found) >= 8
    wrong = [place for place, flag in found if flag is None or ast.unparse(flag) not in ("'-P'", "'-I'")]
    assert wrong == []


def test_every_wait_for_a_child_has_a_bound() -> None:
    """subprocess.run without a timeout waits for ever; so would communicate() and wait()."""
    wrong = []
    for path in [
        ROOT / "setup.py",
        *(p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            waits = ast.unparse(node.func) in ("subprocess.run", "subprocess.check_output")
            if waits and not any(keyword.arg == "timeout" for keyword in node.keywords):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with packages of well-known names, which leave a mark when they are imported."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(EVIL)
    return tmp_path


def mp3_of(folder: Path) -> Path:
    soundfile = pytest.importorskip("soundfile")
    samples, rate = soundfile.read(CLIP)
    soundfile.write(folder / "talk.mp3", samples, rate)
    return folder / "talk.mp3"


def test_a_transcription_in_a_trap(trap: Path) -> None:
    """Kernels are compiled beside, an mp3 is decoded by a child, and both are started from there."""
    code = (
        "import sys; from engine.cli import main; from engine.jobs import warmup; "
        "warmup._decoder_is_compiled = lambda: False; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-P",
        "-c",
        code,
        "transcribe",
        str(mp3_of(trap)),
        "--threads",
        "2",
        "--passes",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=trap, env=environment, timeout=300)
    assert done.returncode == 0 and "Gro" in done.stdout, done.stderr
    assert list(trap.glob("*/ran")) == []


def test_a_cold_start_in_a_trap(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.studies import sweep

    monkeypatch.chdir(trap)
    monkeypatch.setattr(
        sweep, "COLD_START", "import json, engine; print(json.dumps({'file': engine.__file__}))"
    )
    found = sweep.cold_start(sweep.RunSettings(), CLIP, "transcribe")
    assert str(found["file"]).startswith(str(ROOT)) and list(trap.glob("*/ran")) == []


def test_a_bare_model_is_opened_again_by_its_own_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has no manifest: the compiling process and pickle need the file."""
    onnx = pytest.importorskip("onnx")
    from tests.reference.tone_bundle import letter_graph

    source = open_bundle(None)
    (tmp_path / "models").mkdir()
    shutil.copy(source.file("vocabulary"), tmp_path / "models" / "vocab.json")
    onnx.save(letter_graph(), tmp_path / "models" / "german.onnx")
    monkeypatch.chdir(tmp_path)
    bundle = open_bundle("models/german.onnx")
    monkeypatch.chdir("/")
    assert bundle.path == tmp_path / "models" and bundle.source == tmp_path / "models" / "german.onnx"
    again = open_bundle(bundle.source)
    assert again.vocabulary == bundle.vocabulary and again.read("acoustic") == bundle.read("acoustic")
    assert source.source == source.path and source.path.is_absolute()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="the system has no such signal")
def test_a_decoder_that_is_stopped_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.audio import child, load
    from engine.errors import AudioLimitError

    if not child.AVAILABLE:
        pytest.skip("no decoding in child processes here")
    path = mp3_of(tmp_path)
    child.close_workers()
    load.load_audio(path)
    (worker,) = child._idle
    monkeypatch.setattr(child, "SILENT_S", 0.5)
    os.kill(worker.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    with pytest.raises(AudioLimitError, match="no answer from its decoder"):
        load.load_audio(path)
    assert time.monotonic() - began_s < 20
    assert not worker.alive and threading.active_count() < 50
    monkeypatch.setattr(child, "SILENT_S", 600.0)
    assert len(load.load_audio(path)) > 16_000  # a new worker
