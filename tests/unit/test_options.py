"""What a caller may choose is checked where it is made, in parts or by flat keywords."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

from engine import (
    AudioOptions,
    DecodingOptions,
    HotwordOptions,
    LanguageModelOptions,
    OptionError,
    OutputOptions,
    RuntimeOptions,
    SearchOptions,
    TranslationOptions,
)

FLAT = {
    "channels": "separate",
    "audio_track": 2,
    "beam_width": 8,
    "passes": 2,
    "vad_filter": False,
    "lm_alpha": 0.5,
    "lm_beta": -1.0,
    "hotwords": ("Rothenburg", "an der Fulda"),
    "hotword_weight": 7.0,
    "translation_beam_size": 3,
    "length_penalty": 0.8,
    "punctuation": False,
    "numbers": "digits",
}
PARTS = DecodingOptions(
    audio=AudioOptions("separate", 2),
    search=SearchOptions(8, 2, False),
    language_model=LanguageModelOptions(0.5, -1.0),
    biasing=HotwordOptions(("Rothenburg", "an der Fulda"), 7.0),
    translation=TranslationOptions(3, 0.8),
    output=OutputOptions(False, "digits"),
)


def test_flat_keywords_and_parts_say_the_same() -> None:
    flat = DecodingOptions(**FLAT)
    assert flat == PARTS and hash(flat) == hash(PARTS)
    assert {name: getattr(flat, name) for name in FLAT} == FLAT
    assert DecodingOptions() != flat


@pytest.mark.parametrize("name", sorted(FLAT))
def test_each_flat_value_can_be_replaced_alone(name: str) -> None:
    changed = DecodingOptions().replace(**{name: FLAT[name]})
    assert getattr(changed, name) == FLAT[name]
    others = {other: getattr(changed, other) for other in FLAT if other != name}
    assert others == {other: getattr(DecodingOptions(), other) for other in others}
    assert dataclasses.replace(DecodingOptions(), **{name: FLAT[name]}) == changed


def test_a_flat_value_counts_more_than_the_part_beside_it() -> None:
    options = DecodingOptions(search=SearchOptions(beam_width=4, passes=1), beam_width=9)
    assert (options.beam_width, options.passes) == (9, 1)


def test_options_can_be_sent_to_another_process_and_not_be_changed() -> None:
    assert pickle.loads(pickle.dumps(PARTS)) == PARTS
    with pytest.raises(dataclasses.FrozenInstanceError):
        PARTS.search = SearchOptions()  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": "left"},
        {"audio_track": 0},
        {"audio_track": 1.5},
        {"beam_width": 0},
        {"beam_width": -3},
        {"beam_width": 2.5},
        {"beam_width": True},
        {"beam_width": "8"},
        {"beam_width": 1_000_000},
        {"passes": 0},
        {"passes": 3},
        {"passes": True},
        {"vad_filter": "false"},
        {"lm_alpha": math.nan},
        {"lm_alpha": -0.1},
        {"lm_beta": math.inf},
        {"lm_beta": "1"},
        {"hotwords": "Rothenburg"},
        {"hotwords": [3]},
        {"hotwords": None},
        {"hotword_weight": math.nan},
        {"translation_beam_size": 0},
        {"length_penalty": math.nan},
        {"length_penalty": 6},
        {"punctuation": 1},
        {"numbers": "roman"},
        {"search": {"beam_width": 3}},
        {"search": None},
        {"beamwidth": 8},
    ],
)
def test_a_senseless_value_is_refused_when_the_options_are_made(wrong: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong)).split("_")[-1].rstrip("s")) as caught:
        DecodingOptions(**wrong)
    assert caught.value.want and caught.value.fix
    with pytest.raises(OptionError):
        DecodingOptions().replace(**wrong)


def test_numbers_of_numpy_are_numbers() -> None:
    options = DecodingOptions(beam_width=np.int64(8), lm_alpha=np.float32(0.5))
    assert options.beam_width == 8 and type(options.beam_width) is int


def test_hotwords_are_added_to_those_that_are_there() -> None:
    options = DecodingOptions(hotwords=["eins"]).with_hotwords(["zwei"])
    assert options.hotwords == ("eins", "zwei")
    assert options.with_hotwords(()) is options
    with pytest.raises(OptionError, match=r"\['drei'\]"):
        options.with_hotwords("drei")


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "tpu"},
        {"compute_type": "int4"},
        {"backend": "tensorrt"},
        {"threads": -1},
        {"threads": 1.5},
        {"gpu_memory_mb": 0},
    ],
)
def test_a_senseless_runtime_is_refused(wrong: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        RuntimeOptions(**wrong)
