"""Streams answers of an OpenAI-compatible API at the least cost to the machine that is being measured.

While answers run, reads are only time-stamped and kept; what they say is read afterwards. A client that parses HTTP
and JSON as it goes takes as much of a core as a node's event loop does, and on a small machine measures itself.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast
from urllib.parse import urlsplit


@dataclass
class StreamResult:
    """One streamed answer as its client saw it; times in seconds."""

    ttft: float
    tokens: int
    gaps: list[float]
    text: str = ""
    cached_tokens: int = 0

    @property
    def rate(self) -> float:
        """(tokens - 1) / (last - first content event)."""
        return (self.tokens - 1) / sum(self.gaps) if self.gaps and sum(self.gaps) else 0.0


class _Recorder(asyncio.Protocol):
    """Sends one request and notes what comes back, and when."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.started = 0.0
        self.reads: list[tuple[float, bytes]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.started = time.perf_counter()
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.perf_counter(), data))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        if not self.done.done():
            self.done.set_result(None)


async def stream(url: str, body: dict[str, Any]) -> StreamResult:
    """Ask for one chat completion. Raises RuntimeError for what is not a whole answer."""
    where = urlsplit(url)
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    transport, recorder = await loop.create_connection(
        lambda: _Recorder(head.encode() + data), where.hostname or "", where.port or 80
    )
    try:
        await recorder.done
    finally:
        transport.abort()
    return _read(recorder)


def _read(recorder: _Recorder) -> StreamResult:
    whole = b"".join(data for _, data in recorder.reads)
    head, _, body = whole.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0]
    if b" 200" not in status:
        raise RuntimeError(f"{status.decode()}: {body[:300]!r}")
    ends, total = [], 0
    for _, data in recorder.reads:
        total += len(data)
        ends.append(total)
    result = StreamResult(0.0, 0, [])
    times, text, finished = [], [], False
    for line, end in _lines(body, len(head) + 4, chunked=b"chunked" in head.lower()):
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]":
            finished = True
            break
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(str(event["error"]))
        usage = event.get("usage") or {}
        result.tokens = usage.get("completion_tokens", result.tokens)
        result.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        if event["choices"] and (piece := event["choices"][0]["delta"].get("content")):
            times.append(recorder.reads[bisect.bisect_left(ends, end)][0])
            text.append(piece)
    if not times or not finished:
        raise RuntimeError("an answer without content, or without its end")
    result.ttft = times[0] - recorder.started
    result.gaps = [later - earlier for earlier, later in pairwise(times)]
    result.tokens = result.tokens or len(times)  # Language Pipes sends no usage, and one event a token
    result.text = "".join(text)
    return result


def _lines(body: bytes, start: int, *, chunked: bool) -> list[tuple[bytes, int]]:
    """Return each line of the body and where in the whole answer its last byte stands (1-based)."""
    pieces: list[tuple[int, bytes]] = []
    if not chunked:
        pieces.append((start, body))
    position = 0
    while chunked:
        size_end = body.find(b"\r\n", position)
        size = int(body[position:size_end].split(b";")[0] or b"0", 16) if size_end > 0 else 0
        if not size:
            break
        pieces.append((start + size_end + 2, body[size_end + 2 : size_end + 2 + size]))
        position = size_end + 2 + size + 2
    lines: list[tuple[bytes, int]] = []
    held = b""
    for offset, piece in pieces:
        at = 0
        while (newline := piece.find(b"\n", at)) >= 0:
            lines.append(((held + piece[at:newline]).rstrip(b"\r"), offset + newline + 1))
            held, at = b"", newline + 1
        held += piece[at:]
    return lines
