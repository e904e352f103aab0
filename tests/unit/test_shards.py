"""Which shard a recording belongs to: one and only one, the same everywhere, and as much audio in each."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from engine.audio import load, parts
from engine.errors import ManifestError, OptionError
from engine.jobs.shards import Shard, assign_shards, estimate_ms, parse_shard, plan_shard
from engine.manifests.recordings import Recording, read_recordings

LENGTHS = st.lists(st.integers(1, 4 * 3600 * 1000), max_size=60)


@given(LENGTHS, st.integers(1, 20))
def test_shards_differ_by_no_more_than_the_longest_recording(lengths: list[int], count: int) -> None:
    numbers = assign_shards(lengths, [f"{i:03d}" for i in range(len(lengths))], count)
    loads = [0] * count
    for number, length in zip(numbers, lengths, strict=True):
        loads[number] += length
    assert sum(loads) == sum(lengths)
    assert max(loads) - min(loads) <= max(lengths, default=0)


@given(LENGTHS, st.integers(1, 9), st.randoms())
def test_every_recording_is_in_one_shard_whatever_the_order_of_the_manifest(
    lengths: list[int], count: int, rng: random.Random
) -> None:
    recordings = [Recording(f"id{i}", f"{i}.wav", 0.0, ms / 1000) for i, ms in enumerate(lengths)]
    shuffled = recordings.copy()
    rng.shuffle(shuffled)
    shards = [Shard(number, count) for number in range(1, count + 1)]
    plans = [plan_shard(recordings, Path(), shard) for shard in shards]
    again = [plan_shard(shuffled, Path(), shard) for shard in shards]
    ids = [recording.id for plan in plans for recording in plan.recordings]
    assert sorted(ids) == sorted(recording.id for recording in recordings)
    assert [set(plan.recordings) for plan in plans] == [set(plan.recordings) for plan in again]
    assert len({plan.digest for plan in plans}) == 1
    for plan in plans:  # in the order of the manifest
        assert plan.recordings == [each for each in recordings if each in set(plan.recordings)]


def test_the_digest_is_of_manifest_and_division() -> None:
    one = [Recording("a", "a.wav", 0.0, 1.0), Recording("b", "b.wav", 0.0, 2.0)]
    other = [one[0], one[1]._replace(offset_s=0.5)]
    digests = {
        plan_shard(recordings, Path(), shard).digest
        for recordings in (one, other)
        for shard in (Shard(1, 1), Shard(1, 2))
    }
    assert len(digests) == 4


def test_a_length_that_is_not_stated_comes_from_the_size_and_never_from_the_machine(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(bytes(64_000))
    (tmp_path / "a.mp3").write_bytes(bytes(24_000))
    assert estimate_ms(Recording("a", "a.wav"), tmp_path) == 2000
    assert estimate_ms(Recording("a", "a.wav", 1.5), tmp_path) == 500
    assert estimate_ms(Recording("a", "a.mp3"), tmp_path) == 2000
    assert estimate_ms(Recording("a", "a.mp3", 0.0, 7.5), tmp_path) == 7500
    assert estimate_ms(Recording("a", "missing.wav"), tmp_path) == 1
    assert estimate_ms(Recording("a", "zero\0.wav"), tmp_path) == 1


@pytest.mark.parametrize("text", ["1/1", "3/16", "16/16", "99999/99999"])
def test_shards_count_from_one(text: str) -> None:
    shard = parse_shard(text)
    assert str(shard) == text
    assert shard.stem == f"shard-{shard.number:05d}-of-{shard.count:05d}"


@pytest.mark.parametrize(
    "text", ["0/16", "17/16", "1/0", "1", "", "a/b", "-1/4", "1/ 4", "1/4/4", "٣/٤", "1/100000"]
)
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="the first of 16 is 1/16"):
        parse_shard(text)


def test_a_file_that_is_decoded_from_its_start_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.ogg", "b.ogg"):
        soundfile.write(tmp_path / name, rng.uniform(-0.5, 0.5, 32_000), 16_000)
    decoded: list[str] = []

    def load_audio(source: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(source, str):
            decoded.append(Path(source).name)
        return load.load_audio(source, *arguments, **options)

    monkeypatch.setattr(parts, "load_audio", load_audio)
    loader = parts.PartLoader()
    for name in ("a.ogg", "b.ogg"):
        found = [loader.load(tmp_path / name, offset / 4, 0.25) for offset in range(7)]
        whole = load.load_audio(tmp_path / name)
        assert all(np.array_equal(part, whole[4000 * i :][:4000]) for i, part in enumerate(found))
    assert decoded == ["a.ogg", "b.ogg"]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_manifest_in_the_manner_of_nemo_without_texts(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "in.jsonl",
        {"audio_filepath": "a.wav", "duration": 3.5, "text": None},
        {"audio_filepath": "a.wav", "offset": 3.5, "duration": 2},
        {"audio_filepath": "/b.wav", "text": "-", "speaker": 3},
        {"audio_filepath": "c.wav", "id": "  mine "},
    )
    assert read_recordings(manifest) == [
        Recording("a.wav", "a.wav", 0.0, 3.5),
        Recording("a.wav@3.5+2", "a.wav", 3.5, 2.0),
        Recording("/b.wav", "/b.wav"),
        Recording("mine", "c.wav"),
    ]


def test_a_table_needs_no_text_either(tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text("id\tpath\n1\ta.wav\n2\tb.wav\n")
    assert [recording.id for recording in read_recordings(tmp_path / "in.tsv")] == ["1", "2"]


def test_everything_that_is_wrong_is_said_with_its_line(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "in.jsonl",
        {"audio_filepath": "a.wav"},
        {"text": "no audio"},
        {"audio_filepath": "b.wav", "offset": -1},
        {"audio_filepath": "a.wav"},
        {"audio_filepath": 3},
    )
    with pytest.raises(ManifestError) as caught:
        read_recordings(manifest)
    said = "\n".join(caught.value.problems)
    for number in (2, 3, 4, 5):
        assert f"in.jsonl:{number}: " in said
    assert "id 'a.wav' is also that of" in said and "in.jsonl:1" in said


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfeG", "schön".encode("latin-1")])
def test_an_empty_manifest_or_one_in_another_encoding(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(ManifestError):
        read_recordings(tmp_path / "in.jsonl")
    with pytest.raises(ManifestError, match="no such file"):
        read_recordings(tmp_path / "missing.jsonl")
