"""Manifests that are wrong in every way: all problems at once, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.data.manifest import read_data, read_manifest
from benchmarks.errors import ManifestError


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def audio(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"RIFF")


def test_a_good_tsv_keeps_its_columns_and_resolves_paths(tmp_path: Path) -> None:
    audio(tmp_path, "sub/a.wav", "b.wav")
    path = write(tmp_path, "m.tsv", "path\temotion\ttext_de", "sub/a.wav\tjoy\tJa.", 'b.wav\tanger\t"Nein"')
    first, second = read_manifest(path)
    assert first.path == tmp_path / "sub" / "a.wav"
    assert (first.id, first.text_de, first.text_en, dict(first.columns)) == (
        "sub/a.wav",
        "Ja.",
        None,
        {"emotion": "joy"},
    )
    assert second.text_de == '"Nein"'


def test_a_good_jsonl_reads_the_names_of_nemo_and_lhotse(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav")
    row = {"audio_filepath": "a.wav", "text": "Größe\u2028und so", "translation": "Size", "duration": 1.5}
    path = write(tmp_path, "m.jsonl", json.dumps(row, ensure_ascii=False), "")
    (item,) = read_manifest(path)
    assert (item.text_de, item.text_en, item.duration_s) == ("Größe\u2028und so", "Size", 1.5)


def test_windows_line_ends_and_byte_order_marks_are_no_text(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav")
    (tmp_path / "m.tsv").write_bytes("\ufeffpath\ttext_de\r\na.wav\tJa\r\n".encode())
    (item,) = read_manifest(tmp_path / "m.tsv")
    assert (item.id, item.text_de) == ("a.wav", "Ja")


def test_all_problems_of_all_lines_come_in_one_error(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    path = write(
        tmp_path,
        "m.tsv",
        "path\ttext_de\ttext_en",
        "a.wav\tJa\tYes",
        "missing.wav\tNein\tNo",
        "a.wav\tDoch\tYes",
        "b.wav\t...\tHm",
        "c.wav\tGut\t",
        "empty.wav\tLeer\tEmpty",
        "\tOhne\tWithout",
    )
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    text = str(caught.value)
    assert "5 problems" in text
    for expected in (
        "m.tsv:3: no audio file",
        "m.tsv:4: id 'a.wav' again (first in ",
        "m.tsv:6: empty English reference",
        "m.tsv:7: empty audio file",
        "m.tsv:8: 'path' is empty",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["path\twords", "a.wav\tJa"], "m.tsv:1: got columns path, words; want one of path, audio_filepath"),
        (["file\tsentence", "a.wav\tJa"], "m.tsv:1: got columns file, sentence"),
        (["path\ttext_de\ttext_de", "a.wav\tJa\tJa"], "column 'text_de' twice"),
        (["path\ttext_de", "a.wav\tJa\tYes"], "m.tsv:2: 3 columns, the header has 2"),
        (["path\ttext_de"], "m.tsv: no lines"),
        ([""], "m.tsv:1: no header"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, lines: list[str], expected: str) -> None:
    audio(tmp_path, "a.wav")
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(tmp_path, "m.tsv", *lines))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "m.jsonl:1: not JSON"),
        ("[1]", "m.jsonl:1: got list, want a JSON object"),
        ('{"text": "Ja"}', "m.jsonl:1: got text; want one of path, audio_filepath"),
        ('{"audio_filepath": "a.wav", "text": null}', "m.jsonl:1: 'text' is null, want a string"),
    ],
)
def test_wrong_json_lines_are_named(tmp_path: Path, line: str, expected: str) -> None:
    audio(tmp_path, "a.wav")
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(tmp_path, "m.jsonl", line))
    assert expected in str(caught.value)


def test_files_that_are_no_manifest_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00\xd8")
    for path, expected in ((tmp_path / "none.tsv", "no such file"), (tmp_path / "binary.tsv", "UTF-16 text")):
        with pytest.raises(ManifestError) as caught:
            read_manifest(path)
        assert expected in str(caught.value)


def test_a_thousand_problems_do_not_fill_the_screen(tmp_path: Path) -> None:
    lines = [f"none{i}.wav\tJa" for i in range(1000)]
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(tmp_path, "m.tsv", "path\ttext_de", *lines))
    assert len(caught.value.problems) == 1000
    assert len(str(caught.value).splitlines()) == 12


def test_limit_keeps_the_first_but_checks_all(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav")
    good = write(tmp_path, "m.tsv", "path\ttext_de", "a.wav\tJa", "b.wav\tNein")
    assert [item.id for item in read_manifest(good, limit=1)] == ["a.wav"]
    bad = write(tmp_path, "n.tsv", "path\ttext_de", "a.wav\tJa", "none.wav\tNein")
    with pytest.raises(ManifestError):
        read_manifest(bad, limit=1)


def covost(tmp_path: Path) -> Path:
    clips = tmp_path / "de" / "clips"
    audio(clips, "cv1.mp3", "cv2.mp3", "cv3.mp3")
    write(
        tmp_path / "de",
        "validated.tsv",
        "client_id\tpath\tsentence",
        's1\tcv1.mp3\tEr sagte \\"ja\\".',
        "s2\tcv2.mp3\tGuten Tag.",
        "s1\tcv3.mp3\tNein.",
        "s9\tcv9.mp3\tNicht dabei.",
    )
    write(
        tmp_path,
        "covost_v2.de_en.tsv",
        "path\ttranslation\tsplit",
        "cv1.mp3\tHe said yes.\ttest",
        "cv2.mp3\tGood day.\ttrain_covost",
        "cv3.mp3\tNo.\tdev",
    )
    return clips


def test_covost_as_published_is_joined_with_common_voice(tmp_path: Path) -> None:
    clips = covost(tmp_path)
    (item,) = read_data(tmp_path / "covost_v2.de_en.tsv", clips, "test")
    assert (item.id, item.text_de, item.text_en) == ("cv1.mp3", 'Er sagte "ja".', "He said yes.")
    assert item.columns["client_id"] == "s1"
    (train,) = read_data(tmp_path / "covost_v2.de_en.tsv", clips, "train")
    assert train.id == "cv2.mp3"


def test_covost_splits_of_the_official_script_need_no_join(tmp_path: Path) -> None:
    clips = covost(tmp_path)
    path = write(
        tmp_path,
        "covost_v2.de_en.dev.tsv",
        "path\tsentence\ttranslation\tclient_id",
        "cv3.mp3\tNein.\tNo.\ts1",
    )
    (item,) = read_data(path, clips)
    assert (item.text_de, item.text_en) == ("Nein.", "No.")


def test_common_voice_alone_has_no_english(tmp_path: Path) -> None:
    clips = covost(tmp_path)
    path = write(tmp_path, "cv.tsv", "client_id\tpath\tsentence", "s1\tcv1.mp3\tJa.")
    (item,) = read_data(path, clips)
    assert item.text_en is None


def test_covost_without_its_other_half_says_what_is_missing(tmp_path: Path) -> None:
    clips = covost(tmp_path)
    path = tmp_path / "covost_v2.de_en.tsv"
    with pytest.raises(ManifestError, match="no clip of split 'validation'"):
        read_data(path, clips, "validation")
    (clips.parent / "validated.tsv").unlink()
    with pytest.raises(ManifestError, match="no such file"):
        read_data(path, clips)


def test_audio_folders_of_hugging_face(tmp_path: Path) -> None:
    audio(tmp_path, "a.wav", "b.wav")
    write(
        tmp_path,
        "metadata.csv",
        "file_name,transcription,translation",
        'a.wav,"Ja, gut.",Yes',
        "b.wav,Nein,No",
    )
    assert [item.text_de for item in read_data(tmp_path)] == ["Ja, gut.", "Nein"]
    (tmp_path / "metadata.csv").unlink()
    write(tmp_path, "metadata.jsonl", '{"file_name": "a.wav", "sentence": "Ja"}')
    (item,) = read_data(tmp_path)
    assert (item.id, item.text_de) == ("a.wav", "Ja")
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(ManifestError, match="nor Arrow or Parquet"):
        read_data(tmp_path)


def save_dataset(folder: Path, rows: list[dict[str, object]], split: str = "test") -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="reads Hugging Face datasets; not in any extra")
    (folder / split).mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    shard = folder / split / "data-00000-of-00001.arrow"
    with pyarrow.OSFile(str(shard), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (folder.parent / "hub").mkdir(exist_ok=True)
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(table, folder.parent / "hub" / f"{split}-00000.parquet")


def test_datasets_saved_to_disk_or_downloaded_have_their_audio_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clip = {"bytes": b"RIFFdata", "path": "a.wav"}
    rows = [{"audio": clip, "sentence": "Ja.", "translation": "Yes.", "client_id": "s1"}] * 2
    save_dataset(tmp_path / "saved", rows)
    save_dataset(tmp_path / "saved", rows[:1], "train")
    for folder in ("saved", "hub"):
        first, second = read_data(tmp_path / folder)
        assert first.path.read_bytes() == b"RIFFdata"
        assert (first.id, second.id) == ("000001-a.wav", "000002-a.wav")
        assert (first.text_de, first.text_en, first.columns["client_id"]) == ("Ja.", "Yes.", "s1")
    with pytest.raises(ManifestError, match="no Arrow or Parquet files of split 'dev'; it has test, train"):
        read_data(tmp_path / "saved", split="dev")  # never another split in its place
    save_dataset(tmp_path / "saved", [{"audio": None, "sentence": "Ja."}, {"audio": clip, "sentence": ""}])
    with pytest.raises(ManifestError, match="row 1: no audio"):
        read_data(tmp_path / "saved")
    save_dataset(tmp_path / "saved", [{"sentence": "Ja."}])
    with pytest.raises(ManifestError, match="got columns sentence; want one of audio"):
        read_data(tmp_path / "saved")
