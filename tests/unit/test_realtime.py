"""Realtime sessions as clients use them: OpenAI's own client over a real server, and its types."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tone_service import Running, ToneTranslator, running_server

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("websockets", reason="needs the extra [serve]")
pytest.importorskip("openai.types.realtime", reason="needs the package openai with realtime sessions")

import openai
import soxr
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from realtime_client import (
    PCM_16K,
    RATE,
    SAID,
    TALK,
    TRANSCRIPTION,
    TRANSLATION,
    appends,
    errors,
    pcm,
    session,
    texts,
    update,
)  # fmt: skip

from engine.errors import DecodingError, OptionError
from engine.serve import ServeSettings
from engine.serve.realtime.config import INCLUDES, SessionConfig
from engine.serve.realtime.formats import AudioFormat, decode_table
from engine.serve.realtime.items import Items
from engine.types import Segment, StreamEvent, Word
from tests.reference.tone_speech import silence, speak

EVERYTHING = {"include": INCLUDES, "translation": {"language": "en"}}
OPENAIS = TypeAdapter(RealtimeServerEvent)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Running, ToneTranslator]]:
    tones = ToneTranslator()
    with running_server(tones) as running:
        yield running, tones


@pytest.fixture
def running(shared: tuple[Running, ToneTranslator]) -> Running:
    return shared[0]


@pytest.fixture
def tones(shared: tuple[Running, ToneTranslator]) -> ToneTranslator:
    return shared[1]


def client(running: Running, key: str = "none") -> Any:
    return openai.OpenAI(base_url=running.url + "/v1", api_key=key, max_retries=0)


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def test_the_client_of_openai(running: Running) -> None:
    """Its own calls and types, with nothing but what OpenAI has."""
    found, deltas = [], []
    with client(running).realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().session.audio.input.format.rate == 24_000
        connection.session.update(
            session={
                "type": "transcription",
                "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe", "language": "de"}}},
                "include": ["item.input_audio_transcription.logprobs"],
            }
        )
        assert connection.recv().type == "session.updated"
        audio = pcm(soxr.resample(TALK, RATE, 24_000))
        for event in appends(audio, 9600):
            connection.input_audio_buffer.append(audio=event["audio"])
        for event in connection:
            if event.type == f"{TRANSCRIPTION}.delta":
                deltas.append(event.delta)
            elif event.type == f"{TRANSCRIPTION}.completed":
                found.append((event.transcript, event.usage.type, [entry.token for entry in event.logprobs]))
                if len(found) == 2:
                    break
    assert deltas == [text for text, _, _ in found] == SAID
    assert found[1] == (SAID[1], "duration", ["drei", " zwei", " eins"])


def test_the_asynchronous_client_commits_by_itself(running: Running) -> None:
    async def talk() -> list[Any]:
        asynchronous = openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="none")
        async with asynchronous.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            patch = {**PCM_16K, "turn_detection": None}
            await connection.session.update(session={"type": "transcription", "audio": {"input": patch}})
            for text in ("eins zwei . drei", "drei eins"):
                for event in appends(pcm(speak(text))):
                    await connection.input_audio_buffer.append(audio=event["audio"])
                await connection.input_audio_buffer.commit()
            await connection.input_audio_buffer.append(audio=base64.b64encode(pcm(speak("vier"))).decode())
            await connection.input_audio_buffer.clear()
            await connection.input_audio_buffer.commit()  # of nothing
            events: list[Any] = []
            async for event in connection:
                events.append(event)
                if event.type == "error":
                    return events
            return events

    events = asyncio.run(talk())
    kinds = [event.type for event in events]
    assert "input_audio_buffer.speech_started" not in kinds
    first, second = (event for event in events if event.type == "input_audio_buffer.committed")
    assert (first.previous_item_id, second.previous_item_id) == (None, first.item_id)
    done = [event for event in events if event.type == f"{TRANSCRIPTION}.completed"]
    assert [(event.item_id, event.transcript) for event in done] == [
        (first.item_id, "eins zwei drei"), (second.item_id, "drei eins"),
    ]  # fmt: skip
    for each in done:
        parts = [e.delta for e in events if e.type == f"{TRANSCRIPTION}.delta" and e.item_id == each.item_id]
        assert "".join(parts) == each.transcript
    assert done[0].usage.seconds == pytest.approx(len(speak("eins zwei . drei")) / RATE, abs=0.001)
    assert kinds[-2:] == ["input_audio_buffer.cleared", "error"]
    assert events[-1].error.code == "input_audio_buffer_commit_empty"


def test_events_of_an_utterance_in_order_and_of_openais_types(running: Running) -> None:
    with session(running) as raw:
        raw.send(update(**EVERYTHING), *appends(pcm(TALK)))
        events = raw.until(f"{TRANSLATION}.completed", 2)
    names = [event["type"] for event in events if not event["type"].endswith(".partial")]
    utterance = [
        "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done",
        f"{TRANSCRIPTION}.delta", f"{TRANSLATION}.delta",
        f"{TRANSCRIPTION}.completed", f"{TRANSLATION}.completed",
    ]  # fmt: skip
    assert names == ["session.created", "session.updated", *utterance, *utterance]
    for event in events:
        if event["type"] == "session.updated":
            event["session"]["include"] = []  # extensions, as is the rate
            event["session"]["audio"]["input"]["format"]["rate"] = 24_000
        if not event["type"].endswith(".partial") and not event["type"].startswith(TRANSLATION):
            assert OPENAIS.validate_python(event).type == event["type"]
    assert len({event["event_id"] for event in events}) == len(events)
    assert texts(events) == SAID
    assert texts(events, TRANSLATION) == ["one two three", "three two one"]
    english = of_type(events, f"{TRANSLATION}.delta") + of_type(events, f"{TRANSLATION}.completed")
    missing = ["3 is missing in the English of 'eins zwei drei'"]
    assert [event["warnings"] for event in english] == [missing, [], missing, []]
    assert {event["confidence"] for event in english} == {0.5}
    first, second = of_type(events, f"{TRANSCRIPTION}.completed")
    for completed in (first, second):
        assert " ".join(word["word"] for word in completed["words"]) == completed["transcript"]
        assert "".join(entry["token"] for entry in completed["logprobs"]) == completed["transcript"]
    assert second["words"][0]["start"] == pytest.approx(0.5 + 3 * 0.42 + 1.5, abs=0.02)
    started, stopped = (
        of_type(events, f"input_audio_buffer.speech_{what}")[0] for what in ("started", "stopped")
    )
    assert started["audio_start_ms"] == pytest.approx(200, abs=60)  # 300 ms before the first word
    assert stopped["audio_end_ms"] == pytest.approx(500 + 3 * 420 - 120 + 700, abs=60)
    assert {event["item_id"] for event in events if "item_id" in event} == {
        event["item"]["id"] for event in of_type(events, "conversation.item.added")
    }
    partials = [event["transcript"] for event in of_type(events, f"{TRANSCRIPTION}.partial")]
    assert partials and partials[0].startswith("eins")


def test_a_long_utterance_has_its_deltas_while_it_is_spoken(running: Running) -> None:
    text = "eins zwei drei vier fünf sechs sieben acht neun zehn " * 4
    with session(running) as raw:
        raw.send(update(), *appends(pcm(np.concatenate([speak(text), silence(1)])), 64_000))
        events = raw.until(f"{TRANSCRIPTION}.completed")
    deltas = of_type(events, f"{TRANSCRIPTION}.delta")
    assert len(deltas) > 1 and "".join(event["delta"] for event in deltas) == texts(events)[0] == text.strip()
    assert events.index(deltas[0]) < [event["type"] for event in events].index("input_audio_buffer.committed")


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_telephone_audio(running: Running, kind: str) -> None:
    audioop = pytest.importorskip("audioop", reason="gone from Python 3.13")
    code = audioop.lin2ulaw if kind == "audio/pcmu" else audioop.lin2alaw
    audio = code(pcm(soxr.resample(TALK, RATE, 8_000)), 2)
    with session(running) as raw:
        raw.send(update(format={"type": kind}), *appends(audio))
        assert texts(raw.until(f"{TRANSCRIPTION}.completed", 2)) == SAID


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_telephone_codes_are_those_of_the_standard_library() -> None:
    audioop = pytest.importorskip("audioop", reason="gone from Python 3.13")
    every = bytes(range(256))
    assert decode_table("audio/pcmu").tobytes() == audioop.ulaw2lin(every, 2)
    assert decode_table("audio/pcma").tobytes() == audioop.alaw2lin(every, 2)


def test_words_to_favour_and_their_bounds(running: Running, tones: ToneTranslator) -> None:
    favoured = {"keywords": ["Rothenburg", "Ulm"], "prompt": "Ulm, Bad Tölz", "model": "whisper-1"}
    with session(running) as raw:
        raw.send(update(transcription=favoured))
        updated = raw.until("session.updated")[-1]["session"]["audio"]["input"]["transcription"]
        assert updated["keywords"] == ["Rothenburg", "Ulm"] and updated["model"] == "german-speech-engine"
        assert tones.hotwords == ("Rothenburg", "Ulm", "Bad Tölz")
        raw.send(
            update(transcription={"keywords": [f"x{i}" for i in range(2000)]}),
            update(transcription={"prompt": "a" * 20_000}),
        )
        raw.send(update(transcription={"keywords": ["x" * 200]}))
        assert errors(raw.until("error", 3)) == ["invalid_value"] * 3


def test_a_refused_update_changes_nothing(running: Running, tones: ToneTranslator) -> None:
    wrong = [
        ({"transcription": {"language": "fr"}}, "session.audio.input.transcription.language"),
        ({"turn_detection": {"type": "semantic_vad"}}, "session.audio.input.turn_detection.type"),
        (
            {"turn_detection": {"silence_duration_ms": 50}},
            "session.audio.input.turn_detection.silence_duration_ms",
        ),
        ({"turn_detection": {"threshold": 7}}, "session.audio.input.turn_detection.threshold"),
        ({"format": {"type": "audio/pcm", "rate": 4_000}}, "session.audio.input.format.rate"),
        ({"format": "pcm16"}, "session.audio.input.format"),
        ({"transcription": None}, "session.audio.input.transcription"),
        ({"translation": {"language": "fr"}}, "session.audio.input.translation.language"),
        ({"misspelled": 1}, "session.audio.input.misspelled"),
    ]
    with session(running) as raw:
        created = raw.receive()["session"]
        for patch, param in wrong:
            event = update(include=("item.input_audio_transcription.words",), **patch) | {"event_id": "mine"}
            raw.send(event)
            error = raw.receive()["error"]
            assert (error["param"], error["event_id"], error["type"]) == (
                param,
                "mine",
                "invalid_request_error",
            )
        tones.has_translator = False
        try:
            raw.send(update(translation={"language": "en"}))
            assert raw.receive()["error"]["code"] == "ModelCapabilityError"
        finally:
            tones.has_translator = True
        raw.send({"type": "session.update", "session": {}})
        assert raw.receive()["session"] == created
        raw.send(
            {
                "type": "session.update",
                "session": {**created, "include": ["item.input_audio_transcription.words"]},
            }
        )
        assert raw.receive()["session"] == {**created, "include": ["item.input_audio_transcription.words"]}


def test_a_change_cuts_an_utterance_and_loses_nothing(running: Running) -> None:
    audio = pcm(speak("eins zwei drei drei zwei eins"))
    half = 3 * 2 * int(0.42 * RATE)
    with session(running) as raw:
        raw.send(
            update(), *appends(audio[:half]), update(translation={"language": "en"}), *appends(audio[half:])
        )
        raw.send({"type": "input_audio_buffer.commit"})
        events = raw.until(f"{TRANSLATION}.completed")
        assert texts(events) == SAID
        raw.send(update(format={"type": "audio/pcmu"}))
        assert raw.receive()["error"]["param"] == "session.audio.input.format"


def test_from_manual_commits_to_utterances_and_back(running: Running) -> None:
    audio = list(appends(pcm(speak("eins zwei"))))
    manual, automatic = update(turn_detection=None), update(turn_detection={"type": "server_vad"})
    keywords = update(turn_detection=None, transcription={"keywords": ["Ulm"]})
    with session(running) as raw:
        raw.send(manual, *audio, keywords, *audio, automatic, *audio, manual, *audio)
        raw.send({"type": "input_audio_buffer.commit"})
        events = raw.until(f"{TRANSCRIPTION}.completed", 3)
    assert texts(events) == ["eins zwei eins zwei", "eins zwei", "eins zwei"]
    assert len(of_type(events, "input_audio_buffer.speech_started")) == 1


def test_a_commit_while_somebody_speaks(running: Running) -> None:
    with session(running) as raw:
        raw.send(update(), *appends(pcm(speak("eins zwei"))), {"type": "input_audio_buffer.commit"})
        raw.send(*appends(pcm(np.concatenate([speak("drei"), silence(1)]))))
        events = raw.until(f"{TRANSCRIPTION}.completed", 2)
        raw.send({"type": "input_audio_buffer.commit"})
        silent = raw.until(lambda e: e["type"] in ("error", f"{TRANSCRIPTION}.completed"))
    assert texts(events) == ["eins zwei", "drei"]
    assert errors(silent) == ["input_audio_buffer_commit_empty"] or texts(silent) == [""]
    started = of_type(events, "input_audio_buffer.speech_started")
    assert len(started) == 2 and len(of_type(events, "input_audio_buffer.speech_stopped")) == 1


def test_what_cannot_be_recognised_is_told_and_the_session_goes_on(
    running: Running, tones: ToneTranslator
) -> None:
    with session(running) as raw:
        tones.error = DecodingError("broken", "whole")
        raw.send(update(), *appends(pcm(TALK[: 3 * RATE])))
        failed = raw.until(f"{TRANSCRIPTION}.failed")
        assert failed[-1]["error"]["code"] == "DecodingError"
        assert failed[-1]["item_id"] == of_type(failed, "input_audio_buffer.committed")[0]["item_id"]
        tones.error = ZeroDivisionError("secret")
        raw.send(*appends(pcm(TALK[: 3 * RATE])))
        failed = raw.until(f"{TRANSCRIPTION}.failed")
        assert failed[-1]["error"]["type"] == "server_error" and "secret" not in str(failed)
        tones.error = None
        raw.send(*appends(pcm(TALK[: 3 * RATE])))
        assert texts(raw.until(f"{TRANSCRIPTION}.completed")) == SAID[:1]


def test_the_protocol_of_the_beta(running: Running) -> None:
    flat = {
        "input_audio_format": "g711_ulaw",
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
        "input_audio_transcription": {"model": "whisper-1", "language": "de"}, "modalities": ["text"],
        "input_audio_noise_reduction": {"type": "near_field"}, "include": None,
    }  # fmt: skip
    with session(running, additional_headers={"OpenAI-Beta": "realtime=v1"}) as raw:
        assert raw.receive()["type"] == "transcription_session.created"
        raw.send({"type": "transcription_session.update", "session": flat})
        updated = raw.receive()
        assert updated["type"] == "transcription_session.updated"
        assert updated["session"]["input_audio_format"] == "g711_ulaw"
        assert updated["session"]["turn_detection"]["silence_duration_ms"] == 400
        raw.send({"type": "transcription_session.update", "session": {"input_audio_format": "mp3"}})
        assert raw.receive()["error"]["param"] == "session.input_audio_format"


def test_metrics_and_log(tones: ToneTranslator, caplog: pytest.LogCaptureFixture) -> None:
    import httpx

    pytest.importorskip("prometheus_client", reason="needs the package prometheus-client")
    with running_server(tones) as running, caplog.at_level("INFO", "engine.serve"):
        with session(running) as raw:
            raw.send(update(), *appends(pcm(TALK)))
            raw.until(f"{TRANSCRIPTION}.completed", 2)
            opened = httpx.get(running.url + "/metrics").text
        while len(running.server.config.app.state.service.realtime):
            time.sleep(0.01)
        closed = httpx.get(running.url + "/metrics").text
    assert "speech_engine_realtime_sessions 1.0" in opened
    assert "speech_engine_realtime_sessions 0.0" in closed
    figures = dict(line.rsplit(" ", 1) for line in closed.splitlines() if not line.startswith("#"))
    assert float(figures['speech_engine_audio_seconds_total{task="realtime"}']) == pytest.approx(
        len(TALK) / RATE, abs=0.01
    )
    assert figures['speech_engine_requests_total{endpoint="/v1/realtime",status="101"}'] == "1.0"
    (line,) = [r for r in caplog.records if getattr(r, "fields", {}).get("path") == "/v1/realtime"]
    assert line.fields["status"] == 101


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(["ja", "nein"]), min_size=1, max_size=3), st.booleans()),
        max_size=8,
    )
)
def test_deltas_of_an_item_are_its_transcript(finals: list[tuple[list[str], bool]]) -> None:
    """Whatever a stream finds, in whatever batches."""
    events: list[StreamEvent] = []
    for index, (words, is_last) in enumerate(finals):
        segment = Segment(
            " ".join(words), index, index + 1, tuple(Word(w, index, index + 1, 0.5) for w in words)
        )
        if not events or events[-1].is_endpoint:
            events.append(StreamEvent("speech_start", "", index, index, None, index, False, index, 0.0))
        if is_last:
            events.append(StreamEvent("speech_end", "", index, index, None, index, False, index, 0.0))
        events.append(
            StreamEvent("final", segment.text, index, index + 1, segment, index, is_last, index, 0.0)
        )
    items = Items(SessionConfig())
    told = list(items.hear(events, 5.0))
    told += [*items.commit(0.0, 9.0), *items.complete()] if items.current else []
    joined: dict[str, str] = {}
    for event in told:
        if event["type"].endswith(".delta"):
            joined[event["item_id"]] = joined.get(event["item_id"], "") + event["delta"]
    whole = {event["item_id"]: event["transcript"] for event in told if event["type"].endswith(".completed")}
    assert joined == whole
    assert " ".join(whole.values()).split() == [word for words, _ in finals for word in words]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10_000) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["server_vad", "audio/pcm", "audio/pcmu", "de", "en", "transcription", *INCLUDES]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            "type audio input format rate transcription language languages prompt keywords model "
            "turn_detection threshold silence_duration_ms prefix_padding_ms translation include "
            "noise_reduction x".split()
        ),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(VALUES, st.booleans())
def test_any_update_is_taken_or_refused(session_fields: Any, nested: bool) -> None:
    """And what a session shows can be sent back."""
    given_fields = {"audio": {"input": session_fields}} if nested else session_fields
    try:
        config = SessionConfig().update(given_fields, ServeSettings())
    except OptionError as error:
        assert str(error)
        return
    view = {"audio": {"input": config.describe_input("m")}, "include": config.describe_include()}
    again = config.update(view, ServeSettings())
    assert again.describe_input("m") == config.describe_input("m")
    assert config.endpoint.pause_s == pytest.approx(config.silence_ms / 1000)


@given(st.binary(max_size=64))
def test_pcm_is_taken_as_it_is(content: bytes) -> None:
    text = base64.b64encode(content).decode()
    if len(content) % 2:
        with pytest.raises(OptionError, match="whole samples"):
            AudioFormat().decode(text)
    else:
        assert AudioFormat().decode(text).astype("<i2").tobytes() == content


def test_the_embedded_model(translator: Any, examples: list[dict[str, str]]) -> None:
    """The same German and English as a stream of the library has."""
    waveform = np.concatenate([translator.load_audio(examples[0]["path"]), silence(1.0)])
    audio = np.frombuffer(pcm(waveform), "<i2")
    with translator.open_stream(RATE, task="translate") as stream:
        wanted = stream.feed(audio)
    with running_server(translator) as running, session(running) as raw:
        raw.send(update(**EVERYTHING), *appends(audio.tobytes()))
        events = raw.until(f"{TRANSLATION}.completed")
    finals = [event for event in wanted if event.kind == "final"]
    assert texts(events) == [" ".join(event.text for event in finals)] and texts(events)[0]
    assert texts(events, TRANSLATION) == [" ".join(e.text for e in wanted if e.kind == "translation")]
    (completed,) = of_type(events, f"{TRANSCRIPTION}.completed")
    assert len(completed["words"]) == sum(len(event.words) for event in finals)
