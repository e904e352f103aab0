"""Training, export and engine-bench read one manifest alike: the same rows, or the same words about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
soundfile = pytest.importorskip("soundfile")

from benchmarks.cli import main as bench  # noqa: E402
from benchmarks.data.manifest import cut_parts, read_data  # noqa: E402
from engine.audio.load import load_audio  # noqa: E402
from engine.bundle.schema import AcousticConfig  # noqa: E402
from engine.errors import AudioError, ManifestError  # noqa: E402
from export.verification.audio_cases import build_cases  # noqa: E402
from training.common.data import load_waveform, probe_samples, read_manifest  # noqa: E402

CONFIG = AcousticConfig()
USERS: dict[str, Callable[[Path], Any]] = {
    "training": read_manifest,
    "export": lambda path: build_cases(CONFIG, path),
    "engine-bench": read_data,
}
HEADER = "path\ttext_de\n"
OBJECT = {"audio_filepath": "a.wav", "text": "ja"}


def lines(*objects: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps(item) for item in objects).encode()


HOSTILE = {
    "empty": ("m.tsv", b"", "m.tsv:1: no header"),
    "empty JSONL": ("m.jsonl", b"\n\n", "m.jsonl: no lines"),
    "header alone": ("m.tsv", HEADER.encode(), "m.tsv: no lines"),
    "latin-1": ("m.tsv", HEADER.encode() + b"a.wav\tsch\xf6n\n", "m.tsv:2: not UTF-8 text (byte 0xf6)"),
    "latin-1 JSONL": ("m.jsonl", b'{"path": "a.wav", "text": "sch\xf6n"}', "m.jsonl:1: not UTF-8 text"),
    "UTF-16 without mark": ("m.tsv", HEADER.encode("utf-16-le"), "m.tsv:1: a zero byte"),
    "UTF-16 cut off": ("m.tsv", HEADER.encode("utf-16")[:-1], "m.tsv:1: not UTF-16 text"),
    "cut off": ("m.jsonl", b'{"audio_filepath": "x"', "m.jsonl:1: not JSON"),
    "nested": ("m.jsonl", b"[" * 200_000, "m.jsonl:1: not JSON"),
    "list": ("m.jsonl", b"[1]", "m.jsonl:1: got list, want a JSON object"),
    "missing key": ("m.jsonl", lines(OBJECT, {"path": "a.wav"}), "m.jsonl:2: got path; want one of"),
    "number": ("m.jsonl", lines({**OBJECT, "text": 42}), "m.jsonl:1: 'text' is 42 (a number), want a string"),
    "null": ("m.jsonl", lines({**OBJECT, "text": None}), "m.jsonl:1: 'text' is null, want a string"),
    "half a character": ("m.jsonl", b'{"path": "a.wav", "text": "\\ud83d"}', "m.jsonl:1: 'text' holds half"),
    "no path": ("m.jsonl", lines({**OBJECT, "audio_filepath": " "}), "m.jsonl:1: 'audio_filepath' is empty"),
    "zero byte": ("m.jsonl", lines({**OBJECT, "audio_filepath": "a\0"}), "holds a zero byte"),
    "short row": ("m.tsv", (HEADER + "\na.wav\n").encode(), "m.tsv:3: 1 columns, the header has 2"),
    "long row": ("m.tsv", (HEADER + "a.wav\tja\tnein\n").encode(), "m.tsv:2: 3 columns, the header has 2"),
    "unknown columns": ("m.tsv", b"file\twords\na.wav\tja\n", "m.tsv:1: got columns file, words; want"),
    "column twice": ("m.tsv", b"path\ttext\ttext\na.wav\tja\tja\n", "m.tsv:1: column 'text' twice"),
    "open quote": ("m.csv", b'path,text\n\na.wav,"ja\nnein\n', "m.csv:3: not CSV"),
    "no table": ("m.csv", b"a" * 200_000, "m.csv:1: not CSV (field larger than field limit"),
    "negative": ("m.jsonl", lines({**OBJECT, "offset": -1}), "m.jsonl:1: 'offset' is -1, want seconds, at"),
    "NaN": ("m.jsonl", lines({**OBJECT, "offset": float("nan")}), "m.jsonl:1: 'offset' is NaN, want seconds"),
    "no time": ("m.tsv", b"path\ttext\tduration\na.wav\tja\tlong\n", "m.tsv:2: 'duration' is long, want"),
    "nothing": ("m.jsonl", lines({**OBJECT, "duration": 0}), "'duration' is 0, want seconds, more than 0"),
    "true": ("m.jsonl", lines({**OBJECT, "duration": True}), "'duration' is true, want seconds"),
    "offset beyond": ("m.jsonl", lines({**OBJECT, "offset": 2.0}), "offset 2 is beyond the end of"),
    "end beyond": (
        "m.jsonl", lines(OBJECT, {**OBJECT, "offset": 1.5, "duration": 0.7}),
        "m.jsonl:2: offset 1.5 + duration 0.7 is beyond the end of",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    times = np.arange(32_000) / 16_000
    soundfile.write(tmp_path / "a.wav", 0.2 * np.sin(2 * np.pi * (200 + 100 * times) * times), 16_000)
    return tmp_path


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_manifest_gets_the_same_error_everywhere(folder: Path, kind: str) -> None:
    name, content, expected = HOSTILE[kind]
    (folder / name).write_bytes(content)
    said = set()
    for read in USERS.values():
        with pytest.raises(ManifestError) as caught:
            read(folder / name)
        said.add(str(caught.value))
    assert len(said) == 1 and expected in said.pop()


def test_a_missing_manifest_gets_the_same_error_everywhere(folder: Path) -> None:
    said = set()
    for read in USERS.values():
        with pytest.raises(ManifestError) as caught:
            read(folder / "none.jsonl")
        said.add(str(caught.value))
    assert len(said) == 1 and "none.jsonl: no such file" in said.pop()


GOOD = {
    "tsv with a mark": ("m.tsv", ("path\ttext_de\na.wav\tSchön,\u2028gut\x85.\n").encode("utf-8-sig")),
    "tsv in UTF-16": ("m.tsv", ("path\tsentence\r\na.wav\tSchön,\u2028gut\x85.\r\n").encode("utf-16")),
    "csv": ("m.csv", 'file_name,transcription\na.wav,"Schön,\u2028gut\x85."\n'.encode()),
    "jsonl": ("m.jsonl", '{"audio_filepath": "a.wav", "text": "Schön,\u2028gut\x85."}\n'.encode()),
    "audio folder": ("metadata.jsonl", '{"file_name": "a.wav", "text": "Schön,\u2028gut\x85."}'.encode()),
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_manifest_gives_the_same_row_everywhere(folder: Path, kind: str) -> None:
    name, content = GOOD[kind]
    (folder / name).write_bytes(content)
    source = folder if kind == "audio folder" else folder / name
    (sample,), (item,) = read_manifest(source), read_data(source)
    assert sample.text == item.text_de == "Schön,\u2028gut\x85."
    assert sample.path == item.path == folder / "a.wav"
    (case,) = [case for case in build_cases(CONFIG, source) if case.text]
    assert case.text == "schön gut" and case.features.size >= 32_000


@pytest.mark.parametrize("suffix", ["jsonl", "tsv"])
def test_only_the_stated_part_is_read_everywhere(folder: Path, suffix: str) -> None:
    row = {"path": "a.wav", "text": "ja", "offset": 0.5, "duration": 0.75}
    content = (
        json.dumps(row)
        if suffix == "jsonl"
        else "\n".join(["\t".join(row), "\t".join(map(str, row.values()))])
    )
    source = folder / f"m.{suffix}"
    source.write_text(content)
    expected = load_audio(folder / "a.wav")[8000:20_000]
    (sample,) = probe_samples(read_manifest(source))
    assert sample.duration_s == 0.75 and np.array_equal(load_waveform(sample), expected)
    (item,) = cut_parts(read_data(source))
    assert np.array_equal(load_audio(item.path), expected)
    (case,) = [case for case in build_cases(CONFIG, source) if case.text]
    n_tail = round(CONFIG.tail_silence_s * 16_000)
    assert case.features.size == 12_000 + n_tail


def test_empty_texts_are_read_everywhere(folder: Path) -> None:
    (folder / "m.tsv").write_text("path\ttext_de\na.wav\t\n")
    assert read_manifest(folder / "m.tsv")[0].text == read_data(folder / "m.tsv")[0].text_de == ""
    assert not [case for case in build_cases(CONFIG, folder / "m.tsv") if case.text]


def test_a_file_that_ends_before_its_part_is_told_when_it_is_read(folder: Path) -> None:
    """The header promises what a file that was cut off does not have."""
    soundfile.write(folder / "b.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 64_000), 16_000)
    content = (folder / "b.flac").read_bytes()
    (folder / "b.flac").write_bytes(content[: len(content) // 2])
    (folder / "m.tsv").write_text("path\ttext\toffset\nb.flac\tja\t3.0\n")
    (sample,), items = read_manifest(folder / "m.tsv"), read_data(folder / "m.tsv")
    with pytest.raises(AudioError, match=r"b\.flac"):
        load_waveform(sample)
    with pytest.raises(AudioError, match=r"b\.flac"):
        cut_parts(items)
    with pytest.raises(AudioError, match=r"b\.flac"):
        build_cases(CONFIG, folder / "m.tsv")


def test_the_command_line_says_it_in_the_same_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "m.tsv").write_bytes(b"path\ttext_de\na.wav\tsch\xf6n\n")
    assert bench(["--data", str(folder / "m.tsv"), "--quiet"]) == 2
    with pytest.raises(ManifestError) as caught:
        read_manifest(folder / "m.tsv")
    assert capsys.readouterr().err == f"engine-bench: {caught.value}\n"
