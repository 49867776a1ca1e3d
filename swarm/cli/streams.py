"""Streams answers of an OpenAI-compatible API at the least cost to the machine that is being measured. Prints nothing.

While answers run, reads are only time-stamped and kept; what they say is read afterwards. A client that parses HTTP
and JSON as it goes takes as much of a core as a node's event loop does, and on a small machine measures itself.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast
from urllib.parse import urlsplit

from swarm.errors import SwarmError

PATH = "/v1/chat/completions"


class StreamError(SwarmError):
    """An answer that is none, or not a whole one."""


@dataclass
class StreamResult:
    """One streamed answer as its client saw it; times in seconds."""

    ttft: float
    tokens: int
    gaps: list[float]
    text: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def rate(self) -> float:
        """(tokens - 1) / (last - first content event)."""
        return (self.tokens - 1) / sum(self.gaps) if self.gaps and sum(self.gaps) else 0.0


class _Recorder(asyncio.Protocol):
    """Sends one request and notes what comes back, and when."""

    def __init__(self, request: bytes, on_read: Callable[[], None] | None) -> None:
        self._request = request
        self._on_read = on_read
        self.started = 0.0
        self.reads: list[tuple[float, bytes]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.started = time.perf_counter()
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.perf_counter(), data))
        if self._on_read is not None:
            self._on_read()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        if not self.done.done():
            self.done.set_result(None)


async def stream(
    url: str, body: dict[str, Any], *, key: str = "", on_read: Callable[[], None] | None = None
) -> StreamResult:
    """Ask the API at ``url`` (without /v1) for one chat completion; ``on_read`` is called for what arrives.

    Raises StreamError for what is not a whole answer.
    """
    where = urlsplit(url)
    secure = where.scheme == "https"
    data = json.dumps(body).encode()
    head = (
        f"POST {where.path.rstrip('/')}{PATH} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n"
    )
    head += f"Authorization: Bearer {key}\r\n\r\n" if key else "\r\n"
    loop = asyncio.get_running_loop()
    port = where.port or (443 if secure else 80)
    try:
        transport, recorder = await loop.create_connection(
            lambda: _Recorder(head.encode() + data, on_read), where.hostname or "", port, ssl=secure or None
        )
    except OSError as exc:
        raise StreamError(f"no front door answers at {url}: {exc}") from None
    try:
        await recorder.done
    finally:
        transport.abort()
    try:
        return _read(recorder)
    except (ValueError, KeyError, TypeError) as exc:
        raise StreamError(f"what {url} answers is no stream of chat completions: {exc!r}") from None


def _read(recorder: _Recorder) -> StreamResult:
    whole = b"".join(data for _, data in recorder.reads)
    head, _, body = whole.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0]
    if b" 200" not in status:
        raise StreamError(_refusal(status.decode(errors="replace"), body))
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
            raise StreamError(f"an answer broke off: {event['error'].get('message')}")
        usage = event.get("usage") or {}
        result.tokens = usage.get("completion_tokens", result.tokens)
        result.prompt_tokens = usage.get("prompt_tokens", result.prompt_tokens)
        result.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        if event["choices"] and (piece := event["choices"][0]["delta"].get("content")):
            times.append(recorder.reads[bisect.bisect_left(ends, end)][0])
            text.append(piece)
    if not times or not finished:
        raise StreamError("an answer without content, or without its end")
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


def _refusal(status: str, body: bytes) -> str:
    """Return what the door says about it, else its status line and some of what it sent."""
    start, end = body.find(b"{"), body.rfind(b"}")
    try:
        message = json.loads(body[start : end + 1])["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{status or 'the connection closed'}: {body[:300].decode(errors='replace')}"
    return f"{status.partition(' ')[2]}: {message}"
