"""Carries out where this node's layers go: claims told, spans loaded, drained and dropped. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from swarm.errors import SwarmError
from swarm.routing.placer import Action, Intend, Load, Placer, Retire, Say

if TYPE_CHECKING:
    from swarm.models.store import LocalModel
    from swarm.node.hosting import Hosting
    from swarm.routing.view import SwarmView

LOOK_SECONDS = 0.25
MEASURE_SECONDS = 10.0
"""A node that is left out as too slow measures itself again that often: it may have been busy with something else."""


class Mover:
    """The task that keeps one model's span where it helps most, for nodes that may choose it themselves."""

    def __init__(
        self,
        placer: Placer,
        *,
        hosting: Hosting,
        view: Callable[[], SwarmView],
        announce: Callable[[str], None],
        clock: Callable[[], float],
        turn: asyncio.Lock,
    ) -> None:
        """``turn`` is held while anything is decided or carried out: nobody else changes the model's spans then."""
        self._placer = placer
        self._hosting = hosting
        self._view = view
        self._announce = announce
        self._clock = clock
        self._turn = turn
        self._stopped = False
        self._measured_at = 0.0

    def stop(self) -> None:
        """Decide nothing more; call with the turn held."""
        self._stopped = True

    async def run(self, local: LocalModel, *, must_load: bool) -> None:
        """Choose, load and move until this node leaves or is told what to hold.

        Raises SwarmError if the first load fails and ``must_load``.
        """
        self._measured_at = self._clock()
        while not self._hosting.frozen:
            async with self._turn:
                if self._stopped:
                    return
                await self._look(local, must_load)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, local: LocalModel, must_load: bool) -> None:
        if self._placer.left_out and self._clock() - self._measured_at >= MEASURE_SECONDS:
            await self._hosting.measure(local)
            self._measured_at = self._clock()
        beside = self._hosting.fits_beside(local, self._placer.claimed)
        self._placer.tick(self._view(), self._hosting.machine(local), beside, self._clock())
        for action in self._placer.actions():
            await self._carry_out(local, action, must_load and self._placer.held is None)
        if not self._placer.undecided:
            await self._hosting.settled(local)

    async def _carry_out(self, local: LocalModel, action: Action, must_load: bool) -> None:
        match action:
            case Say(text):
                self._announce(text)
            case Intend(span, firm):
                self._hosting.intend(local, span, firm=firm)
            case Load(span):
                try:
                    await self._hosting.load(local, span)
                except SwarmError as exc:
                    if must_load:
                        raise
                    self._announce(f"Could not load {span.described()} of {local.id}: {exc}")
                    self._placer.failed(self._clock())
                else:
                    self._placer.loaded()
            case Retire(span):
                await self._hosting.retire(local, span)
                self._placer.retired(self._clock())
        for following in self._placer.actions():
            await self._carry_out(local, following, must_load)
