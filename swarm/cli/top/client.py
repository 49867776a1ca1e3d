"""How ``swarm top`` asks a node without ever waiting for it: each request in a thread that nobody has to end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from swarm.errors import SwarmError
from swarm.node.control import AnyRequest, ask

Ask = Callable[[AnyRequest], Awaitable[dict[str, Any]]]
"""Returns what the node answers; raises SwarmError."""


def asking(folder: Path) -> Ask:
    """Return how to ask the node of a state folder."""

    async def answer(request: AnyRequest) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[dict[str, Any]] = loop.create_future()

        def settle(found: dict[str, Any] | None, error: SwarmError | None) -> None:
            if answered.done():
                return
            if error is not None:
                answered.set_exception(error)
            elif found is not None:
                answered.set_result(found)

        def work() -> None:
            found, error = None, None
            try:
                found = ask(folder, request)
            except SwarmError as exc:
                error = exc
            # Who quit meanwhile has no loop any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, found, error)

        # A thread of the pool would keep the program from ending while a node loads a model.
        threading.Thread(target=work, daemon=True).start()
        return await answered

    return answer
