"""Signed claims that members are SUSPECT or DEAD, and what they add up to. Verifies nothing, sends nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from swarm.gossip.record import Claim
from swarm.protocol.messages import SignedSuspicion
from swarm.types import NodeId

ENOUGH_SIGNERS = 3
"""Further signers change nothing: their claims are neither kept nor relayed, nor does this node add its own."""
CLAIMS_PER_MINUTE = 6
MINUTE = 60.0
UNRESOLVED_PERIODS = 2.0
"""A case that is open for so many times to refute is one to look into: its signers may be unknown here."""
LARGE_SWARM = 32
LARGE_SWARM_FACTOR = 5 / 3


def refute_period(settings_seconds: float, members: int, patience: float) -> float:
    """Return the seconds a suspected member has to refute: claims and refutations travel further in a large swarm."""
    return settings_seconds * (LARGE_SWARM_FACTOR if members > LARGE_SWARM else 1.0) * patience


@dataclass(slots=True)
class Case:
    """The claims against one member at one incarnation."""

    incarnation: int
    opened_at: float
    checked_at: float = float("-inf")
    """When this node last looked into it because it came to no end."""
    suspecting: dict[NodeId, SignedSuspicion] = field(default_factory=dict)
    burying: dict[NodeId, SignedSuspicion] = field(default_factory=dict)

    @property
    def signers(self) -> set[NodeId]:
        """Everyone who holds the member for SUSPECT at least."""
        return set(self.suspecting) | set(self.burying)

    def is_stuck(self, now: float, period: float) -> bool:
        """Return whether the time to refute has passed so often since the last look that it is time for another."""
        return now - max(self.opened_at, self.checked_at) >= UNRESOLVED_PERIODS * period

    def evidence(self) -> tuple[SignedSuspicion, ...]:
        return tuple(self.suspecting.values()) + tuple(self.burying.values())


class Claims:
    """Open cases, one a subject, and how often each signer accused lately."""

    def __init__(self) -> None:
        self._cases: dict[NodeId, Case] = {}
        self._spent: dict[NodeId, deque[float]] = {}
        self._spent_on_self: dict[NodeId, deque[float]] = {}

    def case(self, subject: NodeId) -> Case | None:
        return self._cases.get(subject)

    def subjects(self) -> list[NodeId]:
        return sorted(self._cases)

    def wants(self, claim: Claim) -> bool:
        """Return whether ``claim`` would add to what is held."""
        case = self._cases.get(claim.subject)
        if case is None or case.incarnation != claim.incarnation:
            return True
        held = case.burying if claim.dead else case.suspecting
        return claim.signer not in held and len(held) < ENOUGH_SIGNERS

    def add(self, claim: Claim, signed: SignedSuspicion, now: float) -> Case:
        """Take a verified claim at the incarnation that is held of its subject."""
        case = self._cases.get(claim.subject)
        if case is None or case.incarnation != claim.incarnation:
            case = self._cases[claim.subject] = Case(claim.incarnation, now)
        (case.burying if claim.dead else case.suspecting)[claim.signer] = signed
        return case

    def allow(self, signer: NodeId, now: float, *, of_self: bool = False) -> bool:
        """Charge ``signer`` for one accusation of a member that seems well; False when it made too many.

        Accusations of this node itself are counted apart: they must be refuted, whatever else the signer claims.
        """
        spent = (self._spent_on_self if of_self else self._spent).setdefault(signer, deque())
        while spent and now - spent[0] >= MINUTE:
            spent.popleft()
        if len(spent) >= CLAIMS_PER_MINUTE:
            return False
        spent.append(now)
        return True

    def postpone(self, seconds: float) -> None:
        """Give the accused back the time in which this process stood still and could not hear them."""
        for case in self._cases.values():
            case.opened_at += seconds

    def close(self, subject: NodeId) -> None:
        self._cases.pop(subject, None)

    def forget_all_but(self, known: Container[NodeId]) -> None:
        for node in [node for node in self._cases if node not in known]:
            del self._cases[node]
        for spent in (self._spent, self._spent_on_self):
            for node in [node for node in spent if node not in known]:
                del spent[node]
