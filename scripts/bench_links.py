"""Measures links on loopback against a bare websockets echo of the same sizes, both with TLS 1.3.

    python scripts/bench_links.py [--rounds N]

Both ends share one process and event loop, so a round trip holds the CPU time of both.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from swarm.config import NetSettings
from swarm.net.peers import Network, PeerInfo
from swarm.net.tls import client_context, server_context
from swarm.protocol.identity import Keyring, NodeKey, SwarmSecret, sign_record
from swarm.protocol.messages import AnyMessage, HopTime, SignedRecord, Step
from swarm.types import Address, BootId, NodeId, SessionId

SMALL_HIDDEN = 1024
LARGE_TOKENS = 32
STREAM_BYTES = 64 * 1024 * 1024
STREAM_TOKENS = 512
BFLOAT16_BYTES = 2


class Peer:
    """Counts what arrives, or sends it back."""

    def __init__(self, secret: SwarmSecret, *, echo: bool) -> None:
        self._key = NodeKey.from_seed(secrets.token_bytes(32))
        self._swarm = secret.swarm_id
        self._echo = echo
        self.received_bytes = 0
        self.arrived = asyncio.Event()
        self.network = Network(
            key=self._key,
            keyring=Keyring((secret,)),
            boot=BootId(secrets.token_bytes(8)),
            settings=NetSettings(send_queue_bytes=2 * STREAM_BYTES, accept_burst=10_000),
            receiver=self,
            hello=self._hello,
            admit=lambda _node: True,
        )

    def _hello(self) -> SignedRecord:
        return sign_record(self._key, self._swarm, "static", b"bench")

    def link_up(self, peer: PeerInfo) -> None: ...

    def link_down(self, node: NodeId, reason: str, graceful: bool) -> None: ...

    def drained(self, node: NodeId) -> None: ...

    def received(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        if self._echo:
            self.network.send(node, message, payload)
        self.received_bytes += len(payload)
        self.arrived.set()


def step(tokens: int, number: int = 0) -> Step:
    return Step(
        origin=NodeId("a" * 32),
        session=SessionId(bytes(16)),
        epoch=1,
        step=number,
        position=number,
        count=tokens,
        hidden=SMALL_HIDDEN,
        dtype="bfloat16",
        rows="last",
        times=(HopTime(100, 2000, 4),),
    )


@dataclass(frozen=True)
class Figures:
    small_microseconds: float
    large_microseconds: float
    megabytes_per_second: float
    join_milliseconds: float


async def p50(rounds: int, once: Callable[[], Awaitable[object]]) -> float:
    """Return the median duration in seconds, after a tenth of the rounds to warm up."""
    times = []
    for _ in range(rounds + rounds // 10):
        begin = time.perf_counter()
        await once()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[rounds // 10 :])


async def measure_swarm(rounds: int) -> Figures:
    secret = SwarmSecret(secrets.token_bytes(32))
    near, far = Peer(secret, echo=False), Peer(secret, echo=True)
    address = await far.network.start(Address("127.0.0.1", 0))

    async def join() -> None:
        peer = Peer(secret, echo=False)
        await peer.network.connect(address)
        await peer.network.aclose()

    async def round_trip(tokens: int, payload: bytes) -> None:
        near.arrived.clear()
        near.network.send(node, step(tokens), payload)
        await near.arrived.wait()

    small, large = bytes(SMALL_HIDDEN * BFLOAT16_BYTES), bytes(LARGE_TOKENS * SMALL_HIDDEN * BFLOAT16_BYTES)
    join_seconds = await p50(50, join)
    node = await near.network.connect(address)
    small_seconds = await p50(rounds, lambda: round_trip(1, small))
    large_seconds = await p50(rounds, lambda: round_trip(LARGE_TOKENS, large))
    sink = Peer(secret, echo=False)
    node = await near.network.connect(await sink.network.start(Address("127.0.0.1", 0)))
    chunk = bytes(STREAM_TOKENS * SMALL_HIDDEN * BFLOAT16_BYTES)
    begin = time.perf_counter()
    for number in range(STREAM_BYTES // len(chunk)):
        near.network.send(node, step(STREAM_TOKENS, number), chunk)
    while sink.received_bytes < STREAM_BYTES:
        sink.arrived.clear()
        await sink.arrived.wait()
    rate = STREAM_BYTES / (time.perf_counter() - begin)
    for peer in (near, far, sink):
        await peer.network.aclose()
    return Figures(small_seconds * 1e6, large_seconds * 1e6, rate / 1e6, join_seconds * 1e3)


async def measure_bare(rounds: int) -> Figures:
    """The same sizes over the library's own asyncio connections, without any authentication."""
    frame = 64 * 1024

    async def echo(connection: ServerConnection) -> None:
        async for data in connection:
            await connection.send(data[:1] if len(data) == frame + 1 else data)

    context, _ = server_context(NodeKey.from_seed(secrets.token_bytes(32)))
    options = {"compression": None, "max_size": 1 << 20, "ping_interval": None}
    async with serve(echo, "127.0.0.1", 0, ssl=context, **options) as server:
        uri = f"wss://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"

        async def join() -> None:
            async with connect(uri, ssl=client_context(), **options):
                pass

        join_seconds = await p50(50, join)
        async with connect(uri, ssl=client_context(), **options) as client:

            async def round_trip(data: bytes) -> None:
                await client.send(data)
                await client.recv()

            small_seconds = await p50(rounds, lambda: round_trip(bytes(SMALL_HIDDEN * BFLOAT16_BYTES)))
            large_seconds = await p50(rounds, lambda: round_trip(bytes(frame)))
            # One byte more marks the frames of the stream: the server answers those with a single byte.
            count = STREAM_BYTES // frame

            async def acknowledgements() -> None:
                for _ in range(count):
                    await client.recv()

            begin = time.perf_counter()
            reader = asyncio.create_task(acknowledgements())
            for _ in range(count):
                await client.send(bytes(frame + 1))
            await reader
            rate = STREAM_BYTES / (time.perf_counter() - begin)
    return Figures(small_seconds * 1e6, large_seconds * 1e6, rate / 1e6, join_seconds * 1e3)


async def main(rounds: int) -> None:
    ours, bare = await measure_swarm(rounds), await measure_bare(rounds)
    print(f"{'':28}{'swarm':>10}{'bare':>10}{'swarm/bare':>12}")
    for name, unit, field in (
        ("2 KiB round trip, p50", "us", "small_microseconds"),
        ("64 KiB round trip, p50", "us", "large_microseconds"),
        ("one way", "MB/s", "megabytes_per_second"),
        ("join (bare: no login)", "ms", "join_milliseconds"),
    ):
        mine, theirs = getattr(ours, field), getattr(bare, field)
        print(f"{f'{name}, {unit}':28}{mine:10.1f}{theirs:10.1f}{mine / theirs:12.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5000)
    asyncio.run(main(parser.parse_args().rounds))
