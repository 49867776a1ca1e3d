"""One node: its parts built, wired, run in one task group and shut down in order."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric

from swarm.engine.device import available_bytes, compute_dtype, resolve_device
from swarm.engine.jobs import StepResult
from swarm.engine.worker import Engine, default_kv_bytes
from swarm.errors import ConfigError, SwarmError
from swarm.gossip.membership import Membership
from swarm.models.memory import Memory
from swarm.models.progress import silent
from swarm.models.store import ModelStore
from swarm.net.peers import Network
from swarm.node.advertising import Advertising
from swarm.node.bus import Bus
from swarm.node.control import ControlServer
from swarm.node.controls import Controls
from swarm.node.dispatch import Dispatch
from swarm.node.door_models import DoorModels
from swarm.node.doors import Doors, FrontDoorFactory
from swarm.node.drain import Drainer
from swarm.node.gossip_loop import GossipLoop
from swarm.node.holding import Holding
from swarm.node.hosting import Hosting
from swarm.node.lag import LoopLag
from swarm.node.library import Library
from swarm.node.meters import Meters, readings
from swarm.node.neighbours import Neighbours, admits
from swarm.node.origin import Origin
from swarm.node.pins import Pins
from swarm.node.pulls import Pulls
from swarm.node.sharing import Sharing, WeightTraffic
from swarm.node.stage_service import StageService
from swarm.node.status import swarm_state
from swarm.node.transfer import Transfer
from swarm.routing.view import SwarmView
from swarm.sessions.effects import Edge
from swarm.sessions.hop import HopSessions
from swarm.types import Address, BootId, LayerSpan, ModelId, NodeId

if TYPE_CHECKING:
    from swarm.config import Config
    from swarm.engine.core import Result
    from swarm.models.progress import Progress
    from swarm.models.store import LocalModel, Wanted
    from swarm.node.keystore import Keystore, NodeIdentity

log = logging.getLogger("swarm.node")

TICK_SECONDS = 0.05
MEASURE_SECONDS = 5.0
"""So often an idle node looks whether a span is to be measured again."""


class Node:
    """Implements node.front.FrontDoor through its origin, and runs everything else beside it."""

    def __init__(
        self,
        config: Config,
        keystore: Keystore,
        identity: NodeIdentity,
        announce: Callable[[str], None],
        progress: Progress | None = None,
    ) -> None:
        self._config = config
        self._keystore = keystore
        self._identity = identity
        self._announce = announce
        self._clock = time.perf_counter
        self._boot = BootId(os.urandom(8))
        self._id = identity.key.node_id
        self._tasks: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._lag = LoopLag()
        self._meters = Meters()
        self._failure: SwarmError | None = None
        self._progress = progress or silent
        self._build()

    def _build(self) -> None:
        config, clock = self._config, self._clock
        self._dispatch = dispatch = Dispatch()
        incarnation = self._keystore.load_incarnation() + 1
        self._keystore.save_incarnation(incarnation)
        self._membership = Membership(
            key=self._identity.key,
            swarm_id=self._identity.keyring.preferred.swarm_id,
            boot=self._boot,
            settings=config.gossip,
            incarnation=incarnation,
            rng=random.Random(os.urandom(16)),
            now=clock(),
            other_swarm_ids=tuple(secret.swarm_id for secret in self._identity.keyring.secrets[1:]),
            allow=frozenset(NodeId(node) for node in config.node.allow),
            ban=frozenset(NodeId(node) for node in config.node.ban),
            carries=self._carries,
        )
        self._network = Network(
            key=self._identity.key,
            keyring=self._identity.keyring,
            boot=self._boot,
            settings=config.net,
            receiver=dispatch,
            hello=self._membership.record,
            admit=lambda node: admits(config.node, node),
        )
        self._neighbours = neighbours = Neighbours(
            node=self._id,
            config=config,
            membership=self._membership,
            network=self._network,
            shunned=self._shunned,
            clock=clock,
        )
        self._device = resolve_device(config.model.device)
        self._memory = _memory(config, self._device)
        self._engine = Engine(config.engine, self._device)
        self._bus = Bus(
            self._id,
            self._network,
            dispatch.received,
            connect=neighbours.connect,
            unreachable=lambda node: self._link_changed(node, False),
            spawn=self._spawn,
        )
        store = ModelStore()
        pins = Pins(config.model.pins, self._keystore.chunk_roots())
        self._weight_traffic = WeightTraffic()
        self._library = Library(
            store=store,
            transfer=self._transfer_of(store, pins),
            served=lambda: self.view().layers,
            known=neighbours.known_models,
            holders=neighbours.holders,
            joined=self._joined,
            pins=pins,
            announce=self._announce,
            progress=self._progress,
        )
        self._pulls = Pulls(self._library)
        self._sharing = dispatch.sharing = Sharing(
            network=self._network,
            models=lambda: list(self._library.models.values()),
            cache=store.cache,
            settings=config.weights,
            busy=self._busy,
            clock=clock,
            traffic=self._weight_traffic,
        )
        self._hosting = Hosting(
            node=self._id,
            settings=config.model,
            library=self._library,
            engine=self._engine,
            memory=self._memory,
            announce=self._announce,
            on_change=self._advertise,
            drain=self.drain_span,
            computed_in=lambda asked, checkpoint: compute_dtype(asked, checkpoint, self._device),
        )
        self._holding = Holding(
            node=self._id,
            settings=config.model,
            library=self._library,
            hosting=self._hosting,
            view=self.view,
            announce=self._announce,
            joined=self._joined,
        )
        self._stage = dispatch.stage = StageService(
            sessions=HopSessions(
                node=self._id,
                boot=self._boot,
                lease_seconds=config.session.lease_seconds,
                max_per_origin=config.engine.max_sessions_per_origin,
                log_bytes=config.session.output_log_bytes,
            ),
            engine=self._engine,
            bus=self._bus,
            settings=config.session,
            node=self._id,
            kv_share=config.engine.max_origin_kv_share,
            connect=neighbours.connect,
            spawn=self._spawn,
            clock=clock,
            meters=self._meters,
            passed=self._hosting.passed,
        )
        self._door_models = DoorModels(
            library=self._library,
            hosting=self._hosting,
            wait_seconds=config.api.queue_seconds,
            on_change=self._advertise,
            announce=self._announce,
        )
        self._origin = dispatch.origin = Origin(
            node=self._id,
            config=config,
            engine=self._engine,
            bus=self._bus,
            hosting=self._hosting,
            library=self._library,
            door=self._door_models,
            view=self.view,
            names=neighbours.name_of,
            labels=neighbours.labels_of,
            clock=clock,
            meters=self._meters,
        )
        self._drainer = Drainer(
            stage=self._stage,
            origin=self._origin,
            seconds=config.session.drain_seconds,
            tell_members=self._advertise,
            announce=self._announce,
            clock=clock,
        )
        self._gossip = dispatch.gossip = GossipLoop(
            self._membership,
            self._network,
            save_incarnation=self._keystore.save_incarnation,
            on_members=self._members_changed,
            on_link=self._link_changed,
            on_closed=self._link_closed,
            on_duplicate=self._duplicate,
            spawn=self._spawn,
            clock=clock,
        )
        self._advertising = Advertising(
            identity=self._identity,
            config=config,
            gossip=self._gossip,
            hosting=self._hosting,
            stage=self._stage,
            engine=self._engine,
            memory_bytes=self._memory.total_bytes,
            announce=self._announce,
            clock=clock,
        )
        # The front door's calls are the origin's.
        self.models = self._origin.models
        self.ready = self._origin.ready
        self.tokenizer = self._origin.tokenizer
        self.open = self._origin.open
        self.starving = self._origin.starving

    def _transfer_of(self, store: ModelStore, pins: Pins) -> Transfer:
        self._dispatch.transfer = Transfer(
            node=self._id,
            network=self._network,
            connect=self._neighbours.connect,
            store=store,
            settings=self._config.weights,
            busy=self._busy,
            clock=self._clock,
            traffic=self._weight_traffic,
            chunk_root=pins.chunk_root,
        )
        return self._dispatch.transfer

    # --- life ---

    async def run(
        self,
        open_front_door: FrontDoorFactory | None,
        on_listening: Callable[[Address], None] | None = None,
        errand: Callable[[Node], Awaitable[None]] | None = None,
    ) -> None:
        """Join the swarm and serve until ``stop``. Raises SwarmError when the node can't start or go on.

        ``on_listening`` is told the address that other nodes reach, with the port that was bound. A node that is
        on an ``errand`` leaves when that is done.
        """
        self._engine.start(self._computed)
        doors = Doors(self, self._config.api, open_front_door, self._advertising.door_moved)
        control = ControlServer(self._keystore.folder, self._controls(doors).handle)
        try:
            bound = await self._network.start(self._config.node.listen)
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                running = [
                    tasks.create_task(work()) for work in (self._gossip.run, self._results, self._ticks)
                ]
                self._advertising.introduce(bound)
                if on_listening is not None:
                    on_listening(bound)
                if open_front_door is not None and self._config.api.listen is not None:
                    await doors.open()
                await control.start()
                if self._config.node.discover:
                    await self._advertising.discover()
                later = (
                    self._holding.run,
                    self._advertising.report_load,
                    self._measure_again,
                    self._sharing.run,
                )
                running += [tasks.create_task(work()) for work in later]
                running.append(tasks.create_task(self._door_models.run(self._config.model.serve)))
                if errand is not None:
                    running.append(tasks.create_task(self._run_errand(errand)))
                await self._stopping.wait()
                self._hosting.frozen = True
                await self._drainer.drain(self._at_once)
                await self._leave(doors)
                for task in running:
                    task.cancel()
                self._tasks = None
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            await control.aclose()
            await self._advertising.aclose()
            await doors.aclose()
            await self._pulls.aclose()
            await self._door_models.aclose()
            await self._network.aclose()
            await self._engine.aclose()
        if self._failure is not None:
            raise self._failure

    async def _run_errand(self, errand: Callable[[Node], Awaitable[None]]) -> None:
        await errand(self)
        self.stop()

    async def pull(self, name: str, *, span: Wanted, ends: bool) -> LocalModel:
        """Bring weights onto this disk, from members or the hub, without serving them. Raises ModelError."""
        return await self._library.pull(name, span=span, ends=ends, progress=self._progress)

    def stop(self) -> None:
        """Leave in good order, as soon as running answers have ended or moved away; called again, at once."""
        if self._stopping.is_set():
            self._at_once.set()
        self._stopping.set()

    async def drain_span(self, model: ModelId, span: LayerSpan, seconds: float) -> int:
        """Have all sessions leave one loaded span, whose weights can be unloaded afterwards.

        The caller has taken the span out of ``Hosting.hosted`` before, so that no path finds it. Returns how many
        sessions still used it after ``seconds``; their origins refill elsewhere.
        """
        return await self._drainer.drain_span(model, span, seconds)

    async def _leave(self, doors: Doors) -> None:
        """Say goodbye: answers that still run are ended, neighbours are told."""
        self._announce("Leaving the swarm …")
        await doors.aclose()
        self._gossip.change(lambda membership, now: membership.leave(now))
        await asyncio.sleep(0.05)

    def _controls(self, doors: Doors) -> Controls:
        return Controls(
            node=self._id,
            swarm_id=self._identity.keyring.preferred.swarm_id,
            tickets=self._network.tickets,
            addresses=lambda: self._advertising.addresses,
            doors=doors,
            pulls=self._pulls,
            holding=self._holding,
            hosting=self._hosting,
            chunk_roots=self._sharing.chunk_roots,
            state=lambda: self.state(detail=True),
            stop=self.stop,
            clock=lambda: asyncio.get_running_loop().time(),
        )

    # --- tasks ---

    async def _results(self) -> None:
        """Results come to ``_computed``; what is left is the engine's end, which is the node's if it failed."""
        async for batch in self._engine.results():
            self._computed(batch)

    def _computed(self, batch: list[Result]) -> None:
        for result in batch:
            if isinstance(result, StepResult):
                self._stage.on_result(result)
            else:
                self._origin.computed(result)

    async def _ticks(self) -> None:
        while True:
            self._stage.tick()
            self._origin.tick()
            due = self._clock() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self._lag.observe(self._clock() - due)

    async def _measure_again(self) -> None:
        """Measure spans once more when nothing else happens: nodes often load while others do, on one machine even."""
        while True:
            await asyncio.sleep(MEASURE_SECONDS)
            if not self._busy():
                await self._hosting.measure_again()

    async def _joined(self) -> None:
        await self._neighbours.joined(self._announce)

    def _spawn(self, work: Awaitable[None]) -> None:
        """Run short-lived work as a child of the node; it ends with the node at the latest."""
        if self._tasks is None:
            if isinstance(work, Coroutine):
                work.close()
            return
        self._tasks.create_task(_as_coroutine(work))

    # --- what the parts ask ---

    def view(self) -> SwarmView:
        """The swarm as routing sees it now."""
        return self._neighbours.view()

    def _shunned(self) -> dict[Edge, BootId | None]:
        return self._origin.shunned_edges()

    def _busy(self) -> bool:
        """Whether answers pass through this node now."""
        return self._stage.session_count > 0 or self._origin.running > 0

    # --- what the parts tell ---

    def _advertise(self) -> None:
        self._neighbours.forget_view()
        self._advertising.holdings()

    def _members_changed(self) -> None:
        for node in self._neighbours.members_changed():
            self._stage.origin_gone(node)
        self._origin.view_changed()

    def _link_changed(self, node: NodeId, up: bool) -> None:
        self._neighbours.link_changed(node, up)
        if up:
            self._origin.view_changed()
        else:
            self._origin.link_down(node)

    def _link_closed(self, node: NodeId) -> None:
        """A link ended in good order: a session over it can't go on."""
        self._neighbours.link_closed(node)
        self._origin.link_down(node)

    def _carries(self, node: NodeId) -> bool:
        """Whether a session of this node travels over its link to ``node``."""
        return self._origin.uses(node) or self._stage.uses(node)

    def _duplicate(self, detail: str) -> None:
        self._failure = ConfigError(
            f"This node's identity runs elsewhere too: {detail}. A state folder may not be copied; "
            "give this one its own with --state."
        )
        self._at_once.set()
        self.stop()

    # --- FrontDoor ---

    def metrics(self) -> Iterator[Metric]:
        yield from self._meters.registry.collect()
        yield from readings(
            self._engine.stats(),
            self._membership.members(),
            self._origin.models(),
            self._network.traffic,
            self._weight_traffic,
            hop_sessions=self._stage.session_count,
            tasks=len(asyncio.all_tasks()),
            loop_lag=self._lag.percentiles(),
        )

    def state(self, *, detail: bool) -> dict[str, Any]:
        return swarm_state(
            self._id,
            self._membership.members(),
            self._origin.models(),
            self._origin.state(),
            self._engine.stats(),
            hop_sessions=self._stage.session_count,
            loop_lag=self._lag.percentiles(),
            traffic=self._network.stats(),
            weights=self._weight_traffic,
            detail=detail,
        )


def _memory(config: Config, device: str) -> Memory:
    """What the settings, or the machine as it is now, let this node use."""
    engine = config.engine
    return Memory(
        total_bytes=engine.memory_bytes or available_bytes(device),
        door=config.api.listen is not None or config.model.layers == "none",
        kv_bytes=engine.kv_bytes,
        most_kv_bytes=None if engine.memory_bytes else default_kv_bytes(),
        second_copy_bytes=engine.second_copy_bytes if device == "cpu" else 0,
    )


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error inside a group: what the person who started the node should read."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
