"""Items of a session: utterances that grow by finals, and the events that tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from engine.output.formats import DECIMALS, word_dict
from engine.serve.realtime.config import LOGPROBS, PARTIALS, WORDS, SessionConfig
from engine.serve.realtime.messages import Event, describe_error, make_event, new_id
from engine.serve.responses import word_logprobs
from engine.types import Segment, StreamEvent, Word

TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"
TRANSLATION: Final = "conversation.item.input_audio_translation"


@dataclass(slots=True)
class Item:
    """One utterance.

    Attributes:
        id: for clients. start_s, end_s: of its audio, in seconds from the start of the session.
        segments, english: what is final so far, in order; times from the start of the session.
        warnings: of the English so far.
        committed: whether it is one, and no longer only what the audio will become.
    """

    id: str
    start_s: float
    end_s: float
    segments: list[Segment] = field(default_factory=list)
    english: list[Segment] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    committed: bool = False

    @property
    def words(self) -> list[Word]:
        """Of all its segments."""
        return [word for segment in self.segments for word in segment.words]


class Items:
    """Turns the events of streams into those of a session, one item at a time.

    Attributes:
        config: what the session was asked to do.
        current: the item that grows, once there is one.
        n_done: items whose whole text was told, or that failed.
    """

    def __init__(self, config: SessionConfig) -> None:
        self.config = config
        self.current: Item | None = None
        self._previous_id: str | None = None
        self.n_done = 0
        self._ended = False  # whether the current item only waits for its last final

    def hear(self, events: Iterable[StreamEvent], offset_s: float, whole: bool = True) -> Iterator[Event]:
        """Tell what a stream found, all that one call of it returned.

        Args:
            events: in order.
            offset_s: when the stream began, in seconds from the start of the session.
            whole: whether the call did all that it had to do; else an item that ended may lack its final.
        """
        for event in events:
            if event.kind == "speech_start" and self.config.server_vad:
                yield from self.complete_ended()
                if self.current is None:
                    yield self._start(offset_s + event.start_s)
            elif event.kind == "partial":
                yield from self._guess(event, offset_s)
            elif event.kind == "speech_end" and self.config.server_vad and self.current is not None:
                yield from self._stop(offset_s + event.end_s, offset_s + event.position_s)
            elif event.kind == "final" and event.segment is not None:
                yield self._grow(event.segment, offset_s)
            elif event.kind == "translation":
                yield from self._translate(event)
        if whole:
            yield from self.complete_ended()

    def commit(self, start_s: float, end_s: float) -> Iterator[Event]:
        """Make an item of all audio so far; complete() must follow when the last final is known."""
        item = self._open(start_s)
        item.end_s = end_s
        if not self.config.server_vad:
            item.start_s = start_s
        yield from self._tell_committed(item)

    def complete_ended(self) -> Iterator[Event]:
        """Tell the whole text of an item that has ended, if there is one."""
        if self._ended:
            yield from self.complete()

    def complete(self) -> Iterator[Event]:
        """Tell the whole text of the current item."""
        item = self.current
        if item is None:
            return
        words = item.words
        fields: dict[str, Any] = {"transcript": " ".join(segment.text for segment in item.segments)}
        fields["usage"] = {"type": "duration", "seconds": round(item.end_s - item.start_s, 3)}
        if LOGPROBS in self.config.include:
            fields["logprobs"] = word_logprobs(words)
        if WORDS in self.config.include:
            fields["words"] = [word_dict(word) for word in words]
        yield _about(item, f"{TRANSCRIPTION}.completed", **fields)
        if self.config.translate and len(item.english) == len(item.segments):
            yield _about(
                item, f"{TRANSLATION}.completed", transcript=" ".join(each.text for each in item.english),
                language="en", confidence=_confidence(item.english), warnings=item.warnings,
            )  # fmt: skip
        self._finish()

    def fail(self, error: Exception, end_s: float) -> Iterator[Event]:
        """Tell that the current item cannot be recognised."""
        item = self.current
        if item is None:
            return
        if not item.committed:
            item.end_s = end_s
            yield from self._tell_committed(item)
        yield _about(item, f"{TRANSCRIPTION}.failed", error=describe_error(error))
        self._finish()

    def drop(self) -> None:
        """Forget the current item, with the audio that was to become it."""
        self.current, self._ended = None, False

    def _finish(self) -> None:
        self.n_done += 1
        self.drop()

    def _open(self, start_s: float) -> Item:
        if self.current is None:
            self.current = Item(new_id("item"), start_s, start_s)
        return self.current

    def _start(self, start_s: float) -> Event:
        item = self._open(max(0.0, start_s - self.config.padding_ms / 1000))
        return make_event(
            "input_audio_buffer.speech_started", audio_start_ms=round(1000 * item.start_s), item_id=item.id
        )

    def _stop(self, end_s: float, position_s: float) -> Iterator[Event]:
        item = self._open(end_s)
        if item.committed:
            return
        item.end_s = min(end_s + self.config.silence_ms / 1000, position_s)
        yield make_event(
            "input_audio_buffer.speech_stopped", audio_end_ms=round(1000 * item.end_s), item_id=item.id
        )
        yield from self._tell_committed(item)
        self._ended = True

    def _tell_committed(self, item: Item) -> Iterator[Event]:
        item.committed = True
        previous, self._previous_id = self._previous_id, item.id
        content = [{"type": "input_audio", "transcript": None}]
        described = {
            "id": item.id, "object": "realtime.item", "type": "message", "status": "completed",
            "role": "user", "content": content,
        }  # fmt: skip
        yield make_event("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        for kind in ("conversation.item.added", "conversation.item.done"):
            yield make_event(kind, previous_item_id=previous, item=described)

    def _grow(self, segment: Segment, offset_s: float) -> Event:
        item = self._open(offset_s + segment.start_s)
        words = tuple(
            Word(word.text, word.start_s + offset_s, word.end_s + offset_s, word.confidence)
            for word in segment.words
        )
        space = " " if item.segments else ""
        item.segments.append(Segment(segment.text, segment.start_s, segment.end_s, words, segment.confidence))
        fields: dict[str, Any] = {"delta": space + segment.text}
        if LOGPROBS in self.config.include:
            fields["logprobs"] = word_logprobs(words, space)
        return _about(item, f"{TRANSCRIPTION}.delta", **fields)

    def _translate(self, event: StreamEvent) -> Iterator[Event]:
        item, english = self.current, event.segment
        if item is None or english is None or len(item.english) != len(item.segments) - 1:
            return  # it began when no English was wanted
        space = " " if item.english else ""
        item.english.append(english)
        item.warnings += event.warnings
        yield _about(
            item, f"{TRANSLATION}.delta", delta=space + english.text,
            confidence=round(english.confidence, DECIMALS), warnings=list(event.warnings),
        )  # fmt: skip

    def _guess(self, event: StreamEvent, offset_s: float) -> Iterator[Event]:
        if PARTIALS in self.config.include and (event.text or self.current is not None):
            item = self._open(offset_s + event.start_s)
            heard_ms = round(1000 * (offset_s + event.position_s))
            yield _about(item, f"{TRANSCRIPTION}.partial", transcript=event.text, audio_end_ms=heard_ms)


def _confidence(segments: Sequence[Segment]) -> float:
    """Of segments together: each counts by its length; 0 without text."""
    n_letters = sum(len(each.text) for each in segments)
    weighted = sum(each.confidence * len(each.text) for each in segments)
    return round(weighted / n_letters, DECIMALS) if n_letters else 0.0


def _about(item: Item, kind: str, **fields: Any) -> Event:
    return make_event(kind, item_id=item.id, content_index=0, **fields)
