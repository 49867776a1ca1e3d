"""How fast weights come from members, against raw wss on loopback, and what they cost an answer that runs meanwhile.

    python scripts/bench_transfer.py [--megabytes 192] [--rounds 3] [--only throughput|stream]

Every giver and every taker is a process of its own. Raw is a server of the websockets library that sends frames of
1 MiB over TLS 1.3 to a client that throws them away; a transfer also hashes every chunk at both ends of the disk and
flushes the file. Figures: min, median, max. Memory: the taker's resident high-water mark less what it had before.
The stream: tokens of one answer of a node that gives weights to a taker without pause, beside the same node at rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import psutil
from safetensors.numpy import save_file
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from swarm.config import WeightsSettings
from swarm.models.progress import silent
from swarm.models.store import ModelStore
from swarm.net.tls import client_context, server_context
from swarm.protocol.identity import NodeKey
from swarm.types import Address, ModelId, NodeId
from tests.support.model_folders import write_config
from tests.support.weight_peers import WeightPeer

NAME = "bench/weights"
MIB = 1024 * 1024
HOST = "127.0.0.1"


# --- roles: each a process ------------------------------------------------------------------------------------


async def give(home: Path, seed: int) -> None:
    """Share what is in ``home`` until stdin ends; prints address, id and digest."""
    peer = WeightPeer(bytes([seed]) * 32, home)
    found = peer.store.find(NAME)
    if found is None:
        raise SystemExit(f"no model in {home}")
    peer.local = [found]
    address = await peer.listen()
    sharing = asyncio.create_task(peer.sharing.run())
    print(json.dumps({"port": address.port, "node": peer.node, "digest": found.id.digest}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    sharing.cancel()
    await peer.network.aclose()


async def take(home: Path, seed: int, givers: list[dict[str, Any]], key: str) -> None:
    """Fetch the whole model once and print how long it took and what memory it needed."""
    peer = taker(home, seed, givers, key)
    await peer.listen()
    for giver in givers:
        await peer.connect(NodeId(giver["node"]))
    process = psutil.Process()
    before, peak = process.memory_info().rss, 0
    fetching = asyncio.create_task(fetch(peer, givers))
    while not fetching.done():
        peak = max(peak, process.memory_info().rss)
        await asyncio.wait([fetching], timeout=0.01)
    seconds = await fetching
    octets = peer.traffic.bytes_received
    print(json.dumps({"rate": octets / MIB / seconds, "memory": (peak - before) / MIB}), flush=True)
    await peer.network.aclose()


def taker(home: Path, seed: int, givers: list[dict[str, Any]], key: str) -> WeightPeer:
    from swarm.protocol.identity import SwarmSecret

    peer = WeightPeer(
        bytes([seed]) * 32, home, secret=SwarmSecret(bytes.fromhex(key)) if key else None, busy_rate_bytes=0
    )
    peer.addresses = {NodeId(giver["node"]): Address(HOST, giver["port"]) for giver in givers}
    return peer


async def fetch(peer: WeightPeer, givers: list[dict[str, Any]]) -> float:
    model = ModelId(givers[0].get("name", NAME), givers[0]["digest"])
    begun = time.perf_counter()
    await peer.transfer.obtain(
        model,
        span="all",
        ends=True,
        sources=lambda: [NodeId(giver["node"]) for giver in givers],
        progress=silent,
    )
    return time.perf_counter() - begun


async def serve_raw(octets: int) -> None:
    """Send ``octets`` in frames of 1 MiB to whoever connects, until stdin ends."""
    frame = os.urandom(MIB)

    async def send(websocket: ServerConnection) -> None:
        for _ in range(octets // MIB):
            await websocket.send(frame)

    context, _ = server_context(NodeKey.from_seed(os.urandom(32)))
    async with serve(send, HOST, 0, ssl=context, compression=None, max_size=None) as server:
        print(json.dumps({"port": next(iter(server.sockets)).getsockname()[1]}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def take_raw(port: int, octets: int) -> None:
    async with connect(
        f"wss://{HOST}:{port}", ssl=client_context(), compression=None, max_size=None, proxy=None
    ) as websocket:
        begun, came = time.perf_counter(), 0
        while came < octets:
            came += len(await websocket.recv())
        print(json.dumps({"rate": came / MIB / (time.perf_counter() - begun)}), flush=True)


# --- the driver -----------------------------------------------------------------------------------------------


class Role:
    """One role as a child process."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def said(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("a process of the benchmark ended without an answer")
        return dict(json.loads(line))

    def end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)


def write_model(home: Path, megabytes: int) -> None:
    folder = home / "models" / NAME
    write_config(folder)
    random = np.random.default_rng(0)
    rows = megabytes * MIB // 4 // 4 // 1024
    tensors = {
        f"model.layers.{layer}.mlp.weight": random.standard_normal((rows, 1024), dtype=np.float32)
        for layer in range(4)
    }
    ends = {name: np.zeros((8, 8), np.float32) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    save_file(tensors | ends, folder / "model.safetensors", metadata={"format": "pt"})


def shown(values: list[float], unit: str) -> str:
    if not values:
        return "not seen"
    return f"{min(values):.0f} / {statistics.median(values):.0f} / {max(values):.0f} {unit}"


def throughput(folder: Path, megabytes: int, rounds: int) -> None:
    write_model(folder / "giver", megabytes)
    raw_server = Role("--serve-raw", str(megabytes))
    port = raw_server.said()["port"]
    givers = [Role("--give", str(folder / "giver"), "--seed", str(seed)) for seed in (1, 2, 3)]
    known = [giver.said() for giver in givers]
    rates: dict[str, list[float]] = {"raw": [], "1 source": [], "3 sources": []}
    memory: dict[str, list[float]] = {"1 source": [], "3 sources": []}
    for number in range(rounds):
        raw = Role("--take-raw", f"{port}:{megabytes}")
        rates["raw"].append(raw.said()["rate"])
        raw.end()
        for what, count in (("1 source", 1), ("3 sources", 3)):
            home = folder / f"taker-{number}-{count}"
            one = Role("--take", str(home), "--seed", "9", "--givers", json.dumps(known[:count]))
            result = one.said()
            one.end()
            rates[what].append(result["rate"])
            memory[what].append(result["memory"])
    for role in (*givers, raw_server):
        role.end()
    print(f"{megabytes} MiB on loopback, {rounds} rounds, alternating (min / median / max)")
    for what, values in rates.items():
        share = statistics.median(values) / statistics.median(rates["raw"])
        more = f", memory {shown(memory[what], 'MiB')}" if what in memory else ""
        print(f"  {what}: {shown(values, 'MiB/s')} ({share:.2f} of raw){more}")


def running_stream(folder: Path, rounds: int, rate: str) -> None:
    """One node with the whole model streams; a taker fetches that model from it again and again meanwhile."""
    from swarm.cli.streams import stream
    from tests.support.swarm_process import MODEL, SwarmProcesses

    settings = folder / f"busy{rate}.toml"
    settings.write_text(f'[weights]\nbusy_rate_bytes = "{rate}"\n', "utf-8")
    swarm = SwarmProcesses(folder / f"swarm{rate}", dtype="bfloat16")
    gaps: dict[bool, list[float]] = {False: [], True: []}
    worst: dict[bool, list[float]] = {False: [], True: []}
    lag: list[float] = []
    trips: list[float] = []
    moved = 0
    try:
        node = swarm.add("0:30", api=True, extra=("--config", str(settings)))
        swarm.wait_servable()
        local = ModelStore().find(MODEL)
        state = node.get("/swarm/state")[1]
        if local is None:
            raise SystemExit(f"{MODEL} is not on this disk")
        giver = {"node": state["node"], "port": node.listen, "digest": local.id.digest, "name": MODEL}
        body = {
            "model": MODEL, "stream": True, "temperature": 0, "max_tokens": 96, "ignore_eos": True,
            "messages": [{"role": "user", "content": "Write about the sea."}],
        }  # fmt: skip
        asyncio.run(stream(node.url, body))
        for number in range(rounds):
            for busy in (False, True):
                one = None
                if busy:
                    home = folder / f"stream-{rate}-{number}"
                    arguments = ["--take", str(home), "--seed", str(20 + number), "--key", swarm.key]
                    one = Role(*arguments, "--givers", json.dumps([giver]))
                    before = node.get("/swarm/state")[1]["weights"]["bytes_sent"]
                    while node.get("/swarm/state")[1]["weights"]["bytes_sent"] < before + 2 * MIB:
                        time.sleep(0.02)
                found = asyncio.run(stream(node.url, body))
                gaps[busy].append(statistics.median(found.gaps) * 1e3)
                worst[busy].append(sorted(found.gaps)[int(len(found.gaps) * 0.99)] * 1e3)
                if one is not None:
                    after = node.get("/swarm/state")[1]
                    moved += after["weights"]["bytes_sent"] - before
                    lag.append(after["loop_lag_ms"]["p99"])
                    trips += [member["rtt_ms"] for member in after["members"] if member.get("rtt_ms")]
                    one.kill()
        healthy = "suspect" not in node.log
    finally:
        swarm.stop()
    print(f"a stream of a node that gives weights, busy_rate_bytes {rate} ({rounds} rounds, alternating)")
    for busy, what in ((False, "at rest"), (True, "giving")):
        print(f"  {what}: between tokens {shown(gaps[busy], 'ms')}, 99th {shown(worst[busy], 'ms')}")
    ratio = statistics.median(gaps[True]) / statistics.median(gaps[False])
    print(
        f"  {ratio:.2f} x; {moved / MIB:.0f} MiB given; loop lag p99 {max(lag):.1f} ms; heartbeats' round trip "
        f"{shown(trips, 'ms')}; no link was suspect: {healthy}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("throughput", "stream"))
    parser.add_argument("--rates", default=f"{WeightsSettings().busy_rate_bytes // MIB}MiB,0")
    for role in ("--give", "--take", "--serve-raw", "--take-raw", "--givers", "--key"):
        parser.add_argument(role, default="", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.give:
        asyncio.run(give(Path(given.give), given.seed))
    elif given.take:
        asyncio.run(take(Path(given.take), given.seed, json.loads(given.givers), given.key))
    elif given.serve_raw:
        asyncio.run(serve_raw(int(given.serve_raw) * MIB))
    elif given.take_raw:
        port, megabytes = map(int, given.take_raw.split(":"))
        asyncio.run(take_raw(port, megabytes * MIB))
    else:
        with tempfile.TemporaryDirectory(prefix="swarm-bench-") as folder:
            if given.only != "stream":
                throughput(Path(folder), given.megabytes, given.rounds)
            if given.only != "throughput":
                for rate in given.rates.split(","):
                    running_stream(Path(folder), given.rounds, rate)


if __name__ == "__main__":
    main()
