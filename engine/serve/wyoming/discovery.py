"""So that Home Assistant finds the server by itself: multicast DNS, by the library `zeroconf`."""

from __future__ import annotations

import ipaddress
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from engine._distribution import NAME, install_command
from engine.errors import DependencyError, OptionError

KIND: Final = "_wyoming._tcp.local."
MULTICAST: Final = ("224.0.0.251", 5353)  # where multicast DNS goes: the way there shows our own address
MAX_NAME_BYTES: Final = 63  # of one label of DNS


@asynccontextmanager
async def advertised(name: str, host: str, port: int) -> AsyncIterator[str]:
    """Announce a server while the block runs, and take the announcement back after it.

    Args:
        name: of this server, unique in the network; another number is added where it is taken.
        host: that it listens on. port: the same.
    Yields:
        The name under which it was announced.
    Raises:
        DependencyError: the package is missing. OptionError: an address that nobody else can reach.
    """
    try:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
    except ImportError as error:
        raise DependencyError(
            "--zeroconf without the package zeroconf", "the extra [zeroconf]", install_command("zeroconf")
        ) from error
    address = find_address(host)
    label = check_name(name)
    host_name = f"{NAME}-{uuid.uuid4().hex}.local."  # of its own: other machines have servers too
    info = AsyncServiceInfo(KIND, f"{label}.{KIND}", port=port, parsed_addresses=[address], server=host_name)
    network = AsyncZeroconf(interfaces=[address], ip_version=IPVersion.V4Only)
    try:
        await network.async_register_service(info, allow_name_change=True)
        yield info.name.removesuffix(f".{KIND}")
    finally:
        await network.async_unregister_all_services()
        await network.async_close()


def default_name() -> str:
    """One for each machine."""
    return f"{NAME} {socket.gethostname().partition('.')[0]}"[:MAX_NAME_BYTES]


def check_name(name: str) -> str:
    """The name as one label of DNS.

    Raises:
        OptionError: it is none.
    """
    label = name.strip()
    if not label or "." in label or not label.isprintable() or len(label.encode()) > MAX_NAME_BYTES:
        raise OptionError(
            f"--zeroconf {name[:80]!r}", f"1 to {MAX_NAME_BYTES} bytes without a point", "choose another name"
        )
    return label


def find_address(host: str) -> str:
    """The IPv4 address of this machine at which others reach a host that it listens on.

    Raises:
        OptionError: there is none.
    """
    fix = "add --host 0.0.0.0"
    try:
        address = ipaddress.ip_address(socket.gethostbyname(host) if host else "0.0.0.0")
        if address.is_unspecified:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect(MULTICAST)  # sends nothing
                address = ipaddress.ip_address(probe.getsockname()[0])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"--zeroconf on {host!r} ({reason})", "a network", fix) from error
    if address.is_loopback:
        raise OptionError(
            f"--zeroconf on {host!r}, which only this machine reaches", "an address of the network", fix
        )
    return str(address)
