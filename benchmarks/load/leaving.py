"""Clients that leave while the service computes for them, without a word: HTTP, sessions, Wyoming."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from benchmarks.errors import MeasurementError
from benchmarks.load.disturbers import send
from benchmarks.load.requests import Kind
from benchmarks.load.service import Service
from benchmarks.load.sessions import Talk
from engine.audio.limits import SAMPLE_RATE

QUIET_S: Final = 0.5  # without work of the service after a client has left
SETTLED_S: Final = 0.02  # of processor time in QUIET_S that is no work
AUDIO_START: Final = {"type": "audio-start", "data": {"rate": SAMPLE_RATE, "width": 2, "channels": 1}}
Begin = Callable[[], socket.socket]


def leave(
    service: Service, name: str, begin: Begin, after_s: float, most_idle_s: float = 10.0
) -> tuple[float, float]:
    """Have the service compute, and leave while it does.

    Args:
        begin: connects, has everything sent, and gives the connection, which nobody else closes.
        after_s: of processor time that the service has spent on it.
        most_idle_s: without work of the service before it counts as finished.
    Returns:
        Seconds of processor time, and seconds by the clock, from leaving until the service does nothing.
    Raises:
        MeasurementError: it was finished before, or the service does not stop.
    """
    before_s = service.cpu_s()
    sock = begin()
    try:
        changed_s, spent_s, last_s = time.monotonic(), 0.0, time.monotonic() + 120
        while spent_s < after_s:
            time.sleep(0.01)
            now_s, found_s = time.monotonic(), service.cpu_s() - before_s
            if found_s > spent_s + SETTLED_S:
                changed_s, spent_s = now_s, found_s
            if now_s > last_s or now_s - changed_s > most_idle_s:
                raise MeasurementError(f"{name} that ends before anybody leaves", "", "make it longer")
    finally:
        left_s, cpu_s = time.monotonic(), service.cpu_s()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
    return _until_quiet(service, left_s, cpu_s)


def _until_quiet(service: Service, left_s: float, cpu_s: float) -> tuple[float, float]:
    readings = [(left_s, cpu_s)]
    while time.monotonic() - left_s < 60:
        time.sleep(0.02)
        readings.append((time.monotonic(), service.cpu_s()))
        recent = [each for each in readings if each[0] >= readings[-1][0] - QUIET_S]
        if readings[-1][0] - left_s > QUIET_S and recent[-1][1] - recent[0][1] <= SETTLED_S:
            first = next(each for each in readings if recent[-1][1] - each[1] <= SETTLED_S)
            return first[1] - cpu_s, first[0] - left_s
    raise MeasurementError("a service that works on for nobody", "", "look at its log")


def request(service: Service, kind: Kind) -> Begin:
    """A request whose answer is not read."""
    return lambda: send(service, kind)


def session(service: Service, talk: Talk) -> Begin:
    """A session that is sent all its audio as fast as it takes it."""

    def begin() -> socket.socket:
        from websockets.sync.client import connect

        address = f"ws://{service.host}:{service.port}/v1/realtime?intent=transcription"
        connection = connect(address, max_queue=None, compression=None, logger=_silent())
        _send_all(connection.send, talk.appends)
        return connection.socket

    return begin


def _silent() -> logging.Logger:
    """For a client whose connection is closed under it."""
    logger = logging.getLogger("engine-bench.leaving")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def wyoming(service: Service, talk: Talk) -> Begin:
    """A recording over Wyoming's protocol, as fast as it is taken."""

    def begin() -> socket.socket:
        sock = socket.create_connection((service.host, service.port), timeout=60)
        sock.sendall(_line({"type": "transcribe", "data": {"language": "de"}}) + _line(AUDIO_START))
        _send_all(sock.sendall, map(_chunk, talk.chunks))
        return sock

    return begin


def _chunk(pcm: bytes) -> bytes:
    return _line({**AUDIO_START, "type": "audio-chunk", "payload_length": len(pcm)}) + pcm


def _line(event: object) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _send_all(send_one: Callable[[Any], object], messages: Iterable[Any]) -> None:
    """On a thread, until the connection is closed under it."""

    def run() -> None:
        with contextlib.suppress(Exception):
            for message in messages:
                send_one(message)

    threading.Thread(target=run, daemon=True).start()
