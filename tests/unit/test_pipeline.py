"""The main job on the embedded bundle: speech in, German and English out."""

import itertools
import math
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jiwer
import numpy as np
import pytest

from engine.audio.load import AudioLimits
from engine.errors import (
    AudioLimitError,
    AudioNotFoundError,
    CancelledError,
    EngineError,
    HotwordWarning,
    OptionError,
)
from engine.pipeline import SpeechTranslator
from engine.runtime.cancel import CancelToken
from engine.text import normalize_text
from engine.types import DecodingOptions, Transcript, Translation

pytestmark = pytest.mark.levels


@pytest.fixture(scope="module")
def clip(translator, examples) -> np.ndarray:
    return translator.load_audio(examples[0]["path"])


def test_the_examples_are_understood(translator, examples) -> None:
    hypotheses = [normalize_text(translator.transcribe(row["path"]).text) for row in examples]
    references = [normalize_text(row["text_de"]) for row in examples]
    assert jiwer.wer(references, hypotheses) < 0.25


def test_a_translation_carries_its_source_its_times_and_where_the_time_went(translator, examples) -> None:
    result = translator.translate(examples[0]["path"])
    assert isinstance(result, Translation)
    assert result.text and result.source.text
    assert result.text != result.source.text
    assert set(result.stages_s) == {"audio", "features", "encoder", "second_pass", "punctuate", "translate"}
    assert all(seconds > 0 for seconds in result.stages_s.values())
    assert len(result.segments) == len(result.source.segments)
    for english, german in zip(result.segments, result.source.segments, strict=True):
        assert (english.start_s, english.end_s) == (german.start_s, german.end_s)


def test_words_have_times_in_order_inside_the_recording(translator, examples) -> None:
    transcript = translator.transcribe(examples[-1]["path"])
    words = transcript.words
    assert " ".join(word.text for word in words) == transcript.text
    assert all(0 <= word.start_s < word.end_s <= transcript.duration_s for word in words)
    assert all(a.end_s <= b.start_s + 1e-6 for a, b in itertools.pairwise(words))
    assert all(0 <= word.confidence <= 1 for word in words)


def test_the_stages_one_by_one_give_the_whole(translator, clip) -> None:
    (start_s, end_s), *rest = translator.detect_speech(clip)
    assert rest == []
    window = clip[round(start_s * 16_000) : round(end_s * 16_000)]
    log_probs, states = translator.compute_states(translator.compute_features(window))
    np.testing.assert_array_equal(
        log_probs, translator.compute_log_probs(translator.compute_features(window))
    )
    assert log_probs.dtype == np.float32 and log_probs.shape[1] == len(translator.acoustic.vocabulary)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-4)
    first = translator.punctuate(translator.decode(log_probs).text)
    assert first == translator.transcribe(clip, options=DecodingOptions(passes=1)).text
    german = translator.decode_joint(log_probs, states)[0].text
    german = german[:1].upper() + german[1:]  # as the start of a transcript is written
    assert german == translator.transcribe(clip).text
    assert translator.translate_text([german]) == [translator.translate(clip).text]


def test_any_rate_and_any_channels_say_the_same(translator, clip) -> None:
    expected = translator.transcribe(clip).text
    stereo = np.stack([clip, clip], axis=1)
    assert translator.transcribe(stereo, 16_000).text == expected
    pcm = np.round(clip * 32767).astype(np.int16)
    as_float = translator.transcribe(pcm.astype(np.float32) / 32768).text
    assert translator.transcribe(pcm).text == as_float
    slower = translator.transcribe(np.repeat(clip, 3), 48_000).text
    assert jiwer.wer(expected, slower) <= 0.3


def test_greedy_and_beam_are_both_there(translator, clip) -> None:
    greedy = translator.transcribe(clip, options=DecodingOptions(beam_width=1)).text
    beam = translator.transcribe(clip, options=DecodingOptions(beam_width=64)).text
    assert jiwer.wer(beam, greedy) < 0.8


def test_a_hotword_is_heard_where_it_is_likely_and_left_out_where_it_cannot_be_spelled(
    translator, clip
) -> None:
    with pytest.warns(HotwordWarning, match="東京") as caught:
        found = translator.transcribe(clip, hotwords=["東京", "Großmutter"])
    assert len(caught) == 1 and caught[0].filename == __file__
    assert found.warnings == ("hotwords that the model's letters cannot spell are left out: '東京'",)
    plain = translator.transcribe(clip, hotwords=["großmutter"])
    assert found.text == plain.text != "" and plain.warnings == ()


def test_silence_and_noise_are_not_words(translator) -> None:
    silence = translator.transcribe(np.zeros(16_000 * 3, np.float32))
    assert silence.text == "" and silence.segments == ()
    assert translator.translate(np.zeros(16_000, np.float32)).text == ""
    noise = np.random.default_rng(0).normal(0, 0.01, 16_000 * 3).astype(np.float32)
    assert len(translator.transcribe(noise).words) <= 3


def test_the_previous_request_leaves_nothing_behind(translator, clip) -> None:
    expected = translator.translate(clip)
    with pytest.raises(AudioNotFoundError):
        translator.translate("/nowhere.wav")
    with pytest.raises(EngineError):
        translator.translate(np.full(16_000, np.nan, np.float32))
    assert translator.transcribe(np.zeros(16_000, np.float32)).text == ""
    again = translator.translate(clip)
    assert (again.text, again.source) == (expected.text, expected.source)


def test_one_object_serves_many_threads_without_crosstalk(translator, examples) -> None:
    sources = [examples[0]["path"], examples[1]["path"]] * 6
    expected = {path: translator.translate(path).text for path in set(sources)}
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda path: translator.translate(path).text, sources))
    assert results == [expected[path] for path in sources]


def test_a_batch_yields_every_result_in_order_and_one_error(translator, examples) -> None:
    good = examples[0]["path"]
    results = list(translator.transcribe_batch([good, "/nowhere.wav", good]))
    assert isinstance(results[0], Transcript) and results[0] == results[2]
    assert isinstance(results[1], AudioNotFoundError)


def test_a_batch_takes_arrays_at_their_rate_and_tells_how_far_it_is(translator, clip) -> None:
    seen: list[tuple[float, float]] = []
    slower = np.repeat(clip, 3)
    (result,) = translator.transcribe_batch(
        [slower], 48_000, hotwords=["großmutter"], progress=lambda done, total: seen.append((done, total))
    )
    assert result == translator.transcribe(slower, 48_000, hotwords=["großmutter"])
    assert seen == [(1, 1)]
    list(
        translator.translate_batch(
            iter([clip, clip]), progress=lambda done, total: seen.append((done, total))
        )
    )
    assert seen[1:] == [(1, math.inf), (2, math.inf)]


@pytest.mark.parametrize("job", ["transcribe_batch", "translate_batch", "stream"])
def test_a_batch_or_stream_ends_when_it_is_cancelled(translator, clip, job: str) -> None:
    token = CancelToken()

    def sources() -> Iterator[np.ndarray]:
        yield clip
        token.cancel()
        yield from itertools.repeat(clip, 100)

    with pytest.raises(CancelledError):
        list(getattr(translator, job)(sources(), cancel=token))


@pytest.mark.parametrize("job", ["transcribe_batch", "translate_batch", "stream"])
def test_wrong_options_are_refused_at_the_call_and_not_at_the_first_result(translator, job: str) -> None:
    with pytest.raises(OptionError, match="list of words"):
        getattr(translator, job)([], hotwords="Rothenburg")


def test_a_stream_tells_how_far_it_is(translator, clip) -> None:
    seen: list[tuple[float, float]] = []
    chunks = np.array_split(clip, 4)
    list(translator.stream(chunks, 16_000, progress=lambda done, total: seen.append((done, total))))
    assert [total for _, total in seen] == [math.inf] * 4 + [seen[-1][0]]
    assert seen[-1][0] == pytest.approx(len(clip) / 16_000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_batch_says_what_one_file_says(translator, examples) -> None:
    paths = [row["path"] for row in examples]
    batch = list(translator.translate_batch(paths))
    assert [result.text for result in batch] == [translator.translate(path).text for path in paths]


def test_a_call_can_be_cancelled_and_the_next_one_works(translator, examples) -> None:
    token = CancelToken()
    timer = threading.Timer(0.05, token.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        for _ in range(100):
            translator.transcribe(examples[-1]["path"], cancel=token)
    assert translator.transcribe(examples[0]["path"]).text


def test_progress_reaches_the_end(translator, examples) -> None:
    seen: list[tuple[float, float]] = []
    translator.transcribe(examples[-1]["path"], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == pytest.approx(seen[-1][1])
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_capitals_and_marks_can_be_left_out(translator, clip) -> None:
    written = translator.transcribe(clip)
    plain = translator.transcribe(clip, options=DecodingOptions(punctuation=False))
    assert plain.text == normalize_text(written.text) != written.text
    assert written.text[0].isupper() and written.text[-1] in ".?!"
    assert [(w.start_s, w.end_s) for w in plain.words] == [(w.start_s, w.end_s) for w in written.words]
    assert set(plain.stages_s) == set(written.stages_s)


def test_a_stream_ends_with_the_words_of_the_recording(translator, examples) -> None:
    waveform = translator.load_audio(examples[-1]["path"])
    chunks = np.array_split(waveform, 90)
    partials = list(translator.stream(chunks, 16_000))
    whole = translator.transcribe(waveform).text
    assert jiwer.wer(normalize_text(whole), normalize_text(partials[-1].stable_text)) < 0.15
    stable = [partial.stable_text for partial in partials]
    assert all(after.startswith(before) for before, after in itertools.pairwise(stable))


def test_text_alone_a_line_for_a_line(translator) -> None:
    lines = ["Guten Morgen.", "", "wie geht es dir", "   "]
    english = translator.translate_text(lines)
    assert len(english) == 4
    assert english[0] and english[2] and not english[1] and not english[3].strip()


def test_the_signature_names_everything_a_figure_depends_on(translator) -> None:
    for part in ("model:", "acoustic:", "beam:", "lm:", "mt:", "device:", "threads:2", "ort:", "cpu:"):
        assert part in translator.signature


def test_a_string_as_hotwords_is_refused_and_never_taken_as_letters(translator, clip) -> None:
    for call in (
        lambda: translator.transcribe(clip, hotwords="Rothenburg"),
        lambda: translator.translate(clip, hotwords="Rothenburg"),
        lambda: DecodingOptions(hotwords="Rothenburg"),  # type: ignore[arg-type]
    ):
        with pytest.raises(OptionError, match=r"a list of words.*\['Rothenburg'\]"):
            call()


def test_longer_audio_is_taken_where_the_limits_allow_it(translator) -> None:
    short = SpeechTranslator.__new__(SpeechTranslator)  # the models play no part
    short.limits = AudioLimits(max_duration_s=2)
    with pytest.raises(AudioLimitError, match="raise AudioLimits"):
        short.load_audio(np.zeros(48_000, np.float32))
    short.limits = AudioLimits(max_duration_s=4)
    assert len(short.load_audio(np.zeros(48_000, np.float32))) == 48_000


def test_it_can_be_sent_to_another_process(translator, clip) -> None:
    copy = pickle.loads(pickle.dumps(translator))
    assert copy.threads == translator.threads and copy.limits == translator.limits
    assert copy.transcribe(clip) == translator.transcribe(clip)
