"""Takes a request's body in, within bounds, before anything looks at it. Knows no framework and no JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from swarm.api.errors import BodyTimeoutError, BodyTooLargeError

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

BODY_SECONDS = 60.0
_DRAIN_SECONDS = 2.0


async def take_body(receive: Receive, limit_bytes: int) -> bytes | None:
    """Return the whole body, or None when the client left. Raises BodyTooLargeError or BodyTimeoutError."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > limit_bytes:
                    raise BodyTooLargeError(limit_bytes)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise BodyTimeoutError(BODY_SECONDS) from None


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives out ``body`` first and then what really follows."""
    waiting = [body]

    async def receive_again() -> Mapping[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_again


async def drain(receive: Receive, limit_bytes: int) -> None:
    """Read what a refused client still sends, within bounds: a reset would lose the answer it waits for."""
    read = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while read <= limit_bytes:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                read += len(message.get("body", b""))
    except TimeoutError:
        return
