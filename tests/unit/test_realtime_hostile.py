"""Realtime sessions under clients that err, leave, flood or do not read; sessions refused and ended."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tone_service import Running, ToneTranslator, read_answer, running_server, wait_for

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("websockets", reason="needs the extra [serve]")

from realtime_client import (
    SAID,
    TRANSCRIPTION,
    Raw,
    appends,
    errors,
    pcm,
    session,
    texts,
    update,
)  # fmt: skip
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from engine.serve import ConnectionLimits, ServeSettings
from tests.reference.tone_speech import silence, speak

COMMIT = {"type": "input_audio_buffer.commit"}
CLEAR = {"type": "input_audio_buffer.clear"}
SPEECH_16K = list(appends(pcm(np.concatenate([speak("eins zwei drei"), silence(1)]))))
HEAD = (
    "{method} /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Running, ToneTranslator]]:
    tones = ToneTranslator()
    with running_server(tones, ServeSettings(connections=ConnectionLimits(linger_s=1.0))) as running:
        yield running, tones


@pytest.fixture(autouse=True)
def nothing_fails_at_the_server(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does, it is no error of ours."""
    yield
    records = caplog.get_records("setup") + caplog.get_records("call")
    ours = [record for record in records if record.name.startswith("engine")]
    assert [record.getMessage() for record in ours if record.levelname == "ERROR"] == []


@pytest.fixture
def running(shared: tuple[Running, ToneTranslator]) -> Running:
    return shared[0]


def n_sessions(running: Running) -> int:
    return len(running.server.config.app.state.service.realtime)


def n_working(running: Running) -> int:
    return running.server.config.app.state.service.realtime.n_running


def still_works(raw: Raw) -> None:
    """The session goes on as if nothing had been."""
    raw.send(update(), *SPEECH_16K)
    assert texts(raw.until(f"{TRANSCRIPTION}.completed")) == SAID[:1]


def test_events_that_are_none(running: Running) -> None:
    deep = "[" * 50_000
    wrong = [
        ("", "invalid_json"), ("{", "invalid_json"), ("[]", "invalid_json"), ("null", "invalid_json"),
        (deep, "invalid_json"), (b"\0\1", "invalid_json"), (b"", "invalid_json"),
        ("{}", "missing_required_parameter"), ('{"type": null}', "invalid_value"),
        ('{"type": ["session.update"]}', "invalid_value"), ('{"type": "response.create"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": 7}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append", "audio": "AAA"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append", "audio": "AA=="}', "invalid_audio"),  # one byte
        ('{"type": "input_audio_buffer.append", "audio": "\u00e4"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append", "audio": "AA AA"}', "invalid_audio"),
        ('{"type": "session.update"}', "invalid_value"),
        ('{"type": "session.update", "session": 1}', "invalid_value"),
        ('{"type": "session.update", "session": {"type": "realtime"}}', "invalid_value"),
        ('{"type": "session.update", "session": {"voice": "alloy"}}', "unknown_parameter"),
        (json.dumps(COMMIT), "input_audio_buffer_commit_empty"),
    ]  # fmt: skip
    with session(running) as raw:
        for message, _ in wrong:
            raw.socket.send(message)
        assert errors(raw.until("error", len(wrong))) == [code for _, code in wrong]
        raw.send({"type": "nonsense", "event_id": "mine"})
        assert raw.receive()["error"]["event_id"] == "mine"
        raw.send({"type": "nonsense", "event_id": {"not": "a name"}})
        assert raw.receive()["error"]["event_id"] is None
        still_works(raw)


def test_events_in_a_wrong_order_and_audio_of_no_bytes(running: Running) -> None:
    with session(running) as raw:
        raw.send(COMMIT, CLEAR, COMMIT, {"type": "input_audio_buffer.append", "audio": ""}, COMMIT)
        raw.send(*[{"type": "input_audio_buffer.append", "audio": ""}] * 1000)
        raw.send(CLEAR, COMMIT)
        events = raw.until("error", 4)
        assert errors(events) == ["input_audio_buffer_commit_empty"] * 4
        for _ in range(1000):
            raw.socket.send("")
        assert errors(raw.until("error", 1000)) == ["invalid_json"] * 1000
        raw.send(update(turn_detection=None), *SPEECH_16K, CLEAR, *SPEECH_16K, COMMIT)
        assert texts(raw.until(f"{TRANSCRIPTION}.completed")) == SAID[:1]


def test_a_message_may_have_so_many_bytes_and_no_more(running: Running) -> None:
    most = ServeSettings().realtime_message_bytes
    assert most == 512 << 10
    event = '{"type": "input_audio_buffer.append", "audio": "%s"}'
    with session(running) as raw:
        room = (most - len(event) + 2) // 8 * 8
        largest = event % ("A" * room)
        raw.socket.send(largest + " " * (most - len(largest)))
        raw.send({"type": "nonsense"})
        assert errors(raw.until("error")) == ["invalid_value"]
        parts = [largest[start : start + 50_000] for start in range(0, len(largest), 50_000)]
        raw.socket.send(iter(parts))  # one message in many frames
        raw.send({"type": "nonsense"})
        assert errors(raw.until("error")) == ["invalid_value"]
        with contextlib.suppress(ConnectionClosed):
            raw.socket.send("x" * (most + 1))
        assert raw.rest()[1] == 1009
    with session(running) as raw:
        with contextlib.suppress(ConnectionClosed):
            raw.socket.send(iter(["x" * 100_000] * 200))  # far more, while nobody listens any more
        assert raw.rest()[1] == 1009
    wait_for(lambda: n_sessions(running) == 0)


def frame(opcode: int, data: bytes, fin: bool = True, masked: bool = True) -> bytes:
    """One frame of a client, of less than 126 bytes."""
    first = bytes([(0x80 if fin else 0) | opcode, (0x80 if masked else 0) | len(data)])
    return first + (b"\0\0\0\0" if masked else b"") + data


def large_frame(text: bytes) -> bytes:
    """A whole message of a client, of any length."""
    return b"\x81\xff" + struct.pack("!Q", len(text)) + b"\0\0\0\0" + text


def close_code(sock: socket.socket) -> int:
    """The code of the close frame behind an answer to a handshake and any events."""
    answer = sock.makefile("rb").read()
    _, _, frames = answer.partition(b"\r\n\r\n")
    while frames:
        length, start = frames[1], 2
        if length == 126:
            length, start = struct.unpack("!H", frames[2:4])[0], 4
        if frames[0] & 0x0F == 8:
            return struct.unpack("!H", frames[start : start + 2])[0]
        frames = frames[start + length :]
    return 0


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(1, b"\xff\xfe"), 1007),  # not UTF-8
        (frame(1, b"{}", masked=False), 1002),
        (frame(0, b"more of nothing"), 1002),
        (frame(1, b"{", fin=False) + frame(1, b"}"), 1002),
        (frame(3, b"?"), 1002),  # no such kind
        (frame(9, b"x" * 10, fin=False), 1002),  # a ping in parts
        (frame(8, b"\x03"), 1002),
        (frame(8, struct.pack("!H", 1000)), 1000),
        (frame(9, b"ping") + frame(10, b"pong") + frame(8, struct.pack("!H", 1000)), 1000),
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
    ],
)  # fmt: skip
def test_frames_that_are_none(running: Running, sent: bytes, code: int) -> None:
    with running.connect(HEAD.format(method="GET").encode() + sent) as sock:  # without waiting
        assert close_code(sock) == code
    wait_for(lambda: n_sessions(running) == 0)


def test_handshakes_that_are_none(running: Running) -> None:
    with running.connect(HEAD.format(method="POST").encode()) as sock:
        assert read_answer(sock)[0] in (400, 405)
    for line in ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="):
        with running.connect(HEAD.format(method="GET").replace(line, "X: y").encode()) as sock:
            assert read_answer(sock)[0] in (400, 426)
    with running.connect(HEAD.format(method="GET").replace("/v1/realtime", "/v1/nothing").encode()) as sock:
        assert read_answer(sock)[0] == 403
    with running.connect(b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\n\r\n") as sock:
        assert read_answer(sock)[0] == 426
    with running.connect(HEAD.format(method="GET").encode() + frame(1, b"{}") * 20):
        pass  # it leaves without waiting for the answer
    for cut in (b"\x81", frame(1, b"{}")[:-1], frame(1, b"{", fin=False)):
        with running.connect(HEAD.format(method="GET").encode() + cut) as sock:
            assert sock.recv(12) == b"HTTP/1.1 101"
    wait_for(lambda: n_sessions(running) == 0)
    wait_for(lambda: running.server._connections.n_open == 0)
    with session(running) as raw:
        still_works(raw)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engine.serve.transport.websockets", None)
    monkeypatch.setattr("engine.serve.routes.realtime.find_spec", lambda name: None)
    with running_server(ToneTranslator()) as running:
        with running.connect(HEAD.format(method="GET").encode()) as sock:
            status, _, body = read_answer(sock)
        assert status == 501 and b"websockets" in body and b"[serve]" in body


@pytest.mark.parametrize("polite", [True, False])
def test_a_client_that_leaves_ends_its_work(polite: bool) -> None:
    """In the middle of a computation, and whether it says good-bye or not."""
    tones = ToneTranslator()
    tones.gate.clear()
    with running_server(tones) as running:
        sock = running.connect(HEAD.format(method="GET").encode())
        for event in (update(), *SPEECH_16K):
            sock.sendall(large_frame(json.dumps(event).encode()))
        assert tones.started.acquire(timeout=10)
        assert n_working(running) == n_sessions(running) == 1
        if polite:
            sock.sendall(frame(8, struct.pack("!H", 1000)))
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            sock.close()
        assert tones.cancelled.wait(5)
        wait_for(lambda: n_working(running) == n_sessions(running) == 0)
        sock.close()
        wait_for(lambda: running.server._connections.n_open == 0)


def test_a_client_that_sends_more_than_can_be_heard_is_held_up_and_seen_to_leave() -> None:
    tones = ToneTranslator()
    tones.gate.clear()
    with running_server(tones) as running:
        sock = running.connect(HEAD.format(method="GET").encode(), timeout=1.0)
        message = b'{"type": "input_audio_buffer.append", "audio": "' + speech_base64() + b'"}'
        data = large_frame(message)
        n_sent = 0
        try:
            while n_sent < 64 << 20:
                n_sent += sock.send(data[n_sent % len(data) :])
        except TimeoutError:
            pass
        assert n_sent < 32 << 20  # the rest of it waits at the client
        assert tones.started.acquire(timeout=10)
        sock.close()
        assert tones.cancelled.wait(5)
        wait_for(lambda: n_working(running) == n_sessions(running) == 0)


def speech_base64() -> bytes:
    return base64.b64encode(pcm(np.tile(np.concatenate([speak("eins"), silence(1.0)]), 6)))


def test_a_client_that_does_not_read_is_cut_and_takes_no_memory_before() -> None:
    bounds = ServeSettings(connections=ConnectionLimits(write_timeout_s=0.5))
    with running_server(ToneTranslator(), bounds) as running:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", running.port))
        sock.sendall(HEAD.format(method="GET").encode())
        wrong = large_frame(json.dumps({"event_id": "x" * 240}).encode()) * 100
        with pytest.raises(OSError):
            for _ in range(2000):  # each is answered, with a name as long
                sock.sendall(wrong)
        sock.close()
        wait_for(lambda: n_sessions(running) == 0)


def test_a_quiet_session_is_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.serve.transport.websockets.PING_S", 0.05)
    with running_server(ToneTranslator()) as running:
        with running.connect(HEAD.format(method="GET").encode()) as sock:
            received = b""
            while received.count(frame(9, b"", masked=False)) < 2:
                received += sock.recv(4096)
        wait_for(lambda: n_sessions(running) == 0)


def test_as_many_sessions_as_there_may_be() -> None:
    with running_server(ToneTranslator(), ServeSettings(realtime_sessions=2)) as running:
        with session(running) as one, session(running) as two:
            assert one.receive()["type"] == two.receive()["type"] == "session.created"
            with pytest.raises(InvalidStatus) as refused, session(running):
                pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"]
            assert b"2 sessions are open" in (refused.value.response.body or b"")
            with session(running, origin=f"http://127.0.0.1:{running.port}") as page:
                events, code = page.rest()
            assert (errors(events), code) == (["BusyError"], 1013)
        wait_for(lambda: n_sessions(running) == 0)
        with session(running) as raw:
            still_works(raw)


def test_keys_of_headers_and_of_pages() -> None:
    with running_server(ToneTranslator(), ServeSettings(api_keys=("secret", "other"))) as running:
        page: dict[str, Any] = {"origin": f"http://127.0.0.1:{running.port}"}
        for options in ({}, {"additional_headers": {"Authorization": "Bearer wrong"}}, subprotocols("wrong")):
            with pytest.raises(InvalidStatus) as refused, session(running, **options):
                pass
            assert refused.value.response.status_code == 401
            assert refused.value.response.headers["WWW-Authenticate"] == "Bearer"
            with session(running, **page, **options) as raw:
                events, code = raw.rest()
                assert (errors(events), code) == (["invalid_api_key"], 3000)
        for options in ({"additional_headers": {"Authorization": "Bearer secret"}}, subprotocols("other")):
            with session(running, **page, **options) as raw:
                assert raw.receive()["type"] == "session.created"
                assert raw.socket.subprotocol == ("realtime" if "subprotocols" in options else None)


def subprotocols(key: str) -> dict[str, Any]:
    return {"subprotocols": [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{key}")]}


def test_pages_of_other_origins() -> None:
    with running_server(ToneTranslator(), ServeSettings(cors_origins=("https://page.example",))) as running:
        own = f"http://127.0.0.1:{running.port}"
        for origin in ("https://page.example", "https://PAGE.example", own):
            with session(running, origin=origin) as raw:
                assert raw.receive()["type"] == "session.created"
        for origin in (
            "https://evil.example",
            "null",
            "http://127.0.0.1:1",
            "http://127.0.0.1",
            "http://[",
            "",
        ):
            with session(running, origin=origin) as raw:
                events, code = raw.rest()
                assert (errors(events), code) == (["origin_not_allowed"], 3003), origin
        with pytest.raises(InvalidStatus) as refused, session(running, "?intent=conversation"):
            pass
        assert refused.value.response.status_code == 400


def test_a_session_that_is_idle_or_old_is_ended_with_its_last_words() -> None:
    for bounds, code in (
        (ServeSettings(realtime_idle_s=1.5), "idle_timeout"),
        (ServeSettings(realtime_max_s=2.5), "session_expired"),
    ):
        with running_server(ToneTranslator(), bounds) as running, session(running) as raw:
            raw.send(update(), *appends(pcm(speak("eins zwei drei"))))
            events, closed = raw.rest()
            assert (errors(events), closed) == ([code], 1008)
            assert texts(events) == SAID[:1]
            wait_for(lambda running=running: n_sessions(running) == 0)


def test_the_end_of_the_service_gives_everybody_the_text_of_what_was_sent() -> None:
    bounds = ServeSettings(drain_s=5.0)
    with running_server(ToneTranslator(), bounds) as running, session(running) as automatic:
        with session(running) as manual:
            automatic.send(update(), *appends(pcm(speak("eins zwei drei"))), {"type": "nonsense"})
            manual.send(update(turn_detection=None), *SPEECH_16K, COMMIT, *SPEECH_16K, {"type": "nonsense"})
            found = automatic.until("error") + manual.until("error")
            running.server.should_exit = True
            for raw in (automatic, manual):
                events, closed = raw.rest()
                assert (errors(events), closed) == (["ShuttingDownError"], 1001)
                found += events
        assert texts(found) == [SAID[0]] * 2


def test_the_end_of_the_service_does_not_wait_longer_than_it_was_told() -> None:
    tones = ToneTranslator()
    tones.gate.clear()
    with running_server(tones, ServeSettings(drain_s=1.2)) as running:
        with session(running) as raw:
            raw.send(update(), *SPEECH_16K)
            assert tones.started.acquire(timeout=10)
            running.server.should_exit = True
            events, closed = raw.rest()
        (failed,) = [event for event in events if event["type"] == f"{TRANSCRIPTION}.failed"]
        assert failed["error"]["code"] == "ShuttingDownError"
        assert (errors(events), closed) == (["ShuttingDownError"], 1001)
        assert tones.cancelled.wait(1)


def test_a_session_is_refused_while_the_service_ends(running: Running) -> None:
    service = running.server.config.app.state.service
    service.draining = True
    try:
        with pytest.raises(InvalidStatus) as refused, session(running):
            pass
        assert refused.value.response.status_code == 503
        assert b"ShuttingDownError" in (refused.value.response.body or b"")
    finally:
        service.draining = False


def test_nothing_is_left_of_many_sessions(running: Running) -> None:
    """Neither descriptors nor threads nor tasks."""
    url = f"ws://127.0.0.1:{running.port}/v1/realtime"

    def visit(n: int) -> None:
        for i in range(n):
            with connect(url) as sock:
                sock.recv()
                sock.send("{}")
                if i % 3 == 0:
                    sock.socket.close()
        wait_for(lambda: n_sessions(running) == 0 and running.server._connections.n_open == 0)
        wait_for(lambda: not running.server.server_state.tasks)

    visit(5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    visit(40)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
