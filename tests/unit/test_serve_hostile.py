"""Clients that are slow, broken or hostile, many at a time; what they cost, and what the others notice."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tone_service import (
    PATIENCE_S,
    SPEECH,
    TRANSCRIBE,
    TRANSLATE,
    Running,
    ToneTranslator,
    error_of,
    form,
    head,
    post,
    read_answer,
    running_server,
    wait_for,
)

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("httpx", reason="needs httpx")

import httpx

from engine.errors import BundleError, OptionError
from engine.serve import ServeSettings
from engine.serve.fields import check_hotwords, split_hotwords
from engine.serve.logs import MOST_ANSWERED, MOST_IN_WINDOW, Bounded, JsonFormatter, TextFormatter
from engine.serve.settings import ConnectionLimits

ROOT = Path(__file__).resolve().parents[2]
BODY = form(SPEECH)
GET_MODELS = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
get = functools.partial(httpx.get, timeout=PATIENCE_S)
QUICK = ConnectionLimits(max_connections=24, header_timeout_s=0.4, keep_alive_s=0.5, linger_s=0.4)


@pytest.fixture(scope="module")
def quick() -> Iterator[Running]:
    """A server with short deadlines."""
    settings = ServeSettings(
        max_pending=2, max_uploads=6, upload_stall_s=0.8, upload_timeout_s=1.6, max_upload_bytes=400_000,
        connections=QUICK,
    )  # fmt: skip
    with running_server(ToneTranslator(), settings) as running:
        yield running


def queue_of(running: Running) -> Any:
    return running.server.config.app.state.service.queue


def test_many_clients_at_once_get_what_one_gets() -> None:
    kinds = [(path, kind) for path in (TRANSCRIBE, TRANSLATE) for kind in ("json", "text", "srt", "vtt")]
    with running_server(ToneTranslator()) as running:

        def ask(kind: tuple[str, str]) -> str:
            with httpx.Client(base_url=running.url, timeout=60) as client:
                answer = post(client, kind[0], response_format=kind[1])
                assert answer.status_code == 200
                return str(answer.text)

        one_by_one = [ask(kind) for kind in kinds]
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(ask, kinds * 2)) == one_by_one * 2


def test_uploads_that_are_not_complete_take_no_place_in_the_queue(quick: Running) -> None:
    slow = [quick.connect(head(len(BODY)) + BODY[:100]) for _ in range(5)]
    wait_for(lambda: len(quick.server.config.app.state.service.uploads) == 5)
    assert queue_of(quick).pending == 0
    with quick.connect(head(len(BODY)) + BODY) as sock:
        assert read_answer(sock)[0] == 200
    for sock in slow:
        status, _, body = read_answer(sock)
        assert (status, error_of(body)["code"]) == (408, "UploadTimeoutError")
        sock.close()


def test_the_slowest_of_too_many_uploads_makes_room(quick: Running) -> None:
    slow = [quick.connect(head(len(BODY)) + BODY[: 100 * (n + 1)]) for n in range(6)]
    uploads = quick.server.config.app.state.service.uploads
    wait_for(lambda: len(uploads) == 6 and uploads.n_bytes == 2100)
    with quick.connect(head(len(BODY)) + BODY) as sock:
        assert read_answer(sock)[0] == 200
    status, headers, body = read_answer(slow[0])
    assert (status, headers["retry-after"]) == (503, "2")
    assert "slowest" in error_of(body)["message"]
    for sock in slow[1:]:
        assert read_answer(sock)[0] == 408
    for sock in slow:
        sock.close()


def test_half_open_connections_are_closed_and_harm_nobody(quick: Running) -> None:
    half_open = [quick.connect(sent) for sent in [b"", b"GET /v1/mod", b"POST / HTTP/1.1\r\nA: b\r\n"] * 16]
    assert get(quick.url + "/health").json()["status"] == "ok"
    for sock in half_open:
        assert read_answer(sock)[0] == 0
        sock.close()
    wait_for(lambda: not quick.server.server_state.connections)


def test_a_head_that_arrives_byte_by_byte_has_no_more_time(quick: Running) -> None:
    with quick.connect() as sock, pytest.raises(OSError):
        for byte in GET_MODELS * 4:
            time.sleep(0.05)
            sock.sendall(bytes([byte]))
        pytest.fail("it was read to its end")


def test_a_connection_is_refused_where_all_others_are_at_work() -> None:
    translator = ToneTranslator()
    translator.gate.clear()
    settings = ServeSettings(max_running=1, connections=ConnectionLimits(max_connections=2))
    with running_server(translator, settings) as running:
        busy = [running.connect(head(len(BODY)) + BODY) for _ in range(2)]
        wait_for(lambda: queue_of(running).pending == 2)
        with running.connect(GET_MODELS) as sock:
            status, headers, body = read_answer(sock)
        assert (status, error_of(body)["code"]) == (503, "BusyError")
        assert headers["retry-after"] and headers["x-request-id"]
        translator.gate.set()
        for sock in busy:
            assert read_answer(sock)[0] == 200
            sock.close()


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_a_body_that_never_ends(quick: Running, framing: str) -> None:
    chunked = "chunked" in framing
    chunk, begun = (b"1\r\na\r\n", b"64\r\n%b\r\n" % BODY[:100]) if chunked else (b"a", BODY[:100])
    with quick.connect(head(framing) + begun) as sock:
        began_s = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began_s < 1.9:  # never stalls, so that only the whole time bounds it
                sock.sendall(chunk)
                time.sleep(0.1)
        assert read_answer(sock)[0] == 408
    assert get(quick.url + "/v1/models").status_code == 200


def test_lengths_that_are_wrong(quick: Running) -> None:
    with quick.connect(head(10**9)) as sock:  # refused before a byte of the body
        assert read_answer(sock)[0] == 413
    with quick.connect(head(10**30)) as sock:
        assert read_answer(sock)[0] == 400
    with quick.connect(head(len(BODY) - 50) + BODY) as sock:  # the rest is no request
        assert read_answer(sock)[0] == 400
    with quick.connect(head(len(BODY) + 50) + BODY) as sock:
        assert read_answer(sock)[0] == 408
    for framing in ("Content-Length: -5", "Content-Length: a", "Content-Length: 5\r\nContent-Length: 6"):
        with quick.connect(head(framing)) as sock:
            assert read_answer(sock)[0] == 400
    with quick.connect(
        head("Transfer-Encoding: chunked", TRANSCRIBE, "Content-Length: 5") + b"0\r\n\r\n"
    ) as sock:
        status, headers, _ = read_answer(sock)
        assert (status, headers["connection"]) == (400, "close")
    assert queue_of(quick).pending == 0


def test_the_rest_of_a_refused_body_is_dropped_for_a_while_only(quick: Running) -> None:
    with quick.connect(head(300_000, "/v1/nothing")) as sock:
        assert read_answer(sock)[0] == 404
        began_s = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began_s < 60:
                sock.sendall(b"a")
                time.sleep(0.05)


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_a_client_that_sends_on_sees_why_it_was_refused(quick: Running, connection: str) -> None:
    with quick.connect(head(3_000_000, TRANSCRIBE, f"Connection: {connection}")) as sock:
        sock.sendall(bytes(3_000_000))
        assert read_answer(sock)[0] == 413
        if connection == "keep-alive":
            sock.sendall(GET_MODELS)
            assert read_answer(sock)[0] == 200


def test_a_client_that_does_not_read_its_answers_is_cut() -> None:
    bounds = ServeSettings(connections=replace(QUICK, write_timeout_s=0.4))
    with running_server(ToneTranslator(), bounds) as running:
        sock = running.connect(timeout=0.3)
        with contextlib.suppress(OSError):
            for _ in range(100):
                sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
        connections = running.server._connections
        wait_for(lambda: connections.n_open == 0, 5)
        sock.close()
        assert get(running.url + "/v1/models").status_code == 200


def test_a_client_that_has_read_its_answer_is_not_cut() -> None:
    """The deadline may have been set for bytes that were sent a moment later."""
    with (
        running_server(
            ToneTranslator(), ServeSettings(connections=ConnectionLimits(write_timeout_s=0.2))
        ) as running,
        running.connect(GET_MODELS) as sock,
    ):
        assert read_answer(sock)[0] == 200
        (connection,) = running.server.server_state.connections
        connection.loop.call_soon_threadsafe(connection._writes.watch, True)
        time.sleep(0.5)
        sock.sendall(GET_MODELS)
        assert read_answer(sock)[0] == 200


class Upgraded(asyncio.Protocol):
    """Stands for a WebSocket protocol: sends back what arrives."""

    def __init__(self, **_: Any) -> None:
        self.sink: Any = None

    def connection_made(self, transport: Any) -> None:
        self.sink = transport

    def data_received(self, data: bytes) -> None:
        self.sink.write(data)


def test_a_connection_that_becomes_another_protocol_keeps_no_deadline() -> None:
    upgrade = b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    with running_server(ToneTranslator(), ServeSettings(connections=QUICK), ws=Upgraded) as running:
        with running.connect(upgrade) as sock:
            assert sock.recv(len(upgrade)) == upgrade
            wait_for(lambda: running.server._connections.n_open == 0)
            time.sleep(0.6)  # longer than every deadline
            sock.sendall(b"more")
            assert sock.recv(4) == b"more"
        assert running.server._connections.n_open == 0


def test_http_1_0_and_pipelining(quick: Running) -> None:
    with quick.connect(head(len(BODY), version="1.0") + BODY) as sock:
        assert read_answer(sock)[0] == 200
        assert sock.recv(1) == b""
    with quick.connect((head(len(BODY)) + BODY) * 2 + GET_MODELS) as sock:
        file = sock.makefile("rb").read  # until it is idle for too long
        answers = file()
    assert answers.count(b"HTTP/1.1 200") == 3
    assert answers.count(b"eins zwei drei drei zwei eins") == 2


def test_a_client_that_sent_its_next_request_early_is_still_seen_to_leave() -> None:
    translator = ToneTranslator()
    translator.gate.clear()
    with running_server(translator, ServeSettings(max_running=1)) as running:
        sock = running.connect(head(len(BODY)) + BODY + GET_MODELS)
        assert translator.started.acquire(timeout=PATIENCE_S)
        sock.close()
        assert translator.cancelled.wait(PATIENCE_S), "the work went on for nobody"
        translator.gate.set()
        with running.connect(head(len(BODY)) + BODY) as sock:
            assert read_answer(sock)[0] == 200


def spoil(request: bytes, rng: random.Random) -> bytes:
    """Cut, repeat, overwrite or insert a few bytes somewhere."""
    spoilt = bytearray(request)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(spoilt))
        some = rng.choice(
            [b"\r\n", b"\0", b":", b"--x", b"--x--", b"chunked", b'"', b"\xff" * 9, rng.randbytes(5)]
        )
        kind = rng.randrange(4)
        if kind == 0:
            spoilt[at:] = b""
        elif kind == 1:
            spoilt[at:at] = some
        elif kind == 2:
            spoilt[at : at + len(some)] = some
        else:
            spoilt[at : at + 40] = spoilt[at : at + 40] * 2
        if not spoilt:
            return request
    return bytes(spoilt)


def test_spoilt_requests_harm_nobody(quick: Running, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(7)
    body = form(b"RIFF" + bytes(200), language="de", hotwords="Ulm")
    request = head(len(body), TRANSCRIBE, "Authorization: Bearer a", "X-Request-ID: b") + body
    statuses = set()
    for _ in range(300):
        with quick.connect(spoil(request, rng)) as sock:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            statuses.add(read_answer(sock)[0])
    assert statuses >= {0, 400}
    assert statuses <= {0, 400, 404, 405, 413, 431}
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []
    wait_for(lambda: not quick.server.server_state.tasks)
    assert queue_of(quick).pending == 0
    assert get(quick.url + "/v1/models").status_code == 200


def many_fields(n: int) -> bytes:
    return form(SPEECH, **{f"a{i}": "1" for i in range(n)})


@pytest.mark.parametrize(
    "body",
    [
        many_fields(3000),
        form(SPEECH, **{"a" * 100_000: "1"}),
        form(SPEECH, model="a" * 150_000),
        form(SPEECH).replace(b"Content-Disposition", b"X-A: b\r\n" * 20_000 + b"Content-Disposition"),
        BODY[:-200],
        BODY.replace(b"--x", b"--y"),
        b"--x" * 50_000,
    ],
    ids=["fields", "name", "value", "headers", "cut", "boundary", "noise"],
)
def test_forms_that_are_too_much(quick: Running, body: bytes) -> None:
    with quick.connect(head(len(body))) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(body)
        status, _, answer = read_answer(sock)
    assert status == 400
    assert len(answer) < 1000
    assert queue_of(quick).pending == 0


def test_hotwords_are_bounded_before_any_work() -> None:
    settings = ServeSettings()
    assert split_hotwords(" Rothenburg, ob der Tauber ,,", settings) == ("Rothenburg", "ob der Tauber")
    for text in (
        ",".join(f"wort{i}" for i in range(180_000)),
        "a" * 1_000_000,
        "," * 1_000_000,
        f"{'a' * 99}," * 999,
    ):
        with pytest.raises(OptionError, match="at most") as error:
            check_hotwords(split_hotwords(text, settings), settings)
        assert len(str(error.value)) < 200


def test_every_answer_has_a_request_id_and_none_a_traceback(quick: Running) -> None:
    assert (
        get(quick.url + "/v1/models", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    )
    for given in ("a b", "a" * 200, 'a"b'):
        named = get(quick.url + "/v1/nothing", headers={"X-Request-ID": given}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", named)
    for sent, status in [
        (b"\x16\x03\x01 no http\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000, 431),
    ]:
        with quick.connect(sent) as sock:
            got, headers, body = read_answer(sock)
        assert (got, len(headers["x-request-id"])) == (status, 32)
        assert error_of(body)["type"] == "invalid_request_error"


@pytest.mark.parametrize("error", [ZeroDivisionError("secret detail"), BundleError("/secret detail")])
def test_an_error_of_ours_says_nothing_of_the_inside(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    translator = ToneTranslator()
    translator.error = error
    with running_server(translator) as running, running.connect(head(len(BODY)) + BODY) as sock:
        status, headers, body = read_answer(sock)
    assert (status, error_of(body)["message"]) == (500, "internal error; see the server's log")
    assert headers["x-request-id"]
    assert "secret detail" in caplog.text


def test_the_end_waits_for_what_is_in_work_and_tells_the_others() -> None:
    translator = ToneTranslator()
    translator.gate.clear()
    with running_server(translator, ServeSettings(max_running=1, drain_s=600.0)) as running:
        works = running.connect(head(len(BODY)) + BODY)
        wait_for(lambda: queue_of(running).pending == 1)
        running.server.should_exit = True
        threading.Timer(0.5, translator.gate.set).start()
        assert read_answer(works)[0] == 200  # and the server ends at once, which its context waits for


def test_the_end_is_bounded() -> None:
    translator = ToneTranslator()
    translator.gate.clear()
    with running_server(translator, ServeSettings(max_running=1, drain_s=1.2)) as running:
        works, waits = (running.connect(head(len(BODY)) + BODY) for _ in range(2))
        slow = running.connect(head(len(BODY)) + BODY[:100])
        half_open, idle = running.connect(b"GET /"), running.connect(GET_MODELS)
        assert read_answer(idle)[0] == 200
        wait_for(lambda: queue_of(running).pending == 2)
        running.server.should_exit = True
        for sock in (works, waits, slow):
            status, headers, body = read_answer(sock)
            assert (status, error_of(body)["code"]) == (503, "ShuttingDownError")
            assert headers["retry-after"]
        assert read_answer(half_open)[0] == read_answer(idle)[0] == 0
        assert translator.cancelled.wait(PATIENCE_S)


def test_the_log_is_bounded_and_no_client_writes_its_lines() -> None:
    bounded, handled = Bounded(), []

    def record(message: str, **fields: Any) -> logging.LogRecord:
        made = logging.LogRecord("engine", logging.INFO, "", 0, message, (), None)
        made.fields = fields
        return made

    handled = [r for r in (record("bad", status=404, path="/a") for _ in range(5000)) if bounded.filter(r)]
    assert len(handled) == MOST_IN_WINDOW
    texts = [bounded.filter(record("text", status=200, path=TRANSCRIBE)) for _ in range(MOST_ANSWERED + 1)]
    assert texts == [True] * MOST_ANSWERED + [False]
    bounded._began_s -= 60
    after = record("bad\nERROR made up", status=404, path="/a")
    assert bounded.filter(after)
    left_out = 5000 - MOST_IN_WINDOW + 1
    assert f"{left_out} similar lines" in TextFormatter().format(after)
    assert "\n" not in TextFormatter().format(after)
    content = json.loads(JsonFormatter().format(after))
    assert (content["status"], content["left_out"]) == (404, left_out)


def test_the_command_ends_in_time_with_few_descriptors_and_a_short_log(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
sys.path.insert(0, "tests/unit")
import engine.cli.serve
from engine.cli import main
from tone_service import ToneTranslator
engine.cli.serve.load_model = lambda options: ToneTranslator()
engine.cli.serve._load_all = lambda *_: None  # the real models load in other tests, and take seconds
sys.exit(main(sys.argv[1:]))
"""
    options = ["--port", str(port), "--drain_s", "2", "--threads", "1", "--log_format", "json"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", code, "serve", *options], cwd=ROOT, stderr=file)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: answers(url), 120)
            running = Running(None, port)
            half_open = [running.connect() for _ in range(600)]
            slow = running.connect(head(len(BODY)) + BODY[:100])
            time.sleep(0.2)
            assert get(url + "/health").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert read_answer(slow)[0] == 503
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.wait()
    for sock in [*half_open, slow]:
        sock.close()
    lines = log.read_text().splitlines()
    assert len(lines) < 40
    assert all(json.loads(line)["level"] for line in lines)


STUCK = """
import sys, time
sys.path.insert(0, "tests/unit")
from tone_service import ToneTranslator
from engine.serve import ServeSettings, create_app
from engine.serve.transport import server
translator = ToneTranslator()
translator.transcribe = lambda *_, **__: (print("works", flush=True), time.sleep(600))
sockets = server.listen("127.0.0.1", 0)
print(sockets[0].getsockname()[1], flush=True)
app = create_app(translator, ServeSettings(drain_s=1.0))
server.run_server(server.build_server(app), sockets)
server.leave_threads(app.state.service, 0.5, 7)
"""


def test_a_job_that_does_not_notice_its_end_does_not_keep_the_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        wait_for(lambda: answers(f"http://127.0.0.1:{port}"), 60)
        with Running(None, port).connect(head(len(BODY)) + BODY) as sock:
            assert process.stdout.readline() == "works\n"
            process.send_signal(signal.SIGTERM)
            assert read_answer(sock)[0] == 503
            assert process.wait(PATIENCE_S) == 7  # long before the job ends
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return get(url + "/v1/models").status_code == 200
    return False


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    from engine.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1]), "--model", "/nowhere"]) == 1
    assert "cannot listen" in capfd.readouterr().err


def test_limits_are_those_of_the_settings() -> None:
    settings = ServeSettings(connections=replace(QUICK, max_connections=3))
    with running_server(ToneTranslator(), settings) as running:
        assert running.server._connections.limits.max_connections == 3
