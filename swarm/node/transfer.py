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

from swarm.errors import LinkDownError, ModelError, PeerError, ProtocolError, SwarmError
from swarm.models.chunks import Chunks, table_root
from swarm.models.folder import header_bytes, open_folder, read_json, read_weight_map
from swarm.models.manifest import CONFIG_NAME, WEIGHT_SUFFIX, wanted
from swarm.models.partial import present
from swarm.models.progress import silent
from swarm.models.receiving import Receiving
from swarm.models.spec import ModelSpec
from swarm.node.fetching import FetchRun
from swarm.protocol.messages import NoWeights, WantWeights, Weights, WeightsKind
from swarm.transfer.offer import Offer, decode_offer, roots_of
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


class NoSourceError(ModelError):
    """No member that can be reached gives these weights."""


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
    ) -> None:
        self.node = node
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


class Listing:
    """One listing of files, who offers it, and what of it is in the folder."""

    def __init__(
        self, transfer: Transfer, digest: str, chunks: Chunks, offers: dict[NodeId, Offer], folder: Path
    ) -> None:
        self.transfer = transfer
        self.digest = digest
        self.chunks = chunks
        self.offers = offers
        self.receiving = Receiving(folder, chunks, transfer.store.cache)
        self._roots: dict[int, str] = {}
        self._false: dict[int, set[str]] = {}
        self._contested: set[int] = set()

    @classmethod
    async def open(cls, transfer: Transfer, digest: str, folder: Path, sources: Sources) -> Listing:
        """Ask everybody for offers. Raises NoSourceError when nobody makes one."""
        offers, chunks, problems = await _offers(transfer, digest, sources())
        if chunks is None:
            why = "; ".join(problems) or "no member has them"
            raise NoSourceError(f"no member gives the weights {digest[:12]}…: {why}")
        return cls(transfer, digest, chunks, offers, folder)

    async def refresh(self, sources: Sources) -> None:
        """Ask again: members come and go, and get more chunks themselves."""
        self.offers, _, _ = await _offers(self.transfer, self.digest, sources())

    def companions(self) -> list[str]:
        """Return the digests that members name for what goes with the weights, the commonest first."""
        named = [offer.companions for offer in self.offers.values() if offer.companions]
        return sorted(set(named), key=lambda digest: (-named.count(digest), digest))

    def offering(self, companions: str) -> list[NodeId]:
        return [node for node, offer in self.offers.items() if offer.companions == companions]

    def of_file(self, name: str) -> range:
        file = self.chunks.index_of(name)
        if file is None:
            raise ModelError(f"the listing {self.digest[:12]}… has no {name}")
        return self.chunks.of_file(file)

    def holds(self, node: NodeId) -> set[int]:
        """Return the chunks that a member has of the files about whose roots it says what was believed."""
        offer = self.offers[node]
        held = offer.held(self.chunks)
        for file, root in self._roots.items():
            if root and offer.files[file].root != root:
                held.difference_update(self.chunks.of_file(file))
        return held

    async def begin(self, indices: set[int]) -> set[int]:
        """Open the files of these chunks; return the chunks to fetch: all of a file that members differ about.

        Raises NoSourceError when nobody knows a file's table.
        """
        for file in sorted({self.chunks.place(index).file for index in indices}):
            if await asyncio.to_thread(self.receiving.whole, file):
                continue
            if file in self._false or not await self._resume(file):
                await self._begin_anew(file)
            if file in self._contested:
                indices |= set(self.chunks.of_file(file))
        return indices

    async def _resume(self, file: int) -> bool:
        """Go on with a file that is here in part, if members still vouch for its table."""
        if not await asyncio.to_thread(self.receiving.begin, file):
            return False
        if len(self.chunks.of_file(file)) <= 1:
            return True
        root = table_root(self.receiving.table(file))
        named = [name for name, _ in roots_of(self.offers, file)]
        if root not in named:
            return False
        self._roots[file] = root
        if len(named) > 1:
            self._contested.add(file)
        return True

    def disbelieve(self, file: int) -> None:
        """A whole file was not what its SHA-256 says: who named its root is not believed about it again."""
        root = self._roots.pop(file, "")
        self._false.setdefault(file, set()).add(root)
        liars = sorted(node for node, offer in self.offers.items() if offer.files[file].root == root)
        log.warning(
            "%s: the digests of its chunks that %s gave were false; fetching it anew from others",
            self.chunks.files[file].name,
            ", ".join(map(short, liars)) or "members",
        )

    async def _begin_anew(self, file: int) -> None:
        entry = self.chunks.files[file]
        if len(self.chunks.of_file(file)) <= 1:
            # Its only chunk's digest is its own: nobody's word is needed.
            table = bytes.fromhex(entry.sha256) if entry.size else b""
            await asyncio.to_thread(self.receiving.begin, file, table)
            return
        roots = [pair for pair in roots_of(self.offers, file) if pair[0] not in self._false.get(file, ())]
        if len(roots) > 1 or file in self._false:
            self._contested.add(file)
        for root, nodes in roots:
            for node in sorted(nodes):
                found = await self._table(node, file, root)
                if found is not None:
                    await asyncio.to_thread(self.receiving.begin, file, found)
                    self._roots[file] = root
                    return
        raise NoSourceError(f"no member that can be reached gives the digests of the chunks of {entry.name}")

    async def _table(self, node: NodeId, file: int, root: str) -> bytes | None:
        try:
            table = await self.transfer.answer(node, self.digest, "table", file)
        except PeerError as exc:
            log.info("%s", exc)
            return None
        if table_root(table) != root or len(table) != 32 * len(self.chunks.of_file(file)):
            log.warning("%s gave a table that is not the one it named", short(node))
            return None
        return table


async def _offers(
    transfer: Transfer, digest: str, sources: Iterable[NodeId]
) -> tuple[dict[NodeId, Offer], Chunks | None, list[str]]:
    nodes = sorted(set(sources) - {transfer.node})
    answers = await asyncio.gather(*(_offer(transfer, node, digest) for node in nodes))
    offers = {
        node: answer[0] for node, answer in zip(nodes, answers, strict=True) if not isinstance(answer, str)
    }
    chunks = next((answer[1] for answer in answers if not isinstance(answer, str)), None)
    return offers, chunks, [answer for answer in answers if isinstance(answer, str)]


async def _offer(transfer: Transfer, node: NodeId, digest: str) -> tuple[Offer, Chunks] | str:
    """Return what a member offers, or why it offers nothing."""
    try:
        return decode_offer(await transfer.answer(node, digest, "offer"), digest)
    except ProtocolError as exc:
        log.warning("node %s: %s", short(node), exc)
        return f"node {short(node)}: {exc}"
    except SwarmError as exc:
        return str(exc)


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
