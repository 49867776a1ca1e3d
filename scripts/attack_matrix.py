#!/usr/bin/env python3
"""Rows F12 to F14 of the fault matrix at their full size: strangers and broken peers at the port of one node.

    scripts/attack_matrix.py                 all of them
    scripts/attack_matrix.py --only F12      some

The node gossips only and runs in a process of its own, whose memory, descriptors and life are looked at. Attackers come
from many addresses of 127.0.0.0/8 (Linux), as the limits count by address and stay on. It ends by itself, within three
minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import multiprocessing
import random
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from fault_matrix import Number, table
from swarm.config import NetSettings
from swarm.errors import SwarmError
from swarm.protocol.identity import SwarmSecret
from swarm.types import Address
from tests.support.gossip_node import GossipNode
from tests.support.links import Peer, raw_connection, raw_member

WRONG = SwarmSecret(b"w" * 32)
MIB = 1 << 20


def attacker(number: int) -> str:
    """Return one of 62,500 addresses that no honest node of this script has."""
    return f"127.9.{number // 250 % 250}.{1 + number % 250}"


def serve(pipe: Pipe) -> None:
    """Be the node under attack until something comes through the pipe; each message asks for its tasks."""
    logging.disable()  # a line for each address that is refused

    async def run() -> None:
        node = GossipNode()
        pipe.send(await node.start())
        while await asyncio.to_thread(pipe.recv):
            pipe.send((len(asyncio.all_tasks()), len(node.network.links())))
        await node.aclose()

    asyncio.run(run())


class Rows:
    """One method a row. ``victim`` is the process of the node under attack."""

    def __init__(self, address: Address, pipe: Pipe, victim: psutil.Process) -> None:
        self._address = address
        self._pipe = pipe
        self._victim = victim
        self._random = random.Random(1)
        self.numbers: list[Number] = []

    def _note(self, row: str, what: str, wanted: str, found: str, good: bool | None) -> None:
        self.numbers.append(Number(row, what, wanted, found, good))
        print(f"{row} {what}: {found}", flush=True)

    async def f12(self) -> None:
        """A thousand handshakes with a wrong secret, eight at a time, while members join."""
        accepted, honest, done = 0, [], asyncio.Event()

        async def guess(first: int) -> None:
            nonlocal accepted
            for number in range(first, first + 125):
                peer = Peer(number.to_bytes(32, "big"), secret=WRONG, settings=_from(attacker(number // 5)))
                with contextlib.suppress(SwarmError):
                    await peer.network.connect(self._address)
                    accepted += 1
                await peer.network.aclose()

        async def join() -> None:
            while not done.is_set():
                peer = Peer(len(honest).to_bytes(32, "little"))
                began = time.perf_counter()
                await peer.network.connect(self._address)
                honest.append(time.perf_counter() - began)
                await peer.network.aclose()
                await asyncio.sleep(0.25)

        joining = asyncio.create_task(join())
        await asyncio.gather(*(guess(first) for first in range(0, 1000, 125)))
        done.set()
        await joining
        self._note("F12", "wrong secrets accepted, of 1,000", "0", str(accepted), accepted == 0)
        middle, longest = sorted(honest)[len(honest) // 2], max(honest)
        found = f"{middle * 1e3:.0f} / {longest * 1e3:.0f} ms ({len(honest)} joins)"
        self._note("F12", "members that joined meanwhile, median / max", "< 100 ms", found, longest < 0.1)

    async def f13(self) -> None:
        """Frames of random bytes: 10,000 instead of AUTH and 100,000 on links of members."""
        tasks, _ = self._state()
        strangers = members = connections = 0
        while strangers < 10_000:
            connections += 1
            with contextlib.suppress(WebSocketException, OSError, TimeoutError):
                async with raw_connection(self._address, attacker(connections // 5)) as websocket:
                    strangers += await self._shout(websocket, 10)
        while members < 100_000:
            connections += 1
            seed = (1000 + connections // 2).to_bytes(32, "big")
            with contextlib.suppress(WebSocketException, OSError, TimeoutError):
                async with raw_member(self._address, seed, attacker(connections // 5)) as websocket:
                    members += await self._shout(websocket, 1000)
        await asyncio.sleep(6.0)
        after, links = self._state()
        told = f"{strangers:,} and {members:,} over {connections:,} connections"
        self._note("F13", "malformed frames before and after authentication", "10,000, 100,000", told, True)
        self._note("F13", "tasks more than before", "0", str(after - tasks), after <= tasks)
        self._note("F13", "links left to who sent them", "0", str(links), links == 0)
        await self._joins("F13")

    async def _shout(self, websocket: ClientConnection, frames: int) -> int:
        """Send random bytes until so many frames are on their way, or the node has hung up; return how many were."""
        for sent in range(frames):
            try:
                await websocket.send(self._random.randbytes(self._random.randrange(300)))
            except ConnectionClosed:
                return sent
        return frames

    async def f14(self) -> None:
        """500 connections that send a byte a second, and frames larger than may be."""
        before, most = self._victim.memory_info().rss, 0
        opened = time.monotonic()
        slow = await asyncio.gather(*(self._slow(number) for number in range(500)))
        writers = [writer for writer in slow if writer is not None]
        while time.monotonic() < opened + 8.0:
            for writer in writers:
                with contextlib.suppress(OSError):
                    writer.write(b"\x16")
            most = max(most, self._victim.memory_info().rss)
            await asyncio.sleep(1.0)
        held = len([c for c in self._victim.net_connections("tcp") if c.status == "ESTABLISHED"])
        self._note("F14", "slow connections open 8 s later, of 500", "0", str(held), held == 0)
        for writer in writers:
            writer.close()
        for number in range(100):
            with contextlib.suppress(WebSocketException, OSError, TimeoutError):
                async with raw_connection(self._address, attacker(2000 + number)) as websocket:
                    await websocket.send(bytes(4 * MIB))
            most = max(most, self._victim.memory_info().rss)
        grown = (most - before) / MIB
        self._note("F14", "memory more than before, at most", "< 64 MiB", f"{grown:.1f} MiB", grown < 64)
        await self._joins("F14")

    async def _slow(self, number: int) -> asyncio.StreamWriter | None:
        try:
            _, writer = await asyncio.open_connection(
                self._address.host, self._address.port, local_addr=(attacker(1000 + number // 8), 0)
            )
        except OSError:
            return None
        return writer

    async def _joins(self, row: str) -> None:
        peer = Peer(bytes(31) + b"j")
        await peer.network.connect(self._address)
        await peer.network.aclose()
        self._note(row, "a member joins afterwards", "yes", "yes", True)

    def _state(self) -> tuple[int, int]:
        self._pipe.send(True)
        tasks, links = self._pipe.recv()
        return int(tasks), int(links)


def _from(source: str) -> NetSettings:
    return NetSettings(dial_from=source)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=["F12", "F13", "F14"], help="these rows (all)")
    arguments = parser.parse_args()
    logging.disable()  # what happens to attackers is their own affair
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    victim = context.Process(target=serve, args=(theirs,))
    victim.start()
    try:
        rows = Rows(pipe.recv(), pipe, psutil.Process(victim.pid))
        methods: dict[str, Callable[[], Awaitable[None]]] = {
            "F12": rows.f12,
            "F13": rows.f13,
            "F14": rows.f14,
        }
        for name, method in methods.items():
            if not arguments.only or name in arguments.only:
                asyncio.run(method())  # type: ignore[arg-type]
        pipe.send(False)
        victim.join(10)
    finally:
        victim.kill()
    print(f"\n{table(rows.numbers)}")
    return 1 if any(number.good is False for number in rows.numbers) else 0


if __name__ == "__main__":
    raise SystemExit(main())
