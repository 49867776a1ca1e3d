"""Members on real sockets that give each other weights, without nodes around them: one process, no membership."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from swarm.config import WeightsSettings
from swarm.gossip.record import StaticRecord
from swarm.gossip.record import encode as encode_record
from swarm.models.progress import silent
from swarm.models.store import LocalModel, ModelStore, Wanted
from swarm.node.sharing import Sharing, WeightTraffic
from swarm.node.transfer import Transfer
from swarm.protocol.identity import SwarmSecret, sign_record
from swarm.protocol.messages import AnyMessage, Heartbeat, NoWeights, SignedRecord, WantWeights, Weights
from swarm.types import Address, LayerSpan, ModelId, NodeId
from tests.support.links import SECRET, Peer


class WeightPeer(Peer):
    """A Peer that shares what is in its store, and can fetch from others."""

    def __init__(
        self, seed: bytes, home: Path, *, secret: SwarmSecret | None = None, **settings: Any
    ) -> None:
        super().__init__(seed, secret=secret or SECRET)
        self.store = ModelStore(home)
        self.traffic = WeightTraffic()
        self.local: list[LocalModel] = []
        self.addresses: dict[NodeId, Address] = {}
        chosen = WeightsSettings(**{"stall_seconds": 3.0, **settings})
        common: dict[str, Any] = {
            "network": self.network,
            "settings": chosen,
            "busy": lambda: False,
            "clock": time.perf_counter,
            "traffic": self.traffic,
        }
        self.sharing = Sharing(models=lambda: self.local, cache=self.store.cache, **common)
        self.chunk_roots: dict[str, str] = {}
        self.transfer = Transfer(
            node=self.node,
            connect=self.connect,
            store=self.store,
            chunk_root=lambda digest: self.chunk_roots.get(digest, ""),
            **common,
        )

        self._beats = 0
        self.asked_for: list[tuple[str, int]] = []

    def hello(self) -> SignedRecord:
        """Return a record that real nodes accept, too."""
        body = encode_record(
            StaticRecord(
                node=self.node,
                public_key=self.key.public_bytes,
                incarnation=1,
                sequence=1,
                boot=self.boot,
                addresses=(),
                protocol_min=1,
                protocol_max=1,
                state="joining",
            )
        )
        return sign_record(self.key, self.secret.swarm_id, "static", body)

    async def connect(self, node: NodeId) -> None:
        await self.network.connect(self.addresses[node], node)

    def drained(self, node: NodeId) -> None:
        self.sharing.drained(node)

    def link_down(self, node: NodeId, reason: str, graceful: bool) -> None:
        super().link_down(node, reason, graceful)
        self.sharing.gone(node)
        self.transfer.gone(node)

    def received(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        if isinstance(message, Heartbeat):
            self._beats += 1
            self.network.send(node, Heartbeat(self._beats, message.number, 0))
        elif isinstance(message, WantWeights):
            self.asked_for.append((message.kind, message.index))
            self.sharing.asked(node, message)
        elif isinstance(message, Weights | NoWeights):
            self.transfer.received(node, message, payload)

    def adopt(self, folder: Path, name: str) -> ModelId:
        """Share the model in ``folder``."""
        found = self.store.find(str(folder), name=name)
        if found is None:
            raise RuntimeError(f"no model in {folder}")
        self.local.append(found)
        return found.id

    async def obtain(
        self,
        model: ModelId,
        sources: list[WeightPeer],
        *,
        span: Wanted | LayerSpan = None,
        ends: bool = False,
    ) -> LocalModel:
        found = await self.transfer.obtain(
            model, span=span, ends=ends, sources=lambda: [peer.node for peer in sources], progress=silent
        )
        self.local = [found]
        return found

    def chunks_asked(self) -> int:
        return sum(kind == "chunk" for kind, _ in self.asked_for)


@asynccontextmanager
async def weight_peers(folder: Path, count: int, **settings: Any) -> AsyncIterator[list[WeightPeer]]:
    """Run ``count`` members that know each other's addresses."""
    peers = [WeightPeer(bytes([1 + at]) * 32, folder / f"home{at}", **settings) for at in range(count)]
    sharing: list[asyncio.Task[None]] = []
    try:
        addresses = {peer.node: await peer.listen() for peer in peers}
        for peer in peers:
            peer.addresses = addresses
            sharing.append(asyncio.create_task(peer.sharing.run()))
        yield peers
    finally:
        for task in sharing:
            task.cancel()
        for peer in peers:
            await peer.network.aclose()
