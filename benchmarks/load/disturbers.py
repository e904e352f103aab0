"""Clients that others should not notice: slow uploads, endless ones, long files."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.load.requests import BOUNDARY, TRANSCRIBE, Kind
from benchmarks.load.service import Service

SLOW_EVERY_S: Final = 0.5  # a byte of each slow upload
PART_BYTES: Final = 64 << 10
CHUNKED: Final = (
    f"POST {TRANSCRIBE} HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
).encode()
FILE_HEAD: Final = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
).encode()


@dataclass
class Sent:
    """What disturbing clients sent."""

    n_bytes: int = 0
    n_connections: int = 0


@contextmanager
def disturbing(service: Service, *, n_slow: int, n_endless: int, bytes_per_s: float) -> Iterator[Sent]:
    """Uploads under way while the block runs.

    Args:
        n_slow: connections on which a byte of a body comes every SLOW_EVERY_S.
        n_endless: connections on which a body without an end comes, again and again.
        bytes_per_s: of all endless ones together.
    """
    sent, stop = Sent(), threading.Event()
    threads = [
        threading.Thread(target=_send_slowly, args=(service, n_slow, sent, stop), daemon=True),
        threading.Thread(
            target=_send_endlessly, args=(service, n_endless, bytes_per_s, sent, stop), daemon=True
        ),
    ]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def _send_slowly(service: Service, count: int, sent: Sent, stop: threading.Event) -> None:
    head = CHUNKED + b"Content-Length: 1000000\r\n\r\n" + FILE_HEAD
    socks = [_connect(service, head, sent) for _ in range(count)]
    while not stop.wait(SLOW_EVERY_S):
        for index, sock in enumerate(socks):
            try:
                _drop_answer(sock)
                sock.send(b"a")
                sent.n_bytes += 1
            except OSError:  # it was ended: too slow, or too many
                sock.close()
                socks[index] = _connect(service, head, sent)
    for sock in socks:
        sock.close()


def _send_endlessly(
    service: Service, count: int, bytes_per_s: float, sent: Sent, stop: threading.Event
) -> None:
    head = CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n" + _chunk(FILE_HEAD)
    part = _chunk(b"a" * PART_BYTES)
    socks = [_connect(service, head, sent) for _ in range(count)]
    pause_s, index = PART_BYTES / bytes_per_s, 0
    while socks and not stop.wait(pause_s):
        index = (index + 1) % count
        try:
            _drop_answer(socks[index])
            socks[index].sendall(part)
            sent.n_bytes += len(part)
        except OSError:  # refused: it was too long
            socks[index].close()
            socks[index] = _connect(service, head, sent)
    for sock in socks:
        sock.close()


def _connect(service: Service, head: bytes, sent: Sent) -> socket.socket:
    sock = socket.create_connection((service.host, service.port), timeout=10)
    sent.n_connections += 1
    with contextlib.suppress(OSError):
        sock.sendall(head)
    return sock


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _drop_answer(sock: socket.socket) -> None:
    """Raise OSError where the service has answered: it wants no more of this body."""
    if select.select([sock], [], [], 0)[0]:
        raise ConnectionError


@contextmanager
def in_work(service: Service, kinds: list[Kind]) -> Iterator[threading.Event]:
    """Requests under way while the block runs; they are left at its end.

    Yields:
        An event that is set when the first of them is answered.
    """
    socks = [send(service, kind) for kind in kinds]
    done, stop = threading.Event(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if select.select(socks, [], [], 0.1)[0]:
                done.set()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        service.wait_for("queue_pending", lambda n: n >= len(kinds))
        yield done
    finally:
        stop.set()
        watcher.join(1)
        for sock in socks:
            sock.close()
    service.wait_idle()


def send(service: Service, kind: Kind) -> socket.socket:
    """Send a whole request; its answer is not read."""
    sock = socket.create_connection((service.host, service.port), timeout=60)
    lines = [f"POST {kind.path} HTTP/1.1", "Host: a", f"Content-Length: {len(kind.body)}"]
    lines += [f"{name}: {value}" for name, value in kind.headers.items()]
    sock.sendall("\r\n".join([*lines, "", ""]).encode() + kind.body)
    return sock
