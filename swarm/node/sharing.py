"""Giving weights to members that ask: their requests answered in turn, at a rate, when their links have room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from swarm.errors import LinkDownError, ModelError
from swarm.models.shared import SharedListing, companions_in
from swarm.protocol.messages import NoWeights, WantWeights, Weights
from swarm.transfer.offer import Offer, OfferedFile, encode_offer
from swarm.transfer.pace import Pace
from swarm.transfer.serving import Serving
from swarm.types import NodeId, short

if TYPE_CHECKING:
    from swarm.config import WeightsSettings
    from swarm.models.folder import HashCache
    from swarm.models.store import LocalModel
    from swarm.net.peers import Network

log = logging.getLogger("swarm.weights")

ROOM_BYTES = 512 * 1024
"""So much may wait on a link when the next chunk is read for it."""


@dataclass(slots=True)
class WeightTraffic:
    """What went and came since the start, in bytes of chunks; and what was wrong with it."""

    bytes_sent: int = 0
    bytes_received: int = 0
    chunks_sent: int = 0
    chunks_received: int = 0
    wrong_chunks: int = 0
    under_way: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Model -> bytes that came and bytes wanted, of each fetch that runs."""


class Sharing:
    """Owns the requests of others. ``models`` are those that this node has loaded or could."""

    def __init__(
        self,
        *,
        network: Network,
        models: Callable[[], Iterable[LocalModel]],
        cache: HashCache,
        settings: WeightsSettings,
        busy: Callable[[], bool],
        clock: Callable[[], float],
        traffic: WeightTraffic,
    ) -> None:
        self._network = network
        self._models = models
        self._cache = cache
        self._settings = settings
        self._busy = busy
        self._clock = clock
        self._traffic = traffic
        self._serving = Serving()
        self._pace = Pace()
        self._wake = asyncio.Event()
        self._listings: dict[str, SharedListing] = {}

    # --- what arrives ---

    def asked(self, node: NodeId, want: WantWeights) -> None:
        if not self._settings.share:
            self._refuse(node, want, "not_shared")
        elif not self._serving.ask(node, want):
            self._refuse(node, want, "full")
        else:
            self._wake.set()

    def chunk_roots(self) -> dict[str, str]:
        """Return the chunk roots, by digest, of the models that this node vouches for. Blocks.

        Raises OSError and ModelError.
        """
        listings = {local.id.digest: self._listing(local.id.digest) for local in self._models()}
        roots = {digest: listing.root() for digest, listing in listings.items() if listing is not None}
        return {digest: root for digest, root in roots.items() if root}

    def drained(self, _node: NodeId) -> None:
        self._wake.set()

    def gone(self, node: NodeId) -> None:
        self._serving.gone(node)

    # --- answering ---

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (turn := self._serving.next(self._has_room)) is not None:
                wait = self._pace.wait(self._clock())
                if wait:
                    await asyncio.sleep(wait)
                await self._answer(*turn)

    def _has_room(self, node: NodeId) -> bool:
        return self._network.weights_waiting(node) < ROOM_BYTES

    async def _answer(self, node: NodeId, want: WantWeights) -> None:
        try:
            data = await asyncio.to_thread(self._read, want)
        except (OSError, ModelError) as exc:
            log.warning("weights that %s asked for can't be read: %s", short(node), exc)
            data = None
        if data is None:
            self._refuse(node, want, "absent")
            return
        self._pace.spend(len(data), rate_of(self._settings, busy=self._busy()), self._clock())
        try:
            self._network.send(node, Weights(want.digest, want.kind, want.index, len(data)), data)
        except LinkDownError:
            return
        if want.kind == "chunk":
            self._traffic.chunks_sent += 1
            self._traffic.bytes_sent += len(data)

    def _refuse(self, node: NodeId, want: WantWeights, code: Literal["absent", "not_shared", "full"]) -> None:
        try:
            self._network.send(node, NoWeights(want.digest, want.kind, want.index, code))
        except LinkDownError:
            log.debug("%s left before it was refused weights", short(node))

    # --- in a thread ---

    def _read(self, want: WantWeights) -> bytes | None:
        listing = self._listing(want.digest)
        if listing is None:
            return None
        if want.kind == "chunk":
            return listing.read(want.index)
        if want.kind == "table":
            return listing.table(want.index) or None
        return self._offer(want.digest, listing)

    def _listing(self, digest: str) -> SharedListing | None:
        if digest not in self._listings:
            for local in self._models():
                if local.id.digest == digest:
                    self._listings[digest] = SharedListing(local.folder, local.manifest.files, self._cache)
        return self._listings.get(digest)

    def _offer(self, digest: str, listing: SharedListing) -> bytes:
        offered = tuple(
            OfferedFile(
                state.entry.name,
                state.entry.size,
                state.entry.sha256,
                state.root,
                state.held,
            )
            for state in listing.states()
        )
        companions = ""
        if any(local.id.digest == digest for local in self._models()):
            beside = SharedListing(listing.folder, companions_in(listing.folder, self._cache), self._cache)
            companions = beside.chunks.digest
            self._listings[companions] = beside
        return encode_offer(Offer(offered, companions))


def rate_of(settings: WeightsSettings, *, busy: bool) -> int:
    """Return the bytes a second that weights may take now; 0 for no limit."""
    limits = [rate for rate in (settings.rate_bytes, settings.busy_rate_bytes if busy else 0) if rate]
    return min(limits, default=0)
