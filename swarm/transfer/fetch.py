"""Which chunk to ask whom for: a fetch of some chunks from several members, as a state machine.

Opens no socket, reads no clock, writes no file. The rules are those of BitTorrent (Cohen, "Incentives Build
Robustness in BitTorrent", 2003) without the incentives: rarest first, a few requests open at each member, so that the
fast ones are asked more, and at the end a chunk that a slow one holds up is asked of another too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from swarm.types import NodeId

PER_MEMBER = 4
IN_ALL = 12
"""Chunks asked for at once: so many are in memory at most."""
STUCK_SECONDS = 10.0
"""Shortest silence of a member with open requests that moves them elsewhere."""
STUCK_FACTOR = 6.0
"""The same, in multiples of what a chunk of it takes by now."""
PAUSE_SECONDS = 15.0
"""How long a member that was stuck is left alone; doubles each time."""
FULL_SECONDS = 0.5
LATE_FACTOR = 3.0
"""At the end, a chunk that takes that many times its member's usual is asked of another member too."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask ``node`` for chunk ``index``."""

    node: NodeId
    index: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """``node`` is not asked again, for the reason given."""

    node: NodeId
    reason: str


Effect: TypeAlias = Ask | Dropped


@dataclass(slots=True)
class _Member:
    holds: frozenset[int]
    queue: deque[int] = field(default_factory=deque)
    """What it could be asked for, best first; what is no longer needed is skipped when it comes up."""
    open: dict[int, float] = field(default_factory=dict)
    """Chunks asked for, and when."""
    heard_at: float = 0.0
    seconds: float = 0.0
    """A chunk's usual time while others are on their way too; 0 before the first."""
    paused_until: float = 0.0
    pause: float = PAUSE_SECONDS


class Fetch:
    """The chunks still wanted, who has them and who was asked. ``salt`` lets fetches at once begin elsewhere."""

    def __init__(self, wanted: Iterable[int], *, salt: int = 0) -> None:
        self._missing = set(wanted)
        self._salt = salt
        self._members: dict[NodeId, _Member] = {}
        self._dropped: set[NodeId] = set()
        self._askers: dict[int, set[NodeId]] = {}
        self._checking: set[int] = set()
        self._effects: list[Effect] = []

    # --- what others read ---

    @property
    def done(self) -> bool:
        return not self._missing

    @property
    def missing(self) -> frozenset[int]:
        return frozenset(self._missing)

    @property
    def stalled(self) -> bool:
        """Whether nothing is under way and nobody known has any of what is missing."""
        if self._askers or self._checking:
            return False
        return not any(self._missing & member.holds for member in self._members.values())

    def effects(self) -> list[Effect]:
        taken, self._effects = self._effects, []
        return taken

    def wakeup(self, now: float) -> float:
        """Return when ``tick`` should be called at the latest."""
        due = now + 1.0
        for member in self._members.values():
            if member.open:
                due = min(due, self._stuck_at(member))
            elif member.paused_until > now:
                due = min(due, member.paused_until)
        return due

    # --- what happens ---

    def offer(self, node: NodeId, holds: Collection[int], now: float) -> None:
        """Learn what a member has, the first time or anew."""
        if node in self._dropped:
            return
        useful = frozenset(self._missing.intersection(holds))
        member = self._members.get(node)
        if member is None:
            member = self._members[node] = _Member(useful, heard_at=now)
        elif member.holds == useful:
            return
        member.holds = useful
        self._rank()
        self._plan(now)

    def gone(self, node: NodeId, now: float) -> None:
        """A member can't be reached; it may offer again later."""
        member = self._members.pop(node, None)
        if member is not None:
            self._release(node, member)
            self._rank()
            self._plan(now)

    def arrived(self, node: NodeId, index: int, now: float) -> bool:
        """A chunk came; say whether it is to be checked. One already had, or given up, is not."""
        member = self._members.get(node)
        if member is None or index not in member.open:
            return False
        taken = now - max(member.open.pop(index), member.heard_at)
        member.seconds = taken if not member.seconds else 0.8 * member.seconds + 0.2 * taken
        member.heard_at = now
        self._unask(node, index)
        needed = index in self._missing and index not in self._checking
        if needed:
            self._checking.add(index)
        self._plan(now)
        return needed

    def stored(self, index: int, now: float) -> None:
        """A chunk was right and is on the disk."""
        self._checking.discard(index)
        self._missing.discard(index)
        self._plan(now)

    def wrong(self, node: NodeId, index: int, now: float) -> None:
        """A chunk was not what its digest says: its sender is not asked again."""
        self._checking.discard(index)
        self.drop(node, f"it sent wrong bytes for chunk {index}", now)
        self._put_back(index)
        self._plan(now)

    def drop(self, node: NodeId, reason: str, now: float) -> None:
        """Never ask a member again."""
        self._dropped.add(node)
        self._effects.append(Dropped(node, reason))
        self.gone(node, now)

    def refused(
        self, node: NodeId, index: int, code: Literal["absent", "not_shared", "full"], now: float
    ) -> None:
        """A member answered that it won't send a chunk."""
        member = self._members.get(node)
        if member is None or member.open.pop(index, None) is None:
            return
        self._unask(node, index)
        if code == "not_shared":
            self.gone(node, now)
            return
        if code == "full":
            member.paused_until = now + FULL_SECONDS
        else:
            member.holds -= {index}
        self._put_back(index)
        self._plan(now)

    def tick(self, now: float) -> None:
        """Take away from members what they have not sent in time."""
        for node, member in self._members.items():
            if member.open and now >= self._stuck_at(member):
                member.paused_until = now + member.pause
                member.pause *= 2
                self._release(node, member)
        self._plan(now)

    # --- inside ---

    def _stuck_at(self, member: _Member) -> float:
        since = max(member.heard_at, min(member.open.values()))
        return since + max(STUCK_SECONDS, STUCK_FACTOR * member.seconds)

    def _release(self, node: NodeId, member: _Member) -> None:
        taken, member.open = member.open, {}
        for index in taken:
            self._unask(node, index)
            self._put_back(index)

    def _put_back(self, index: int) -> None:
        """Let a chunk that was taken out of the queues be asked for again, before others."""
        if index in self._missing and index not in self._askers:
            for member in self._members.values():
                if index in member.holds:
                    member.queue.appendleft(index)

    def _unask(self, node: NodeId, index: int) -> None:
        askers = self._askers.get(index)
        if askers is not None:
            askers.discard(node)
            if not askers:
                del self._askers[index]

    def _rank(self) -> None:
        """Order what each member can be asked for: what the fewest have first."""
        holders = Counter(
            index for member in self._members.values() for index in member.holds & self._missing
        )
        for member in self._members.values():
            wanted = member.holds & self._missing
            member.queue = deque(
                sorted(wanted, key=lambda index: (holders[index], index < self._salt, index))
            )

    def _plan(self, now: float) -> None:
        """Ask wherever there is room: the members with the fewest open requests first."""
        going = True
        while going and sum(len(member.open) for member in self._members.values()) < IN_ALL:
            going = False
            for node, member in sorted(self._members.items(), key=lambda item: (len(item[1].open), item[0])):
                if len(member.open) >= PER_MEMBER or member.paused_until > now:
                    continue
                index = self._next(node, member, now)
                if index is not None:
                    member.open[index] = now
                    self._askers.setdefault(index, set()).add(node)
                    self._effects.append(Ask(node, index))
                    going = True
                    break

    def _next(self, node: NodeId, member: _Member, now: float) -> int | None:
        while member.queue:
            index = member.queue.popleft()
            if index in self._missing and index not in self._askers and index not in self._checking:
                return index
        return self._late(node, member, now)

    def _late(self, node: NodeId, member: _Member, now: float) -> int | None:
        """Return a chunk that another member holds up at the end and this one could send."""
        for index, askers in self._askers.items():
            if len(askers) != 1 or index not in member.holds or node in askers:
                continue
            if index not in self._missing or index in self._checking:
                continue
            (asker,) = askers
            other = self._members[asker]
            usual = max(other.seconds, member.seconds)
            if usual and now - max(other.open[index], other.heard_at) > LATE_FACTOR * usual:
                return index
        return None
