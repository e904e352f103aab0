"""engine.load(decoder=...): our decoder, pyctcdecode's interface, and objects that are neither."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import engine
from engine.decoding import CtcBeamDecoder, KenlmLanguageModel, OwnModelDecoder, build_ctcdecoder
from engine.errors import DecodingError, ModelCapabilityError, OptionError
from engine.text import VOCABULARY
from engine.types import DecodingOptions
from tests.reference.tone_bundle import spell, write_tone_bundle

BINARY = Path(__file__).resolve().parents[1] / "data" / "decoder" / "tiny.probing.bin"
TEXT = "der zug liegt auf dem sofa"


class Reads:
    """As pyctcdecode answers: what it was asked, and one fixed beam."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def decode_beams(self, logits: np.ndarray, **options: Any) -> list[Any]:
        self.asked.append({"shape": logits.shape, **options})
        return [("guten tag", None, [("guten", (1, 3)), ("tag", (4, 6))], -2.0, -5.0)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tone_bundle(tmp_path_factory.mktemp("model") / "tones"))


def load(bundle: str, decoder: Any) -> engine.SpeechTranslator:
    return engine.load(bundle, device="cpu", threads=1, decoder=decoder)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CtcBeamDecoder(VOCABULARY, BINARY, frame_s=1.0),
        lambda: build_ctcdecoder(["", " ", *VOCABULARY[2:]], BINARY),
        lambda: OwnModelDecoder(VOCABULARY, KenlmLanguageModel(BINARY)),
    ],
)
def test_decoders_of_ours_read_with_the_models_times(bundle: str, make: Any) -> None:
    waveform = spell(TEXT)
    found = load(bundle, make()).transcribe(waveform)
    assert found.text.lower().rstrip(".") == TEXT
    plain = engine.load(bundle, device="cpu", threads=1).transcribe(waveform)
    ends = [[word.end_s for word in result.segments[0].words] for result in (found, plain)]
    np.testing.assert_allclose(ends[0], ends[1], atol=0.05)


def test_any_object_with_decode_beams_is_asked(bundle: str) -> None:
    decoder = Reads()
    model = load(bundle, decoder)
    options = DecodingOptions(beam_width=7, hotword_weight=3.0)
    found = model.transcribe(spell("der zug"), hotwords=["zug"], options=options)
    assert found.text.lower().rstrip(".") == "guten tag"
    asked = decoder.asked[-1]
    assert asked["beam_width"] == 7 and asked["hotwords"] == ["zug"] and asked["hotword_weight"] == 3.0
    frame_s = model.acoustic.frame_s
    words = model.decode(np.full((8, len(VOCABULARY)), -3.4, np.float32)).words
    assert [(w.text, w.start_s, w.end_s) for w in words] == [
        ("guten", frame_s, 3 * frame_s),
        ("tag", 4 * frame_s, 6 * frame_s),
    ]
    assert model.choose_passes(DecodingOptions()) == 1
    with pytest.raises(ModelCapabilityError):
        model.choose_passes(DecodingOptions(passes=2))
    with pytest.raises(OptionError, match="lm_alpha"):
        model.transcribe(spell("der zug"), options=DecodingOptions(lm_alpha=0.2))
    again = pickle.loads(pickle.dumps(model))
    assert again.transcribe(spell("der zug")).text == found.text


class Fails(Reads):
    def decode_beams(self, logits: np.ndarray, **options: Any) -> list[Any]:
        raise ValueError("want 30 labels")


class Nonsense(Reads):
    def decode_beams(self, logits: np.ndarray, **options: Any) -> list[Any]:
        return ["guten tag"]


@pytest.mark.parametrize(
    ("decoder", "error", "message"),
    [
        (object(), OptionError, "decoder of type object.*decode_beams"),
        (Fails(), DecodingError, "Fails failed .ValueError: want 30 labels"),
        (Nonsense(), DecodingError, "Nonsense failed"),
        (CtcBeamDecoder(("<pad>", "a")), DecodingError, "a decoder of 2 labels.*the model's 32"),
    ],
)
def test_what_cannot_decode_is_refused_when_it_is_loaded(
    bundle: str, decoder: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(bundle, decoder)
