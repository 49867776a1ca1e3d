"""Measures the front door alone, with a node that answers at once, against a bare Quart route.

    python scripts/bench_front_door.py [--requests N] [--streams N] [--tokens N]

For single requests server and client share one process and event loop, so the times hold the CPU time of both; the
bare route is measured in the same way, and the difference is what the door adds. The streams' clients are a process of
their own: the event loop whose lag is told is the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, Response, request

from tests.support.front_door import MODEL, FakeFrontDoor, serving
from tests.support.swarm_process import free_port

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
LAG_PROBE_SECONDS = 0.005


@asynccontextmanager
async def bare_route() -> AsyncIterator[str]:
    """A Quart route that reads JSON and answers with a constant of the size of an answer."""
    app = Quart("bare")
    answer = b'{"padding":"' + b"x" * 400 + b'"}'

    async def route() -> Response:
        json.loads(await request.get_data())
        return Response(answer, content_type="application/json")

    app.add_url_rule("/v1/chat/completions", "route", route, methods=["POST"])
    config = Config()
    config.bind = [f"127.0.0.1:{free_port()}"]
    stop = asyncio.Event()
    task = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    await asyncio.sleep(0.5)
    try:
        yield f"http://{config.bind[0]}"
    finally:
        stop.set()
        await task


async def sequential(url: str, count: int) -> list[float]:
    """Return the seconds of each of ``count`` requests, one after the other over one connection."""
    times = []
    async with httpx.AsyncClient() as client:
        for _ in range(count):
            began = time.perf_counter()
            response = await client.post(url + "/v1/chat/completions", json=BODY)
            times.append(time.perf_counter() - began)
            response.raise_for_status()
    return times


async def throughput(url: str, count: int, at_once: int = 16) -> float:
    """Return requests a second with ``at_once`` under way."""
    waiting = iter(range(count))

    async def worker(client: httpx.AsyncClient) -> None:
        for _ in waiting:
            (await client.post(url + "/v1/chat/completions", json=BODY)).raise_for_status()

    began = time.perf_counter()
    async with httpx.AsyncClient(timeout=60) as client:
        await asyncio.gather(*(worker(client) for _ in range(at_once)))
    return count / (time.perf_counter() - began)


async def streams(url: str, count: int, words: list[str]) -> tuple[float, int]:
    """Return the seconds for ``count`` streams at once, and how many lost or reordered an event."""
    limits = httpx.Limits(max_connections=None)

    async def one(client: httpx.AsyncClient) -> bool:
        async with client.stream(
            "POST", url + "/v1/chat/completions", json={**BODY, "stream": True}
        ) as response:
            lines = [line async for line in response.aiter_lines() if line.startswith("data: {")]
        text = [json.loads(line[6:])["choices"][0]["delta"].get("content") for line in lines]
        return text[1:-1] == words

    began = time.perf_counter()
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
        whole = await asyncio.gather(*(one(client) for _ in range(count)))
    return time.perf_counter() - began, whole.count(False)


async def in_own_process(url: str, count: int, tokens: int) -> tuple[float, int]:
    """Run ``streams`` in a process of its own."""
    arguments = ["--client", url, "--streams", str(count), "--tokens", str(tokens)]
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    seconds, broken = json.loads(out)
    return seconds, broken


def words_of(tokens: int) -> list[str]:
    return [f"{at} " for at in range(tokens)]


async def with_lag(work: Awaitable[tuple[float, int]]) -> tuple[float, int, list[float]]:
    """Return what ``work`` returns and by how much a sleeping task woke late meanwhile, in seconds."""
    lags: list[float] = []

    async def probe() -> None:
        while True:
            due = time.perf_counter() + LAG_PROBE_SECONDS
            await asyncio.sleep(LAG_PROBE_SECONDS)
            lags.append(time.perf_counter() - due)

    task = asyncio.create_task(probe())
    try:
        seconds, broken = await work
    finally:
        task.cancel()
    return seconds, broken, lags


def shown(times: list[float]) -> str:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return f"median {statistics.median(times) * 1e3:.2f} ms, p99 {cuts[98] * 1e3:.2f} ms"


async def main(requests: int, stream_count: int, tokens: int) -> None:
    async with bare_route() as url:
        await sequential(url, 20)
        bare, bare_rate = await sequential(url, requests), await throughput(url, requests)
    async with serving() as served:
        await sequential(served.url, 20)
        door, door_rate = await sequential(served.url, requests), await throughput(served.url, requests)
    print(f"bare route   {shown(bare)}, {bare_rate:.0f} requests/s")
    print(f"front door   {shown(door)}, {door_rate:.0f} requests/s")
    print(f"added        {(statistics.median(door) - statistics.median(bare)) * 1e3:.2f} ms a request")
    async with serving(FakeFrontDoor(script=lambda _: words_of(tokens))) as served:
        seconds, broken, lags = await with_lag(in_own_process(served.url, stream_count, tokens))
    print(
        f"streams      {stream_count} at once of {tokens} tokens in {seconds:.2f} s, "
        f"{stream_count * tokens / seconds:.0f} events/s, {broken} lost or reordered an event"
    )
    print(f"event loop   woke late by {shown(lags)}, at most {max(lags) * 1e3:.1f} ms")


if __name__ == "__main__":
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--client", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        print(json.dumps(asyncio.run(streams(given.client, given.streams, words_of(given.tokens)))))
        raise SystemExit
    asyncio.run(main(given.requests, given.streams, given.tokens))
