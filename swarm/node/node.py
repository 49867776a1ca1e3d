"""One node: its parts built, wired, run in one task group and shut down in order."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client.core import Metric

from swarm.engine.device import available_bytes, compute_dtype, resolve_device
from swarm.engine.jobs import StepResult
from swarm.engine.worker import Engine, default_kv_bytes
from swarm.errors import ConfigError, LinkDownError, SwarmError
from swarm.gossip.membership import Membership
from swarm.models.memory import Memory
from swarm.models.progress import silent
from swarm.models.store import ModelStore
from swarm.net.discovery import Discovery, Found
from swarm.net.peers import Network
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
from swarm.node.origin import Origin
from swarm.node.pins import Pins
from swarm.node.pulls import Pulls
from swarm.node.sharing import Sharing, WeightTraffic
from swarm.node.stage_service import StageService
from swarm.node.status import swarm_state
from swarm.node.transfer import Transfer
from swarm.node.views import build_view
from swarm.routing.view import SwarmView
from swarm.sessions.hop import HopSessions
from swarm.types import Address, BootId, LayerSpan, ModelId, NodeId, short

if TYPE_CHECKING:
    from swarm.config import Config
    from swarm.engine.core import Result
    from swarm.models.progress import Progress
    from swarm.models.store import LocalModel, Wanted
    from swarm.node.keystore import Keystore, NodeIdentity

log = logging.getLogger("swarm.node")

TICK_SECONDS = 0.05
LOAD_SECONDS = 1.0
JOIN_SECONDS = 10.0
SYNC_SECONDS = 0.5
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
        self._down: dict[NodeId, float] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._boots: dict[NodeId, BootId] = {}
        self._linked = asyncio.Event()
        self._lag = LoopLag()
        self._meters = Meters()
        self._failure: SwarmError | None = None
        self._view: SwarmView | None = None
        self._view_until = 0.0
        self._rows_before = 0
        self._addresses: tuple[Address, ...] = ()
        self._discovery = Discovery(self._found)
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
            admit=self._admits,
        )
        self._device = resolve_device(config.model.device)
        self._memory = _memory(config, self._device)
        self._engine = Engine(config.engine, self._device)
        self._bus = Bus(
            self._id,
            self._network,
            dispatch.received,
            connect=self._connect,
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
            known=self._known_models,
            holders=self._holders,
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
            connect=self._connect,
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
            names=self.name_of,
            labels=self.labels_of,
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
            connect=self._connect,
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
        doors = Doors(self, self._config.api, open_front_door, self._door_moved)
        control = ControlServer(self._keystore.folder, self._controls(doors).handle)
        try:
            bound = await self._network.start(self._config.node.listen)
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                running = [
                    tasks.create_task(work()) for work in (self._gossip.run, self._results, self._ticks)
                ]
                self._introduce(bound)
                if on_listening is not None:
                    on_listening(bound)
                if open_front_door is not None and self._config.api.listen is not None:
                    await doors.open()
                await control.start()
                if self._config.node.discover:
                    await self._discover()
                later = (self._holding.run, self._report_load, self._measure_again, self._sharing.run)
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
            await self._discovery.aclose()
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

    async def _discover(self) -> None:
        """Be found on the local network, and dial who is of the same swarm there."""
        outside = tuple(address for address in self._addresses if not address.host.startswith("127."))
        own = Found(self._id, self._identity.keyring.preferred.swarm_id, outside or self._addresses)
        try:
            await self._discovery.start(own)
        except OSError as exc:
            self._announce(f"warning: --discover can't use mDNS on this machine: {exc.strerror or exc}")

    def _found(self, found: Found) -> None:
        if found.node != self._id and self._identity.keyring.find(found.swarm_id) is not None:
            self._gossip.change(lambda membership, now: membership.bootstrap(found.addresses, now))

    def _controls(self, doors: Doors) -> Controls:
        return Controls(
            node=self._id,
            swarm_id=self._identity.keyring.preferred.swarm_id,
            tickets=self._network.tickets,
            addresses=lambda: self._addresses,
            doors=doors,
            pulls=self._pulls,
            holding=self._holding,
            hosting=self._hosting,
            chunk_roots=self._sharing.chunk_roots,
            state=lambda: self.state(detail=True),
            stop=self.stop,
            clock=lambda: asyncio.get_running_loop().time(),
        )

    def _door_moved(self, port: int) -> None:
        if port:
            self._hosting.door_opened()
        self._gossip.change(lambda membership, now: membership.update_self(now, api_port=port))

    def _introduce(self, bound: Address) -> None:
        settings = self._config.node
        self._addresses = addresses = settings.advertise or own_addresses(bound)
        api = self._config.api.listen

        def introduce(membership: Membership, now: float) -> None:
            membership.update_self(
                now,
                state="joining",
                addresses=addresses,
                name=settings.name,
                api_port=api.port if api else 0,
                labels=settings.labels,
                memory_bytes=self._memory.total_bytes,
            )
            if settings.bootstrap:
                membership.bootstrap(settings.bootstrap, now)

        self._gossip.change(introduce)
        self._announce(f"Node {short(self._id)} ({settings.name}) listens on {bound}")

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

    async def _report_load(self) -> None:
        """Say how busy this node is; the membership paces what is really sent."""
        process = psutil.Process()
        before, at = 0, self._clock()
        while True:
            stats, now = self._engine.stats(), self._clock()
            rate = (stats.rows - before) / max(now - at, 1e-9)
            before, at = stats.rows, now
            spans, rss = self._hosting.loads(), process.memory_info().rss
            head = self._hosting.head_seconds * 1e6
            self._gossip.change(
                lambda m, t, stats=stats, rate=rate, spans=spans, rss=rss, head=head: m.update_load(  # type: ignore[misc]
                    t,
                    queued_rows=stats.queued_jobs,
                    sessions=self._stage.session_count,
                    tokens_per_second=rate,
                    rss_bytes=rss,
                    spans=spans,
                    head_microseconds=head,
                )
            )
            await asyncio.sleep(LOAD_SECONDS)

    async def _measure_again(self) -> None:
        """Measure spans once more when nothing else happens: nodes often load while others do, on one machine even."""
        while True:
            await asyncio.sleep(MEASURE_SECONDS)
            if not self._busy():
                await self._hosting.measure_again()

    async def _joined(self) -> None:
        """Wait until a member is linked and its view is here; who starts a swarm waits for nothing."""
        if not self._config.node.bootstrap:
            return
        try:
            await asyncio.wait_for(self._linked.wait(), JOIN_SECONDS)
        except TimeoutError:
            self._announce("No member could be reached yet; going on trying.")
        else:
            await asyncio.sleep(SYNC_SECONDS)

    def _spawn(self, work: Awaitable[None]) -> None:
        """Run short-lived work as a child of the node; it ends with the node at the latest."""
        if self._tasks is None:
            if isinstance(work, Coroutine):
                work.close()
            return
        self._tasks.create_task(_as_coroutine(work))

    # --- what the parts ask ---

    def _admits(self, node: NodeId) -> bool:
        settings = self._config.node
        return node not in settings.ban and (not settings.allow or node in settings.allow)

    def view(self) -> SwarmView:
        """The swarm as routing sees it now; rebuilt after every change of members, links or load."""
        now = self._clock()
        if self._view is None or now >= self._view_until:
            self._view = build_view(
                self._id,
                self._membership.members(),
                cut_off=self._cut_off(now),
                shunned=self._origin.shunned_edges(),
                default_link_seconds=0.05,
            )
            self._view_until = now + LOAD_SECONDS
        return self._view

    def _busy(self) -> bool:
        """Whether answers pass through this node now."""
        return self._stage.session_count > 0 or self._origin.running > 0

    def _known_models(self) -> set[ModelId]:
        """The models of which some member has something on its disk."""
        others = [member.record for member in self._membership.members() if member.routable]
        return {model for record in others for model in record.models} | set(self.view().layers)

    def _holders(self, model: ModelId) -> list[NodeId]:
        """The members that have something of a model on their disks."""
        return [
            member.node
            for member in self._membership.members()
            if member.routable
            and member.node != self._id
            and (model in member.record.models or any(held.model == model for held in member.record.spans))
        ]

    def name_of(self, node: NodeId) -> str:
        member = self._membership.member(node)
        return member.record.name if member is not None else ""

    def labels_of(self, node: NodeId) -> tuple[str, ...]:
        member = self._membership.member(node)
        return member.record.labels if member is not None else ()

    async def _connect(self, node: NodeId) -> None:
        member = self._membership.member(node)
        if member is None or not self._admits(node):
            raise LinkDownError(node, "no verified record of it")
        error: SwarmError = LinkDownError(node, "its record names no address")
        for address in member.record.addresses:
            try:
                await self._network.connect(address, node)
            except SwarmError as exc:
                error = exc
            else:
                return
        raise error

    # --- what the parts tell ---

    def _advertise(self) -> None:
        spans = self._hosting.hosted()
        models = tuple(self._hosting.local_models())
        intended = self._hosting.intended()
        state = "ready" if spans or self._hosting.settled_once else None
        if self._stage.draining:
            state = "draining"
        self._view = None
        self._gossip.change(
            lambda membership, now: membership.update_self(
                now, state=state, spans=spans, models=models, intended=intended
            )
        )

    def _members_changed(self) -> None:
        self._view = None
        for member in self._membership.members():
            boot = member.record.boot
            # A process that was started anew has forgotten its sessions.
            if member.health.name in ("DEAD", "LEFT") or self._boots.get(member.node, boot) != boot:
                self._stage.origin_gone(member.node)
            self._boots[member.node] = boot
        self._origin.view_changed()

    def _link_changed(self, node: NodeId, up: bool) -> None:
        self._view = None
        if up:
            self._down.pop(node, None)
            self._linked.set()
            self._origin.view_changed()
        else:
            self._down[node] = self._clock()
            self._origin.link_down(node)

    def _link_closed(self, node: NodeId) -> None:
        """A link ended in good order: the node may be reached again, but a session over that link can't go on."""
        self._view = None
        self._down.pop(node, None)
        self._origin.link_down(node)

    def _cut_off(self, now: float) -> frozenset[NodeId]:
        """Return the nodes out of reach; where not all are dialled for ever, they are asked again after a while."""
        if self._membership.partial:
            patience = self._config.session.shun_seconds
            self._down = {node: since for node, since in self._down.items() if now - since < patience}
        return frozenset(self._down)

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


def own_addresses(bound: Address) -> tuple[Address, ...]:
    """Where others may reach this node: the bound address, or every interface's for a wildcard bind."""
    if bound.host not in ("0.0.0.0", "::", ""):
        return (bound,)
    hosts = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family.name == "AF_INET"
    ]
    outside = [host for host in hosts if not host.startswith("127.")]
    return tuple(Address(host, bound.port) for host in [*outside, "127.0.0.1"][:8])
