"""Leaving in good order: nothing new is taken, what runs ends or moves away. Knows no HTTP and no signals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.node.origin import Origin
    from swarm.node.stage_service import StageService
    from swarm.types import LayerSpan, ModelId

POLL_SECONDS = 0.05
ASK_AGAIN_SECONDS = 2.0


class Drainer:
    """Empties a node, or one span of it."""

    def __init__(
        self,
        *,
        stage: StageService,
        origin: Origin,
        seconds: float,
        tell_members: Callable[[], None],
        announce: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """``tell_members`` puts this node's record right, which says draining once ``stage`` does."""
        self._stage = stage
        self._origin = origin
        self._seconds = seconds
        self._tell_members = tell_members
        self._announce = announce
        self._clock = clock

    async def drain(self, at_once: asyncio.Event) -> None:
        """Wait until this node computes for nobody and its own answers have ended, for a while at most."""
        if at_once.is_set():
            return
        until = self._clock() + self._seconds
        self._origin.draining = True
        self._stage.drain()
        self._tell_members()
        if not self._empty():
            self._announce(
                f"Draining: {self._origin.running} answers of this node's own end, "
                f"{self._stage.foreign_sessions} of others move away. "
                f"Leaving in {self._seconds:.0f} s at the latest; stop again to leave at once."
            )
        while not self._empty() and self._clock() < until and not at_once.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(at_once.wait(), POLL_SECONDS)

    def _empty(self) -> bool:
        return not self._origin.running and not self._stage.foreign_sessions

    async def drain_span(self, model: ModelId, span: LayerSpan, seconds: float) -> int:
        """Have all sessions leave one loaded span; return how many had to be cut off after ``seconds``."""
        until = self._clock() + seconds
        asked_at = float("-inf")
        while self._stage.sessions_on(model, span) or asked_at == float("-inf"):
            now = self._clock()
            if now >= until:
                break
            if now - asked_at >= ASK_AGAIN_SECONDS:
                asked_at = now
                self._stage.retire(model, span)
            await asyncio.sleep(POLL_SECONDS)
        return self._stage.end_sessions_on(model, span)
