"""Leaving hops that still work, without a pause: their replacements are filled while the answer goes on. Pure.

A hop is left because its node drains, because its span goes away, or because it is slow. A second leg under the next
epoch opens only the hops that are new; the hops before them, still at work under the old epoch, replay to them what
they sent on. Once little is lacking the answer switches at a token boundary: the other hops are opened under the new
epoch too, the last few tokens are filled, and the hops that were left are released.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarm.protocol.messages import Filled, Hop, Opened, Refused
from swarm.sessions.effects import ChosenPath, FindPath
from swarm.sessions.fill import ORIGIN, Flow, HopState, plan
from swarm.sessions.leg import Leg, Reach
from swarm.sessions.ways import Ways
from swarm.types import NodeId

RETRY_SECONDS = 1.0
SLOW_AGAIN_SECONDS = 10.0
NEAR_TOKENS = 16
"""A leg that lacks no more is switched to; the rest is filled in the pause."""
MAX_ROUNDS = 8


class Mover:
    """Which hops an answer wants to leave, and the leg under way to that end."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self.leg: Leg | None = None
        self.new: frozenset[int] = frozenset()
        self.moves = 0
        self.ready = False
        """At the next token boundary the answer switches to ``leg``."""
        self.breaks = False
        """It does so by opening all of it anew: its new hops could not be filled beside the old ones."""
        self._nodes: set[NodeId] = set()
        self._hops: set[Hop] = set()
        self._avoid: set[NodeId] = set()
        self._retry_at = 0.0
        self._slow: set[NodeId] = set()
        """Of ``_nodes``, those that are to be left for being slow only."""
        self._slow_again_at: dict[NodeId, float] = {}
        self._rounds = 0
        self._reaches: dict[int, Reach] = {}

    # --- what is to be left ---

    def leave_node(self, node: NodeId) -> None:
        """All of a node's hops, now and later: it leaves, or is slow."""
        self._nodes.add(node)
        self._slow.discard(node)

    def leave_hop(self, hop: Hop) -> None:
        """One hop; its node may take the answer's layers by another span."""
        self._hops.add(hop)

    @property
    def leaving(self) -> bool:
        return bool(self._nodes or self._hops)

    @property
    def active(self) -> bool:
        return self.leg is not None or self.leaving

    def try_to_leave(self, node: NodeId, now: float) -> None:
        """Leave a slow node if there is somewhere to go, else try again after a while."""
        if now >= self._slow_again_at.get(node, 0.0) and node not in self._nodes:
            self._slow_again_at[node] = now + SLOW_AGAIN_SECONDS
            self._slow.add(node)
            self._nodes.add(node)

    def leaves(self, hop: Hop) -> bool:
        return hop.node in self._nodes or hop in self._hops

    def stay(self) -> None:
        """There is nowhere to go: what was to be left is used as long as it works."""
        self._nodes.clear()
        self._hops.clear()

    def try_now(self, leg: Leg, now: float) -> None:
        """Ask for a path on which the other hops stay, if there is a hop on ``leg`` to leave and it is time."""
        if self.leg is not None or not self.leaving or now < self._retry_at or not self._ways.keeps:
            return
        if any(self.leaves(hop) for hop in leg.path.hops):
            self._retry_at = now + RETRY_SECONDS
            held = tuple(hop for hop in leg.path.hops if not self.leaves(hop))
            avoided = frozenset(self._nodes | self._avoid)
            wish = FindPath(avoided, frozenset(), self._ways.last_epoch, held, moving=True)
            self._ways.effects.append(wish)

    # --- the second leg ---

    def found(self, path: ChosenPath, old: Leg, now: float) -> None:
        """Open what ``path`` has beside the hops of ``old``."""
        if self.leg is not None:
            return
        leg = self._ways.new_leg(path)
        self._begin(leg, old)
        if path.dtype != old.path.dtype or not self.new or self._in_the_way(path, old.path):
            # Hidden states of another dtype can't be replayed, and the same hops can't be opened beside themselves.
            self._break_first()
            return
        self._ways.ask_to_open(leg, sorted(self.new), now, self._ways.settings.open_seconds)

    def _in_the_way(self, path: ChosenPath, old: ChosenPath) -> bool:
        """Whether a new hop would take the place of one at work: a node knows them by first layer and by place."""
        hops = [path.hops[place] for place in sorted(self.new)]
        layers = {(hop.node, hop.span.start) for hop in old.hops}
        places = {(hop.node, place) for place, hop in enumerate(old.hops)}
        return any((hop.node, hop.span.start) in layers for hop in hops) or any(
            (path.hops[place].node, place) in places for place in self.new
        )

    def _begin(self, leg: Leg, old: Leg) -> None:
        places = {hop: place for place, hop in enumerate(old.path.hops)}
        kept = {place: places[hop] for place, hop in enumerate(leg.path.hops) if hop in places}
        self.leg = leg
        self.new = frozenset(range(len(leg.path.hops))) - kept.keys()
        self.ready = self.breaks = False
        self._rounds = 0
        self._reaches = {place: Reach(old.epoch, before) for place, before in kept.items()}
        for place, before in kept.items():
            leg.states[place] = old.states[before]

    def opened(self, sender: NodeId, message: Opened, now: float) -> bool:
        """Take a new hop's answer; when it was the last, the filling begins."""
        leg = self.leg
        if leg is None or not leg.opened(sender, message):
            return False
        if not leg.unopened:
            states = [
                leg.states[place] if place in self.new else _at(leg.states[place], self._ways.total - 1)
                for place in range(len(leg.path.hops))
            ]
            found = plan(states, self._ways.total - 1, fixed=frozenset(self._reaches))
            if found is None or found.position < self._ways.total - 1:
                self._break_first()  # only hops that pause can be taken back to where they must begin
            else:
                leg.fill(found.flows, now, self._reaches)
                self._go_on(leg, found.position, now)
        return True

    def filled(self, sender: NodeId, message: Filled, now: float) -> bool:
        leg = self.leg
        chunk = leg.filled(sender, message, now) if leg is not None else None
        if leg is None or chunk is None:
            return False
        self._go_on(leg, chunk.end, now)
        return True

    def _go_on(self, leg: Leg, reached: int, now: float) -> None:
        """Once filled, fetch what the answer has grown by meanwhile, until that is little."""
        if not leg.filler.done or self.ready:
            return
        if self._ways.total - 1 - reached <= NEAR_TOKENS or self._rounds >= MAX_ROUNDS:
            self.ready = True
            return
        self._rounds += 1
        leg.fill(_runs(self.new, reached, self._ways.total - 1), now, self._reaches)

    def _break_first(self) -> None:
        """Make before break is not possible: at the next token boundary the answer pauses and is refilled."""
        self.ready = self.breaks = True

    @property
    def kept(self) -> tuple[int, ...]:
        """The places of the leg whose hops are on the old one too."""
        return tuple(sorted(self._reaches))

    def take(self) -> Leg:
        """Hand the leg over to the answer; it is not a move's any more."""
        leg = self.leg
        if leg is None:
            raise RuntimeError("no leg to switch to")
        self.dissolve()
        self.moves += 1
        return leg

    def dissolve(self) -> None:
        """Forget the leg; its hops are the answer's to use or to release."""
        self.leg, self.ready = None, False

    def refused(self, sender: NodeId, message: Refused, old: Leg, now: float) -> bool:
        """Take a refusal that concerns the move only; return whether it did."""
        leg = self.leg
        if leg is None:
            return False
        if message.epoch == leg.epoch:
            if message.code == "full" and sender in old.nodes:
                self._break_first()  # the room is what the hop to be left holds
            else:
                self.abandon((sender,), old, now)
            return True
        if message.epoch != old.epoch:
            return False
        if message.code == "log_gap":
            self._break_first()
            return True
        if message.code == "unreachable" and message.next in self.new_nodes - old.nodes:
            self._ways.shun((sender, message.next))
            self.abandon((message.next,), old, now)
            return True
        return False

    def abandon(self, nodes: Iterable[NodeId], old: Leg, now: float) -> None:
        """The leg came to nothing because of ``nodes``: try again elsewhere, a little later."""
        self.dissolve()
        self._avoid.update(nodes)
        self._retry_at = now + RETRY_SECONDS
        self._ways.release_all_but(old)

    def late(self, old: Leg, now: float) -> None:
        """Give a leg up that does not come on."""
        if self.leg is not None and self.leg.late(now):
            self.abandon(self.new_nodes - {self._ways.request.origin}, old, now)

    def nowhere(self) -> None:
        """No path was found: what failed before may be tried again, and who is only slow is kept."""
        self._avoid.clear()
        self._nodes -= self._slow
        self._slow.clear()

    @property
    def new_nodes(self) -> frozenset[NodeId]:
        return frozenset(self.leg.path.hops[place].node for place in self.new) if self.leg else frozenset()


def _at(state: HopState, length: int) -> HopState:
    """A hop at work has all accepted tokens but the last, whatever it had when it was opened."""
    return HopState(max(state.length, length), state.log_from, state.floor, state.layers)


def _runs(places: frozenset[int], start: int, end: int) -> list[Flow]:
    """Return a flow for each run of neighbours, from the hop before it."""
    flows = []
    for place in sorted(places):
        if place - 1 not in places:
            until = place + 1
            while until in places:
                until += 1
            flows.append(Flow(place - 1 if place else ORIGIN, start, end, until))
    return flows
