"""One listing of files as members offer it: who has which chunks, and whose word counts for their digests.

How a chunk's digest is believed is in docs/decisions/0035. Asks by way of swarm.node.transfer; fetches no chunk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.errors import ModelError, PeerError, ProtocolError, SwarmError
from swarm.models.chunks import Chunks, table_root
from swarm.models.receiving import Receiving
from swarm.models.shared import kept_roots
from swarm.transfer.offer import Offer, decode_offer, roots_of
from swarm.types import NodeId, short

if TYPE_CHECKING:
    from swarm.node.transfer import Transfer

log = logging.getLogger("swarm.weights")

Sources = Callable[[], Iterable[NodeId]]


class NoSourceError(ModelError):
    """No member that can be reached gives these weights."""


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
        self._proven: tuple[str, ...] = ()
        """The files' roots that the model's chunk root proves, where that is known."""
        self._whole_only = transfer.settings.whole_files

    @classmethod
    async def open(cls, transfer: Transfer, digest: str, folder: Path, sources: Sources) -> Listing:
        """Ask everybody for offers. Raises NoSourceError when nobody makes one."""
        offers, chunks, problems = await _offers(transfer, digest, sources())
        if chunks is None:
            why = "; ".join(problems) or "no member has them"
            raise NoSourceError(f"no member gives the weights {digest[:12]}…: {why}")
        listing = cls(transfer, digest, chunks, offers, folder)
        await listing._prove(transfer.chunk_root(digest))
        return listing

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

    async def _prove(self, known: str) -> None:
        """Find the files' roots of which the chunk root ``known`` was made; empty: nobody brought one.

        One that fits nothing leaves what proves whole files, the model's own digest.
        """
        if not known:
            return
        kept = await asyncio.to_thread(kept_roots, self.receiving.folder, self.chunks)
        files = range(len(self.chunks.files))
        believed = [next(iter(roots_of(self.offers, file)), ("", frozenset()))[0] for file in files]
        told = [[file.root for file in offer.files] for offer in self.offers.values()]
        for roots in (kept, *told, believed):
            if self.chunks.root(roots) == known:
                self._proven = tuple(roots)
                await asyncio.to_thread(self.receiving.keep_roots, roots)
                self._name_liars(roots)
                return
        self._whole_only = True
        log.warning(
            "no member names digests of chunks of %s… that fit its chunk root %s…; only whole files are taken",
            self.digest[:12],
            known[:12],
        )

    def _name_liars(self, roots: Sequence[str]) -> None:
        for at, root in enumerate(roots):
            false = {node for other, nodes in roots_of(self.offers, at) if other != root for node in nodes}
            if root and false:
                log.warning(
                    "%s: %s gave false digests of its chunks; the model's chunk root shows it",
                    self.chunks.files[at].name,
                    ", ".join(map(short, sorted(false))),
                )

    async def begin(self, indices: set[int]) -> set[int]:
        """Open the files of these chunks; return the chunks to fetch: all of a file that members differ about, or
        of every file where nobody is trusted about parts.

        Raises NoSourceError when nobody knows a file's table.
        """
        for file in sorted({self.chunks.place(index).file for index in indices}):
            if await asyncio.to_thread(self.receiving.whole, file):
                continue
            if file in self._false or not await self._resume(file):
                await self._begin_anew(file)
            if file in self._contested or self._whole_only:
                indices |= set(self.chunks.of_file(file))
        return indices

    async def _resume(self, file: int) -> bool:
        """Go on with a file that is here in part, if members still vouch for its table."""
        if not await asyncio.to_thread(self.receiving.begin, file):
            return False
        if len(self.chunks.of_file(file)) <= 1:
            return True
        root = table_root(self.receiving.table(file))
        named = [name for name, _ in self._believable(file)]
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

    def expose(self, file: int) -> None:
        """A file that members differed about turned out right: name those whose digests of its chunks were not."""
        if file not in self._contested or not self.receiving.whole(file):
            return
        self._contested.discard(file)
        named = {"", self._roots.get(file, ""), *self._false.get(file, ())}
        liars = sorted(node for node, offer in self.offers.items() if offer.files[file].root not in named)
        if liars:
            log.warning(
                "%s: %s gave false digests of its chunks; the whole file was taken from others, and is right",
                self.chunks.files[file].name,
                ", ".join(map(short, liars)),
            )

    async def _begin_anew(self, file: int) -> None:
        entry = self.chunks.files[file]
        if len(self.chunks.of_file(file)) <= 1:
            # Its only chunk's digest is its own: nobody's word is needed.
            table = bytes.fromhex(entry.sha256) if entry.size else b""
            await asyncio.to_thread(self.receiving.begin, file, table)
            return
        roots = self._believable(file)
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

    def _believable(self, file: int) -> list[tuple[str, frozenset[NodeId]]]:
        """Return the roots of a file with who names them: the proven one, else those not known to be false."""
        proven = self._proven[file] if self._proven else ""
        false = self._false.get(file, set())
        if proven and proven not in false:
            return [pair for pair in roots_of(self.offers, file) if pair[0] == proven]
        return [pair for pair in roots_of(self.offers, file) if pair[0] not in false]

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
