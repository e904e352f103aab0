"""Translations as events, and results in other formats: what the page asks for, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tone_service import SPEECH, TRANSCRIBE, TRANSLATE, ToneTranslator, post, refused

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("multipart", reason="needs the extra [serve]")
pytest.importorskip("httpx", reason="needs httpx")

from starlette.testclient import TestClient
from test_serve_deployment import events_of

from engine.errors import DecodingError, OptionError
from engine.output.formats import render, to_dict
from engine.output.parsing import MAX_SEGMENT_WORDS, parse_json
from engine.serve import create_app
from engine.serve.routes import renderings
from engine.types import Segment, Transcript, Translation, Word

RENDER = "/v1/audio/renderings"
VERBOSE = {"response_format": "verbose_json", "timestamp_granularities[]": ["segment", "word"]}
GERMAN = Transcript(
    (
        Segment(
            "Guten Morgen.", 0.5, 1.5, (Word("Guten", 0.5, 0.9, 0.9), Word("Morgen.", 1.0, 1.5, 0.4)), 0.65
        ),
        Segment("Na?", 4.0, 4.25, (Word("Na?", 4.0, 4.25, 0.8),), 0.8, 2),
    ),
    5.0,
    stages_s={"audio": 0.25},
    warnings=("It is short.",),
)
BOTH = Translation(
    (Segment("Good morning.", 0.5, 1.5, (), 0.5), Segment("Well?", 4.0, 4.25, (), 0.5, 2)),
    GERMAN,
    stages_s={"translate": 0.5},
)


@pytest.fixture
def tones() -> ToneTranslator:
    return ToneTranslator()


@pytest.fixture
def client(tones: ToneTranslator) -> Iterator[TestClient]:
    with TestClient(create_app(tones), raise_server_exceptions=False) as client:
        yield client


def rendered(client: TestClient, content: Any, **fields: Any) -> Any:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return client.post(RENDER, files={"file": ("result.json", body)}, data=fields)


def test_a_translation_streams_segments_with_their_german(client: TestClient) -> None:
    *segments, done = events_of(post(client, TRANSLATE, stream="true", **VERBOSE))
    assert {event["type"] for event in segments} == {"transcript.text.segment"}
    assert [event["id"] for event in segments] == [0, 1]
    assert done.pop("type") == "transcript.text.done"
    assert done == post(client, TRANSLATE, **VERBOSE).json()
    assert [{**event, "type": None} for event in segments] == [
        {**each, "type": None} for each in done["segments"]
    ]
    assert done["segments"][0]["text"] == "one two three"
    german = done["segments"][0]["source"]
    assert german["text"] == "eins zwei drei"
    assert [word["word"] for word in german["words"]] == ["eins", "zwei", "drei"]
    assert german["words"][0]["probability"] == 0.9
    transcript = post(client, TRANSCRIBE, **VERBOSE).json()
    assert transcript["segments"][0]["words"] == german["words"]
    assert "source" not in transcript["segments"][0]


def test_words_come_only_where_they_are_wanted(client: TestClient) -> None:
    *segments, done = events_of(post(client, TRANSLATE, stream="true", response_format="verbose_json"))
    assert len(segments) == 2
    assert "words" not in json.dumps(done)


def test_a_segment_that_changes_is_sent_again(client: TestClient, tones: ToneTranslator) -> None:
    whole = tones.translate

    def changing(source: Any, rate: Any = None, *, partial: Any, **options: Any) -> Translation:
        result = whole(source, rate, **options)
        first = result.segments[0]
        german = Transcript(result.source.segments[:1], 1.0)
        partial(Translation((Segment("one", first.start_s, first.end_s),), german))
        partial(Translation((first,), german))
        partial(Translation((first,), german))
        return result

    tones.translate = changing
    *segments, done = events_of(post(client, TRANSLATE, stream="true", **VERBOSE))
    assert [(event["id"], event["text"]) for event in segments] == [
        (0, "one"), (0, "one two three"), (1, "three two one")
    ]  # fmt: skip
    assert len(done["segments"]) == 2


def test_a_translation_streams_text(client: TestClient) -> None:
    *deltas, done = events_of(post(client, TRANSLATE, stream="true"))
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert "".join(event["delta"] for event in deltas) == done["text"] == "one two three three two one"


def test_streams_that_are_refused(client: TestClient, tones: ToneTranslator) -> None:
    refused(post(client, TRANSCRIBE, stream="true", **VERBOSE), 400, "verbose_json", "translation")
    refused(post(client, TRANSLATE, stream="true", response_format="srt"), 400, "srt", "verbose_json")
    tones.late_error = DecodingError("late", "early")
    *segments, error = events_of(post(client, TRANSLATE, stream="true", **VERBOSE))
    assert segments
    assert error["error"]["code"] == "DecodingError"
    tones.error = DecodingError("at once", "never")
    refused(post(client, TRANSLATE, stream="true", **VERBOSE), 400, "at once")
    assert client.app.state.service.queue.pending == 0


def test_every_format_is_as_the_engine_writes_it(client: TestClient) -> None:
    content = to_dict(BOTH)
    kinds = {"srt": "text/plain", "vtt": "text/vtt", "text": "text/plain", "json": "application/json"}
    for kind, media_type in kinds.items():
        name = "txt" if kind == "text" else kind
        german = rendered(client, content, response_format=kind, **{"languages[]": "de"})
        assert german.text == render(GERMAN, name)
        assert german.headers["content-type"].startswith(media_type)
        english = rendered(client, content, response_format=kind, **{"languages[]": "en"})
        assert english.text == render(BOTH, name)
        of_transcript = rendered(client, to_dict(GERMAN), response_format=kind)
        assert of_transcript.text == render(GERMAN, name)
    both = {"languages[]": ["de", "en"]}
    assert rendered(client, content, response_format="srt", **both).text == render(
        BOTH, "srt", bilingual=True
    )
    assert rendered(client, content, response_format="vtt").text == render(BOTH, "vtt", bilingual=True)
    assert (
        rendered(client, content).text == "Guten Morgen.\nSpeaker 2: Na?\n\nGood morning.\nSpeaker 2: Well?\n"
    )
    assert rendered(client, content, response_format="json", **both).json() == content


def test_what_cannot_be_rendered_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = {"text": "ja", "start": 0, "end": 1}
    for content, *words in (
        (b"no JSON", "result"),
        (b"\xff", "result"),
        (b"[" * 100_000, "result"),
        ([], "object"),
        ({}, "segments"),
        ({"segments": [{**segment, "start": -1}]}, "start"),
        ({"segments": [{**segment, "start": 2}]}, "2 s"),
        ({"segments": [{**segment, "words": [{"word": "a b", "start": 0, "end": 1}]}]}, "'a b'"),
        ({"segments": [{**segment, "words": [{"word": "", "start": 0, "end": 1}]}]}, "''"),
        ({"segments": [{**segment, "text": "ja " * (MAX_SEGMENT_WORDS + 1)}]}, "divide"),
        (b'{"segments": [{"text": "ja", "start": 0, "end": 1e999}]}', "result"),
        (b'{"segments": [{"text": "ja", "start": NaN, "end": 1}]}', "result"),
    ):
        refused(rendered(client, content), 400, *words)
    good = {"segments": [segment]}
    refused(rendered(client, good, **{"languages[]": "en"}), 400, "transcript")
    refused(rendered(client, good, response_format="docx"), 400, "docx", "srt")
    refused(rendered(client, good, **{"languages[]": "fr"}), 400, "fr")
    refused(rendered(client, good, passes="1"), 400, "passes", "languages[]")
    refused(client.post(RENDER, json=good), 400, "multipart/form-data")
    refused(client.post(RENDER, data={"response_format": "srt"}, files={"other": b""}), 400, "file")
    monkeypatch.setattr(renderings, "MAX_WORDS", 2)
    refused(rendered(client, {"segments": [{**segment, "text": "eins zwei drei"}]}), 400, "3 words")
    assert client.app.state.service.queue.pending == 0


def test_an_empty_result_has_empty_texts(client: TestClient) -> None:
    for content in ({"segments": []}, {"segments": [], "source": {"segments": []}}):
        assert rendered(client, content).text.strip() == ""
        assert rendered(client, content, response_format="srt").text == ""
        assert rendered(client, content, response_format="vtt").text == "WEBVTT\n"


seconds = st.integers(0, 10**6).map(lambda ms: ms / 1000)
chances = st.integers(0, 1000).map(lambda n: n / 1000)
spans = st.tuples(seconds, seconds).map(sorted)
tokens = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=8)
words = st.builds(lambda text, span, p: Word(text, *span, p), tokens, spans, chances)
segments = st.builds(
    lambda spoken, span, p, channel: Segment(
        " ".join(word.text for word in spoken), *span, tuple(spoken), p, channel
    ),
    st.lists(words, max_size=5), spans, chances, st.none() | st.integers(1, 9),
)  # fmt: skip
transcripts = st.builds(
    lambda spoken, length: Transcript(tuple(spoken), length), st.lists(segments, max_size=4), seconds
)


@settings(max_examples=60, deadline=None)
@given(transcripts)
def test_what_was_written_is_read_again(transcript: Transcript) -> None:
    assert parse_json(render(transcript, "json")) == transcript
    english = tuple(Segment("well", s.start_s, s.end_s, (), 0.5, s.channel) for s in transcript.segments)
    translation = Translation(english, transcript)
    assert parse_json(render(translation, "json")) == translation
    assert render(translation, "srt", bilingual=True).count(" --> ") >= any(
        s.words for s in transcript.segments
    )


@settings(max_examples=100, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from("segments text start end words source".split()), inner, max_size=5),
    max_leaves=15,
))  # fmt: skip
def test_any_json_is_a_result_or_refused(content: Any) -> None:
    try:
        result = parse_json(json.dumps(content))
    except OptionError:
        return
    for kind in ("txt", "srt", "vtt", "json"):
        render(result, kind)


def test_the_speech_of_these_tests_has_two_segments(client: TestClient) -> None:
    assert len(post(client, TRANSLATE, SPEECH, **VERBOSE).json()["segments"]) == 2
