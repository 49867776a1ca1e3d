"""What this node says of itself: its signed records, their versions and how often they go out. Sends nothing."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from swarm.config import GossipSettings
from swarm.errors import ConfigError
from swarm.gossip.member import HeldLoad, HeldStatic
from swarm.gossip.record import (
    MAX_LOAD_BYTES,
    MAX_REPORTED_LINKS,
    MAX_STATIC_BYTES,
    HostedSpan,
    IntendedSpan,
    LoadRecord,
    NeighbourLink,
    SpanLoad,
    StaticRecord,
    encode,
)
from swarm.protocol.identity import NodeKey, sign_record
from swarm.protocol.limits import PROTOCOL_MAX, PROTOCOL_MIN
from swarm.types import Address, BootId, ModelId

LARGE_CHANGE_PAUSE_SECONDS = 0.25
LARGE_CHANGE_ROWS = 16
MIN_INTERVAL_MEMBERS_A_SECOND = 50
MAX_INTERVAL_MEMBERS_A_SECOND = 25
ADOPTIONS_OF_THE_DEAD = 2
"""An earlier process leaves few records to overrule, in different views; a live one answers each overruling."""
LEAP = 1000
PATIENCE_OF_THE_ELDER = 6
"""Of two live processes with one key the newcomer is to notice first."""
ELSEWHERE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What the node last told of its load."""

    queued_rows: int = 0
    sessions: int = 0
    tokens_per_second: float = 0.0
    rss_bytes: int = 0
    spans: tuple[SpanLoad, ...] = ()
    head_microseconds: float = 0.0

    def differs_much(self, other: LoadFigures) -> bool:
        """Return whether routing would be misled if it knew only ``other`` for another interval."""
        if len(self.spans) != len(other.spans):
            return True
        if abs(self.queued_rows - other.queued_rows) > max(LARGE_CHANGE_ROWS, other.queued_rows):
            return True
        return any(
            a.free_kv_tokens < b.free_kv_tokens // 2 or a.free_kv_tokens // 2 > b.free_kv_tokens
            for a, b in zip(self.spans, other.spans, strict=True)
        )


class OwnRecords:
    """The current static and load record. Every change is a new version; nothing signed is ever changed."""

    def __init__(
        self,
        *,
        key: NodeKey,
        swarm_id: bytes,
        boot: BootId,
        settings: GossipSettings,
        incarnation: int,
        now: float,
    ) -> None:
        self._key = key
        self._swarm_id = swarm_id
        self._settings = settings
        self._figures = LoadFigures()
        self._published = LoadFigures()
        self._published_at = now
        self._load_sequence = 0
        self._adopted: list[float] = []
        self._started = now
        first = StaticRecord(
            node=key.node_id,
            public_key=key.public_bytes,
            incarnation=incarnation,
            sequence=1,
            boot=boot,
            addresses=(),
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            state="joining",
        )
        self.static = self._signed(first)

    @property
    def record(self) -> StaticRecord:
        return self.static.record

    def restate(
        self,
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
    ) -> bool:
        """Sign a new version if anything is another; None keeps. Raises ConfigError when it grows too large."""
        wishes = {
            "state": state,
            "addresses": addresses,
            "spans": spans,
            "name": name,
            "api_port": api_port,
            "models": models,
            "labels": labels,
            "intended": intended,
            "memory_bytes": memory_bytes,
        }
        changes = {
            field: value
            for field, value in wishes.items()
            if value is not None and value != getattr(self.record, field)
        }
        if not changes:
            return False
        self.static = self._signed(
            msgspec.structs.replace(self.record, sequence=self.record.sequence + 1, **changes)
        )
        return True

    def reincarnate(self, incarnation: int) -> None:
        """Sign a record of a higher incarnation: it overrules every claim and record of the lower ones."""
        self.static = self._signed(
            msgspec.structs.replace(self.record, incarnation=incarnation, sequence=self.record.sequence + 1)
        )

    def overrule(self, incarnation: int, now: float) -> int | None:
        """Return the incarnation to leave behind, because another boot signed ``incarnation`` with this key.

        None if that happened too often for a dead process. After a first adoption the next ones leap, so that no older
        record of a dead process that turns up later can look like an answer.
        """
        self._adopted = [time for time in self._adopted if now - time < ELSEWHERE_SECONDS] + [now]
        newcomer = now - self._started < ELSEWHERE_SECONDS
        if len(self._adopted) > (ADOPTIONS_OF_THE_DEAD if newcomer else PATIENCE_OF_THE_ELDER):
            return None
        return incarnation if len(self._adopted) == 1 else incarnation + LEAP

    def set_load(self, figures: LoadFigures) -> None:
        self._figures = figures

    def load_due(self, members: int) -> float:
        """Return when the next load record goes out.

        A node that has just started is taken to have no load, which is what others assume of whom they know none of:
        where many join at once, records that say so would be half of what each has to verify.
        """
        shortest = max(self._settings.load_min_seconds, members / MIN_INTERVAL_MEMBERS_A_SECOND)
        if self._figures.differs_much(self._published):
            return self._published_at + LARGE_CHANGE_PAUSE_SECONDS
        return self._published_at + (
            shortest if self._figures != self._published else self.longest_interval(members)
        )

    def longest_interval(self, members: int) -> float:
        """Return the seconds after which a load record goes out even if nothing changed."""
        return max(self._settings.load_max_seconds, members / MAX_INTERVAL_MEMBERS_A_SECOND)

    def publish_load(self, links: list[NeighbourLink], now: float) -> HeldLoad:
        """Sign a load record of the current incarnation; links that do not fit are left out from the end."""
        self._published, self._published_at = self._figures, now
        self._load_sequence += 1
        figures = self._figures
        record = LoadRecord(
            node=self.record.node,
            incarnation=self.record.incarnation,
            sequence=self._load_sequence,
            queued_rows=figures.queued_rows,
            sessions=figures.sessions,
            tokens_per_second=figures.tokens_per_second,
            rss_bytes=figures.rss_bytes,
            spans=figures.spans,
            links=tuple(links[:MAX_REPORTED_LINKS]),
            head_microseconds=figures.head_microseconds,
        )
        while len(body := encode(record)) > MAX_LOAD_BYTES and record.links:
            record = msgspec.structs.replace(record, links=record.links[:-1])
        return HeldLoad.of(sign_record(self._key, self._swarm_id, "load", body), record)

    def _signed(self, record: StaticRecord) -> HeldStatic:
        body = encode(record)
        if len(body) > MAX_STATIC_BYTES:
            raise ConfigError(
                f"this node's record has {len(body)} bytes, {MAX_STATIC_BYTES} are allowed; "
                "advertise fewer addresses, spans, models or labels"
            )
        return HeldStatic.of(sign_record(self._key, self._swarm_id, "static", body), record)
