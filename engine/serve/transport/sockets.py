"""Addresses to listen on, whatever is spoken there."""

from __future__ import annotations

import socket

from engine.errors import OptionError


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
