"""The node's network: listens, dials, authenticates, and sends to peers by node id. Knows no membership."""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable

from swarm.config import NetSettings
from swarm.errors import AuthenticationError, DialError, LinkDownError, ProtocolError
from swarm.net.connection import LIVE_READ_BYTES, Connection, ConnectionEndedError
from swarm.net.dial import dial, refused
from swarm.net.link import LinkStats, PeerInfo
from swarm.net.listener import Listener
from swarm.net.table import LinkTable, Receiver, RefusalLog
from swarm.net.tls import client_context, server_context
from swarm.net.traffic import Traffic
from swarm.protocol.codec import Payload
from swarm.protocol.handshake import Authenticated, ClientHandshake, ServerHandshake
from swarm.protocol.handshake_frames import NONCE_BYTES
from swarm.protocol.identity import Keyring, NodeKey
from swarm.protocol.invite import Tickets
from swarm.protocol.limits import CloseCode
from swarm.protocol.messages import AnyMessage, SignedRecord
from swarm.types import Address, BootId, NodeId, short

__all__ = ["LinkStats", "Network", "PeerInfo", "Receiver"]

log = logging.getLogger("swarm.net")

_CLOSE_SECONDS = 1.5


class Network:
    """All links of one process. ``hello`` gives the own record, ``admit`` says which ids may take part.

    A live link costs no task; ``send`` writes in the caller's own step whenever the socket takes it.
    """

    def __init__(
        self,
        *,
        key: NodeKey,
        keyring: Keyring,
        boot: BootId,
        settings: NetSettings,
        receiver: Receiver,
        hello: Callable[[], SignedRecord],
        admit: Callable[[NodeId], bool],
    ) -> None:
        self._key = key
        self._keyring = keyring
        self._boot = boot
        self._settings = settings
        self._hello = hello
        self._admit = admit
        self.tickets = Tickets()
        self._refusals = RefusalLog()
        self._table = LinkTable(key.node_id, boot, settings, receiver, self._refusals)
        self._buffer = memoryview(bytearray(LIVE_READ_BYTES))
        self._client_context = client_context()
        self._server_context: ssl.SSLContext | None = None
        self._certificate = b""
        self._listener: Listener | None = None

    async def start(self, listen: Address) -> Address:
        """Listen for peers; return the bound address. Raises ConfigError when the port can't be had."""
        context, self._certificate = server_context(self._key)
        self._listener = Listener(
            self._settings,
            self._refusals,
            make=lambda: Connection(context, self._buffer, server_side=True),
            serve=self._serve,
        )
        return self._listener.start(listen)

    async def aclose(self) -> None:
        """Close the listener and every link; no task is left."""
        if self._listener is not None:
            await self._listener.aclose()
        await self._table.close_all(CloseCode.GOING_AWAY, _CLOSE_SECONDS)

    async def connect(self, address: Address, expected: NodeId | None = None) -> NodeId:
        """Link to the node at ``address``, if it is not linked yet, and return its id.

        Raises DialError if nobody suitable answers (``own`` if that is this very process), and
        AuthenticationError if one side refuses the other.
        """
        if expected is not None and expected in self._table:
            return expected
        connection = await dial(
            address,
            context=self._client_context,
            buffer=self._buffer,
            seconds=self._settings.dial_seconds,
            source=self._settings.dial_from,
        )
        try:
            async with asyncio.timeout(self._settings.handshake_seconds):
                return await self._introduce(connection, address, expected)
        except TimeoutError:
            why = f"no handshake within {self._settings.handshake_seconds:g} s"
            raise DialError(address, why, overloaded=True) from None
        except AuthenticationError as exc:
            connection.close(exc.close_code)
            raise AuthenticationError(f"{address}: {exc}", exc.close_code) from None
        except ProtocolError as exc:
            connection.close(exc.close_code)
            raise DialError(address, f"no swarm node of ours answers there: {exc}") from None
        except ConnectionEndedError as exc:
            raise refused(address, exc) from None
        finally:
            if not connection.live and not connection.closing:
                connection.abort()

    def send(self, node: NodeId, message: AnyMessage, payload: Payload = b"") -> None:
        """Send now or queue; never waits. ``payload`` must not change afterwards.

        Raises LinkDownError without a link, and when over ``send_queue_bytes`` wait, which breaks the link.
        """
        link = self._table.get(node)
        if link is None:
            raise LinkDownError(node, "there is no link to it")
        link.send(message, payload)

    def linked(self, node: NodeId) -> bool:
        return node in self._table

    def weights_waiting(self, node: NodeId) -> int:
        """Return how many bytes of weights wait to be sent to a peer; 0 without a link."""
        link = self._table.get(node)
        return link.weights_waiting if link is not None else 0

    def links(self) -> tuple[NodeId, ...]:
        return self._table.nodes()

    def close(self, node: NodeId, code: int = CloseCode.OVERLAY, reason: str = "no longer needed") -> None:
        """Close a link in good order; the peer starts no suspicion over the default code."""
        self._table.close(node, code, reason)

    def abort(self, node: NodeId, reason: str) -> None:
        """Drop a link that is thought dead; ``link_down`` follows with ``graceful`` False."""
        self._table.abort(node, reason)

    @property
    def traffic(self) -> Traffic:
        return self._table.traffic

    def stats(self) -> dict[NodeId, LinkStats]:
        return {node: link.stats() for node, link in self._table.items()}

    # --- handshakes -----------------------------------------------------------------------------------------

    async def _serve(self, connection: Connection, observed: Address) -> None:
        """Bring an accepted connection to READY, or close it and log why."""
        handshake = ServerHandshake(
            key=self._key,
            keyring=self._keyring,
            boot=self._boot,
            nonce=secrets.token_bytes(NONCE_BYTES),
            certificate=self._certificate,
            ticket_key=lambda ticket: self.tickets.key_of(ticket, self._now()),
        )
        try:
            await connection.open()
            connection.write(handshake.challenge())
            peer = handshake.read_auth(await connection.next_frame())
            if peer.ticket is not None:
                await self._let_in(connection, handshake, peer, observed)
                return
            await self._check(peer, dialled=False)
            connection.write(handshake.accept(observed))
            peer = handshake.read_ready(await connection.next_frame())
        except ProtocolError as exc:
            connection.close(exc.close_code)
            if exc.close_code not in (CloseCode.SELF, CloseCode.SECOND_LINK):
                self._refusals.warn(observed, str(exc))
        except ConnectionEndedError as exc:
            connection.abort()
            if exc.code == CloseCode.AUTHENTICATION:
                self._refusals.warn(observed, "wrong swarm secret: it holds none of ours")
            elif exc.code not in (CloseCode.SELF, CloseCode.SECOND_LINK):
                self._refusals.warn(observed, exc.reason)
        else:
            self._table.add(connection, peer, None, observed)

    async def _let_in(
        self, connection: Connection, handshake: ServerHandshake, peer: Authenticated, observed: Address
    ) -> None:
        """Give a newcomer with a ticket the swarm's secret, once; it comes back as a member."""
        ticket = peer.ticket or b""
        if not self._admit(peer.node):
            raise AuthenticationError(f"node {short(peer.node)} may not take part here", CloseCode.BANNED)
        if not self.tickets.claim(ticket, self._now()):
            raise AuthenticationError("its invite is in use at this moment")
        try:
            connection.write(handshake.accept(observed))
            handshake.read_ready(await connection.next_frame())
            # Before the secret leaves, so that no fault can let a second machine in.
            self.tickets.burn(ticket)
            connection.write(handshake.welcome())
        finally:
            self.tickets.release(ticket)
        connection.close(CloseCode.GOING_AWAY)
        log.info("node %s was let in by an invite, from %s", short(peer.node), observed)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _introduce(self, connection: Connection, address: Address, expected: NodeId | None) -> NodeId:
        await connection.open()
        certificate, server_key = connection.peer_key()
        handshake = ClientHandshake(
            key=self._key,
            keyring=self._keyring,
            boot=self._boot,
            nonce=secrets.token_bytes(NONCE_BYTES),
            server_key=server_key,
            certificate=certificate,
            expected=expected,
        )
        server = handshake.server
        try:
            connection.write(handshake.read_challenge(await connection.next_frame()))
            peer = handshake.read_accept(await connection.next_frame())
            await self._check(peer, dialled=True)
        except (AuthenticationError, ConnectionEndedError) as exc:
            code = exc.close_code if isinstance(exc, AuthenticationError) else exc.code
            if code == CloseCode.SECOND_LINK and await self._table.arrives(
                server, self._settings.handshake_seconds
            ):
                connection.close(CloseCode.SECOND_LINK)
                return server
            raise
        connection.write(handshake.ready(self._hello()))
        if (
            not self._table.add(connection, peer, address, connection.peer_address())
            and server not in self._table
        ):
            raise ConnectionEndedError("the connection ended in the handshake")
        return server

    async def _check(self, peer: Authenticated, *, dialled: bool) -> None:
        if not self._admit(peer.node):
            raise AuthenticationError(f"node {short(peer.node)} may not take part here", CloseCode.BANNED)
        await self._table.check(peer, dialled=dialled)
