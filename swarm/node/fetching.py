"""Chunks of one listing fetched: the pure core of swarm.transfer.fetch fed with answers, its wishes carried out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from swarm.errors import LinkDownError, ModelError
from swarm.node.sharing import rate_of
from swarm.protocol.messages import NoWeights, Weights
from swarm.transfer.fetch import Ask, Effect, Fetch
from swarm.transfer.pace import Pace
from swarm.types import NodeId, short

if TYPE_CHECKING:
    from swarm.models.progress import Progress
    from swarm.node.listing import Listing
    from swarm.node.transfer import Transfer

log = logging.getLogger("swarm.weights")

COMMIT_SECONDS = 5.0
REFRESH_SECONDS = 15.0
STALLED_REFRESH_SECONDS = 2.0

_Event = tuple[NodeId, Weights | NoWeights | None, memoryview]


class FetchRun:
    """Brings chunks onto the disk. What came is kept and counts, however a run ends."""

    def __init__(
        self,
        transfer: Transfer,
        listing: Listing,
        sources: Callable[[], Iterable[NodeId]],
        what: str,
        progress: Progress,
    ) -> None:
        self._transfer = transfer
        self._listing = listing
        self._sources = sources
        self._what = what
        self._progress = progress
        self._events: asyncio.Queue[_Event] = asyncio.Queue()
        self._pace = Pace()
        self._core = Fetch(())
        self._octets = 0
        self._total = 0
        self._refreshing: set[asyncio.Task[None]] = set()

    async def fetch(self, indices: Iterable[int]) -> None:
        """Fetch those of the chunks that are missing. Raises NoSourceError and ModelError."""
        wanted = set(indices)
        while wanted:
            wanted = await self._listing.begin(wanted)
            receiving = self._listing.receiving
            missing = wanted - await asyncio.to_thread(receiving.held, wanted)
            if missing:
                await self._run(missing)
            false = await asyncio.to_thread(receiving.finish)
            for file in false:
                self._listing.disbelieve(file)
            for file in {self._listing.chunks.place(index).file for index in wanted} - set(false):
                self._listing.expose(file)
            wanted = {index for file in false for index in self._listing.chunks.of_file(file)} & wanted

    async def _run(self, missing: set[int]) -> None:
        chunks, receiving = self._listing.chunks, self._listing.receiving
        self._octets, self._total = 0, chunks.octets(missing)
        await asyncio.to_thread(receiving.check_room, self._total, self._what)
        self._core = Fetch(missing, salt=self._salt(missing))
        self._tell()
        try:
            self._offer_all()
            await self._until_done()
            await asyncio.to_thread(receiving.commit)
        finally:
            for task in self._refreshing:
                task.cancel()
            # Nothing is left to do here, unless the task is cancelled or failed: then too what came counts.
            receiving.commit()
            self._transfer.traffic.under_way.pop(self._what, None)

    def _salt(self, missing: set[int]) -> int:
        """Begin somewhere else than other nodes do, so that they soon have something to give to each other."""
        ordered = sorted(missing)
        return ordered[int.from_bytes(self._transfer.node.encode()[:4], "big") % len(ordered)]

    async def _until_done(self) -> None:
        clock, core = self._transfer.clock, self._core
        refreshed = committed = moved = clock()
        while not core.done:
            for effect in core.effects():
                await self._carry_out(effect)
            try:
                async with asyncio.timeout(max(0.0, core.wakeup(clock()) - clock())):
                    event = await self._events.get()
            except TimeoutError:
                core.tick(clock())
            else:
                if await self._handle(*event):
                    moved = clock()
            now = clock()
            if now - committed > COMMIT_SECONDS:
                await asyncio.to_thread(self._listing.receiving.commit)
                committed = now
            if now - refreshed > (STALLED_REFRESH_SECONDS if core.stalled else REFRESH_SECONDS):
                refreshed = now
                self._refresh()
            if core.stalled and now - moved > self._transfer.settings.stall_seconds:
                raise ModelError(
                    f"{self._what}: no member that can be reached has {len(core.missing)} of the chunks that are "
                    "missing; what came is kept"
                )

    def _refresh(self) -> None:
        """Ask for offers anew beside what goes on; the answers may take a while."""
        if not self._refreshing:
            task = asyncio.create_task(self._listing.refresh(self._sources))
            self._refreshing.add(task)
            task.add_done_callback(self._refreshed)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing.discard(task)
        if not task.cancelled() and task.exception() is None:
            self._offer_all()

    def _offer_all(self) -> None:
        now = self._transfer.clock()
        for node in self._listing.offers:
            self._core.offer(node, self._listing.holds(node), now)

    async def _carry_out(self, effect: Effect) -> None:
        if not isinstance(effect, Ask):
            log.warning("node %s gives no more weights: %s", short(effect.node), effect.reason)
            return
        transfer = self._transfer
        now = transfer.clock()
        rate = rate_of(transfer.settings, busy=transfer.busy())
        if wait := self._pace.wait(now):
            await asyncio.sleep(wait)
        self._pace.spend(self._listing.chunks.place(effect.index).octets, rate, transfer.clock())
        try:
            transfer.ask(effect.node, self._listing.digest, "chunk", effect.index, self._take)
        except LinkDownError:
            self._core.gone(effect.node, now)

    def _take(self, node: NodeId, message: Weights | NoWeights | None, payload: memoryview) -> None:
        self._events.put_nowait((node, message, payload))

    async def _handle(self, node: NodeId, message: Weights | NoWeights | None, payload: memoryview) -> bool:
        """Take one answer; say whether it brought the fetch on."""
        core, transfer = self._core, self._transfer
        if message is None:
            core.gone(node, transfer.clock())
            return False
        if isinstance(message, NoWeights):
            core.refused(node, message.index, message.code, transfer.clock())
            return False
        transfer.traffic.bytes_received += message.octets
        transfer.traffic.chunks_received += 1
        if not core.arrived(node, message.index, transfer.clock()):
            return False
        right = await asyncio.to_thread(self._listing.receiving.write, message.index, payload)
        if not right:
            transfer.traffic.wrong_chunks += 1
            name = self._listing.chunks.files[self._listing.chunks.place(message.index).file].name
            log.warning("node %s sent wrong bytes of %s; another is asked", short(node), name)
            core.wrong(node, message.index, transfer.clock())
            return False
        core.stored(message.index, transfer.clock())
        self._octets += message.octets
        self._tell()
        return True

    def _tell(self) -> None:
        self._transfer.traffic.under_way[self._what] = (self._octets, self._total)
        self._progress(self._what, self._octets, self._total)
