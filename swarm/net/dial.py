"""Opening a connection to an address: TCP and nothing more; what went wrong in words. Knows no handshake."""

from __future__ import annotations

import asyncio
import socket
import ssl

from swarm.errors import AuthenticationError, DialError
from swarm.net.connection import Connection, ConnectionEndedError
from swarm.protocol.limits import CloseCode
from swarm.types import Address

REFUSALS = {
    CloseCode.MALFORMED: "it did not understand us, or refuses this node for a minute after malformed frames",
    CloseCode.AUTHENTICATION: "authentication failed: is it the same swarm secret?",
    CloseCode.BANNED: "it does not allow this node's id",
    CloseCode.DUPLICATE: "another process with this node's key is running; one key belongs to one process",
    CloseCode.VERSION: "no protocol version in common; update the older side",
}


async def dial(
    address: Address, *, context: ssl.SSLContext, buffer: memoryview, seconds: float, source: str = ""
) -> Connection:
    """Return a connection on which TLS begins, from the address ``source`` if given.

    Raises DialError when nobody answers in ``seconds``.
    """
    try:
        async with asyncio.timeout(seconds):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(context, buffer, server_side=False),
                address.host,
                address.port,
                local_addr=(source, 0) if source else None,
            )
    except TimeoutError:
        raise DialError(address, f"no answer within {seconds:g} s") from None
    except socket.gaierror:
        raise DialError(address, "no such host") from None
    except ConnectionRefusedError:
        raise DialError(address, "connection refused; no node listens there") from None
    except OSError as exc:
        raise DialError(address, exc.strerror or str(exc)) from None
    return connection


def refused(address: Address, end: ConnectionEndedError) -> DialError | AuthenticationError:
    """Return what the end of a connection in its handshake means."""
    if end.code == CloseCode.SELF:
        return DialError(address, "this is our own address", own=True)
    if end.code in REFUSALS:
        return AuthenticationError(f"{address} refused us: {REFUSALS[CloseCode(end.code)]}", end.code)
    return DialError(address, end.reason, overloaded=end.code is None)
