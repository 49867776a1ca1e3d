"""Whom to dial and when: bootstrap addresses, members without a link, and the pauses between. Opens no socket."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from swarm.gossip.broadcasts import Random
from swarm.gossip.effects import Dial
from swarm.types import Address, NodeId

FIRST_PAUSE_SECONDS = 0.2
PAUSE_SECONDS = 2.0
"""Between the starts of attempts for the first five minutes: a healed partition is found within that."""
EAGER_SECONDS = 300.0
MAX_PAUSE_SECONDS = 30.0
FORGOTTEN_SECONDS = 20.0
"""An attempt that nobody reported on counts as failed then."""
FEWEST_AT_ONCE, FIRST_AT_ONCE, MOST_AT_ONCE = 2, 2, 8
"""Young attempts at members under way: one more after each that led to a link, half after one that failed. A node that
learns of forty would else begin forty handshakes, and so would the others: a swarm that forms at once on a slow machine
then spends its time on handshakes that end at their timeouts."""
YOUNG_SECONDS = 2.0
"""An attempt that takes longer meets silence, and holds up no other."""
COURTESY_SECONDS = 0.5
COURTESY_A_MEMBER_SECONDS = 0.05
"""The lower id of a pair dials first: the other waits, or most pairs would connect twice. It waits the longer the more
there are to dial, as the lower id does not dial all at once."""
STAGGER_SECONDS = 1.0
"""Between the first attempts at several bootstrap addresses, in an order by chance, unless one fails before. Once one
has answered, the others are most often known as members."""


@dataclass(slots=True)
class Attempts:
    """The attempts at one member or one bootstrap address."""

    next_at: float
    since: float
    under_way: float | None = None
    failures: int = 0
    overloads: int = 0


@dataclass(slots=True)
class Dialer:
    """Attempts at members by id, and at bootstrap addresses that no known member is behind.

    An address counts as answered while a living member's record names it, or whom it led to is linked or lives. Else
    it is tried for ever, whoever else is linked: newcomers that find each other before they find the swarm must not
    stay a swarm of their own.
    """

    own: NodeId
    rng: Random
    _at_once: int = FIRST_AT_ONCE
    _members: dict[NodeId, Attempts] = field(default_factory=dict)
    _bootstrap: dict[Address, Attempts] = field(default_factory=dict)
    _own_addresses: set[Address] = field(default_factory=set)
    _led_to: dict[Address, NodeId] = field(default_factory=dict)
    _linked: set[NodeId] = field(default_factory=set)
    _answered: set[Address] = field(default_factory=set)
    _judged: Mapping[NodeId, Collection[Address]] | None = None

    def add_bootstrap(self, addresses: Iterable[Address], now: float) -> None:
        new = [a for a in dict.fromkeys(addresses) if a not in self._own_addresses | self._bootstrap.keys()]
        self._stagger(new, now)
        self._judged = None

    def _stagger(self, addresses: list[Address], now: float) -> None:
        for place, address in enumerate(self.rng.sample(addresses, len(addresses))):
            self._bootstrap[address] = Attempts(now + place * STAGGER_SECONDS, now)

    def _hurry(self, now: float) -> None:
        """One bootstrap address failed: the next that was not tried yet need not wait any longer."""
        untried = [a for a in self._bootstrap.values() if not a.failures and a.under_way is None]
        if untried:
            following = min(untried, key=lambda attempts: attempts.next_at)
            following.next_at = min(following.next_at, now)

    def is_own(self, address: Address) -> None:
        """Never dial ``address`` again: this node itself answers there."""
        self._own_addresses.add(address)
        self._bootstrap.pop(address, None)

    def answered(self, address: Address, node: NodeId) -> None:
        """A connection to ``address`` stands, and ``node`` is who answered."""
        self._led_to[address] = node
        self._judged = None
        if address in self._bootstrap:
            self._bootstrap[address].under_way = None

    def linked(self, node: NodeId) -> None:
        self._linked.add(node)
        attempts = self._members.pop(node, None)
        if attempts is not None and attempts.under_way is not None:
            self._at_once = min(self._at_once + 1, MOST_AT_ONCE)

    @property
    def seeks(self) -> bool:
        """Whether there are bootstrap addresses at all."""
        return bool(self._bootstrap)

    def lost(self, node: NodeId, now: float) -> None:
        """A link ended: try again at once, but not all at the same moment."""
        self._linked.discard(node)
        self._judged = None
        self._members[node] = Attempts(now + self.rng.random() * FIRST_PAUSE_SECONDS, now)

    def failed(self, address: Address, node: NodeId | None, now: float, *, overloaded: bool = False) -> None:
        """An attempt came to nothing. Who is there but ``overloaded`` is given twice as much time after each."""
        attempts = self._members.get(node) if node is not None else self._bootstrap.get(address)
        if attempts is not None and attempts.under_way is not None:
            started = attempts.under_way
            attempts.under_way = None
            attempts.failures += 1
            attempts.overloads = attempts.overloads + 1 if overloaded else 0
            self._at_once = max(self._at_once // 2, FEWEST_AT_ONCE)
            if node is None:
                self._hurry(now)
            # Counted from the start: an attempt that ran into its timeout has been pause enough.
            soonest = now + self.rng.random() * FIRST_PAUSE_SECONDS
            attempts.next_at = max(started + self._pause(attempts, now), soonest)

    def due(
        self,
        wanted: dict[NodeId, tuple[Address, ...]],
        now: float,
        *,
        alone: bool,
        courteous: bool = True,
        living: Mapping[NodeId, Collection[Address]] | None = None,
        room: float = float("inf"),
        patience: float = 1.0,
    ) -> list[Dial]:
        """Return the connections to open now.

        ``wanted`` are the members that should be linked and are not, with their addresses; ``living`` are all that
        are known to live, another object whenever they changed. Bootstrap addresses behind which a member is known
        are tried only while this node is ``alone``. ``courteous``: both ends want the link, so the higher id waits
        for the lower one's dial. ``room`` is how many of the wanted are to be linked for now, ``patience`` how much
        longer than usual an attempt may take, as this node is late itself.
        """
        if living is not self._judged:
            self._judged = living
            self._judge(living or {})
        for node in [node for node in self._members if node not in wanted]:
            del self._members[node]
        dials = []
        free = min(self._at_once, room) - sum(
            attempts.under_way is not None and now - attempts.under_way < YOUNG_SECONDS * patience
            for attempts in self._members.values()
        )
        for node, addresses in wanted.items():
            attempts = self._members.get(node)
            if attempts is None:
                waits = courteous and node < self.own
                courtesy = COURTESY_SECONDS + COURTESY_A_MEMBER_SECONDS * len(wanted)
                after = now + courtesy * (1 + self.rng.random()) if waits else now
                attempts = self._members[node] = Attempts(after, now)
            usable = [address for address in addresses if address not in self._own_addresses]
            if not usable:
                attempts.next_at = now + PAUSE_SECONDS
            elif free > 0 and self._ready(attempts, now):
                free -= 1
                attempts.under_way = now
                dials.append(Dial(usable[attempts.failures % len(usable)], node))
        for address, attempts in self._bootstrap.items():
            if (alone or address not in self._answered) and self._ready(attempts, now):
                attempts.under_way = now
                dials.append(Dial(address, None))
        return dials

    def _judge(self, living: Mapping[NodeId, Collection[Address]]) -> None:
        """Find the bootstrap addresses that a living member is behind, or one that is linked and still unknown."""
        named = {address for addresses in living.values() for address in addresses}
        there = living.keys() | self._linked
        self._answered = {a for a in self._bootstrap if a in named or self._led_to.get(a) in there}

    def bootstrap_done(self, now: float) -> None:
        """A member is linked; should all be lost again, the answered bootstrap addresses are tried anew."""
        self._stagger([address for address in self._bootstrap if address in self._answered], now)

    def wakeup(self, alone: bool) -> float:
        soonest, under_way = float("inf"), 0
        for attempts in self._members.values():
            if attempts.under_way is not None:
                under_way += 1
            elif attempts.next_at < soonest:
                soonest = attempts.next_at
        if under_way >= self._at_once:
            soonest = float("inf")  # the end of an attempt is an event of its own
        for address, attempts in self._bootstrap.items():
            if attempts.under_way is None and (alone or address not in self._answered):
                soonest = min(soonest, attempts.next_at)
        return soonest

    def _ready(self, attempts: Attempts, now: float) -> bool:
        if attempts.under_way is not None:
            return now - attempts.under_way >= FORGOTTEN_SECONDS
        return now >= attempts.next_at

    def _pause(self, attempts: Attempts, now: float) -> float:
        """2 s for five minutes, then growing to 30 s; jitter adds up to a half.

        A handshake that fails costs both ends most of what one costs that succeeds. So the pause grows at once where
        that happens, or those who are turned away would keep the others from getting in.
        """
        pause: float = PAUSE_SECONDS
        if now - attempts.since >= EAGER_SECONDS:
            pause *= float(2 ** ((now - attempts.since) / EAGER_SECONDS))
        pause = max(pause, PAUSE_SECONDS * 2 ** min(attempts.overloads, 3))
        return min(pause, MAX_PAUSE_SECONDS) * (1.0 + 0.5 * self.rng.random())
