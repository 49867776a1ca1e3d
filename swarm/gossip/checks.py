"""Indirect checks: before accusing a member this node asks others whether they hear it. Sends nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.protocol.messages import PeerChecked
from swarm.types import NodeId

ACCUSE_SPREAD_SECONDS = 0.2
"""Accusers wait up to that long, at random: most then find that enough others have signed already."""

ENOUGH_VOUCHERS = 3
"""So many in a row end a doubt for good where the subject is one of many that this node has no link to."""
MOST_ERRANDS = 16
ERRAND_SECONDS = 5.0
MISSED_SECONDS = 15.0


@dataclass(slots=True)
class Doubt:
    """A member that this node does not hear. ``waiting`` are the helpers still to answer."""

    next_check: float
    pause: float
    nonce: int = 0
    waiting: set[NodeId] = field(default_factory=set)
    deadline: float | None = None
    accuse_at: float | None = None
    vouched: int = 0

    def due(self) -> float:
        """Return the time of this doubt's next step."""
        times = [time for time in (self.deadline, self.accuse_at) if time is not None]
        return min(times, default=self.next_check)


class Doubts:
    """All doubts of this node. A check that somebody vouches in is repeated, ever more seldom."""

    def __init__(self, check_seconds: float, max_pause: float) -> None:
        self._check_seconds = check_seconds
        self._max_pause = max_pause
        self._doubts: dict[NodeId, Doubt] = {}
        self._nonce = 0

    def __contains__(self, subject: NodeId) -> bool:
        return subject in self._doubts

    def raise_(self, subject: NodeId, now: float) -> None:
        """Begin to doubt, or check again now what is doubted already."""
        doubt = self._doubts.setdefault(subject, Doubt(next_check=now, pause=self._check_seconds))
        doubt.next_check = min(doubt.next_check, now)

    def settle(self, subject: NodeId) -> None:
        self._doubts.pop(subject, None)

    def due(self, now: float) -> list[NodeId]:
        """Return the subjects whose check should begin now."""
        return [
            subject
            for subject, doubt in sorted(self._doubts.items())
            if doubt.deadline is None and doubt.accuse_at is None and now >= doubt.next_check
        ]

    def begin(self, subject: NodeId, helpers: list[NodeId], now: float, patience: float) -> int:
        """Start a check by ``helpers`` and return its nonce.

        With nobody to ask it takes its full time too: a node that lost all its links has most likely itself to blame,
        and dials before it accuses.
        """
        doubt = self._doubts[subject]
        self._nonce += 1
        doubt.nonce, doubt.waiting = self._nonce, set(helpers)
        doubt.deadline = now + self._check_seconds * patience
        return doubt.nonce

    def answer(
        self, helper: NodeId, answer: PeerChecked, now: float, spread: float, *, lasting: bool = True
    ) -> None:
        """Take an answer; from who was not asked, or asked in another check, it counts nothing."""
        doubt = self._doubts.get(answer.subject)
        if doubt is None or doubt.nonce != answer.nonce or helper not in doubt.waiting:
            return
        doubt.waiting.discard(helper)
        if answer.alive:
            self.vouch(answer.subject, now, lasting=lasting)
        elif not doubt.waiting:
            self._failed(doubt, now, spread)

    def vouch(self, subject: NodeId, now: float, *, lasting: bool = True) -> None:
        """Somebody hears the subject: end the check under way, and make the next one later than the last.

        Unless doubts are ``lasting``, a few such words end them.
        """
        doubt = self._doubts.get(subject)
        if doubt is not None:
            doubt.vouched += 1
            if not lasting and doubt.vouched >= ENOUGH_VOUCHERS:
                self.settle(subject)
                return
            doubt.waiting.clear()
            doubt.deadline = doubt.accuse_at = None
            doubt.next_check = now + doubt.pause
            doubt.pause = min(doubt.pause * 2, self._max_pause)

    def expire(self, now: float, spread: float) -> None:
        """Fail the checks whose helpers did not answer in time."""
        for _, doubt in sorted(self._doubts.items()):
            if doubt.deadline is not None and now >= doubt.deadline:
                self._failed(doubt, now, spread)

    def to_accuse(self, now: float) -> list[NodeId]:
        """Return the subjects to accuse now, once for each failed check."""
        ready = [s for s, d in sorted(self._doubts.items()) if d.accuse_at is not None and now >= d.accuse_at]
        for subject in ready:
            doubt = self._doubts[subject]
            doubt.accuse_at = None
            doubt.next_check = now + self._check_seconds
        return ready

    def postpone(self, seconds: float) -> None:
        """Take the time in which this process stood still as not passed: answers may be waiting unread."""
        for doubt in self._doubts.values():
            doubt.next_check += seconds
            doubt.deadline = None if doubt.deadline is None else doubt.deadline + seconds
            doubt.accuse_at = None if doubt.accuse_at is None else doubt.accuse_at + seconds

    def wakeup(self) -> float:
        return min((doubt.due() for doubt in self._doubts.values()), default=float("inf"))

    def _failed(self, doubt: Doubt, now: float, spread: float) -> None:
        doubt.waiting.clear()
        doubt.vouched = 0
        doubt.deadline = None
        doubt.accuse_at = now + spread * ACCUSE_SPREAD_SECONDS


@dataclass(slots=True)
class Errand:
    """Others want to know whether a member lives, and this node dials it to find out."""

    until: float
    askers: dict[NodeId, int] = field(default_factory=dict)


class Errands:
    """Checks for others that need a dial, and the members that such a dial could not reach."""

    def __init__(self) -> None:
        self._errands: dict[NodeId, Errand] = {}
        self._missed: dict[NodeId, float] = {}

    def take(self, subject: NodeId, asker: NodeId, nonce: int, now: float) -> bool:
        """Note who asks, and return whether a dial has to begin for it. Too many at once stay unanswered."""
        self._errands = {node: errand for node, errand in self._errands.items() if now < errand.until}
        errand = self._errands.get(subject)
        begins = errand is None and len(self._errands) < MOST_ERRANDS
        if begins:
            errand = self._errands[subject] = Errand(now + ERRAND_SECONDS)
        if errand is not None:
            errand.askers[asker] = nonce
        return begins

    def drop(self, subject: NodeId) -> None:
        """Leave an errand undone; whoever asked hears nothing."""
        self._errands.pop(subject, None)

    def end(self, subject: NodeId, *, reached: bool, now: float) -> dict[NodeId, int]:
        """Take the outcome of a dial and return who asked for it, with their nonces."""
        errand = self._errands.pop(subject, None)
        if reached:
            self._missed.pop(subject, None)
        elif errand is not None:
            self._missed = {node: at for node, at in self._missed.items() if now - at < MISSED_SECONDS}
            self._missed[subject] = now
        return errand.askers if errand is not None else {}

    def missed(self, subject: NodeId, now: float) -> bool:
        """Return whether a dial on an errand failed to reach the subject lately."""
        return now - self._missed.get(subject, float("-inf")) < MISSED_SECONDS
