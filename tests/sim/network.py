"""Links in memory: delay, loss, black holes and resets, all from one seed. Knows nothing of gossip or sessions.

A connection behaves as TCP does: in order, complete, and late instead of lost. A lost packet costs a
retransmission timeout that doubles; what is sent into a black hole arrives when the hole closes, if the
connection still stands. With ``raw_loss`` messages vanish instead, which no TCP does: harder than reality.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.sim.scheduler import Scheduler

RETRANSMIT_SECONDS = 0.2
PRUNE_EVERY = 256
SYN_SECONDS = (1.0, 2.0, 2.0)
"""Pauses of a kernel between its attempts to open a connection; after them the dial has timed out."""


@dataclass(slots=True)
class Conditions:
    """What every link is like, unless ``delays`` says otherwise for a directed pair of names."""

    delay_seconds: float = 0.001
    jitter_seconds: float = 0.0
    loss: float = 0.0
    raw_loss: float = 0.0
    delays: dict[tuple[str, str], float] = field(default_factory=dict)
    blocked: set[tuple[str, str]] = field(default_factory=set)


class Endpoint(Protocol):
    """A process as the network sees it."""

    name: str
    running: bool

    def connected(self, connection: Connection) -> None: ...
    def disconnected(self, connection: Connection, graceful: bool) -> None: ...
    def arrived(self, connection: Connection, message: Any) -> None: ...
    def accepts(self, dialler: Endpoint) -> bool: ...
    def linked_to(self, peer: Endpoint) -> Connection | None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """Who is told what became of a dial: ``linked`` also if there was a link already."""

    linked: Callable[[Endpoint], None]
    failed: Callable[[], None]


class Connection:
    """Two endpoints and what is under way between them."""

    def __init__(self, number: int, dialler: Endpoint, acceptor: Endpoint) -> None:
        self.number = number
        self.ends = (dialler, acceptor)
        self.open_at = {dialler.name: True, acceptor.name: True}
        self.last_arrival = {dialler.name: 0.0, acceptor.name: 0.0}
        self.stuck: dict[str, list[Any]] = {dialler.name: [], acceptor.name: []}

    def peer(self, end: Endpoint) -> Endpoint:
        return self.ends[1] if end is self.ends[0] else self.ends[0]


class Network:
    """All endpoints by address, and all connections."""

    def __init__(self, scheduler: Scheduler, seed: int, conditions: Conditions) -> None:
        self.conditions = conditions
        self._scheduler = scheduler
        self._rng = random.Random(f"network {seed}")
        self._listening: dict[str, Endpoint] = {}
        self._connections: list[Connection] = []
        self._dialled = 0
        self.messages = 0

    def listen(self, address: str, endpoint: Endpoint) -> None:
        self._listening[address] = endpoint

    def dial(self, dialler: Endpoint, address: str, outcome: Outcome) -> None:
        """Connect and authenticate: two round trips, then both ends are told, and the dialler the outcome."""
        target = self._listening.get(address)
        if target is None:
            self._scheduler.after(0.001, outcome.failed)
            return
        self._knock(dialler, target, outcome, SYN_SECONDS)

    def send(self, connection: Connection, sender: Endpoint, message: Any) -> None:
        receiver = connection.peer(sender)
        self.messages += 1
        conditions = self.conditions
        if conditions.raw_loss and self._rng.random() < conditions.raw_loss:
            return
        if conditions.blocked and (sender.name, receiver.name) in conditions.blocked:
            connection.stuck[receiver.name].append(message)
            return
        delay = self._delay(sender.name, receiver.name)
        timeout = RETRANSMIT_SECONDS
        while conditions.loss and self._rng.random() < conditions.loss:
            delay += timeout
            timeout *= 2
        arrival = max(self._scheduler.now + delay, connection.last_arrival[receiver.name])
        connection.last_arrival[receiver.name] = arrival
        self._scheduler.at(arrival, lambda: self._arrive(connection, receiver, message))

    def close(self, connection: Connection, closer: Endpoint, *, graceful: bool) -> None:
        """End a connection: here at once, at the other end when the news gets there, if it does."""
        receiver = connection.peer(closer)
        connection.open_at[closer.name] = False
        if (closer.name, receiver.name) not in self.conditions.blocked:
            arrival = self._scheduler.now + self._delay(closer.name, receiver.name)
            arrival = max(arrival, connection.last_arrival[receiver.name])
            self._scheduler.at(arrival, lambda: self._reset(connection, receiver, graceful))

    def unblock(self, pairs: set[tuple[str, str]]) -> None:
        """Close black holes: what is stuck in open connections arrives; closed ones are reset at the far end."""
        self.conditions.blocked -= pairs
        for connection in [c for c in self._connections if any(c.open_at.values())]:
            for sender in connection.ends:
                receiver = connection.peer(sender)
                if (sender.name, receiver.name) not in pairs:
                    continue
                stuck, connection.stuck[receiver.name] = connection.stuck[receiver.name], []
                if not connection.open_at[sender.name]:
                    self._reset(connection, receiver, False)
                    continue
                for message in stuck:
                    self.send(connection, sender, message)

    def _knock(self, dialler: Endpoint, target: Endpoint, outcome: Outcome, waits: tuple[float, ...]) -> None:
        if not self._cut(dialler, target):
            trip = self._delay(dialler.name, target.name) + self._delay(target.name, dialler.name)
            self._scheduler.after(2 * trip, lambda: self._answer(dialler, target, outcome))
        elif waits:
            self._scheduler.after(waits[0], lambda: self._knock(dialler, target, outcome, waits[1:]))
        else:
            outcome.failed()

    def _answer(self, dialler: Endpoint, target: Endpoint, outcome: Outcome) -> None:
        if not dialler.running:
            return
        if dialler.linked_to(target) is not None:
            outcome.linked(target)
            return
        if not target.accepts(dialler) or self._cut(dialler, target):
            outcome.failed()
            return
        self._dialled += 1
        connection = Connection(self._dialled, dialler, target)
        if self._dialled % PRUNE_EVERY == 0:
            self._connections = [c for c in self._connections if any(c.open_at.values())]
        self._connections.append(connection)
        target.connected(connection)
        dialler.connected(connection)
        outcome.linked(target)

    def _arrive(self, connection: Connection, receiver: Endpoint, message: Any) -> None:
        if connection.open_at[receiver.name]:
            receiver.arrived(connection, message)

    def _reset(self, connection: Connection, receiver: Endpoint, graceful: bool) -> None:
        if connection.open_at[receiver.name]:
            connection.open_at[receiver.name] = False
            receiver.disconnected(connection, graceful)

    def _cut(self, one: Endpoint, other: Endpoint) -> bool:
        blocked = self.conditions.blocked
        return (one.name, other.name) in blocked or (other.name, one.name) in blocked

    def _delay(self, source: str, target: str) -> float:
        base = self.conditions.delays.get((source, target), self.conditions.delay_seconds)
        jitter = self.conditions.jitter_seconds
        return base + jitter * self._rng.random() if jitter else base
