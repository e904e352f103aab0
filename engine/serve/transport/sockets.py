"""Addresses to listen on, whatever is spoken there."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Final

from engine.errors import OptionError

HANG_UP: Final = getattr(select, "POLLRDHUP", 0)
LEFT_POLL_S: Final = 0.1  # between two looks at a socket that nobody reads


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Whether the other end has closed its side, which reading would tell only behind all that it sent.

    Always False where the system cannot say so.
    """
    sock = transport.get_extra_info("socket")
    if not HANG_UP or sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), HANG_UP)
    return bool(poll.poll(0))


def listen(host: str, port: int) -> list[socket.socket]:
    """Take an address before a model is loaded for it.

    Returns:
        Bound sockets, one for each address of the host.
    Raises:
        OptionError: it is taken, or none of this machine.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
    except (OSError, UnicodeError) as error:
        for sock in sockets:
            sock.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(
            f"cannot listen on port {port} of {host!r} ({reason})",
            "a free port of an address of this machine",
            "choose another --port or --host",
        ) from error
    return sockets
