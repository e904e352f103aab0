"""What the csv and json modules write is read back as it was, and only the stated part of a file is read."""

from __future__ import annotations

import csv
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.audio.load import load_audio
from engine.audio.parts import load_part, read_length
from engine.errors import AudioError, AudioValueError, DependencyError, ManifestError
from engine.manifests import ManifestRow, read_manifest
from engine.manifests.text_file import read_lines

ROOT = Path(__file__).resolve().parents[2]
CHARACTERS = st.characters(codec="utf-8")
ANY_TEXT = st.text(CHARACTERS, max_size=30)
TSV_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\0"), max_size=30)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifests")


@settings(max_examples=60, deadline=None)
@given(st.lists(TSV_TEXT, min_size=1, max_size=5), ENCODINGS, st.sampled_from(["\n", "\r\n"]))
def test_tsv_is_read_back(folder: Path, texts: list[str], encoding: str, end: str) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator=end)
    writer.writerow(["path", "text_de"])
    writer.writerows([f"{i}.wav", text] for i, text in enumerate(texts))
    (folder / "m.tsv").write_bytes(file.getvalue().encode(encoding))
    assert [row.text for row in read_manifest(folder / "m.tsv")] == texts


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(ANY_TEXT.filter(lambda t: "\0" not in t), min_size=1, max_size=5), encoding=ENCODINGS)
def test_csv_is_read_back(folder: Path, texts: list[str], encoding: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["file_name", "transcription", "speaker"])
    writer.writerows([f"{i}.wav", text, text] for i, text in enumerate(texts))
    (folder / "m.csv").write_bytes(file.getvalue().encode(encoding))
    rows = read_manifest(folder / "m.csv")
    assert [(row.text, row.speaker) for row in rows] == [(text, text) for text in texts]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=5), encoding=ENCODINGS, plain=st.booleans())
def test_jsonl_is_read_back(folder: Path, texts: list[str], encoding: str, plain: bool) -> None:
    rows = [{"audio_filepath": f"{i}.wav", "text": text, "note": text} for i, text in enumerate(texts)]
    content = "\n".join(json.dumps(row, ensure_ascii=plain) for row in rows)
    (folder / "m.jsonl").write_bytes(content.encode(encoding))
    found = read_manifest(folder / "m.jsonl")
    assert [(row.text, row.columns["note"]) for row in found] == [(text, text) for text in texts]


def test_one_row_has_all_that_a_line_says(tmp_path: Path) -> None:
    line = {
        "audio_filepath": "a/b.wav", "text": "Ja.", "translation": "Yes.", "offset": 10800.125,
        "duration": "2.25", "client_id": "s1", "lang": "de", "tags": ["x"], "n": 3, "empty": None,
    }  # fmt: skip
    (tmp_path / "m.ndjson").write_text(json.dumps(line))
    (row,) = read_manifest(tmp_path / "m.ndjson")
    name, columns = "a/b.wav@10800.125+2.25", {"client_id": "s1", "lang": "de", "tags": '["x"]', "n": "3"}
    assert row == ManifestRow(
        tmp_path / "a/b.wav", "Ja.", 10800.125, 2.25, "Yes.", "s1", name, {**columns, "empty": ""}
    )


def test_common_voice_has_its_audio_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text(f"client_id\tpath\tsentence\ns\t{split}.mp3\tHallo\n")
    for split in ("train", "test"):
        assert read_manifest(tmp_path, split=split)[0].path == tmp_path / "clips" / f"{split}.mp3"
    assert read_manifest(tmp_path / "test.tsv")[0].path == tmp_path / "clips" / "test.mp3"


def test_audio_folders_with_a_table_for_each_split(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "metadata.csv").write_text("file_name,text\na.wav,Ja\n")
    assert read_manifest(tmp_path)[0].path == tmp_path / "test" / "a.wav"


def test_the_error_lists_ten_problems_and_how_many_more(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("{\n" * 25)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"manifest {path}: 25 problems" and len(lines) == 12
    assert lines[10].startswith(f"  {path}:10: not JSON") and lines[11].startswith("  and 15 more; fix: ")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problems) == (str(caught.value), caught.value.problems)


def test_without_pyarrow_a_dataset_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match="pip install pyarrow"):
        read_manifest(tmp_path)


def test_reading_manifests_imports_nothing_heavy() -> None:
    code = "import engine.manifests, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"pyarrow", "torch", "pandas", "datasets", "onnx"} & set(done.stdout.split())


def write_steps(path: Path, rate: int, channels: int = 1) -> Path:
    """Three seconds of 0.1, 0.2 and 0.3."""
    steps = np.repeat([0.1, 0.2, 0.3], rate)
    soundfile.write(path, np.stack([steps] * channels, axis=1), rate)
    return path


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
def test_a_part_is_that_part_of_the_whole(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    noise = np.random.default_rng(0).standard_normal((3 * rate, channels)) * 0.1
    path = tmp_path / name
    soundfile.write(path, noise, rate)
    whole, part = load_audio(path), load_part(path, 1.0, 0.5)
    assert part.shape == (8000,) and part.dtype == np.float32
    assert load_part(path, 2.5).size == whole.size - 40_000
    # The resampler sees other neighbours at the edges; inside, both are the same.
    assert part[200:-200] == pytest.approx(whole[16_200:23_800], abs=2e-3)


def test_a_file_that_is_longer_than_its_header_says_is_read_to_the_part(tmp_path: Path) -> None:
    path = write_steps(tmp_path / "a.wav", 16_000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = (2 * 16_000).to_bytes(4, "little")  # one second, as a killed recorder leaves it
    path.write_bytes(data)
    expected = load_audio(path)
    if expected.size == 48_000:
        assert load_part(path, 2.0, 0.5) == pytest.approx(np.full(8000, 0.3), abs=1e-3)
    else:
        with pytest.raises(AudioValueError, match="beyond the end"):
            load_part(path, 2.0, 0.5)


@pytest.mark.parametrize(
    ("offset_s", "duration_s"),
    [
        (-1.0, None),
        (float("nan"), 1.0),
        (0.0, 0.0),
        (0.0, -2.0),
        (0.0, float("inf")),
        (3.0, None),
        (2.0, 1.5),
    ],
)
def test_a_part_that_cannot_be_is_refused(tmp_path: Path, offset_s: float, duration_s: float | None) -> None:
    path = write_steps(tmp_path / "a.wav", 16_000)
    with pytest.raises(AudioValueError):
        load_part(path, offset_s, duration_s)


def test_parts_of_what_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    for name in ("a.wav", "none.wav"):
        assert read_length(tmp_path / name) is None
        with pytest.raises(AudioError):
            load_part(tmp_path / name, 1.0, 1.0)


def test_rounded_durations_of_whole_files_are_no_parts(tmp_path: Path) -> None:
    write_steps(tmp_path / "a.wav", 16_000)
    for duration in (2.97, 3.0, 3.04):
        (tmp_path / "m.jsonl").write_text(json.dumps({"path": "a.wav", "text": "", "duration": duration}))
        (row,) = read_manifest(tmp_path / "m.jsonl")
        assert not row.is_part and row.id == "a.wav"


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("a\u2028b\x85c\x0bd\r\ne\n\nf".encode())
    assert read_lines(tmp_path / "a.txt") == ["a\u2028b\x85c\x0bd", "e", "", "f"]
