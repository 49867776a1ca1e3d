"""TCP sockets as links want them, on every platform. Knows no protocol above TCP."""

from __future__ import annotations

import asyncio.trsock
import contextlib
import ipaddress
import socket
from typing import Any

from swarm.types import Address

_BACKLOG = 128
_NOT_SENT_BYTES = 128 * 1024
_USER_TIMEOUT_MILLISECONDS = 15_000

# Constants that the platform (or its Python) lacks are left out.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("TCP_NODELAY", 1),
    # What waits in the kernel can't be overtaken: with a low mark a heartbeat passes bulk in our own queue.
    ("TCP_NOTSENT_LOWAT", _NOT_SENT_BYTES),
    # A backstop only: heartbeats find a dead peer much sooner.
    ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MILLISECONDS),
)


def tune(sock: asyncio.trsock.TransportSocket) -> None:
    """Set the TCP options of a link, as far as the platform and the socket take them."""
    for name, value in _OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            # A socket whose peer is already gone refuses; its end is reported elsewhere.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def open_listener(listen: Address) -> socket.socket:
    """Return a non-blocking listening socket. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(
        listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    both = family == socket.AF_INET6 and listen.host == "::" and socket.has_dualstack_ipv6()
    sock = socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    sock.setblocking(False)
    return sock


def address_of(sockname: Any) -> Address:
    """Return the Address of a socket name; an IPv4 address mapped into IPv6 becomes plain IPv4."""
    host, port = str(sockname[0]), int(sockname[1])
    try:
        literal = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return Address(host, port)
    if isinstance(literal, ipaddress.IPv6Address) and literal.ipv4_mapped is not None:
        return Address(str(literal.ipv4_mapped), port)
    return Address(host, port)
