"""Peers on real sockets for tests of links: a recording receiver, a relay between two peers, a raw member."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect

from swarm.config import NetSettings
from swarm.net.peers import Network, PeerInfo
from swarm.net.tls import client_context, key_of_certificate
from swarm.protocol.handshake import ClientHandshake
from swarm.protocol.identity import Keyring, NodeKey, SwarmSecret, sign_record
from swarm.protocol.limits import PATH
from swarm.protocol.messages import AnyMessage, SignedRecord, Step
from swarm.types import Address, BootId, NodeId, SessionId

SECRET = SwarmSecret(b"the secret of the tests' swarm!!")
LOOPBACK = Address("127.0.0.1", 0)


async def eventually(
    condition: Callable[[], object], what: str = "the condition", seconds: float = 20.0
) -> None:
    """Poll until ``condition`` holds. Raises AssertionError after ``seconds``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"{what} never came true")
        await asyncio.sleep(0.002)


def step(tokens: int, hidden: int = 1024, number: int = 1) -> Step:
    return Step(
        origin=NodeId("a" * 32),
        session=SessionId(bytes(16)),
        epoch=1,
        step=number,
        position=0,
        count=tokens,
        hidden=hidden,
        dtype="bfloat16",
        rows="last",
    )


class Peer:
    """A Network and everything its receiver was told."""

    def __init__(
        self,
        seed: bytes,
        *,
        secret: SwarmSecret = SECRET,
        boot: bytes | None = None,
        settings: NetSettings | None = None,
        admit: Callable[[NodeId], bool] = lambda _node: True,
    ) -> None:
        self.key = NodeKey.from_seed(seed)
        self.secret = secret
        self.boot = BootId(boot or secrets.token_bytes(8))
        self.ups: list[PeerInfo] = []
        self.downs: list[tuple[NodeId, str, bool]] = []
        self.told: list[str] = []
        """``up`` and ``down`` in the order they were told."""
        self.messages: list[tuple[NodeId, AnyMessage, bytes]] = []
        self.on_message: Callable[[NodeId, AnyMessage], None] | None = None
        self.network = Network(
            key=self.key,
            keyring=Keyring((secret,)),
            boot=self.boot,
            settings=settings or NetSettings(),
            receiver=self,
            hello=self.hello,
            admit=admit,
        )

    @property
    def node(self) -> NodeId:
        return self.key.node_id

    def hello(self) -> SignedRecord:
        return sign_record(self.key, self.secret.swarm_id, "static", self.node.encode())

    async def listen(self) -> Address:
        return await self.network.start(LOOPBACK)

    def link_up(self, peer: PeerInfo) -> None:
        self.ups.append(peer)
        self.told.append("up")

    def link_down(self, node: NodeId, reason: str, graceful: bool) -> None:
        self.downs.append((node, reason, graceful))
        self.told.append("down")

    def drained(self, node: NodeId) -> None:
        self.told.append("drained")

    def received(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        self.messages.append((node, message, bytes(payload)))
        if self.on_message is not None:
            self.on_message(node, message)


class Relay:
    """Forwards TCP between whoever connects and ``target``; can hold what it reads, and cut."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.reading = True
        """When not flowing: whether the relay still reads (and keeps) what is sent."""

    async def listen(
        self, accept_tls: ssl.SSLContext | None = None, dial_tls: ssl.SSLContext | None = None
    ) -> Address:
        """Start; with both contexts it ends TLS itself, as a man in the middle does."""
        self._dial_tls = dial_tls
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0, ssl=accept_tls)
        return Address("127.0.0.1", self._server.sockets[0].getsockname()[1])

    def hold(self, *, reading: bool = True) -> None:
        self.reading = reading
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()
        if self._server is not None:
            self._server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(
            self._target.host, self._target.port, ssl=self._dial_tls
        )
        self._writers += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink), name="relay")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        held: list[bytes] = []
        try:
            while True:
                if not self.reading:
                    await self._flowing.wait()
                data = await source.read(65536)
                if not data:
                    break
                held.append(data)
                if self._flowing.is_set():
                    sink.write(b"".join(held))
                    held.clear()
                    await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


@asynccontextmanager
async def raw_connection(address: Address, source: str = "127.0.0.1") -> AsyncIterator[ClientConnection]:
    """Open the WebSocket only, from ``source``: what is said on it is the test's affair."""
    uri = f"wss://{address}{PATH}"
    async with connect(
        uri,
        ssl=client_context(),
        compression=None,
        ping_interval=None,
        close_timeout=1,
        proxy=None,
        local_addr=(source, 0),
    ) as websocket:
        yield websocket


def client_handshake(
    websocket: ClientConnection, seed: bytes, secret: SwarmSecret = SECRET
) -> ClientHandshake:
    certificate = websocket.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return ClientHandshake(
        key=NodeKey.from_seed(seed),
        keyring=Keyring((secret,)),
        boot=BootId(secrets.token_bytes(8)),
        nonce=secrets.token_bytes(32),
        server_key=key_of_certificate(certificate),
        certificate=certificate,
    )


@asynccontextmanager
async def raw_member(
    address: Address, seed: bytes, source: str = "127.0.0.1"
) -> AsyncIterator[ClientConnection]:
    """Authenticate as a member; the frames after READY are the test's affair."""
    async with raw_connection(address, source) as websocket:
        handshake = client_handshake(websocket, seed)
        await websocket.send(handshake.read_challenge(_bytes(await websocket.recv())))
        handshake.read_accept(_bytes(await websocket.recv()))
        await websocket.send(handshake.ready(None))
        yield websocket


def _bytes(frame: str | bytes) -> bytes:
    if isinstance(frame, str):
        raise TypeError("links send no text")
    return frame
