"""Server-sent events: how they are written, and comment lines while a stream is silent. Knows no answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

Send = Callable[[Mapping[str, Any]], Awaitable[None]]

CONTENT_TYPE = "text/event-stream; charset=utf-8"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
KEEPALIVE = b": keepalive\n\n"
DONE = b"data: [DONE]\n\n"
_encoder = msgspec.json.Encoder()


def event(data: object, name: str | None = None) -> bytes:
    """Return one whole event: some clients' parsers lose events that are split across reads."""
    body = _encoder.encode(data)
    if name is None:
        return b"data: " + body + b"\n\n"
    return b"event: " + name.encode() + b"\ndata: " + body + b"\n\n"


class Keepalive:
    """An ASGI ``send`` that writes a comment line when its stream has been silent for ``seconds``.

    Sends never overlap. ``aclose`` ends the timer; it must be called.
    """

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._last = 0.0

    async def send(self, message: Mapping[str, Any]) -> None:
        async with self._lock:
            await self._send(message)
        self._last = asyncio.get_running_loop().time()
        if message["type"] == "http.response.start" and is_stream(message):
            self._timer = asyncio.create_task(self._comment_on_silence())
        elif not message.get("more_body", True):
            await self.aclose()

    async def aclose(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)

    async def _comment_on_silence(self) -> None:
        loop = asyncio.get_running_loop()
        comment = {"type": "http.response.body", "body": KEEPALIVE, "more_body": True}
        while True:
            wait = self._last + self._seconds - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            async with self._lock:
                await self._send(comment)
            self._last = loop.time()


def is_stream(start: Mapping[str, Any]) -> bool:
    """Whether an ASGI ``http.response.start`` begins a stream of events."""
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in start.get("headers", ())
    )
