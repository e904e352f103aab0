"""`engine-bench stream`: a queue on a simulated clock, and word times against the right words."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.data.manifest import Utterance
from benchmarks.errors import BenchmarkError
from benchmarks.options import Progress
from benchmarks.studies import streams
from engine.jobs.streams import SpeechStream, StreamStages
from engine.types import DecodingOptions, Word
from tests.reference.tone_speech import recognise, silence, speak

TEXTS = ("eins zwei drei", "vier fünf sechs sieben", "acht neun", "zehn neun acht")


class ToneModel:
    """What the study asks of a model, for speech of tones."""

    def load_audio(self, path: str) -> np.ndarray:
        return speak(TEXTS[int(path)])

    def open_stream(self, sample_rate: int, options: DecodingOptions) -> SpeechStream:
        return SpeechStream(
            StreamStages(recognise, recognise, lambda words, paused: list(words)), sample_rate
        )


def utterances() -> list[Utterance]:
    return [Utterance(str(i), Path(str(i)), text) for i, text in enumerate(TEXTS)]


def test_cores_work_in_turn_and_count_processor_time() -> None:
    cores = streams.Cores(1)

    def burn() -> float:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return cores()

    inside_s, began_s, first_s = cores.run(10.0, burn)
    assert began_s == 10.0 and 10.05 <= inside_s <= first_s < 10.6
    _, began_s, _ = cores.run(10.01, burn)
    assert began_s == first_s
    _, began_s, _ = streams.Cores(2).run(3.0, lambda: None)
    assert began_s == 3.0 and 0.1 <= cores.busy_s < 1.0


def test_every_stream_hears_its_own_clips() -> None:
    speakers = streams.arrange(utterances(), 2, ToneModel())
    assert [speaker.text_de for speaker in speakers] == [f"{TEXTS[0]} {TEXTS[2]}", f"{TEXTS[1]} {TEXTS[3]}"]
    for speaker in speakers:
        for position, waveform, _ in speaker.clips:
            assert np.array_equal(speaker.waveform[position : position + len(waveform)], waveform)
    heard, ended_s = streams.simulate(
        ToneModel(), speakers, DecodingOptions(), streams.Cores(1), 0.1, Progress(True)
    )
    for speaker, each in zip(speakers, heard, strict=True):
        assert " ".join(event.text for event in each.finals) == speaker.text_de
        assert len(each.lags("final")) == 2 and all(lag >= 0 for _, lag in each.events)
        assert max(each.lags("partial")) < 1.0
    assert ended_s >= max(each.start_s + len(each.waveform) / 16_000 for each in speakers)
    with pytest.raises(BenchmarkError, match="lower --streams"):
        streams.arrange(utterances(), 5, ToneModel())


def test_times_of_the_same_words_are_compared() -> None:
    reference = [Word("das", 0.0, 0.2, 1.0), Word("haus", 0.3, 0.6, 1.0), Word("da", 0.7, 0.9, 1.0)]
    heard = [Word("Das", 0.1, 0.2, 1.0), Word("Maus,", 0.3, 0.6, 1.0), Word("da.", 0.7, 1.0, 1.0)]
    assert streams.time_differences(reference, heard) == pytest.approx([0.05, 0.05])
    assert streams.percentiles([]) is None
    assert streams.percentiles([1.0, 3.0])["mean"] == 2.0  # type: ignore[index]


def test_words_are_aligned_where_they_are_in_the_stream() -> None:
    probabilities = np.full((10, 3), 0.01, np.float32)
    probabilities[[0, 1, 5, 6, 7, 8, 9], 0] = probabilities[2:4, 1] = probabilities[4, 2] = 0.98
    model = SimpleNamespace(
        decoder=SimpleNamespace(labels=SimpleNamespace(index={"j": 1, "a": 2}, blank_id=0, delimiter_id=-1)),
        acoustic=SimpleNamespace(frame_s=0.1, max_window_s=1.5),
        compute_features=lambda waveform: waveform,
        compute_log_probs=lambda features: np.log(probabilities),
    )
    clips = ((0, silence(2), "ja"), (32_000, silence(1), "Ja!"), (48_000, silence(1), "nein"))
    speaker = streams.Speaker(silence(4), "ja ja nein", clips, 0.0)
    ((start_s, end_s, words),) = streams.forced_words(model, speaker)
    assert (start_s, end_s) == (2.0, 3.0)
    assert [(word.text, word.start_s, word.end_s) for word in words] == [
        ("ja", pytest.approx(2.2), pytest.approx(2.5))
    ]
