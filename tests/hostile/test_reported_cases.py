"""Every file that a user reported, as it was reported; skipped where these files are not at hand.

The kind of each is tested everywhere with an input that the test makes itself: EQUALS names that test.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.audio.load import load_audio, read_audio
from engine.audio.parts import load_part
from engine.decoding.labels import build_labels
from engine.decoding.ngram import NgramModel
from engine.decoding.phrases import find_unspelled
from engine.errors import AudioDecodeError, ManifestError, TextFileError
from engine.manifests.reader import read_manifest
from engine.manifests.text_file import read_lines
from engine.output.formats import to_dict
from engine.text import VOCABULARY
from engine.types import DecodingOptions
from tests.unit.audio_files import RATE, find_offset

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "cases"
SPEECH = ROOT / "examples" / "audio"
VISIT = "Morgen besuchen wir meine Großmutter und bringen ihr frische Blumen mit."
reported = pytest.mark.skipif(not CASES.is_dir(), reason="the reported files are not beside this folder")

# File -> the test that makes an equal one. Files of other subjects name the test that reads them.
EQUALS = {
    "01_chained_opus.ogg": "unit/test_audio_joined.py: test_joined_files_are_read_to_the_end",
    "03_gap_6s.webm": "unit/test_audio_media.py: test_a_gap_in_the_packets_keeps_later_times",
    "04_nemo_offset.jsonl": "unit/test_manifests.py: test_a_part",
    "05_hotwords_nfd.txt": "unit/test_hotwords_as_typed.py: test_what_people_type_is_spelled",
    "05_nfc.arpa": "unit/test_hotwords_as_typed.py: test_a_language_model_in_either_form_knows_its_words",
    "05_nfd.arpa": "unit/test_hotwords_as_typed.py: test_a_language_model_in_either_form_knows_its_words",
    "06_hotwords_german.txt": "unit/test_hotwords_as_typed.py: test_what_people_type_is_spelled",
    "08_latin1.txt": "hostile/test_hostile_cli.py: test_text_in_another_encoding_is_refused_with_its_line",
    "08_utf16.txt": "hostile/test_hostile_cli.py: test_text_in_another_encoding_is_refused_with_its_line",
    "11_unfinalized.wav": "unit/test_audio_joined.py: test_a_size_that_is_zero_or_too_small",
    "14_antiphase.flac": "unit/test_channels.py: test_a_bad_file_changes_none_of_its_neighbours",
    "15_second_track_speaks.mkv": "unit/test_audio_media.py: test_the_track_that_speaks_is_used",
    "16_garbage_before.mp3": "unit/test_audio_joined.py: test_junk_before_an_mp3_is_skipped_and_said",
    "16_midframe.mp3": "unit/test_audio_joined.py: test_a_partial_frame_before_an_mp3",
    "16_wavpack.wv": "unit/test_audio_joined.py: test_wavpack",
    "16_zeros_before.mp3": "unit/test_audio_joined.py: test_what_stands_before_an_mp3_does_not_matter",
    "17_corrupt_mid.mp3": "unit/test_audio_joined.py: test_a_damaged_mp3_keeps_its_times_and_prints_nothing",
    "18_truncated.wav": "unit/test_audio_joined.py: test_a_file_that_is_cut_off_is_read_to_its_end",
    "19_one_speaker_a_channel.flac": "unit/test_channels.py: test_files_with_two_channels",
    "21_size_too_small.wav": "unit/test_audio_joined.py: test_a_size_that_is_zero_or_too_small",
    "22_minus_inf.arpa": "unit/test_hotwords_as_typed.py: test_minus_infinity_is_as_good_as_impossible",
    "24_eight_channels.mkv": "unit/test_audio_media.py: test_many_channels",
    "25_custom_layout.mov": "unit/test_audio_media.py: test_channels_in_an_order_of_their_own",
    "26_mutated.ts": "hostile/test_audio_fuzz.py: test_mutated_files_end_in_audio_or_a_typed_error",
}
# File -> seconds that it holds, where visit.flac begins and ends in it, words of the warnings.
AUDIO = {
    "01_chained_opus.ogg": (8.47, 0.0, 4.336, ()),
    "03_gap_6s.webm": (10.34, 0.0, 2.0, ("packets of 6", "silence stands")),
    "11_unfinalized.wav": (4.336, 0.0, 4.336, ("all 4.34 s that it holds are used",)),
    "14_antiphase.flac": (4.336, 0.0, 4.336, ("cancel each other",)),
    "15_second_track_speaks.mkv": (4.336, 0.0, 4.336, ("track 2 of 2 is used",)),
    "16_garbage_before.mp3": (4.336, 0.0, 4.336, ("in front of its first frame",)),
    "16_midframe.mp3": (3.93, -0.4, 3.9, ("in front of its first frame",)),
    "16_wavpack.wv": (4.336, 0.0, 4.336, ()),
    "16_zeros_before.mp3": (4.336, 0.0, 4.336, ()),
    "17_corrupt_mid.mp3": (4.3, 0.0, 2.0, ("damaged",)),
    "18_truncated.wav": (1.87, 0.0, 1.8, ("the rest is missing",)),
    "21_size_too_small.wav": (4.336, 0.0, 4.336, ("all 4.34 s that it holds are used",)),
}


def load_quietly(path: Path) -> tuple[np.ndarray, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        waveform = load_audio(path)
    return waveform, "; ".join(str(each.message) for each in caught)


def test_every_kind_is_tested_with_an_input_of_its_own() -> None:
    for file, test in EQUALS.items():
        path, name = test.split(": ")
        assert re.search(rf"^def {name}", (ROOT / "tests" / path).read_text(encoding="utf-8"), re.M), file


@reported
def test_no_reported_file_is_forgotten() -> None:
    files = {path.name for path in CASES.iterdir() if path.is_file()} - {
        "README.md",
        "ok.tsv",
        "12_train.yaml",
    }
    text = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {"07_fp16_checkpoint.py", "09_lines.txt", "10_numbers.txt"}  # export, translation, numbers
    assert {file for file in files - elsewhere if file not in text} == set()


@reported
@pytest.mark.parametrize("name", sorted(AUDIO))
def test_audio_is_all_there_and_what_is_not_is_said(name: str) -> None:
    duration_s, start_s, end_s, words = AUDIO[name]
    waveform, said = load_quietly(CASES / name)
    assert len(waveform) / RATE == pytest.approx(duration_s, abs=0.03)
    sentence = load_audio(SPEECH / "visit.flac")
    part = sentence[round((0.3 - min(start_s, 0.0)) * RATE) : round((end_s - 0.2) * RATE)]
    at, similarity = find_offset(waveform, part)
    assert similarity > 0.8 and at / RATE == pytest.approx(0.3, abs=0.1)
    assert all(word in said for word in words) and bool(said) == bool(words)
    assert bool(read_audio(CASES / name).notes) == bool(words)


@reported
@pytest.mark.filterwarnings("ignore::engine.errors.AudioWarning")
def test_words_after_a_gap_and_a_seam(translator: engine.SpeechTranslator) -> None:
    second = translator.transcribe(CASES / "01_chained_opus.ogg").segments[1]
    assert "halb neun" in second.text and second.start_s == pytest.approx(4.4, abs=0.2)
    after = translator.transcribe(CASES / "03_gap_6s.webm")
    assert after.segments[-1].start_s > 7.9 and after.segments[-1].text.endswith("Blumen mit.")
    assert "packets of 6" in to_dict(after)["warnings"][0]


@reported
def test_a_speaker_on_each_channel(translator: engine.SpeechTranslator) -> None:
    path = CASES / "19_one_speaker_a_channel.flac"
    found = translator.transcribe(path, options=DecodingOptions(channels="separate"))
    texts = {segment.channel: segment.text for segment in found.segments}
    assert texts[1] == VISIT and "nach Hamburg" in texts[2]


@reported
@pytest.mark.filterwarnings("ignore::engine.errors.AudioWarning")
def test_a_track_is_chosen() -> None:
    path = CASES / "15_second_track_speaks.mkv"
    first, second = (load_audio(path, track=track) for track in (1, 2))
    assert np.abs(first).max() < 1e-3 < np.abs(second).max()
    with pytest.raises(AudioDecodeError, match="has 2"):
        load_audio(path, track=3)


@reported
@pytest.mark.filterwarnings("ignore::engine.errors.AudioWarning")
def test_files_that_ended_the_process() -> None:
    assert len(load_audio(CASES / "24_eight_channels.mkv")) == pytest.approx(0.5 * RATE, abs=10)
    assert len(read_audio(CASES / "24_eight_channels.mkv", channels="separate").waveforms) == 8
    assert len(load_audio(CASES / "25_custom_layout.mov")) == pytest.approx(RATE, abs=10)
    waveform, said = load_quietly(CASES / "26_mutated.ts")
    assert len(waveform) and "damaged" in said


@reported
def test_a_part_of_a_recording_is_scored_as_that_part() -> None:
    (row,) = read_manifest(CASES / "04_nemo_offset.jsonl")
    part = load_part(row.path, row.offset_s, row.duration_s)
    whole = load_audio(row.path)
    np.testing.assert_allclose(part, whole[10 * RATE : 14 * RATE], atol=1e-3)


@reported
def test_hotwords_and_language_models_as_people_type_them() -> None:
    labels = build_labels(VOCABULARY, 0, "|")
    typed = (CASES / "06_hotwords_german.txt").read_text(encoding="utf-8").strip().split(",")
    typed += read_lines(CASES / "05_hotwords_nfd.txt")
    assert len(typed) == 7 and find_unspelled(labels, typed) == []
    models = [NgramModel(CASES / name) for name in ("05_nfc.arpa", "05_nfd.arpa", "22_minus_inf.arpa")]
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, "große katze")
        assert [model.score(text) for model in models] == pytest.approx([-1.2] * 3, abs=1e-6)


@reported
def test_texts_that_are_not_utf_8() -> None:
    with pytest.raises(TextFileError, match=r"08_latin1.txt:1: not UTF-8 .*iconv"):
        read_lines(CASES / "08_latin1.txt")
    assert read_lines(CASES / "08_utf16.txt") == ["Guten"]


@reported
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("12_train_t_bad.jsonl", ":1: not JSON"),
        ("12_train_t_latin.tsv", ":2: not UTF-8"),
        ("12_train_t_missing.jsonl", ":2: got audio_filepath; want one of"),
        ("12_train_t_num.jsonl", ":1: 'text' is 42"),
    ],
)
def test_manifests_with_a_problem_name_file_and_line(name: str, problem: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(name + problem)):
        read_manifest(CASES / name)


@reported
def test_manifests_without_a_problem() -> None:
    (row,) = read_manifest(CASES / "12_train_t_bom.tsv")
    assert row.text == "Hallo" and Path(row.path).is_file()
    (row,) = read_manifest(CASES / "12_train_t_off.jsonl")
    assert (row.offset_s, row.duration_s) == (10.0, 3.0)


@reported
def test_an_empty_reference_counts_what_is_invented(translator: engine.SpeechTranslator) -> None:
    rows = read_manifest(CASES / "23_empty_ref.tsv")
    assert [row.text for row in rows] == ["", "Der Zug"]
    assert translator.transcribe(CASES / "23_silence.wav").text == ""
