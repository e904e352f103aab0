"""Both passes on the embedded bundle: whatever way a recording takes, it says the same."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.audio.vad import join_regions
from engine.cli import main
from engine.errors import AudioTooShortError, CancelledError, ModelCapabilityError, OptionError
from engine.pipeline import SpeechTranslator
from engine.runtime.cancel import CancelToken
from engine.types import DecodingOptions, Transcript
from tests.reference.tone_bundle import spell, write_tone_bundle

ONE, TWO = DecodingOptions(passes=1), DecodingOptions(passes=2)
PLAIN = re.compile(r"[a-zäöüß -]*")


@pytest.fixture(scope="module")
def clips(translator: SpeechTranslator, examples: list[dict[str, str]]) -> list[np.ndarray]:
    return [translator.load_audio(row["path"]) for row in examples]


@pytest.fixture(scope="module")
def texts(translator: SpeechTranslator, clips: list[np.ndarray]) -> list[str]:
    return [translator.transcribe(clip).text for clip in clips]


def test_two_passes_are_what_the_bundle_does_unless_told_otherwise(
    translator: SpeechTranslator, clips: list[np.ndarray], texts: list[str]
) -> None:
    assert translator.has_second_pass
    assert translator.transcribe(clips[0], options=TWO).text == texts[0]
    assert "second_pass" in translator.transcribe(clips[0], options=TWO).stages_s
    assert "second_pass" not in translator.transcribe(clips[0], options=ONE).stages_s
    assert "passes:two" in translator.signature


@pytest.mark.parametrize("passes", [1, 2])
def test_without_punctuation_words_are_plain(
    translator: SpeechTranslator, clips: list[np.ndarray], passes: int
) -> None:
    plain = translator.transcribe(clips[0], options=DecodingOptions(passes=passes, punctuation=False))
    assert PLAIN.fullmatch(plain.text)
    written = translator.transcribe(clips[0], options=DecodingOptions(passes=passes))
    assert not PLAIN.fullmatch(written.text)
    assert [(w.start_s, w.end_s) for w in plain.words] == [(w.start_s, w.end_s) for w in written.words]


def test_batches_and_threads_change_nothing(
    translator: SpeechTranslator, clips: list[np.ndarray], texts: list[str]
) -> None:
    found = [result.text for result in translator.transcribe_batch([*clips, *clips[::-1]])]
    assert found == [*texts, *texts[::-1]]
    results: dict[int, str] = {}

    def work(index: int) -> None:
        results[index] = translator.transcribe(clips[index % len(clips)]).text

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [results[i] for i in range(6)] == [texts[i % len(texts)] for i in range(6)]


def test_a_long_recording_is_the_same_with_any_number_of_threads(
    translator: SpeechTranslator, clips: list[np.ndarray]
) -> None:
    pause = np.zeros(2 * 16_000, np.float32)
    whole = np.concatenate([part for clip in clips * 2 for part in (clip, pause)])
    two = translator.transcribe(whole)
    alone = engine.load(threads=1).transcribe(whole)
    assert (two.text, two.segments) == (alone.text, alone.segments)
    assert len(two.segments) >= len(clips)
    ends = [word.end_s for word in two.words]
    assert ends == sorted(ends) and ends[-1] <= two.duration_s


def test_a_stream_is_final_by_the_second_pass_and_tentative_by_the_first(
    translator: SpeechTranslator, clips: list[np.ndarray]
) -> None:
    pieces = np.array_split(np.concatenate([clips[0], np.zeros(24_000, np.float32)]), 12)
    partials = list(translator.stream(pieces))
    tentative = [partial.tentative_text for partial in partials if partial.tentative_text]
    assert tentative and all(PLAIN.fullmatch(text) for text in tentative)
    assert partials[-1].tentative_text == ""
    assert partials[-1].stable_text and not PLAIN.fullmatch(partials[-1].stable_text)
    one = list(translator.stream(pieces, options=ONE))[-1].stable_text
    assert PLAIN.fullmatch(one)


def test_hotwords_are_taken_by_both_passes(translator: SpeechTranslator, clips: list[np.ndarray]) -> None:
    for options in (ONE, TWO):
        assert translator.transcribe(clips[0], hotwords=["Rothenburg", "Mond"], options=options).text


def test_n_best_hypotheses_are_sorted(translator: SpeechTranslator, clips: list[np.ndarray]) -> None:
    log_probs, states = translator.compute_states(translator.compute_features(clips[0]))
    found = translator.decode_joint(log_probs, states, n_best=5)
    assert len({each.text for each in found}) == len(found) > 1
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_silence_and_noise_are_empty(translator: SpeechTranslator) -> None:
    whole = DecodingOptions(vad_filter=False)
    noise = np.random.default_rng(0).normal(0, 0.003, 3 * 16_000).astype(np.float32)
    for waveform in (np.zeros(3 * 16_000, np.float32), noise):
        assert translator.transcribe(waveform, options=whole) == Transcript((), 3.0)


def test_next_to_no_audio(translator: SpeechTranslator, clips: list[np.ndarray]) -> None:
    whole = DecodingOptions(vad_filter=False)
    with pytest.raises(AudioTooShortError):
        translator.transcribe(clips[0][:200], options=whole)
    assert isinstance(translator.transcribe(clips[0][8000:8800], options=whole).text, str)  # 0.05 s


def test_a_cancelled_call_leaves_nothing_behind(
    translator: SpeechTranslator, clips: list[np.ndarray], texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token, second_pass = CancelToken(), translator.second_pass
    start = second_pass.runner.start

    def start_and_cancel(*arguments: object) -> object:
        steps = start(*arguments)  # type: ignore[arg-type]
        threading.Timer(0.005, token.cancel).start()  # in the middle of the steps
        return steps

    monkeypatch.setattr(second_pass.runner, "start", start_and_cancel)
    with pytest.raises(CancelledError):
        for _ in range(50):
            translator.transcribe(clips[-1], cancel=token)
    monkeypatch.undo()
    assert translator.transcribe(clips[-1]).text == texts[-1]


def test_two_passes_of_a_bundle_with_one_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tone_bundle(tmp_path / "tones")
    model = engine.load(str(folder), device="cpu")
    assert not model.has_second_pass and "passes:one" in model.signature
    assert model.transcribe(spell("ja")).text == model.transcribe(spell("ja"), options=ONE).text
    for call in (model.transcribe, lambda wave, options: list(model.stream([wave], options=options))):
        with pytest.raises(ModelCapabilityError, match="passes"):
            call(spell("ja"), options=TWO)
    with pytest.raises(OptionError, match="passes"):
        DecodingOptions(passes=3)
    wave = tmp_path / "ja.wav"
    import soundfile

    soundfile.write(wave, spell("ja"), 16_000)
    assert main(["transcribe", str(wave), "--model", str(folder), "--passes", "2"]) == 1
    assert "second pass" in capsys.readouterr().err


def test_neighbouring_regions_are_joined_up_to_a_window() -> None:
    regions = [(0.0, 4.0), (4.5, 9.0), (11.0, 14.0), (14.2, 33.0), (33.0, 40.0)]
    joined = join_regions(regions, 20.0, 1.0)
    assert joined == [(0.0, 9.0), (11.0, 14.0), (14.2, 33.0), (33.0, 40.0)]
    assert join_regions(regions, 0.0, 1.0) == regions
    assert join_regions([], 20.0, 1.0) == []
