"""The swarm's state as a stream of events, for pages that watch it. Builds each state once for all who watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from swarm.api import sse

INTERVAL_SECONDS = 0.5


class StateFeed:
    """One a front door. A watcher gets the state at once, then whenever it looks different."""

    def __init__(self, state: Callable[[bool], dict[str, Any]], interval: float = INTERVAL_SECONDS) -> None:
        """``state`` takes whether details may be shown."""
        self._state = state
        self._interval = interval
        self._built: dict[bool, tuple[float, bytes]] = {}

    def _event(self, detail: bool) -> bytes:
        now = asyncio.get_running_loop().time()
        built = self._built.get(detail)
        if built is None or now - built[0] >= self._interval * 0.9:
            built = self._built[detail] = (now, sse.event(self._state(detail), "state"))
        return built[1]

    async def events(self, *, detail: bool) -> AsyncIterator[bytes]:
        """Yield server-sent events named ``state`` until the watcher leaves."""
        sent = b""
        while True:
            event = self._event(detail)
            if event != sent:
                sent = event
                yield event
            await asyncio.sleep(self._interval)
