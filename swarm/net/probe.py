"""Looks at a node from outside: can it be reached, is it swarm, is it ours. Proves nothing and joins nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from swarm.config import NetSettings
from swarm.errors import AuthenticationError, DialError, ProtocolError
from swarm.net.connection import LIVE_READ_BYTES, ConnectionEndedError
from swarm.net.dial import dial
from swarm.net.tls import client_context
from swarm.protocol.handshake import challenged_swarms
from swarm.protocol.identity import node_id_of
from swarm.protocol.limits import CloseCode
from swarm.types import Address, NodeId


@dataclass(frozen=True, slots=True)
class Probed:
    node: NodeId
    swarms: tuple[bytes, ...]
    """The swarm ids it accepts, 16 bytes each, the preferred one first."""
    connect_seconds: float
    """From the first SYN until its CHALLENGE: about three round trips."""


async def probe(address: Address, settings: NetSettings) -> Probed:
    """Return who answers at ``address``. Raises DialError that says how far it came."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    connection = await dial(
        address,
        context=client_context(),
        buffer=memoryview(bytearray(LIVE_READ_BYTES)),
        seconds=settings.dial_seconds,
    )
    try:
        async with asyncio.timeout(settings.handshake_seconds):
            await connection.open()
            _, key = connection.peer_key()
            frame = await connection.next_frame()
            return Probed(node_id_of(key), challenged_swarms(frame), loop.time() - begun)
    except TimeoutError:
        raise DialError(
            address,
            f"something accepts connections there but says nothing for {settings.handshake_seconds:g} s",
        ) from None
    except (AuthenticationError, ProtocolError) as exc:
        raise DialError(address, f"what answers there is no swarm node: {exc}") from None
    except ConnectionEndedError as exc:
        raise DialError(address, f"what answers there hangs up: {exc.reason}") from None
    finally:
        connection.close(CloseCode.GOING_AWAY)
