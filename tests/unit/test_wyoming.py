"""The Wyoming server by the protocol's own client: what it says it is, audio of every form, its text."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("wyoming", reason="needs the extra [wyoming]")

from tone_wyoming import (
    SPEECH,
    TEXT,
    ToneStreams,
    ask,
    audio_events,
    connected,
    pcm,
    read_until,
    running,
    text_of,
    transcribe,
)
from wyoming.asr import Transcribe
from wyoming.audio import AudioStop
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping

from engine.jobs.endpoints import EndpointOptions
from engine.serve.wyoming import WyomingSettings
from engine.serve.wyoming.protocol import AudioFormat
from engine.serve.wyoming.samples import FrameReader
from engine.serve.wyoming.text import CommandText
from tests.reference.tone_speech import silence, speak


@pytest.fixture(scope="module")
def tones() -> ToneStreams:
    return ToneStreams()


@pytest.fixture(scope="module")
def port(tones: ToneStreams) -> Any:
    with running(tones) as server:
        yield server.port


def say(port: int, events: list[Event], language: str | None = "de") -> list[Event]:
    return ask(port, lambda client: transcribe(client, events, language))


def describe(port: int) -> Info:
    async def look(client: Any) -> Info:
        await client.write_event(Describe().event())
        return Info.from_event((await read_until(client, "info"))[-1])

    return ask(port, look)


def test_a_command_becomes_text_in_the_order_of_the_protocol(port: int) -> None:
    events = say(port, audio_events(pcm(SPEECH)))
    assert text_of(events) == TEXT
    assert events[0].data == {"language": "de"}
    assert events[-2].data == {"text": TEXT, "language": "de"}


def test_the_server_says_what_it_is(port: int, tones: ToneStreams) -> None:
    info = describe(port)
    assert not (info.tts or info.wake or info.handle or info.intent)
    (program,) = info.asr
    (model,) = program.models
    assert program.installed and model.installed and program.version and program.attribution.name
    assert model.languages == ["de"]
    assert program.supports_transcript_streaming and program.requires_external_vad
    with running(tones, WyomingSettings(task="translate", ends_at_pause=True, model_name="mine")) as server:
        (program,) = describe(server.port).asr
    assert not program.requires_external_vad
    assert program.models[0].languages == ["de", "en"] and program.models[0].name == "mine"


def test_one_connection_asks_pings_and_speaks_several_times(port: int) -> None:
    async def talk(client: Any) -> None:
        for text in ("eins", "zwei drei", ""):
            audio = np.concatenate([speak(text), silence(0.2)])
            assert text_of(await transcribe(client, audio_events(pcm(audio)))) == text
            await client.write_event(Ping("still there").event())
            assert (await read_until(client, "pong"))[-1].data == {"text": "still there"}
            await client.write_event(Event("select-program", {"name": "any"}))
            await client.write_event(Event("something-new", {"data": [1]}, b"payload"))

    ask(port, talk)


def test_requests_that_do_not_wait_for_each_other_are_answered_in_order(port: int) -> None:
    async def talk(client: Any) -> list[str]:
        for text in ("eins", "zwei", "drei"):
            for event in [Transcribe().event(), *audio_events(pcm(speak(text)))]:
                await client.write_event(event)
        return [text_of(await read_until(client, "transcript-stop")) for _ in range(3)]

    assert ask(port, talk) == ["eins", "zwei", "drei"]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize(("rate", "n_channels"), [(16_000, 1), (44_100, 2), (8_000, 1), (48_000, 6)])
def test_audio_of_any_rate_width_and_number_of_channels(
    port: int, rate: int, width: int, n_channels: int
) -> None:
    times = np.arange(0, len(SPEECH) / 16_000, 1 / rate)
    resampled = np.interp(times, np.arange(len(SPEECH)) / 16_000, SPEECH)
    content = pcm(resampled, width, n_channels)
    events = audio_events(content, rate, width, n_channels, chunk_bytes=width * n_channels * 1024)
    assert text_of(say(port, events)) == TEXT


@pytest.mark.parametrize("chunk_bytes", [13, 333, 1 << 20])
def test_chunks_may_end_anywhere_in_a_sample(port: int, chunk_bytes: int) -> None:
    content = pcm(np.concatenate([speak("zwei"), silence(0.1)]))
    assert text_of(say(port, audio_events(content, chunk_bytes=chunk_bytes))) == "zwei"


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 5))
def test_frames_do_not_depend_on_where_blocks_end(data: Any, width: int, n_channels: int) -> None:
    mono = data.draw(st.binary(max_size=120))
    whole_samples = len(mono) // width * width
    frames = [mono[i : i + width] * n_channels for i in range(0, whole_samples, width)]
    content = b"".join(frames) + mono[whole_samples:]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    form = AudioFormat(16_000, width, n_channels)
    reader, whole = FrameReader(form), FrameReader(form)
    parts = [reader.read(content[a:b]) for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    expected = whole.read(content)
    assert len(expected) == len(content) // form.frame_bytes and expected.dtype == np.float32
    assert np.array_equal(np.concatenate(parts), expected)
    assert reader.left == whole.left and len(whole.left) < form.frame_bytes


def test_channels_that_cancel_each_other_are_heard(port: int) -> None:
    mono = np.frombuffer(pcm(SPEECH), "<i2")
    content = np.stack([mono, -mono], axis=1).tobytes()
    assert text_of(say(port, audio_events(content, n_channels=2))) == TEXT


def test_silence_and_no_audio_at_all_give_an_empty_text_and_no_error(port: int) -> None:
    assert text_of(say(port, audio_events(pcm(silence(1.0))))) == ""
    assert text_of(say(port, audio_events(b""))) == ""
    assert text_of(say(port, [AudioStop().event()])) == ""


def test_chunks_without_a_start_say_their_format_themselves(port: int, tones: ToneStreams) -> None:
    content = pcm(np.repeat(SPEECH, 2))
    assert text_of(say(port, audio_events(content, rate=32_000, start=False), language=None)) == TEXT
    assert tones.opened[-1]["sample_rate"] == 32_000


def test_text_is_sent_while_its_client_still_speaks(port: int) -> None:
    async def talk(client: Any) -> None:
        audio = np.concatenate([speak("eins zwei . drei"), silence(0.2)])
        content = pcm(audio)
        rest = len(content) // 6 * 5
        for event in audio_events(content[:rest], stop=False):
            await client.write_event(event)
        first = await read_until(client, "transcript-chunk")
        assert first[-1].data["text"] == "eins zwei"
        for event in audio_events(content[rest:], start=False):
            await client.write_event(event)
        assert text_of([*first, *await read_until(client, "transcript-stop")]) == "eins zwei drei"

    ask(port, talk)


def test_several_clients_at_once_over_one_model(port: int) -> None:
    texts = ["eins zwei", "drei", "vier fünf sechs", "sieben", "acht neun", "zehn eins"]

    async def one(text: str) -> str:
        async with connected(port) as client:
            audio = np.concatenate([silence(0.2), speak(text), silence(0.2)])
            return text_of(await transcribe(client, audio_events(pcm(audio))))

    async def all_of_them() -> list[str]:
        return list(await asyncio.gather(*map(one, texts)))

    assert asyncio.run(all_of_them()) == texts


def test_english_text(tones: ToneStreams) -> None:
    with running(tones, WyomingSettings(task="translate")) as server:
        for language in ("en", "en-GB", "de"):
            events = say(server.port, audio_events(pcm(SPEECH)), language)
            assert text_of(events) == "one two three"
            assert events[-2].data["language"] == "en"


@pytest.mark.parametrize("language", ["de", "de-DE", "de_AT", "deu", "", None])
def test_names_of_german(port: int, language: str | None) -> None:
    assert text_of(say(port, audio_events(pcm(SPEECH)), language)) == TEXT


@pytest.mark.parametrize("language", ["en", "fr", "auto"])
def test_another_language_is_an_error_and_no_text(port: int, language: str) -> None:
    (error,) = say(port, audio_events(pcm(SPEECH)), language)
    assert error.type == "error" and error.data["code"] == "OptionError"
    assert language in error.data["text"] and "german" in error.data["text"]


def test_names_of_a_home_are_hotwords(port: int, tones: ToneStreams) -> None:
    async def talk(client: Any, **names: list[str]) -> Any:
        await client.write_event(Transcribe(**names).event())
        await client.write_event(AudioStop().event())
        assert text_of(await read_until(client, "transcript-stop")) == ""
        return tones.opened[-1]["hotwords"]

    given_names = {"transcript_names": ["Ecobee", " Stehlampe ", ""], "transcript_terms": ["Küche", "Ecobee"]}
    assert ask(port, lambda client: talk(client, **given_names)) == ("Ecobee", "Stehlampe", "Küche")
    many = [f"Lampe {i}" for i in range(5000)]
    taken = ask(port, lambda client: talk(client, transcript_names=["x" * 101, *many]))
    assert taken == tuple(many[:1000])
    assert ask(port, talk) == ()


def test_a_pause_ends_a_command_where_the_server_finds_its_end(tones: ToneStreams) -> None:
    ends = WyomingSettings(ends_at_pause=True, endpoint=EndpointOptions(0.5, pad_s=0.2), max_silence_s=2.0)
    audio = np.concatenate([silence(0.5), speak("eins zwei"), silence(0.8), speak("drei"), silence(0.5)])

    async def talk(client: Any, samples: np.ndarray) -> list[Event]:
        for event in audio_events(pcm(samples), stop=False):
            await client.write_event(event)
        return await read_until(client, "transcript-stop")

    async def twice(client: Any) -> list[str]:
        texts = [text_of(await talk(client, audio))]
        await client.write_event(AudioStop().event())  # the client may know it late
        return [*texts, text_of(await talk(client, audio)), text_of(await talk(client, speak("drei . eins")))]

    with running(tones, ends) as server:
        assert ask(server.port, twice) == ["eins zwei", "eins zwei", "drei"]
        assert text_of(ask(server.port, lambda client: talk(client, silence(5.0)))) == ""
        assert text_of(say(server.port, audio_events(pcm(SPEECH)))) == TEXT


def test_a_client_that_leaves_frees_its_core(port: int, tones: ToneStreams) -> None:
    async def leave_while_it_speaks(client: Any) -> None:
        for event in audio_events(pcm(speak("eins . zwei")), stop=False):
            await client.write_event(event)
        await asyncio.to_thread(tones.started.acquire)

    async def leave_after_it_spoke(client: Any) -> None:
        for event in audio_events(pcm(speak("eins"))):
            await client.write_event(event)
        await asyncio.to_thread(tones.started.acquire)

    async def leave_when_more_waits_than_is_taken(client: Any) -> None:
        said = audio_events(pcm(speak("eins . zwei")), stop=False)
        for event in said:
            await client.write_event(event)
        await asyncio.to_thread(tones.started.acquire)
        much = audio_events(bytes(1 << 20), chunk_bytes=1 << 20, start=False, stop=False)[0]
        with suppress(TimeoutError):
            async with asyncio.timeout(2.0):  # of it the server takes no more at some point
                for _ in range(40):
                    await client.write_event(much)

    while tones.started.acquire(blocking=False):
        pass
    for conversation in (leave_while_it_speaks, leave_after_it_spoke, leave_when_more_waits_than_is_taken):
        tones.gate.clear()
        tones.cancelled.clear()
        ask(port, conversation)
        assert tones.cancelled.wait(10)
        tones.gate.set()
    assert text_of(say(port, audio_events(pcm(SPEECH)))) == TEXT


def command(texts: list[str], full_stop: bool = False) -> str:
    text = CommandText(full_stop)
    sent = [*map(text.add, texts), text.finish()]
    assert "".join(sent) == text.text
    return text.text


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Licht auf 50 Prozent."], "Licht auf 50 Prozent"),
        (["Setze Milch", "auf die Liste."], "Setze Milch auf die Liste"),
        (["Mach das Licht an.", "Danke."], "Mach das Licht an. Danke."),
        (["Mach das Licht an. Danke."], "Mach das Licht an. Danke."),
        (["Ist die Tür zu?"], "Ist die Tür zu?"),
        (["Wecke mich am 3. Mai."], "Wecke mich am 3. Mai"),
        (["Wecke mich am 3."], "Wecke mich am 3."),
        (["Stelle den Wecker auf 10."], "Stelle den Wecker auf 10"),
        (["Moment..."], "Moment..."),
        (["", "Ja.", ""], "Ja"),
        ([], ""),
    ],
)
def test_a_single_sentence_has_no_full_stop(texts: list[str], expected: str) -> None:
    assert command(texts) == expected
    assert command(texts, full_stop=True) == " ".join(filter(None, texts))


@given(st.lists(st.text("ab.?! 3…", max_size=8).map(str.strip), max_size=5))
def test_nothing_but_a_last_full_stop_is_ever_lost(texts: list[str]) -> None:
    whole = " ".join(filter(None, texts))
    assert command(texts, full_stop=True) == whole
    assert command(texts) in (whole, whole[:-1] if whole.endswith(".") else whole)
