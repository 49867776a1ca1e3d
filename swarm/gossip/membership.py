"""SWIM membership over authenticated links as a pure state machine. Opens no socket, reads no clock.

Drive it as aioquic is driven: report what happened with ``now``, execute ``effects()`` in order, call ``tick`` at
``wakeup()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from swarm.config import GossipSettings
from swarm.errors import ProtocolError
from swarm.gossip.anti_entropy import digest_of
from swarm.gossip.broadcasts import Random
from swarm.gossip.core import Core
from swarm.gossip.detector import Detector
from swarm.gossip.dialing import Dialer
from swarm.gossip.effects import Effect, MemberChanged, SaveIncarnation
from swarm.gossip.exchange import Exchange
from swarm.gossip.links import LinkTier
from swarm.gossip.local_health import LocalHealth
from swarm.gossip.member import Member
from swarm.gossip.overlay import Overlay
from swarm.gossip.own import LoadFigures, OwnRecords
from swarm.gossip.record import HostedSpan, IntendedSpan, SpanLoad, decode_static
from swarm.gossip.snapshot import NeighbourState, snapshot
from swarm.gossip.table import Table
from swarm.gossip.upkeep import Upkeep
from swarm.protocol.identity import NodeKey, node_id_of
from swarm.protocol.messages import (
    AnyMessage,
    CheckPeer,
    Digest,
    DigestEntry,
    Gossip,
    Heartbeat,
    Leave,
    PeerChecked,
    SignedRecord,
)
from swarm.types import Address, BootId, ModelId, NodeId

STALL_SECONDS = 0.5
"""Nothing happened here for a heartbeat and that long: this process stood still, not its peers."""


class Membership:
    """One node's view of the swarm. ``now`` is always seconds of one monotonic clock.

    ``incarnation`` must be higher than any this key used as far as the caller knows; it is saved by the first effect.
    ``other_swarm_ids`` are those of the other secrets on the keyring: while a secret is rotated, members sign for
    either. ``allow`` (if not empty) and ``ban`` are node ids whose records are taken or ignored. ``carries`` is asked
    whether the link to a node carries a session before it is closed for being one too many.
    """

    def __init__(
        self,
        *,
        key: NodeKey,
        swarm_id: bytes,
        boot: BootId,
        settings: GossipSettings,
        incarnation: int,
        rng: Random,
        now: float,
        other_swarm_ids: tuple[bytes, ...] = (),
        allow: frozenset[NodeId] = frozenset(),
        ban: frozenset[NodeId] = frozenset(),
        carries: Callable[[NodeId], bool] = lambda _: False,
    ) -> None:
        self._settings = settings
        self._allow, self._ban = allow, ban
        accepted = tuple(dict.fromkeys((swarm_id, *other_swarm_ids)))
        self._core = Core(
            key=key,
            swarm_id=swarm_id,
            accepted_swarm_ids=accepted,
            settings=settings,
            rng=rng,
            own=OwnRecords(
                key=key, swarm_id=swarm_id, boot=boot, settings=settings, incarnation=incarnation, now=now
            ),
            table=Table(accepted, settings.max_members),
            links=LinkTier(settings, now),
            local_health=LocalHealth(now),
        )
        self._detector = Detector(self._core)
        self._exchange = Exchange(self._core, self._detector, self._permits, now)
        self._overlay = Overlay(self._core, carries, now)
        self._wanted_before: Mapping[NodeId, tuple[Address, ...]] | None = None
        self._living: dict[NodeId, tuple[Address, ...]] = {}
        self._upkeep = Upkeep(self._core, self._detector, self._exchange, now)
        self._dialer = Dialer(key.node_id, rng)
        self._last_input = now
        self._left = False
        self._core.emit(SaveIncarnation(incarnation))
        self._core.announce_static(now)

    # --- what others may ask ---

    @property
    def node_id(self) -> NodeId:
        return self._core.node

    @property
    def partial(self) -> bool:
        """Whether this node links to a few members only, as in a large swarm."""
        return self._core.partial

    def record(self) -> SignedRecord:
        """Return this node's own static record as it stands."""
        return self._core.own.static.signed

    def members(self) -> tuple[Member, ...]:
        """Return everybody known, this node, the dead and those who left included, sorted by id."""
        entries = sorted(self._core.table.entries.items())
        return tuple(snapshot(entry, self._core, self._upkeep.stale) for _, entry in entries)

    def signed(self, node: NodeId) -> tuple[SignedRecord, ...]:
        """Return the records held of a member as they came, the static one first; none of a stranger."""
        entry = self._core.table.get(node)
        if entry is None:
            return ()
        return (entry.static.signed, *([entry.held_load.signed] if entry.held_load else []))

    def member(self, node: NodeId) -> Member | None:
        entry = self._core.table.get(node)
        return snapshot(entry, self._core, self._upkeep.stale) if entry else None

    def links(self) -> Mapping[NodeId, NeighbourState]:
        """Return the neighbours with their round trips, and whether they are suspect."""
        return MappingProxyType(
            {link.node: NeighbourState(link.rtt_seconds, link.suspect) for link in self._core.links.all()}
        )

    def digest(self) -> tuple[DigestEntry, ...]:
        """Return the versions of all present members: equal digests are equal views."""
        return digest_of(self._core.table)

    def effects(self) -> list[Effect]:
        """Return what is to be done, in order, and forget it. A member is named as changed once."""
        effects = self._core.effects
        if not effects:
            return []
        drained = dict.fromkeys(e for e in effects if isinstance(e, MemberChanged))
        others = [effect for effect in effects if not isinstance(effect, MemberChanged)]
        effects.clear()
        return [*others, *drained]

    @property
    def pending(self) -> bool:
        """Whether ``effects`` would return any."""
        return bool(self._core.effects)

    def wakeup(self) -> float:
        """Return when ``tick`` should be called next, unless something else happens before."""
        core = self._core
        if self._left:
            return float("inf")
        return min(
            core.links.wakeup(),
            self._detector.wakeup(),
            core.broadcasts.wakeup(),
            self._dialer.wakeup(alone=not core.links.nodes()),
        )

    # --- what happened ---

    def link_up(
        self, node: NodeId, public_key: bytes, boot: BootId, record: SignedRecord | None, now: float
    ) -> None:
        """An authenticated link stands. Raises ProtocolError if ``record`` is not the peer's own valid record."""
        self._advance(now)
        if node_id_of(public_key) != node:
            raise ProtocolError("the link's key does not belong to its node id")
        if record is not None and decode_static(record.body).node != node:
            raise ProtocolError("the record shown is of another node")
        core = self._core
        core.links.up(node, boot, now)
        self._dialer.linked(node)
        self._dialer.bootstrap_done(now)
        self._overlay.linked(node)
        self._detector.reached(node, now)
        self._exchange.link_up(node, now)
        self._upkeep.sync_soon(now)
        if record is not None:
            self._exchange.on_record(node, record, now)
        core.changed(node)

    def link_down(self, node: NodeId, graceful: bool, now: float) -> None:
        """A link ended. ``graceful``: for a reason that says nothing against the peer's health."""
        self._advance(now)
        if not self._core.links.down(node):
            return
        self._exchange.link_down(node)
        self._dialer.lost(node, now)
        self._overlay.lost(node, graceful, now)
        if not graceful:
            self._detector.doubt(node, now)
        self._core.changed(node)

    def receive(self, sender: NodeId, message: AnyMessage, now: float) -> None:
        """Take a gossip message from a linked peer. Raises ProtocolError if it is malformed or forged."""
        self._advance(now)
        core = self._core
        link = core.links.heard(sender, now)
        if self._left or link is None:
            return
        match message:
            case Heartbeat():
                core.links.on_heartbeat(sender, message, now)
            case Gossip():
                self._exchange.on_gossip(sender, message, now)
            case Digest():
                if self._exchange.on_digest(sender, message, now):
                    self._upkeep.sync_soon(now)
            case CheckPeer():
                self._detector.on_check(sender, message, now)
            case PeerChecked():
                self._detector.on_answer(sender, message, now)
            case Leave(record):
                if record.kind != "static" or decode_static(record.body).node != sender:
                    raise ProtocolError("a farewell for another node")
                self._exchange.on_record(sender, record, now)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not gossip")
        if link.suspect or core.links.judgement_due(now):
            self._upkeep.refresh_links(now)

    def update_self(
        self,
        now: float,
        *,
        state: str | None = None,
        addresses: tuple[Address, ...] | None = None,
        spans: tuple[HostedSpan, ...] | None = None,
        name: str | None = None,
        api_port: int | None = None,
        models: tuple[ModelId, ...] | None = None,
        labels: tuple[str, ...] | None = None,
        intended: tuple[IntendedSpan, ...] | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """Change the own record and spread it; None keeps a field. Raises ConfigError if it grows too large."""
        self._advance(now)
        if self._core.own.restate(
            state=state,
            addresses=addresses,
            spans=spans,
            name=name,
            api_port=api_port,
            models=models,
            labels=labels,
            intended=intended,
            memory_bytes=memory_bytes,
        ):
            self._core.announce_static(now)

    def update_load(
        self,
        now: float,
        *,
        queued_rows: int,
        sessions: int,
        tokens_per_second: float,
        rss_bytes: int,
        spans: tuple[SpanLoad, ...],
        head_microseconds: float = 0.0,
    ) -> None:
        """Note the current load; it is spread at the paced interval, or soon after a large change."""
        self._advance(now)
        self._core.own.set_load(
            LoadFigures(queued_rows, sessions, tokens_per_second, rss_bytes, spans, head_microseconds)
        )

    def observe_lag(self, now: float, seconds: float) -> None:
        """Be more patient with others: this process's own loop was late by ``seconds``."""
        self._advance(now)
        if seconds >= self._settings.heartbeat_seconds:
            self._core.local_health.worsen(now, by=max(1, int(seconds / self._settings.suspect_min_seconds)))

    def bootstrap(self, addresses: Iterable[Address], now: float) -> None:
        """Dial each of ``addresses`` until it has answered, and all of them again whenever all links are lost."""
        self._advance(now)
        self._dialer.add_bootstrap(addresses, now)

    def dial_failed(
        self, address: Address, node: NodeId | None, now: float, *, overloaded: bool = False
    ) -> None:
        """A Dial came to nothing; ``node`` is what it expected. ``overloaded``: somebody is there, without time."""
        self._advance(now)
        self._dialer.failed(address, node, now, overloaded=overloaded)
        if node is not None:
            self._overlay.failed(node, now)
            self._detector.unreachable(node, now)

    def dial_succeeded(self, address: Address, node: NodeId) -> None:
        """A Dial ended in a link to ``node``, new or old."""
        self._dialer.answered(address, node)

    def address_is_own(self, address: Address) -> None:
        """A Dial reached this node itself."""
        self._dialer.is_own(address)

    def leave(self, now: float) -> None:
        """Say farewell to all neighbours; nothing more is sent after that."""
        self._advance(now)
        core = self._core
        core.own.restate(state="left")
        core.announce_static(now)
        for node in core.links.nodes():
            core.send(node, Leave(core.own.static.signed))
        self._left = True

    def tick(self, now: float) -> None:
        """Do all that is due."""
        self._advance(now)
        if self._left:
            return
        core = self._core
        due = core.links.due(now)
        for node, beat in core.links.beat(now, core.late(now)):
            core.send(node, beat)
        if due:
            self._upkeep.refresh_links(now)
        self._detector.tick(now)
        self._upkeep.tick(now)
        self._dial(now)
        self._overlay.close_surplus(now)
        for node, gossip in core.broadcasts.flush(now, core.links.nodes(), core.rng):
            core.send(node, gossip)

    # --- inside ---

    def _permits(self, node: NodeId) -> bool:
        return node not in self._ban and (not self._allow or node in self._allow)

    def _advance(self, now: float) -> None:
        """Notice that this process stood still since the last input, and hold nobody's silence against it."""
        late = now - self._last_input - self._settings.heartbeat_seconds
        self._last_input = max(now, self._last_input)
        if late >= STALL_SECONDS:
            self._core.local_health.worsen(now)
            self._core.links.forgive(now)
            self._detector.postpone(late)
            self._upkeep.postpone(late)

    def _dial(self, now: float) -> None:
        core = self._core
        wanted = self._overlay.wanted(now)
        if self._dialer.seeks and wanted is not self._wanted_before:
            self._wanted_before = wanted
            self._living = {entry.node: entry.static.record.addresses for entry in core.table.present()}
        alone = not core.links.nodes()
        for dial in self._dialer.due(
            wanted,
            now,
            alone=alone,
            courteous=not core.partial,
            living=self._living,
            room=self._overlay.room(now),
            patience=core.patience(now),
        ):
            core.emit(dial)
