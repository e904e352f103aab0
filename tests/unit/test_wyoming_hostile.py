"""Wyoming clients that are broken, slow, too many or malicious, and the end of the server."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
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
    line,
    pcm,
    raw,
    read_error,
    read_until,
    running,
    text_of,
    transcribe,
)
from wyoming.audio import AudioChunk, AudioStop

from engine.errors import DecodingError
from engine.serve.wyoming import WyomingSettings

ROOT = Path(__file__).resolve().parents[2]
FORMAT = {"rate": 16_000, "width": 2, "channels": 1}
START = line(type="audio-start", data=FORMAT)
STOP = line(type="audio-stop")
SPOKEN = pcm(SPEECH)


def chunk(content: bytes, **form: Any) -> bytes:
    return line(type="audio-chunk", data=FORMAT | form, payload_length=len(content)) + content


@pytest.fixture(scope="module")
def tones() -> ToneStreams:
    return ToneStreams()


@pytest.fixture(scope="module")
def port(tones: ToneStreams) -> Any:
    with running(tones) as server:
        yield server.port


def still_serves(port: int) -> None:
    assert text_of(ask(port, lambda client: transcribe(client, audio_events(SPOKEN)))) == TEXT


def refused(port: int, code: str, *parts: bytes) -> str:
    with raw(port, *parts) as sock:
        found, text = read_error(sock)
    assert found == code, text
    assert "Traceback" not in text and str(ROOT) not in text
    return text


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n", b"\n", b"\x00\xff\xfe\n", b"null\n", b"[]\n", b"17\n", b"[1]\n",
        b'"describe"\n', b"{}\n",
        b'{"type": 3}\n', b'{"type": null}\n', b'{"type": "a", "data": [1]}\n', b"{" * 50_000 + b"\n",
        b"[" * 50_000 + b"\n", b'{"type": "describe", "data": "text"}\n', b"1" * 6000 + b"\n", b"x" * 200_000,
        b'{"type": "describe", "data_length": 4}\n"ab"', b'{"type": "describe", "data_length": 3}\n{x}',
        b'{"type": "describe", "data_length": 2, "data": 5}\n{}', b'{"type": "a", "data_length": "7"}\n',
        b'{"type": "a", "payload_length": 1.5}\n', b'{"type": "a", "payload_length": Infinity}\n',
        b'{"type": "a", "payload_length": true}\n', b'{"type": "a", "data_length": {}}\n',
    ],
    ids=lambda sent: sent[:30].decode("latin-1"),
)  # fmt: skip
def test_what_is_no_event_is_refused(port: int, sent: bytes) -> None:
    assert "Wyoming event" in refused(port, "EventError", sent)


@pytest.mark.parametrize("field", ["data_length", "payload_length"])
@pytest.mark.parametrize("length", [(1 << 20) + 1, 1 << 40, 10**400])
def test_lengths_that_nobody_means_are_refused_before_anything_is_read(
    port: int, field: str, length: int
) -> None:
    text = refused(port, "AudioLimitError", line(type="audio-chunk", data=FORMAT, **{field: length}))
    assert "at most 1048576" in text and "smaller chunks" in text


def test_negative_lengths_are_none(port: int) -> None:
    with raw(port, line(type="describe", data_length=-1, payload_length=-(2**63))) as sock:
        assert json.loads(sock.makefile("rb").readline())["type"] == "info"


def test_an_event_that_is_too_large_takes_no_memory(port: int) -> None:
    """The library alone buffers all that is said to follow."""
    tracemalloc.start()
    try:
        with raw(port, line(type="audio-chunk", data=FORMAT, payload_length=1 << 30)) as sock:
            sent = 0
            try:
                while sent < 64 << 20:
                    sent += sock.send(bytes(1 << 20))
            except OSError:
                pass  # the server is no longer there
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    still_serves(port)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        *(({"rate": rate}, "AudioLimitError") for rate in (0, -16_000, 10**9, 10**400)),
        *(({"rate": rate}, "EventError") for rate in ("16000", None, 16_000.5, True)),
        *(({"width": width}, "AudioLimitError") for width in (0, 5, -2)),
        *(({"channels": n_channels}, "AudioLimitError") for n_channels in (0, -1, 10**9)),
        ({"channels": []}, "EventError"),
    ],
    ids=str,
)  # fmt: skip
def test_formats_that_no_audio_has_are_refused(port: int, form: dict[str, Any], code: str) -> None:
    refused(port, code, line(type="audio-start", data=FORMAT | form))
    refused(port, code, START, chunk(b"ab", **form))
    refused(port, "EventError", line(type="audio-chunk", payload_length=2), b"ab")


@pytest.mark.parametrize(
    "sent",
    [
        START + START,
        START + line(type="transcribe"),
        START + chunk(b"ab") + chunk(b"ab", rate=8_000),
        line(type="transcribe", data={"language": 5}),
        line(type="transcribe", data={"transcript_terms": [1]}),
        line(type="transcribe", data={"transcript_names": "Lampe"}),
    ],
)  # fmt: skip
def test_events_that_do_not_belong_there_are_refused(port: int, sent: bytes) -> None:
    refused(port, "EventError", sent)


def test_a_thousand_empty_chunks_and_half_a_sample_do_no_harm(port: int) -> None:
    async def talk(client: Any) -> list[Any]:
        for event in [*audio_events(b"", stop=False), *[AudioChunk(16_000, 2, 1, b"").event()] * 1000]:
            await client.write_event(event)
        for event in audio_events(SPOKEN + b"x", start=False):
            await client.write_event(event)
        return await read_until(client, "transcript-stop")

    assert text_of(ask(port, talk)) == TEXT


def test_audio_stop_without_audio_as_often_as_one_likes(port: int) -> None:
    async def talk(client: Any) -> list[str]:
        for _ in range(50):
            await client.write_event(AudioStop().event())
        return [text_of(await read_until(client, "transcript-stop")) for _ in range(50)]

    assert ask(port, talk) == [""] * 50


def test_endless_audio_ends(tones: ToneStreams) -> None:
    with running(tones, WyomingSettings(max_duration_s=2.0)) as server:
        second = chunk(bytes(32_000))
        text = refused(server.port, "AudioLimitError", START, second * 10)
        assert "at most 2 s" in text
        still_serves(server.port)
        wait_for(lambda: server.n_clients == server.n_calls == 0, 60)


def test_more_audio_than_is_recognised_at_once_waits_at_the_client(tones: ToneStreams) -> None:
    """What is held is bounded, and nothing is lost."""
    audio = pcm(np.concatenate([SPEECH, np.zeros(640_000, np.float32), SPEECH]))
    limits = WyomingSettings(max_waiting_bytes=64 << 10)
    with running(tones, limits) as server:
        events = ask(server.port, lambda client: transcribe(client, audio_events(audio, chunk_bytes=16_000)))
        assert text_of(events) == f"{TEXT} {TEXT}"


@pytest.mark.parametrize(
    "sent",
    [
        START,
        START + b'{"type": "audio-chunk"',
        START + line(type="audio-chunk", data=FORMAT, payload_length=9),
    ],
)
def test_a_recording_that_does_not_go_on_is_ended(tones: ToneStreams, sent: bytes) -> None:
    with running(tones, WyomingSettings(stall_s=0.2)) as server:
        assert "audio-stop" in refused(server.port, "RequestTimeoutError", sent)
        wait_for(lambda: server.n_clients == server.n_calls == 0, 60)


def test_a_recording_of_empty_chunks_does_not_last_for_ever(tones: ToneStreams) -> None:
    with running(tones, WyomingSettings(max_duration_s=0.2, stall_s=0.2)) as server:
        with raw(server.port, START) as sock:
            with suppress(OSError):
                for _ in range(100):
                    sock.sendall(chunk(b""))
                    time.sleep(0.02)
            assert read_error(sock)[0] in ("RequestTimeoutError", "")
        wait_for(lambda: server.n_clients == 0, 60)


def test_connections_that_ask_for_nothing_are_closed_without_a_word(tones: ToneStreams) -> None:
    with running(tones, WyomingSettings(idle_s=0.2)) as server:
        for sent in (b"", b'{"type":', line(type="describe", data_length=5)):
            refused(server.port, "", sent)


def test_an_idle_client_makes_room_and_a_speaking_one_does_not(tones: ToneStreams) -> None:
    with running(tones, WyomingSettings(max_clients=2)) as server:
        idle, speaking = raw(server.port), raw(server.port, START)
        wait_for(lambda: server.n_clients == 2, 60)
        time.sleep(0.1)  # the start may be read after the connection was counted
        second = raw(server.port, START, chunk(SPOKEN))
        assert read_error(idle) == ("", "")
        wait_for(lambda: server.n_clients == 2, 60)
        assert "try again" in refused(server.port, "BusyError")
        crowd = [raw(server.port) for _ in range(50)]
        assert {read_error(sock)[0] for sock in crowd} <= {"BusyError", ""}
        assert server.n_clients <= 4
        second.sendall(STOP)
        with second.makefile("rb") as file:
            while b"transcript-stop" not in file.readline():
                pass
        still_serves(server.port)  # the second one is idle now, and makes room
        for sock in (idle, speaking, second, *crowd):
            sock.close()


def test_a_client_that_does_not_read_its_answers_is_left(tones: ToneStreams) -> None:
    patience = WyomingSettings(write_timeout_s=0.2)
    with running(tones, patience, send_bytes=4096) as server, raw(server.port, timeout=1.0) as sock:
        with suppress(OSError):
            while True:
                sock.sendall(line(type="describe") * 1000)
        wait_for(lambda: server.n_clients == 0, 60)


def test_errors_of_the_model_reach_the_client_and_others_only_the_log(
    port: int, tones: ToneStreams, caplog: pytest.LogCaptureFixture
) -> None:
    for error, code in (
        (DecodingError("a bad word", "a good one"), "DecodingError"),
        (KeyError("secret"), "InternalError"),
    ):
        tones.error = error
        try:
            text = refused(port, code, START, chunk(SPOKEN), STOP)
        finally:
            tones.error = None
        assert ("a bad word" in text) == (code == "DecodingError") and "secret" not in text
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]
    still_serves(port)


CONVERSATION = line(type="transcribe", data={"language": "de"}) + START + chunk(SPOKEN[:2000]) * 2 + STOP


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_bytes_come_the_server_goes_on(port: int, data: Any) -> None:
    broken = bytearray(CONVERSATION)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at : at + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    with suppress(OSError), raw(port, bytes(broken)) as sock:
        sock.shutdown(socket.SHUT_WR)
        read_error(sock)


def test_the_server_goes_on_after_all_that(port: int, caplog: pytest.LogCaptureFixture) -> None:
    still_serves(port)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


SERVE = """
import sys, threading
sys.path.insert(0, "tests/unit")
import engine.cli.wyoming
from engine.cli import main
from tone_wyoming import ToneStreams
tones = ToneStreams()
engine.cli.wyoming.load_model = lambda options: tones
engine.cli.wyoming.warm_up = lambda *_: None  # the real model is in another test
tones.gate.clear()
timer = threading.Timer(float(sys.argv[1]), tones.gate.set)
timer.daemon = True
timer.start()
sys.exit(main(sys.argv[2:]))
"""


def start(tmp_path: Path, gate_s: float, *options: str) -> tuple[subprocess.Popen[bytes], int]:
    """The command in a process of its own; finals come after so many seconds."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        SERVE,
        str(gate_s),
        "wyoming",
        "--uri",
        f"tcp://127.0.0.1:{port}",
        *options,
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log)

    def listens() -> bool:
        with suppress(OSError), raw(port):
            return True
        return False

    wait_for(listens, 60)
    return process, port


def speak_to(port: int, *parts: bytes) -> socket.socket:
    """A connection whose server has seen what was sent."""
    sock = raw(port, *parts, line(type="ping"))
    with sock.makefile("rb", buffering=0) as file:
        header = json.loads(file.readline())
        assert header["type"] == "pong"
        file.read(header["data_length"])
    return sock


def rest_of(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    with sock, sock.makefile("rb") as file:
        return file.read()


def test_what_is_under_way_is_finished_after_sigterm(tmp_path: Path) -> None:
    process, port = start(tmp_path, 3.0, "--drain_s", "20")
    try:
        idle, sock = raw(port), speak_to(port, START, chunk(SPOKEN), STOP)
        process.send_signal(signal.SIGTERM)
        assert read_error(idle) == ("", "")
        answer = rest_of(sock)
        assert TEXT in answer.decode() and b"transcript-stop" in answer and b'"error"' not in answer
        assert process.wait(20) == 0
        with pytest.raises(OSError):
            raw(port)
    finally:
        process.kill()
        process.wait()
    log = (tmp_path / "log").read_text()
    assert "listening on tcp://127.0.0.1" in log and TEXT not in log and "Traceback" not in log


@pytest.mark.parametrize(
    ("options", "signals", "code"),
    [
        (["--drain_s", "1.2", "--log_format", "json"], [signal.SIGTERM], 0),
        (["--drain_s", "600"], [signal.SIGINT, signal.SIGINT], 130),
    ],
)  # fmt: skip
def test_what_cannot_be_finished_is_told_so(
    tmp_path: Path, options: list[str], signals: list[int], code: int
) -> None:
    process, port = start(tmp_path, 120.0, *options)
    try:
        with (
            speak_to(port, START, chunk(SPOKEN), STOP) as sock,
            speak_to(port, START) as speaking,
        ):
            for number in signals:
                process.send_signal(number)
                time.sleep(0.3)
            assert read_error(sock)[0] == read_error(speaking)[0] == "ShuttingDownError"
        assert process.wait(20) == code
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
