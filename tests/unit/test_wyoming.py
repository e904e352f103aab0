"""The Wyoming server by the protocol's own client: what it says it is, audio of every form, text as it comes."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("wyoming", reason="needs the extra [wyoming]")

from tone_service import wait_for
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
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

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


def say(port: int, events: list[Any], language: str | None = "de") -> list[Any]:
    return ask(port, lambda client: transcribe(client, events, language))


def test_a_command_becomes_text_in_the_order_of_the_protocol(port: int) -> None:
    assert text_of(say(port, audio_events(pcm(SPEECH)))) == TEXT
