"""`engine-train align` on recordings whose every letter is a tone: what is kept, dropped, resumed."""

from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
import soundfile

from engine.runtime.interrupts import INTERRUPTED
from engine.text import normalize_text
from tests.reference.tone_bundle import SAMPLE_RATE, spell, write_tone_bundle
from training.alignment import corpus
from training.alignment.cutting import compute_agreement
from training.cli import EXIT_FAILED, main

SENTENCES = (
    "Der Hund liegt heute hier.",
    "Am 7. Mai kam Besuch.",
    "Wir gehen bald nach Hause.",
    "Gute Nacht!",
)
SPOKEN = ("der hund liegt heute hier", "am siebten mai kam besuch", "wir gehen bald nach hause", "gute nacht")


def write_recording(folder, name: str, spoken, sentences=SENTENCES) -> str:
    """Write a recording with a pause behind every sentence; returns its line for a manifest."""
    soundfile.write(folder / f"{name}.wav", spell("." + ".".join(spoken) + "."), SAMPLE_RATE)
    return f"{name}.wav\t{name[:1]}\t{' '.join(sentences)}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tone_bundle(tmp_path_factory.mktemp("tones") / "bundle")


@pytest.fixture
def talks(tmp_path):
    """Three recordings: as written; with a sentence left out; with speech that is not in the text."""
    lines = [
        write_recording(tmp_path, "exact", SPOKEN),
        write_recording(tmp_path, "short", (*SPOKEN[:1], *SPOKEN[2:])),
        write_recording(tmp_path, "long", (*SPOKEN[:2], "aber niemand wusste warum", *SPOKEN[2:])),
    ]
    manifest = tmp_path / "talks.tsv"
    manifest.write_text("\n".join(["path\tspeaker\ttext_de", *lines]) + "\n", encoding="utf-8")
    return manifest


def run(bundle, manifest, *options: str) -> int:
    output = manifest.parent / "out"
    arguments = ["align", "--data", str(manifest), "--output_dir", str(output), "--model", str(bundle)]
    return main([*arguments, "--min_s", "0.5", "--max_s", "4", *options])


def read(manifest):
    with manifest.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def texts(rows, name: str) -> list[str]:
    return [row["text_de"] for row in rows if row["source"] == f"{name}.wav"]


def test_sentences_become_utterances_with_their_written_text(bundle, talks):
    assert run(bundle, talks) == 0
    rows = read(talks.parent / "out" / "train.tsv")
    assert texts(rows, "exact") == [sentence.replace("7.", "siebten") for sentence in SENTENCES]
    assert all(float(row["agreement"]) > 0.9 and float(row["score"]) > -0.2 for row in rows)
    assert [row["speaker"] for row in rows] == [row["source"][:1] for row in rows]


def test_a_clip_holds_the_sound_of_its_text(bundle, talks):
    assert run(bundle, talks) == 0
    out = talks.parent / "out"
    whole, _ = soundfile.read(talks.parent / "exact.wav")
    for row in read(out / "train.tsv"):
        clip, rate = soundfile.read(out / row["path"])
        assert rate == SAMPLE_RATE and len(clip) / rate == pytest.approx(float(row["duration_s"]), abs=1e-3)
        sung = spell(normalize_text(row["text_de"]))
        assert len(sung) / rate < len(clip) / rate < len(sung) / rate + 0.8
        if row["source"] == "exact.wav":
            start = round(float(row["start_s"]) * rate)
            assert np.allclose(clip, whole[start : start + len(clip)], atol=1e-3)


def test_text_that_was_not_said_is_in_no_transcript(bundle, talks):
    assert run(bundle, talks) == 0
    rows = read(talks.parent / "out" / "train.tsv")
    assert texts(rows, "short") == [
        "Der Hund liegt heute hier.", "Wir gehen bald nach Hause.", "Gute Nacht!",
    ]  # fmt: skip


def test_speech_that_is_not_in_the_text_is_in_no_clip(bundle, talks):
    assert run(bundle, talks, "--max_s", "30") == 0
    rows = [row for row in read(talks.parent / "out" / "train.tsv") if row["source"] == "long.wav"]
    end_s, start_s = (
        float(rows[0]["start_s"]) + float(rows[0]["duration_s"]), float(rows[1]["start_s"]),
    )  # fmt: skip
    assert len(rows) == 2 and "Besuch." in rows[0]["text_de"] and rows[1]["text_de"].startswith("Wir gehen")
    assert start_s - end_s > len(spell("aber niemand wusste warum")) / SAMPLE_RATE


def test_named_recordings_go_into_the_second_manifest(bundle, talks):
    assert run(bundle, talks, "--keep_out", "sh*", "long.wav") == 0
    out = talks.parent / "out"
    assert {row["source"] for row in read(out / "train.tsv")} == {"exact.wav"}
    assert {row["source"] for row in read(out / "held_out.tsv")} == {"short.wav", "long.wav"}
    assert run(bundle, talks, "--keep_out", "e") == 0  # by speaker
    assert {row["source"] for row in read(out / "held_out.tsv")} == {"exact.wav"}
    assert run(bundle, talks) == 0
    assert not (out / "held_out.tsv").exists()


def test_without_speakers_the_manifest_has_no_such_column(bundle, tmp_path):
    line = write_recording(tmp_path, "talk", SPOKEN).split("\t")
    (tmp_path / "m.tsv").write_text(f"path\ttext_de\n{line[0]}\t{line[2]}\n", encoding="utf-8")
    assert run(bundle, tmp_path / "m.tsv") == 0
    assert list(read(tmp_path / "out" / "train.tsv")[0]) == [
        "path", "duration_s", "text_de", "score", "agreement", "source", "start_s",
    ]  # fmt: skip


def test_a_finished_recording_is_not_cut_again(bundle, talks, caplog):
    caplog.set_level(logging.INFO, "training.alignment.command")
    assert run(bundle, talks) == 0
    out = talks.parent / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.flac")}
    caplog.clear()
    assert run(bundle, talks) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.flac")}
    assert sum("already there" in message for message in caplog.messages) == 3


@pytest.mark.parametrize("change", ["text", "audio", "options", "clip", "record"])
def test_what_has_changed_is_cut_again(bundle, talks, caplog, change):
    caplog.set_level(logging.INFO, "training.alignment.command")
    assert run(bundle, talks) == 0
    out = talks.parent / "out"
    if change == "text":
        talks.write_text(talks.read_text(encoding="utf-8").replace("Gute Nacht!", "Gute Nacht.", 1), "utf-8")
    elif change == "audio":
        write_recording(talks.parent, "exact", SPOKEN[:3])
    elif change == "clip":
        (out / "audio" / "exact" / "0000.flac").unlink()
    elif change == "record":
        (out / "records" / "exact.json").write_text('{"digest": 3', encoding="utf-8")
    caplog.clear()
    assert run(bundle, talks, *(["--min_score", "-1"] if change == "options" else [])) == 0
    assert sum("already there" in m for m in caplog.messages) == (0 if change == "options" else 2)


class Interrupted:
    """soundfile's write, which is interrupted at a later call."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.left, self.error, self.write = after, error, soundfile.write

    def __call__(self, *arguments, **options) -> None:
        if self.left == 0:
            raise self.error
        self.left -= 1
        self.write(*arguments, **options)


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), INTERRUPTED), (OSError(28, "no space"), EXIT_FAILED)]
)
def test_an_interrupted_run_leaves_nothing_partial(bundle, talks, monkeypatch, caplog, error, code):
    caplog.set_level(logging.INFO, "training.alignment.command")
    with monkeypatch.context() as patch:
        patch.setattr(corpus.soundfile, "write", Interrupted(5, error))
        assert run(bundle, talks) == code
    out = talks.parent / "out"
    assert [path.name for path in (out / "audio").iterdir()] == ["exact"]
    assert sorted(path.name for path in out.iterdir()) == ["audio", "records"]
    assert not list(out.rglob(f"*{corpus.PARTIAL}"))
    caplog.clear()
    assert run(bundle, talks) == 0
    assert sum("already there" in message for message in caplog.messages) == 1
    resumed = (out / "train.tsv").read_bytes()
    whole = talks.parent / "again"
    assert run(bundle, talks, "--output_dir", str(whole)) == 0
    assert resumed == (whole / "train.tsv").read_bytes()


def test_a_killed_run_is_tidied_up(bundle, talks):
    out = talks.parent / "out"
    (out / "audio" / f"exact{corpus.PARTIAL}").mkdir(parents=True)
    (out / "records").mkdir()
    for path in (out / f"train.tsv{corpus.PARTIAL}", out / "records" / f"exact.json{corpus.PARTIAL}"):
        path.write_text("{", encoding="utf-8")
    assert run(bundle, talks) == 0
    assert not list(out.rglob(f"*{corpus.PARTIAL}"))


def test_kept_and_dropped_add_up_to_the_recordings(bundle, talks, caplog):
    caplog.set_level(logging.INFO, "training.alignment.command")
    assert run(bundle, talks) == 0
    for path in (talks.parent / "out" / "records").iterdir():
        record = json.loads(path.read_text(encoding="utf-8"))
        kept_s = sum(float(row["duration_s"]) for row in record["rows"])
        assert kept_s + sum(record["dropped_s"].values()) == pytest.approx(record["duration_s"], abs=0.1)
    assert any(message.startswith("train: ") for message in caplog.messages)
    assert any(message.startswith("dropped, ") for message in caplog.messages)


def test_long_speech_without_a_pause_is_dropped(bundle, tmp_path, caplog):
    caplog.set_level(logging.INFO, "training.alignment.command")
    spoken = " ".join(SPOKEN)
    line = write_recording(tmp_path, "breathless", (spoken,))
    (tmp_path / "m.tsv").write_text(f"path\tspeaker\ttext_de\n{line}\n", encoding="utf-8")
    assert run(bundle, tmp_path / "m.tsv") == 0
    assert read(tmp_path / "out" / "train.tsv") == []
    assert any("between pauses" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("letters", "heard", "agreement"),
    [("ja gut", "jagut", 1.0), ("ja", "", 0.0), ("abcd", "abxd", 0.75), ("a", "xyz", 0.0)],
)
def test_agreement_counts_letters(letters, heard, agreement):
    assert compute_agreement(letters, heard) == pytest.approx(agreement)
