"""The same audio in any container gives the same samples and words at the same times; short form.

The long form is `python -m tests.fuzz.containers`.
"""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine.audio.container_clock import ContainerClock

pytest.importorskip("av")
from tests.fuzz.containers import FORMS, Form, compare_samples, compare_words, load_clip, make_case, possible
from tests.unit.audio_files import RATE


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return load_clip()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.container}-{form.codec}")
def test_what_is_written_is_read(form: Form, clip: np.ndarray) -> None:
    rng = np.random.default_rng(FORMS.index(form))
    short = clip[RATE // 2 : 2 * RATE + RATE // 2]
    for what in possible(form):
        if form.others or what not in ("padded", "cut"):  # plain samples: one path for all of these
            case = make_case(short, form, what, rng)
            assert compare_samples(case) == "", case.name


@pytest.mark.parametrize(
    ("container", "codec", "what"),
    [("WAV", "PCM_16", "joined"), ("matroska", "flac", "remuxed"), ("ipod", "aac", "remuxed"),
     ("matroska", "pcm_s16le", "late")],
)  # fmt: skip
def test_the_same_words_at_the_same_times(
    translator: engine.SpeechTranslator, clip: np.ndarray, container: str, codec: str, what: str
) -> None:
    form = next(form for form in FORMS if (form.container, form.codec) == (container, codec))
    case = make_case(clip, form, what, np.random.default_rng(5))
    assert compare_words(translator, case) == ""


def test_what_differs_is_noticed(translator: engine.SpeechTranslator, clip: np.ndarray) -> None:
    case = make_case(clip, FORMS[0], "plain", np.random.default_rng(0))
    assert compare_samples(case._replace(samples=clip[1:])) != ""
    assert compare_words(translator, case._replace(samples=np.roll(clip, RATE // 2))) != ""
    assert "heard" in compare_words(translator, case._replace(samples=clip[: len(clip) // 2]))


def test_missing_packets_are_said_and_short_pauses_are_not() -> None:
    clock = ContainerClock("matroska", 0)
    for start_s in (0.0, 1.4, 8.4, 9.4, 21.4):
        clock.place(start_s, RATE, RATE)
    assert clock.notes == ["packets of 17.0 s are missing in 2 places; silence stands for them"]
    late = ContainerClock("matroska", 0)
    late.place(5.0, RATE, RATE)
    assert late.notes == []
    late.place(8.0, RATE, RATE)
    assert late.notes == ["packets of 2.0 s are missing from 6.0 s on; silence stands for them"]
