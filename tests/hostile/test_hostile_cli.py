"""Bad input on the command line: one line, the right exit code, nothing half-written, the rest done."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from engine.cli import main

ROOT = Path(__file__).resolve().parents[2]
CLIP = str(ROOT / "examples" / "audio" / "visit.flac")


def errors_of(capsys) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("engine: error")]


def test_one_bad_file_in_a_hundred(tmp_path: Path, capsys) -> None:
    waveform, rate = sf.read(CLIP, dtype="float32")
    files = []
    for index in range(100):
        path = tmp_path / f"clip{index:03}.wav"
        sf.write(path, waveform[: rate // 2 + 100 * index], rate)
        files.append(str(path))
    Path(files[42]).write_text("this is not audio")
    out = tmp_path / "out"
    fast = ["--passes", "1", "--beam_size", "8"]
    code = main(["transcribe", *files, "--output_dir", str(out), "--output_format", "txt", *fast])
    assert code == 1
    assert len(list(out.iterdir())) == 99
    assert not (out / "clip042.txt").exists()
    errors = errors_of(capsys)
    assert len(errors) == 1 and "clip042.wav" in errors[0]


def make_bad(tmp_path: Path, kind: str) -> str:
    path = tmp_path / f"{kind}.wav"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "short":
        sf.write(path, np.zeros(160), 16_000)
    elif kind == "no_samples":
        sf.write(path, np.zeros(0), 16_000)
    elif kind == "nan":
        sf.write(path, np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    elif kind == "truncated":
        path = tmp_path / "truncated.flac"
        path.write_bytes(Path(CLIP).read_bytes()[:9000])
    elif kind == "folder":
        path.mkdir()
    return str(path)


KINDS = ["missing", "empty", "text", "short", "no_samples", "nan", "truncated", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_bad_file_is_one_line_that_names_it_and_leaves_no_output(tmp_path, capsys, kind) -> None:
    path = make_bad(tmp_path, kind)
    out = tmp_path / "out"
    assert main(["translate", path, "--output_dir", str(out)]) == 1
    errors = errors_of(capsys)
    assert len(errors) == 1
    assert Path(path).name in errors[0] and "expected" in errors[0] and "fix:" in errors[0]
    assert list(out.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="the system has no such file")
def test_a_file_that_cannot_be_read_leaves_the_others(tmp_path: Path, capsys) -> None:
    files = ["/proc/self/mem", CLIP]
    assert main(["transcribe", *files, "--passes", "1", "--output_dir", str(tmp_path)]) == 1
    (error,) = errors_of(capsys)
    assert "/proc/self/mem cannot be read" in error and len(list(tmp_path.iterdir())) == 5


def test_cuda_where_there_is_none(capsys, monkeypatch) -> None:
    monkeypatch.setattr("engine.runtime.onnx_session.cuda_present", lambda: False)
    assert main(["transcribe", CLIP, "--device", "cuda"]) == 1
    assert "--device cpu" in errors_of(capsys)[0]


def test_a_compute_type_that_the_bundle_does_not_hold(capsys) -> None:
    assert main(["transcribe", CLIP, "--compute_type", "fp16"]) == 1
    assert "fp16" in errors_of(capsys)[0]


def test_formats_on_the_terminal_and_in_files(tmp_path: Path, capsys) -> None:
    assert main(["translate", CLIP]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed
    assert main(["translate", CLIP, "--output_dir", str(tmp_path), "--word_timestamps"]) == 0
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".srt", ".tsv", ".txt", ".vtt"]
    assert (tmp_path / "visit.txt").read_text(encoding="utf-8").split() == printed.split()
    assert "-->" in (tmp_path / "visit.srt").read_text(encoding="utf-8")


def test_text_to_text_keeps_lines(tmp_path: Path) -> None:
    source, target = tmp_path / "de.txt", tmp_path / "en.txt"
    source.write_bytes("Guten Tag.\n\n😀\nWie geht\u2028es?\nJa.\n".encode("utf-16"))
    assert main(["translate", "--text_file", str(source), "--output", str(target), "--beam_size", "1"]) == 0
    lines = target.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and lines[0] and lines[1] == "" and lines[3]


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path: Path, capsys) -> None:
    source, target = tmp_path / "de.txt", tmp_path / "en.txt"
    source.write_bytes(b"Guten Tag.\n" + b"Das ist sch\xf6n.\n")
    assert main(["translate", "--text_file", str(source), "--output", str(target)]) == 1
    (error,) = errors_of(capsys)
    assert f"{source}:2: not UTF-8 text (byte 0xf6)" in error and "iconv" in error
    assert not target.exists()


def test_text_and_audio_together_are_refused(capsys) -> None:
    assert main(["translate", CLIP, "--text_file", "x.txt"]) == 1
    assert main(["translate"]) == 1
    assert len(errors_of(capsys)) == 2


def test_info_of_the_embedded_bundle(capsys) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "acoustic.onnx" in shown and "onnxruntime" in shown


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["translate", CLIP, "--output", "en.txt"], "--output_dir"),
        (["translate", "--text_file", CLIP, "--output_dir", "out"], "--output OUT"),
        (["translate", "--text_file", CLIP, "--output_format", "srt"], "--output OUT"),
    ],
)
def test_an_output_that_would_be_ignored_is_refused(arguments: list[str], word: str, capsys) -> None:
    assert main(arguments) == 1
    assert word in errors_of(capsys)[0]


def test_verbose_leaves_the_format_that_was_asked_for(capsys) -> None:
    assert main(["transcribe", CLIP, "--verbose", "--output_format", "json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["text"] and "x real time" in shown.err


@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-"])
def test_an_output_that_is_full_or_closed_is_one_line(redirection: str) -> None:
    command = f"{sys.executable} -m engine transcribe {CLIP} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "engine: error" in done.stderr and "standard output" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_in_ascii_loses_umlauts_and_no_more() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "engine", "transcribe", CLIP]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0 and "Gro?mutter" in done.stdout


def test_a_live_stream_that_is_interrupted_still_says_its_last_words(monkeypatch, capsys) -> None:
    samples, _ = sf.read(CLIP, dtype="int16")

    class Microphone(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            if block := super().read1(size):
                return block
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Microphone(samples.tobytes())))
    assert main(["stream"]) == 0
    assert capsys.readouterr().out.strip().endswith("Blumen mit.")


SUNDAY = str(ROOT / "examples" / "audio" / "sunday.flac")


def test_several_files_on_standard_output_can_be_told_apart(capsys) -> None:
    files = [CLIP, f"{CLIP}.gone", CLIP]
    assert main(["transcribe", *files, "--passes", "1", "--output_format", "json"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["file"] for line in lines] == [CLIP, CLIP]
    assert main(["transcribe", *files, "--passes", "1"]) == 1
    first, text, *rest = capsys.readouterr().out.splitlines()
    assert first == f"==> {CLIP} <==" and text and rest == [first, text]
    assert main(["transcribe", CLIP, "--passes", "1"]) == 0
    assert capsys.readouterr().out == text + "\n"


def test_verbose_tells_the_time_on_the_clock(capsys) -> None:
    """Stages are summed over threads: two seconds of them may pass in one."""
    began_s = time.perf_counter()
    assert main(["transcribe", SUNDAY, CLIP, "--passes", "1", "--verbose", "--threads", "2"]) == 0
    took_s = time.perf_counter() - began_s
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if "x real time" in line]
    audio_s, said_s = (float(number) for number in re.findall(r"[0-9.]+(?= s)", line))
    assert audio_s == pytest.approx(47.6, abs=0.1) and said_s <= took_s + 0.1
    assert shown.count("of all threads together") == 2


def test_a_disk_that_fills_up_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-m", "engine", "transcribe", CLIP, "--passes", "1", "--output_dir", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "visit.json' cannot be written (File too large)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["visit.txt"]


@pytest.mark.parametrize("value", ["0", "many"])
def test_a_wrong_number_of_threads_in_the_environment_is_one_line(value: str) -> None:
    environment = {**os.environ, "NUMBA_NUM_THREADS": value, "OMP_NUM_THREADS": value}
    command = [sys.executable, "-m", "engine", "info", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"engine: error: NUMBA_NUM_THREADS={value!r}; expected a whole number, 1 or more; "
        "fix: unset the variable"
    ]
