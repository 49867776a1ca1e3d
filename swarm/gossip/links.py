"""The fast tier: heartbeats, round trips and suspicion of single links. Needs nobody's agreement.

Knows nothing of members or records. A link is suspect when its peer is silent or no longer echoes this node's
newest heartbeats: the second sees a link that is dead in one direction only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from swarm.config import GossipSettings
from swarm.protocol.messages import Heartbeat
from swarm.types import BootId, NodeId

MEAN_WEIGHT = 1 / 8
DEVIATION_FALL = 1 / 1024
"""A long gap raises the deviation at once and is remembered for minutes: where packets are lost, others follow that are
as long, or longer."""
FIRST_DEVIATION_BEATS = 2
"""What a new link is taken for, until it is known better: one that loses packets now and then."""
RTT_WEIGHT = 1 / 8
BEATS_REMEMBERED = 256


@dataclass(slots=True)
class Rhythm:
    """How regularly something recurs. Times are the caller's monotonic seconds."""

    last: float
    mean: float
    deviation: float

    def beat(self, now: float) -> None:
        gap = now - self.last
        off = abs(gap - self.mean) - self.deviation
        self.deviation += off if off > 0 else off * DEVIATION_FALL
        self.mean += MEAN_WEIGHT * (gap - self.mean)
        self.last = now

    def expected(self) -> float:
        """Return a pause that is seldom exceeded."""
        return self.mean + 4 * self.deviation


@dataclass(slots=True)
class Link:
    """One authenticated link: the peer's heartbeats, and its echoes of this node's."""

    node: NodeId
    boot: BootId
    up_at: float
    heard_at: float
    beats: Rhythm
    echoes: Rhythm
    last_number: int = 0
    last_number_at: float = 0.0
    echo: int = 0
    rtt_seconds: float | None = None
    suspect_since: float | None = None

    @property
    def suspect(self) -> bool:
        return self.suspect_since is not None


@dataclass(slots=True)
class Changes:
    """Links whose trust changed."""

    suspect: list[NodeId] = field(default_factory=list)
    trusted: list[NodeId] = field(default_factory=list)


class LinkTier:
    """All links of this node, with one beat for all of them."""

    def __init__(self, settings: GossipSettings, now: float) -> None:
        self._settings = settings
        self._links: dict[NodeId, Link] = {}
        self._order: list[Link] = []
        self._soonest = float("inf")
        self.version = 0
        """Counts the links that came and went."""
        self._number = 0
        self._beat_times: OrderedDict[int, float] = OrderedDict()
        self.next_beat = now

    def __contains__(self, node: NodeId) -> bool:
        return node in self._links

    def __len__(self) -> int:
        return len(self._links)

    def get(self, node: NodeId) -> Link | None:
        return self._links.get(node)

    def nodes(self) -> list[NodeId]:
        return [link.node for link in self._order]

    def all(self) -> list[Link]:
        """Return the links, sorted by id; the list is not to be changed."""
        return self._order

    def trusted(self) -> list[NodeId]:
        return [link.node for link in self._order if link.suspect_since is None]

    def hears(self, node: NodeId) -> bool:
        """Return whether a link to ``node`` is up and not suspect."""
        link = self._links.get(node)
        return link is not None and link.suspect_since is None

    def up(self, node: NodeId, boot: BootId, now: float) -> None:
        beat = self._settings.heartbeat_seconds
        off = FIRST_DEVIATION_BEATS * beat
        self._links[node] = Link(node, boot, now, now, Rhythm(now, beat, off), Rhythm(now, beat, off))
        self._soonest = min(self._soonest, self._deadline(self._links[node], 1.0))
        self._reorder()

    def down(self, node: NodeId) -> bool:
        known = self._links.pop(node, None) is not None
        if known:
            self._reorder()
        return known

    def _reorder(self) -> None:
        self._order = [self._links[node] for node in sorted(self._links)]
        self.version += 1

    def beat(self, now: float, late: bool = False) -> list[tuple[NodeId, Heartbeat]]:
        """Return the heartbeats that are due: one a link, or none.

        A process that is ``late`` beats half as often: it has other work, and its peers get used to it.
        """
        if now < self.next_beat:
            return []
        self.next_beat = max(self.next_beat + self._settings.heartbeat_seconds * (2 if late else 1), now)
        self._number += 1
        self._beat_times[self._number] = now
        if len(self._beat_times) > BEATS_REMEMBERED:
            self._beat_times.popitem(last=False)
        return [(link.node, self.heartbeat_for(link, now)) for link in self._order]

    def heartbeat_for(self, link: Link, now: float) -> Heartbeat:
        held = round((now - link.last_number_at) * 1e6) if link.last_number else 0
        return Heartbeat(self._number, link.last_number, held)

    def heard(self, node: NodeId, now: float) -> Link | None:
        """Any message proves that the peer lives. Returns the link, if there is one."""
        link = self._links.get(node)
        if link is not None:
            link.heard_at = now
        return link

    def on_heartbeat(self, node: NodeId, beat: Heartbeat, now: float) -> None:
        link = self._links.get(node)
        if link is None or beat.number <= link.last_number:
            return
        link.beats.beat(now)
        link.last_number, link.last_number_at = beat.number, now
        sent_at = self._beat_times.get(beat.echo)
        if beat.echo > link.echo and sent_at is not None:
            link.echo = beat.echo
            link.echoes.beat(now)
            sample = max(now - sent_at - beat.held_microseconds / 1e6, 0.0)
            link.rtt_seconds = (
                sample
                if link.rtt_seconds is None
                else link.rtt_seconds + RTT_WEIGHT * (sample - link.rtt_seconds)
            )

    def timeout(self, rhythm: Rhythm, patience: float) -> float:
        """Return the pause in seconds that makes a link suspect. ``patience`` is 1 when healthy."""
        low, high = self._settings.suspect_min_seconds, self._settings.suspect_max_seconds
        return min(max(rhythm.expected(), low), high) * patience

    def refresh(self, now: float, patience: float) -> Changes:
        """Judge every link anew."""
        changes = Changes()
        self._soonest = float("inf")
        for link in self._order:
            deadline = self._deadline(link, patience)
            if now >= deadline:
                if link.suspect_since is None:
                    link.suspect_since = now
                    changes.suspect.append(link.node)
                continue
            self._soonest = min(self._soonest, deadline)
            if link.suspect_since is not None:
                link.suspect_since = None
                changes.trusted.append(link.node)
        return changes

    def long_suspect(self, now: float, seconds: float) -> list[NodeId]:
        """Return the links that have been suspect for that long since they were last returned."""
        found = []
        for link in self._order:
            if link.suspect_since is not None and now - link.suspect_since >= seconds:
                link.suspect_since = now
                found.append(link.node)
        return found

    def forgive(self, now: float) -> None:
        """Hold no silence until now against the peers: this process itself stood still."""
        for link in self._links.values():
            link.heard_at = link.beats.last = link.echoes.last = now

    def due(self, now: float) -> bool:
        """Return whether a beat or the end of somebody's time is due."""
        return now >= self.next_beat or self.judgement_due(now)

    def judgement_due(self, now: float) -> bool:
        """Return whether somebody's time may have ended. A late beat is no reason: judging costs each link a little."""
        return now >= self._soonest

    def wakeup(self) -> float:
        """Return when ``due`` will be true. Who speaks meanwhile only moves its own time, most often to later."""
        return min(self.next_beat, self._soonest)

    def _deadline(self, link: Link, patience: float) -> float:
        silent = link.heard_at + self.timeout(link.beats, patience)
        unheard = link.echoes.last + self.timeout(link.echoes, patience)
        return silent if silent < unheard else unheard
