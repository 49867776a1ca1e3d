"""What recurs without anything having happened: link trust, load records, anti-entropy, forgetting. Merges nothing."""

from __future__ import annotations

from swarm.gossip.core import Core
from swarm.gossip.detector import Detector
from swarm.gossip.effects import Abort, LinkSuspect, LinkTrusted
from swarm.gossip.exchange import Exchange
from swarm.types import NodeId

SWEEP_SECONDS = 1.0
SOON_SECONDS = 1.5
STALE_INTERVALS = 3
"""A load record that is late by so many of the longest pauses between two stands still."""
STALE_CHECKERS = 4
"""So many of a large swarm, by chance, check a member whose load record stands still, each second."""
ABORT_SUSPECT_SECONDS = 10.0
"""A link that stays suspect is cut and dialled anew: a broken route may have kept its connection."""


class Upkeep:
    """The periodic work of one view. ``stale`` are the members whose load record stands still."""

    def __init__(self, core: Core, detector: Detector, exchange: Exchange, now: float) -> None:
        self._core = core
        self._detector = detector
        self._exchange = exchange
        self._next_sync = now + self._sync_pause()
        self._next_sweep = now + SWEEP_SECONDS
        self.stale: set[NodeId] = set()

    def tick(self, now: float) -> None:
        core = self._core
        if now >= core.own.load_due(len(core.table.entries)):
            core.announce_load(now)
        if now >= self._next_sync:
            self._next_sync = now + self._sync_pause()
            trusted = core.links.trusted()
            if trusted:
                self._exchange.synchronise(core.rng.choice(trusted))
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            self._sweep(now)

    def sync_soon(self, now: float) -> None:
        """Exchange digests before long: links that came up meanwhile may have missed each other's news, and whom the
        last exchange told something may lack more.
        """
        soon = now + SOON_SECONDS * (0.5 + self._core.rng.random())
        self._next_sync = min(self._next_sync, soon)

    def refresh_links(self, now: float) -> None:
        """Judge the links anew, and say which are suspect or trusted now."""
        core = self._core
        changes = core.links.refresh(now, core.patience(now))
        for node in changes.suspect:
            core.emit(LinkSuspect(node))
            core.changed(node)
            self._detector.doubt(node, now)
        for node in changes.trusted:
            core.emit(LinkTrusted(node))
            core.changed(node)
            self._detector.settle(node)
            self._exchange.send_digest(node, reply=True)
        for node in core.links.long_suspect(now, ABORT_SUSPECT_SECONDS):
            core.emit(Abort(node, "silent for too long"))

    def postpone(self, seconds: float) -> None:
        """Count the time in which this process stood still against nobody's load record."""
        for entry in self._core.table.entries.values():
            entry.load_advanced_at += seconds

    def _sweep(self, now: float) -> None:
        """Find members whose load record stands still, and forget those long gone."""
        core = self._core
        present = core.table.present()
        patience = max(core.settings.stale_seconds, STALE_INTERVALS * core.own.longest_interval(len(present)))
        share = min(1.0, STALE_CHECKERS / len(present)) if core.partial else 1.0
        for entry in present:
            node = entry.node
            stale = now - entry.load_advanced_at >= patience and node != core.node
            if stale and not core.links.hears(node) and core.rng.random() < share:
                self._detector.doubt(node, now)
            if stale != (node in self.stale):
                (self.stale.add if stale else self.stale.discard)(node)
                core.changed(node)
        for node in core.table.forget_old(now, core.settings.tombstone_seconds):
            core.changed(node)
        core.claims.forget_all_but(core.table.entries)
        self.stale &= core.table.entries.keys()

    def _sync_pause(self) -> float:
        return self._core.settings.sync_seconds * (0.75 + 0.5 * self._core.rng.random())
