"""Responses over WebSocket, at the path of POST: requests as JSON messages, events as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec

from swarm.api.errors import described
from swarm.api.responses.handler import RunningResponse
from swarm.api.responses.schemas import ResponsesBody
from swarm.api.schemas import parse
from swarm.errors import RequestError, SwarmError

Create = Callable[[ResponsesBody], Awaitable[RunningResponse]]
_KIND = "response.create"


async def answered(message: str | bytes, create: Create) -> AsyncGenerator[str, None]:
    """Yield the messages that answer one message of a client; an ``error`` message where it can't be."""
    try:
        running = await create(_request(message))
    except SwarmError as exc:
        yield _text({"type": "error", "status": exc.http_status, **described(exc)})
        return
    async for event in running.numbered():
        yield _text(event.data)


def _request(message: str | bytes) -> ResponsesBody:
    raw = message.encode() if isinstance(message, str) else message
    kind = parse(raw, _Kind).type
    if kind != _KIND:
        raise RequestError(
            f"Invalid value: {kind[:50]!r}. Supported values are: '{_KIND}'.",
            param="type",
            code="invalid_value",
        )
    return parse(raw, ResponsesBody)


class _Kind(msgspec.Struct):
    type: str


def _text(data: dict[str, Any]) -> str:
    return msgspec.json.encode(data).decode()
