"""A newcomer's side of an invite: its ticket against the swarm's secret, from the node that issued it."""

from __future__ import annotations

import asyncio
import secrets

from swarm.config import NetSettings
from swarm.errors import AuthenticationError, DialError, ProtocolError
from swarm.net.connection import LIVE_READ_BYTES, Connection, ConnectionEndedError
from swarm.net.dial import dial
from swarm.net.tls import client_context
from swarm.protocol.handshake import ClientHandshake
from swarm.protocol.handshake_frames import BOOT_BYTES, NONCE_BYTES
from swarm.protocol.identity import Keyring, NodeKey
from swarm.protocol.invite import Invite
from swarm.protocol.limits import CloseCode
from swarm.types import Address, BootId, short


async def redeem(invite: Invite, key: NodeKey, settings: NetSettings) -> Keyring:
    """Return the swarm's secrets. The addresses are tried in turn.

    Raises AuthenticationError when the issuer refuses the ticket or another node answers, and DialError when
    none of the addresses can be reached.
    """
    failures: list[str] = []
    for address in invite.addresses:
        try:
            return await _redeem_at(address, invite, key, settings)
        except DialError as exc:
            failures.append(str(exc))
    raise DialError(
        invite.addresses[0],
        f"the node that wrote the invite ({short(invite.issuer)}) can't be reached: {'; '.join(failures)}",
    )


async def _redeem_at(address: Address, invite: Invite, key: NodeKey, settings: NetSettings) -> Keyring:
    connection = await dial(
        address,
        context=client_context(),
        buffer=memoryview(bytearray(LIVE_READ_BYTES)),
        seconds=settings.dial_seconds,
    )
    try:
        async with asyncio.timeout(settings.handshake_seconds):
            return await _exchange(connection, invite, key)
    except TimeoutError:
        raise DialError(address, f"no handshake within {settings.handshake_seconds:g} s") from None
    except AuthenticationError as exc:
        raise AuthenticationError(f"{address}: {exc}", exc.close_code) from None
    except ProtocolError as exc:
        raise DialError(address, f"no swarm node of ours answers there: {exc}") from None
    except ConnectionEndedError as exc:
        if exc.code == CloseCode.AUTHENTICATION:
            raise AuthenticationError(
                f"{address} refused the invite: it is used up or expired, or its node was restarted; "
                "make a new one there with `python -m swarm invite`"
            ) from None
        if exc.code == CloseCode.BANNED:
            raise AuthenticationError(f"{address} does not allow this node's id", exc.code) from None
        raise DialError(address, exc.reason) from None
    finally:
        connection.close(CloseCode.GOING_AWAY)


async def _exchange(connection: Connection, invite: Invite, key: NodeKey) -> Keyring:
    await connection.open()
    certificate, server_key = connection.peer_key()
    handshake = ClientHandshake(
        key=key,
        keyring=None,
        boot=BootId(secrets.token_bytes(BOOT_BYTES)),
        nonce=secrets.token_bytes(NONCE_BYTES),
        server_key=server_key,
        certificate=certificate,
        expected=invite.issuer,
        ticket=(invite.ticket, invite.key),
    )
    connection.write(handshake.read_challenge(await connection.next_frame()))
    handshake.read_accept(await connection.next_frame())
    connection.write(handshake.ready(None))
    return handshake.read_welcome(await connection.next_frame())
