"""Realtime sessions under any order of events: every word once, every item whole, whatever came between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tone_service import Running, ToneTranslator, english, running_server

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("websockets", reason="needs the extra [serve]")

from realtime_client import TRANSCRIPTION, TRANSLATION, appends, pcm, session, update

from tests.reference.tone_speech import silence, speak

COMMIT = {"type": "input_audio_buffer.commit"}
CLEAR = {"type": "input_audio_buffer.clear"}
WORDS = ("eins", "zwei", "drei")
STEPS = (
    *WORDS,
    *WORDS,
    "pause",
    "pause",
    "commit",
    "clear",
    "manual",
    "automatic",
    "english",
    "german",
    "garbage",
)
PATCHES: dict[str, dict[str, Any]] = {
    "manual": {"turn_detection": None},
    "automatic": {"turn_detection": {"type": "server_vad"}},
    "english": {"translation": {"language": "en"}},
    "german": {"translation": None},
}


class Expected:
    """What a session should have heard, told by words alone."""

    def __init__(self) -> None:
        self.automatic, self.english = True, False
        self.open: list[str] = []
        self.items: list[str] = []

    def take(self, step: str) -> None:
        """One step further."""
        if step in WORDS:
            self.open.append(step)
        elif step == "clear":
            self.open = []
        elif step == "commit" or (step == "pause" and self.automatic):
            self.close()
        elif step in PATCHES:
            automatic = {"manual": False, "automatic": True}.get(step, self.automatic)
            is_english = {"german": False, "english": True}.get(step, self.english)
            if (automatic, is_english) != (self.automatic, self.english) and (self.automatic or automatic):
                self.close()
            self.automatic, self.english = automatic, is_english

    def close(self) -> None:
        """The words since the last item become one."""
        if self.open:
            self.items.append(" ".join(self.open))
        self.open = []


def events_of(step: str) -> Iterator[dict[str, Any]]:
    """What a client sends for a step."""
    if step in WORDS:
        yield from appends(pcm(speak(step)))
    elif step == "pause":
        yield from appends(pcm(silence(1.2)))
    elif step in PATCHES:
        yield update(**PATCHES[step])
    else:
        yield {"commit": COMMIT, "clear": CLEAR}.get(step, {"type": "garbage"})


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with running_server(ToneTranslator()) as running:
        yield running


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(STEPS), max_size=14))
def test_every_word_is_told_once_and_every_item_is_whole(running: Running, steps: list[str]) -> None:
    expected = Expected()
    with session(running) as raw:
        raw.send(update())
        for step in [*steps, "pause", "commit"]:
            expected.take(step)
            raw.send(*events_of(step))
        raw.send(CLEAR)
        events = raw.until("input_audio_buffer.cleared", steps.count("clear") + 1)
    told = [event for event in events if event["type"] == f"{TRANSCRIPTION}.completed"]
    assert [event["transcript"] for event in told if event["transcript"]] == expected.items
    check_items(events)


def check_items(events: list[dict[str, Any]]) -> None:
    """Each item in order: committed, added, done, completed, each once; deltas make up its texts."""
    committed = [event for event in events if event["type"] == "input_audio_buffer.committed"]
    ids = [event["item_id"] for event in committed]
    assert [event["previous_item_id"] for event in committed] == [None, *ids][: len(ids)]
    for kind in ("conversation.item.added", "conversation.item.done"):
        assert [event["item"]["id"] for event in events if event["type"] == kind] == ids
    whole = [event for event in events if event["type"] == f"{TRANSCRIPTION}.completed"]
    assert [event["item_id"] for event in whole] == ids
    started = [e["item_id"] for e in events if e["type"] == "input_audio_buffer.speech_started"]
    stopped = [e["item_id"] for e in events if e["type"] == "input_audio_buffer.speech_stopped"]
    assert len(set(started)) == len(started) and set(stopped) <= set(started)
    for event in whole:
        assert deltas_of(events, event["item_id"], TRANSCRIPTION) == event["transcript"]
    for event in events:
        if event["type"] == f"{TRANSLATION}.completed":
            assert deltas_of(events, event["item_id"], TRANSLATION) == event["transcript"]
            (german,) = (each for each in whole if each["item_id"] == event["item_id"])
            assert event["transcript"] == english(german["transcript"])
            assert events.index(event) == events.index(german) + 1


def deltas_of(events: list[dict[str, Any]], item_id: str, kind: str) -> str:
    """The deltas of an item, joined."""
    return "".join(e["delta"] for e in events if e["type"] == f"{kind}.delta" and e["item_id"] == item_id)
