"""Manifests, batches and the examination of samples."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch")

from training.asr.doctor import SampleLimits, check_sample, describe_problems, examine, min_frames
from training.common.data import (
    BucketSampler,
    ManifestError,
    Sample,
    build_vocabulary,
    encode_text,
    load_waveform,
    probe_samples,
    read_manifest,
)

VOCABULARY = build_vocabulary([])


def write_clip(path, seconds=1.0, sample_rate=16_000, level=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal(int(seconds * sample_rate)) * level
    soundfile.write(path, np.clip(noise, -1, 1), sample_rate)
    return path


def test_tsv_paths_are_relative_to_the_manifest(tmp_path):
    (tmp_path / "m.tsv").write_text('path\ttext_de\na.wav\t"Halb offen\nb.wav\tZwei\n', encoding="utf-8")
    samples = read_manifest(tmp_path / "m.tsv")
    assert [sample.path for sample in samples] == [tmp_path / "a.wav", tmp_path / "b.wav"]
    assert samples[0].text == '"Halb offen'  # a lone quotation mark swallows no lines


def test_jsonl_manifest(tmp_path):
    line = json.dumps({"audio_filepath": "x/a.flac", "text": "Grüße"})
    (tmp_path / "m.jsonl").write_text(line + "\n\n", encoding="utf-8")
    assert read_manifest(tmp_path / "m.jsonl") == [Sample(tmp_path / "x" / "a.flac", "Grüße")]


def test_common_voice_layout(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "train.tsv").write_text("client_id\tpath\tsentence\n1\ta.mp3\tHallo.\n", encoding="utf-8")
    assert read_manifest(tmp_path)[0].path == tmp_path / "clips" / "a.mp3"


def test_speakers_are_read_where_the_manifest_names_them(tmp_path):
    (tmp_path / "m.tsv").write_text(
        "path\ttext_de\tspeaker\na.wav\tJa\tanna\nb.wav\tNein\t\n", encoding="utf-8"
    )
    assert [sample.speaker for sample in read_manifest(tmp_path / "m.tsv")] == ["anna", ""]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.tsv", b"path\ttext_de\na.wav\tsch\xf6n\n"),
        ("m.jsonl", b'{"path": "a.wav", "te'),
        ("m.csv", b"a" * 200_000),
        ("m.tsv", b"path\ttext_de\na.wav\n"),
        ("m.jsonl", b'{"path": "a.wav", "text": 42}'),
    ],
    ids=["latin-1", "cut off", "no table", "short row", "number"],
)
def test_an_unreadable_manifest_says_what_is_wanted(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=f"{name}:[12]: .*(want|not JSON|not CSV|the header has)"):
        read_manifest(tmp_path / name)


def test_audio_folder_layout(tmp_path):
    (tmp_path / "metadata.csv").write_text('file_name,transcription\na.wav,"Ja, gut"\n', encoding="utf-8")
    assert read_manifest(tmp_path) == [Sample(tmp_path / "a.wav", "Ja, gut")]


def write_table(table, folder, kind):
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        parquet.write_table(table, folder / "data.parquet")
        return
    with (
        pyarrow.OSFile(str(folder / "data.arrow"), "wb") as file,
        pyarrow.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_dataset_saved_to_disk_has_its_audio_written_out_once(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pyarrow = pytest.importorskip("pyarrow")
    audio = write_clip(tmp_path / "clip.wav").read_bytes()
    cells = [{"audio": {"bytes": audio, "path": "clip.wav"}, "sentence": "Ja gut"}]
    folder = tmp_path / "dataset" / "train"
    write_table(pyarrow.Table.from_pylist(cells), folder, kind)
    for _ in range(2):
        (sample,) = probe_samples(read_manifest(tmp_path / "dataset"))
        assert (sample.text, sample.duration_s, sample.problem) == ("Ja gut", 1.0, "")
        assert sample.path.read_bytes() == audio
    assert len(list((tmp_path / "cache").rglob("*.wav"))) == 1
    assert not list((tmp_path / "dataset").rglob("*.wav"))
    mute = {"audio": {"bytes": None, "path": None}, "sentence": "Nein"}
    write_table(pyarrow.Table.from_pylist([*cells, mute]), folder, kind)
    with pytest.raises(ManifestError, match="row 2: no audio"):
        read_manifest(tmp_path / "dataset")
    (folder / f"broken.{kind}").write_bytes(b"no table")
    with pytest.raises(ManifestError, match="broken"):
        read_manifest(tmp_path / "dataset")


def test_short_clips_come_first_where_that_is_wished():
    durations = np.random.default_rng(1).uniform(0.5, 12.0, 100)
    sampler = BucketSampler(durations, 20.0, sorted_epochs=1)
    longest = [durations[batch].max() for batch in sampler.epoch(0)]
    assert longest[:3] < longest[-3:] and longest[0] < 2.0 and longest[-1] > 10.0
    assert sampler.epoch(1) == BucketSampler(durations, 20.0).epoch(1)


@pytest.mark.parametrize("content", ["", "path\ttext_de\n", "file\twords\na.wav\thallo\n"])
def test_a_manifest_without_lines_or_columns_says_what_it_wants(tmp_path, content):
    (tmp_path / "m.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError):
        read_manifest(tmp_path / "m.tsv")


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"nowhere\.tsv"):
        read_manifest(tmp_path / "nowhere.tsv")


def test_only_the_stated_part_of_a_file_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.repeat([0.1, 0.2, 0.3], 16_000), 16_000)
    lines = [
        {"audio_filepath": "a.wav", "text": "zwei", "offset": 1.0, "duration": 1.0},
        {"audio_filepath": "a.wav", "text": "drei", "offset": 2.0},
        {"audio_filepath": "a.wav", "text": "alle", "offset": 0, "duration": 3.001},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    second, third, whole = probe_samples(read_manifest(tmp_path / "m.jsonl"))
    assert [sample.duration_s for sample in (second, third, whole)] == [1.0, 1.0, 3.0]
    assert whole.part_s is None
    assert load_waveform(second) == pytest.approx(np.full(16_000, 0.2), abs=1e-3)
    assert load_waveform(third) == pytest.approx(np.full(16_000, 0.3), abs=1e-3)
    assert load_waveform(whole).size == 48_000


def test_a_part_of_a_long_recording_can_be_aligned(tmp_path):
    from training.alignment.corpus import fingerprint
    from training.alignment.cutting import CutOptions
    from training.alignment.recordings import read_recordings

    write_clip(tmp_path / "talk.wav", seconds=3.0)
    row = {"audio_filepath": "talk.wav", "text": "Guten Tag", "duration": 1.0}
    lines = [json.dumps({**row, "offset": offset}) for offset in (0.5, 1.5)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    first, second = read_recordings(tmp_path / "m.jsonl")
    assert [(r.name, r.offset_s, r.part_s, r.duration_s) for r in (first, second)] == [
        ("talk", 0.5, 1.0, 1.0), ("talk-2", 1.5, 1.0, 1.0),
    ]  # fmt: skip
    digests = {fingerprint(r, CutOptions(), "model") for r in (first, second, first._replace(offset_s=1.0))}
    assert len(digests) == 3


def test_a_text_in_quotes_survives_from_one_manifest_to_another(tmp_path):
    from training.synthesis.synthesize import write_manifest

    row = {"index": 0, "path": "a.wav", "text_de": 'Er sagte "ja".', "voice": "v", "split": "train"}
    write_manifest([{**row, "duration_s": "1.000", "sha256": "0"}], tmp_path / "m.tsv")
    assert [sample.text for sample in read_manifest(tmp_path / "m.tsv")] == ['Er sagte "ja".']


def test_load_waveform_resamples_and_mixes_down(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full((8000, 2), 0.25), 8000)
    waveform = load_waveform(tmp_path / "a.wav")
    assert waveform.shape == (16_000,)
    assert waveform[4000:12_000] == pytest.approx(0.25, abs=1e-3)


def test_text_is_spelled_in_the_runtime_vocabulary():
    labels = encode_text("Über 3 Äpfel!", VOCABULARY)
    symbols = list(VOCABULARY)
    assert "".join(symbols[label] for label in labels) == "über|drei|äpfel"


def test_other_languages_get_a_vocabulary_of_their_own_letters():
    vocabulary = build_vocabulary(["Où est Léa?", "Là"], german=False)
    assert list(vocabulary)[:2] == list(VOCABULARY)[:2] and "ù" in vocabulary and "q" not in vocabulary
    symbols = list(vocabulary)
    assert "".join(symbols[i] for i in encode_text("Où  QLÉ", vocabulary)) == "où|lé"
    problem = check_sample(Sample(Path("a.wav"), "Привет", 2.0), vocabulary, SampleLimits())
    assert "vocabulary" in problem


def test_batches_hold_every_clip_once_and_keep_to_the_budget():
    durations = np.random.default_rng(1).uniform(0.5, 12.0, 300)
    batches = BucketSampler(durations, 40.0, seed=3).epoch(0)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    assert all(durations[batch].max() * len(batch) <= 40.0 for batch in batches)
    padding = sum(durations[b].max() * len(b) for b in batches) / durations.sum()
    assert padding < 1.15


def test_a_resumed_sampler_goes_on_with_the_same_batches():
    durations = np.random.default_rng(1).uniform(0.5, 12.0, 50)
    stream = BucketSampler(durations, 20.0, seed=7).batches_from(0, 0)
    whole = [next(stream) for _ in range(60)]
    epoch, place, _ = whole[37]
    resumed = BucketSampler(durations, 20.0, seed=7).batches_from(epoch, place)
    assert [next(resumed) for _ in range(23)] == whole[37:]
    assert whole[0][2] != BucketSampler(durations, 20.0, seed=8).epoch(0)[0]


def test_a_clip_longer_than_the_budget_gets_a_batch_of_its_own():
    assert [1] in BucketSampler([1.0, 100.0, 1.0], 10.0).epoch(0)


def test_ctc_needs_a_blank_between_equal_labels():
    assert min_frames([5, 5, 6]) == 4
    assert min_frames([]) == 0


@pytest.mark.parametrize(
    ("text", "seconds", "words"),
    [
        ("", 1.0, "empty text"),
        ("!?", 1.0, "no letter"),
        ("Привет мир", 1.0, "vocabulary"),
        ("Dieser Satz ist viel zu lang für eine halbe Sekunde.", 0.5, "too much text"),
        ("Hallo", 0.1, "of audio"),
        ("Hallo", 3600.0, "of audio"),
        ("Hallo", 1.0, ""),
    ],
)
def test_the_doctor_names_what_is_wrong_with_a_sample(tmp_path, text, seconds, words):
    problem = check_sample(Sample(tmp_path / "a.wav", text, seconds), VOCABULARY, SampleLimits())
    assert words in problem
    assert bool(problem) == bool(words)


def test_examine_listens_and_counts(tmp_path):
    write_clip(tmp_path / "good.wav")
    write_clip(tmp_path / "clipped.wav", level=9.0)
    write_clip(tmp_path / "silent.wav", level=0.0)
    (tmp_path / "corrupt.wav").write_text("no audio at all")
    names = ("good", "clipped", "silent", "corrupt", "missing")
    samples = probe_samples([Sample(tmp_path / f"{name}.wav", "Hallo") for name in names])
    good, bad = examine(samples, VOCABULARY, SampleLimits())
    assert [sample.path.stem for sample in good] == ["good"]
    found = {sample.path.stem: problem for sample, problem in bad}
    assert found["clipped"].startswith("clipped") and found["silent"].startswith("silence")
    assert found["corrupt"].startswith("unreadable") and found["missing"] == "missing audio file"
    assert "4 of 5 samples" in describe_problems(bad, 5)
