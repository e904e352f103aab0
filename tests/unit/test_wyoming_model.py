"""The Wyoming server over the embedded model: texts of streams, English, numbers, hotwords."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

pytest.importorskip("wyoming", reason="needs the extra [wyoming]")

from tone_wyoming import ask, audio_events, connected, pcm, read_until, running, text_of, transcribe
from wyoming.asr import Transcribe
from wyoming.info import Describe, Info

from engine.cli.wyoming import warm_up
from engine.pipeline import SpeechTranslator
from engine.serve.wyoming import WyomingSettings

pytestmark = pytest.mark.levels


@pytest.fixture(scope="module")
def contents(translator: SpeechTranslator, examples: list[dict[str, str]]) -> list[bytes]:
    """The two short example recordings as a microphone would send them."""
    return [pcm(np.clip(translator.load_audio(row["path"]), -1.0, 1.0)) for row in examples[:2]]


def test_examples_at_once_are_written_as_streams_write_them(
    translator: SpeechTranslator, contents: list[bytes]
) -> None:
    settings = WyomingSettings()
    warm_up(translator, settings)

    async def one(port: int, content: bytes) -> str:
        async with connected(port) as client:
            return text_of(await transcribe(client, audio_events(content, chunk_bytes=2048)))

    async def all_of_them(port: int) -> list[str]:
        return list(await asyncio.gather(*(one(port, content) for content in contents)))

    with running(translator, settings) as server:
        texts = asyncio.run(all_of_them(server.port))
    for content, text in zip(contents, texts, strict=True):
        stream = translator.open_stream(options=settings.decoding, endpoint=settings.endpoint)
        events = stream.run([np.frombuffer(content, "<i2")])
        written = " ".join(event.text for event in events if event.kind == "final")
        assert text and text in (written, written.removesuffix("."))
    assert texts[0] == "Morgen besuchen wir meine Großmutter und bringen ihr frische Blumen mit"


def test_english_and_names_of_a_home(translator: SpeechTranslator, contents: list[bytes]) -> None:
    async def talk(client: Any) -> tuple[Info, str]:
        await client.write_event(Describe().event())
        info = Info.from_event((await read_until(client, "info"))[-1])
        await client.write_event(Transcribe(language="en", transcript_names=["Großmutter", "漢字"]).event())
        for event in audio_events(contents[0]):
            await client.write_event(event)
        return info, text_of(await read_until(client, "transcript-stop", "error"))

    with running(translator, WyomingSettings(task="translate", full_stop=True)) as server:
        info, text = ask(server.port, talk)
    assert info.asr[0].models[0].name == translator.bundle.name
    assert "my grandmother" in text and text.endswith(".")
