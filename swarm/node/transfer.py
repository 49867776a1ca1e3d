"""Weights from other members: offers compared, chunks asked of several at once, checked and kept.

What to ask whom for is swarm.transfer.fetch's decision; what a chunk must be is the listing's. Knows no layers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from swarm.errors import LinkDownError, ModelError, PeerError, ProtocolError
from swarm.models.chunks import Chunks
from swarm.models.folder import header_bytes, open_folder, read_json, read_weight_map
from swarm.models.manifest import CONFIG_NAME, WEIGHT_SUFFIX, wanted
from swarm.models.partial import present
from swarm.models.progress import silent
from swarm.models.spec import ModelSpec
from swarm.node.fetching import FetchRun
from swarm.node.listing import Listing
from swarm.protocol.messages import NoWeights, WantWeights, Weights, WeightsKind
from swarm.types import LayerSpan, ModelId, NodeId, short

if TYPE_CHECKING:
    from swarm.config import WeightsSettings
    from swarm.models.progress import Progress
    from swarm.models.store import LocalModel, ModelStore, Wanted
    from swarm.net.peers import Network
    from swarm.node.sharing import WeightTraffic

log = logging.getLogger("swarm.weights")

ANSWER_SECONDS = 20.0
"""For an offer or a table: a member may have to hash its files first."""
LOCK_POLL_SECONDS = 0.5
Sources = Callable[[], Iterable[NodeId]]
Take = Callable[[NodeId, "Weights | NoWeights | None", memoryview], None]
"""Gets an answer, or None when the link ended before it came."""


class Transfer:
    """Asks members for weights. Every answer must have been asked for."""

    def __init__(
        self,
        *,
        node: NodeId,
        network: Network,
        connect: Callable[[NodeId], Awaitable[None]],
        store: ModelStore,
        settings: WeightsSettings,
        busy: Callable[[], bool],
        clock: Callable[[], float],
        traffic: WeightTraffic,
        chunk_root: Callable[[str], str],
    ) -> None:
        """``chunk_root`` returns what a person brought of a model's digest to prove its chunks by, or nothing."""
        self.node = node
        self.chunk_root = chunk_root
        self.settings = settings
        self.busy = busy
        self.clock = clock
        self.traffic = traffic
        self._network = network
        self._connect = connect
        self.store = store
        self._open: dict[tuple[NodeId, str, str, int], deque[Take]] = {}
        """Requests that were not answered; the same may be open twice, once given up and once asked again."""

    # --- messages ---

    def received(self, node: NodeId, message: Weights | NoWeights, payload: memoryview) -> None:
        """Raises ProtocolError for what was not asked for."""
        key = (node, message.digest, message.kind, message.index)
        takes = self._open.get(key)
        if takes is None:
            raise ProtocolError("weights that were not asked for")
        take = takes.popleft()
        if not takes:
            del self._open[key]
        take(node, message, payload)

    def gone(self, node: NodeId) -> None:
        """A link ended: nothing that was asked on it will come."""
        for key in [key for key in self._open if key[0] == node]:
            for take in self._open.pop(key):
                take(node, None, memoryview(b""))

    def ask(self, node: NodeId, digest: str, kind: WeightsKind, index: int, take: Take) -> None:
        """Send a request; ``take`` gets the answer, once, or None if the link ends. Raises LinkDownError."""
        self._network.send(node, WantWeights(digest, kind, index))
        self._open.setdefault((node, digest, kind, index), deque()).append(take)

    async def answer(self, node: NodeId, digest: str, kind: WeightsKind, index: int = 0) -> bytes:
        """Return the offer or the table that a member answers with. Raises PeerError."""
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def take(_node: NodeId, message: Weights | NoWeights | None, payload: memoryview) -> None:
            if answered.done():
                return
            if isinstance(message, Weights):
                answered.set_result(bytes(payload))
            elif message is None:
                answered.set_exception(LinkDownError(node, "the link ended"))
            else:
                answered.set_exception(PeerError(node, f"it gives no weights ({message.code})"))

        if not self._network.linked(node):
            await self._connect(node)
        self.ask(node, digest, kind, index, take)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answered
        except TimeoutError:
            raise PeerError(node, f"no answer about weights within {ANSWER_SECONDS:g} s") from None

    # --- models ---

    async def obtain(
        self, model: ModelId, *, span: Wanted, ends: bool, sources: Sources, progress: Progress
    ) -> LocalModel:
        """Bring what the span and the ends need of a model onto this disk, from whoever has it.

        With neither, only what describes the model comes: config, tokenizer, and where its tensors lie. What is
        here already is not asked for. Raises NoSourceError, or ModelError for a disk or a model that can't be used.
        """
        folder = await asyncio.to_thread(self.store.folder_for, model)
        async with _alone(folder):
            found = await asyncio.to_thread(self.store.find_exactly, model)
            if (
                found is None
                or found.lacks(span, ends=ends)
                or (span is None and not ends and not _described(found))
            ):
                before, begun = self.traffic.bytes_received, self.clock()
                await _Obtaining(self, model, folder, sources, progress).run(span, ends=ends)
                log.info(
                    "%.1f MB of %s came from members in %.1f s",
                    (self.traffic.bytes_received - before) / 1e6,
                    model,
                    self.clock() - begun,
                )
                found = await asyncio.to_thread(self.store.find_exactly, model, progress)
        if found is None:
            raise ModelError(
                f"what members gave of {model} is not a whole model; delete {folder} and try again"
            )
        return found


class _Obtaining:
    """One model's files on their way into one folder."""

    def __init__(
        self, transfer: Transfer, model: ModelId, folder: Path, sources: Sources, progress: Progress
    ) -> None:
        self._transfer = transfer
        self._model = model
        self._folder = folder
        self._sources = sources
        self._progress = progress

    async def run(self, span: Wanted, *, ends: bool) -> None:
        weights = await Listing.open(self._transfer, self._model.digest, self._folder, self._sources)
        await asyncio.to_thread(weights.receiving.keep_listing)
        await self._fetch_companions(weights)
        await self._fetch(weights, weights.of_file(CONFIG_NAME))
        layers = await asyncio.to_thread(self._layers)
        every = LayerSpan(0, layers)
        span = every if span == "all" else span
        if span is None and not ends:
            await self._fetch_headers(weights, every, ends=True)
        else:
            await self._fetch_headers(weights, span, ends=ends)
        chunks = await asyncio.to_thread(self._chunks_for, weights.chunks, span, ends)
        await self._fetch(weights, chunks, self._progress)

    async def _fetch_companions(self, weights: Listing) -> None:
        digests = weights.companions()
        if not digests:
            return
        beside = await Listing.open(
            self._transfer, digests[0], self._folder, lambda: weights.offering(digests[0])
        )
        if len(digests) > 1:
            log.warning(
                "members differ about the tokenizer and the like of %s; taken from %s",
                self._model,
                ", ".join(map(short, sorted(beside.offers))),
            )
        await self._fetch(beside, range(beside.chunks.total))

    async def _fetch_headers(self, weights: Listing, span: LayerSpan | None, *, ends: bool) -> None:
        names = await asyncio.to_thread(self._files_for, weights.chunks, span, ends)
        files = [at for at, entry in enumerate(weights.chunks.files) if entry.name in names and entry.size]
        await self._fetch(weights, [weights.chunks.first(at) for at in files])
        rest: list[int] = []
        for at in files:
            entry = weights.chunks.files[at]
            path = self._folder / entry.name
            length = await asyncio.to_thread(header_bytes, path, present(path), entry.size)
            rest += weights.chunks.of_bytes(at, 0, 8 + length)
        await self._fetch(weights, rest)

    async def _fetch(self, listing: Listing, indices: Iterable[int], progress: Progress = silent) -> None:
        run = FetchRun(self._transfer, listing, self._sources, f"Fetching {self._model.name}", progress)
        await run.fetch(indices)

    # --- in a thread ---

    def _layers(self) -> int:
        return ModelSpec.from_config(read_json(self._folder, CONFIG_NAME)).layers

    def _files_for(self, chunks: Chunks, span: LayerSpan | None, ends: bool) -> set[str]:
        """Return the weight files that hold what is needed; all, where no index tells."""
        placed = read_weight_map(self._folder)
        if not placed:
            return {entry.name for entry in chunks.files if entry.name.endswith(WEIGHT_SUFFIX)}
        return {file for tensor, file in placed.items() if wanted(tensor, span, ends=ends)}

    def _chunks_for(self, chunks: Chunks, span: LayerSpan | None, ends: bool) -> set[int]:
        _, manifest = open_folder(self._folder, self._transfer.store.cache)
        found: set[int] = set()
        for tensor in manifest.weight_map:
            place = manifest.layout(tensor)
            if place is not None and wanted(tensor, span, ends=ends):
                file = chunks.index_of(place.file)
                if file is None:
                    raise ModelError(f"{self._folder}: {place.file} is not of {self._model}")
                found.update(chunks.of_bytes(file, place.start, place.end))
        return found


def _described(local: LocalModel) -> bool:
    """Say whether it is known of every tensor where it lies."""
    return all(local.manifest.layout(tensor) is not None for tensor in local.manifest.weight_map)


@contextlib.asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    """Hold the lock that downloads into ``folder`` hold, whichever process they run in."""
    await asyncio.to_thread(folder.parent.mkdir, parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock", thread_local=False)
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            await asyncio.sleep(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
