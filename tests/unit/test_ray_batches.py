"""The class for Ray Data on batches as Ray hands them over, without Ray: columns in, columns out."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from engine.errors import OptionError
from engine.jobs import ray
from engine.jobs.ray import Transcriber
from engine.options import DecodingOptions
from engine.pipeline import SpeechTranslator

CLIP = Path(__file__).resolve().parents[2] / "examples" / "audio" / "visit.flac"
FAST = DecodingOptions(passes=1, beam_width=1)
COLUMNS = {"id", "text", "words", "duration", "model", "warnings", "error"}


@pytest.fixture
def transcriber(translator: SpeechTranslator, monkeypatch: pytest.MonkeyPatch) -> Transcriber:
    monkeypatch.setattr("engine.pipeline.load", lambda model, **options: translator)
    return Transcriber(options=FAST)


def objects(*values: Any) -> Any:
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def test_paths_and_parts(transcriber: Transcriber) -> None:
    path = str(CLIP)
    batch = {
        "audio_filepath": objects(path, path, "gone.wav", None, path, path),
        "offset": objects(None, 1.0, 0.0, 0.0, 99.0, "x"),
        "duration": np.array([np.nan, 1.5, np.nan, np.nan, 1.0, 1.0]),
        "text": objects(*"abcdef"),
        "speaker": np.arange(6),
    }
    found = transcriber(batch)
    assert set(found) == COLUMNS | {"audio_filepath", "offset", "duration_given", "text_given", "speaker"}
    assert list(found["id"]) == [path, f"{path}@1+1.5", "gone.wav", "None", f"{path}@99+1", path]
    assert "Großmutter" in found["text"][0] and found["text"][1] and not any(found["text"][2:])
    assert list(found["error"][:2]) == ["", ""]
    kinds = [error.partition(":")[0] for error in found["error"][2:]]
    assert kinds == ["AudioNotFoundError", "AudioDecodeError", "AudioValueError", "AudioValueError"]
    assert found["duration"][1] == 1.5 and math.isnan(found["duration"][2])
    words = json.loads(found["words"][1])
    assert all(1.0 <= word["start"] <= word["end"] <= 2.55 for word in words)
    assert list(found["text_given"]) == list("abcdef") and list(found["speaker"]) == list(range(6))


def test_bytes_and_samples_give_what_the_path_gives(
    transcriber: Transcriber, translator: SpeechTranslator
) -> None:
    wanted = translator.transcribe(str(CLIP), options=FAST).text
    samples, rate = soundfile.read(CLIP, dtype="int16")
    ids = np.array(["a", "b", "c"])
    content = CLIP.read_bytes()
    found = transcriber({"id": ids, "bytes": objects(content, b"no audio", None), "path": objects(*"abc")})
    assert list(found["text"]) == [wanted, "", ""] and set(found) == COLUMNS | {"path"}
    assert [error.partition(":")[0] for error in found["error"]] == [
        "",
        "AudioDecodeError",
        "AudioDecodeError",
    ]
    stereo = np.stack([samples, samples])
    batch = {"id": ids, "audio": objects(samples, stereo, None), "sample_rate": objects(rate, rate, rate)}
    found = transcriber(batch)
    assert list(found["text"]) == [wanted, wanted, ""] and found["error"][2].startswith("AudioShapeError")
    assert list(found["id"]) == ["a", "b", "c"] and set(found) == COLUMNS | {"sample_rate"}
    batch = {"id": ids[:2], "amplitude": np.stack([samples, samples]), "sample_rate": np.array([rate, 0])}
    found = transcriber(batch)  # rows of one length come as one array
    assert found["text"][0] == wanted and found["error"][1].startswith("AudioLimitError")
    batch = {"id": ids[:2], "bytes": objects(content, content), "offset": np.array([1.0, 9.0])}
    found = transcriber(batch | {"duration": np.array([1.5, 1.5])})
    assert found["duration"][0] == 1.5 and found["error"][1].startswith("AudioValueError: offset 9 s")


def test_a_translation_is_a_column(translator: SpeechTranslator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.pipeline.load", lambda model, **options: translator)
    found = Transcriber(task="translate", options=FAST)({"path": objects(str(CLIP), "gone.wav")})
    assert set(found) == COLUMNS | {"translation", "path"}
    assert "grandmother" in found["translation"][0] and found["translation"][1] == ""


def test_an_empty_batch(transcriber: Transcriber) -> None:
    found = transcriber({"path": objects()})
    assert {len(values) for values in found.values()} == {0}


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({}, "columns nothing"),
        ({"id": objects("a")}, "path, bytes, or audio"),
        ({"bytes": objects(b"")}, "an id for each row"),
        ({"id": objects("a"), "audio": objects([0.0])}, "sample_rate"),
    ],
)
def test_columns_that_do_not_say_enough_are_refused(
    transcriber: Transcriber, batch: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        transcriber(batch)


def test_an_unknown_task() -> None:
    with pytest.raises(OptionError, match="transcribe or translate"):
        Transcriber(task="sing")  # type: ignore[arg-type]


def test_it_takes_all_cores_where_there_is_no_ray_and_travels() -> None:
    assert ray.assigned_cpus() == 0
    assert pickle.loads(pickle.dumps((Transcriber, FAST))) == (Transcriber, FAST)
