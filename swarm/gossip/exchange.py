"""Records and digests from peers: what is taken, what is passed on, what is answered. Keeps no timers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarm.errors import ProtocolError
from swarm.gossip.anti_entropy import digests, lacking
from swarm.gossip.broadcasts import LOAD_FANOUT, OVERLAY_LOAD_FANOUT, RELAY_FANOUT, News, packed
from swarm.gossip.core import Core
from swarm.gossip.detector import Detector
from swarm.gossip.effects import OwnIdentityElsewhere
from swarm.gossip.member import HEALTH_MASK, Health
from swarm.gossip.record import decode_load, decode_static
from swarm.gossip.table import Merged
from swarm.protocol.messages import Digest, Gossip, SignedRecord
from swarm.types import NodeId

MINUTE = 60.0
FRESH_LINKS = 3
"""With more links in an overlay, a further one brings no digest of its own: each has up to 75 bytes a member."""
YOUNG_SECONDS = 10.0
"""A node that new takes the swarm as the first members tell it: it has nothing to hold it against."""


@dataclass(slots=True)
class Admission:
    """How many new ids one link may still bring: a bucket that a minute fills."""

    tokens: float
    filled_at: float


class Exchange:
    """The gossip traffic of one view."""

    def __init__(self, core: Core, detector: Detector, permits: Callable[[NodeId], bool], now: float) -> None:
        self._core = core
        self._started = now
        self._detector = detector
        self._permits = permits
        self._admissions: dict[NodeId, Admission] = {}
        self._asked: NodeId | None = None
        """Who was asked for its digest and has not sent it yet: its answer comes before it."""
        self._learned = False
        """Whether it has told something new since."""

    def link_up(self, peer: NodeId, now: float) -> bool:
        """Ask ``peer`` for what is lacking here; False if that can wait for the next exchange of digests."""
        self._admissions[peer] = Admission(self._capacity(), now)
        due = self._is_digest_due(peer)
        if due:
            self.send_digest(peer, reply=False)
        return due

    def _is_digest_due(self, peer: NodeId) -> bool:
        """Return whether ``peer`` may know much that is news here, or must hear what is held of itself.

        In a mesh, always. A node with several links hears what its part of the swarm knows; but a stranger, or one back
        from the dead, may speak for another part, and a suspect that is not told can't refute.
        """
        if not self._core.partial or len(self._core.links) <= FRESH_LINKS:
            return True
        entry = self._core.table.get(peer)
        return entry is None or entry.health is not Health.ALIVE

    def link_down(self, peer: NodeId) -> None:
        self._admissions.pop(peer, None)
        if peer == self._asked:
            self._asked = None

    def synchronise(self, peer: NodeId) -> None:
        """Exchange digests with ``peer``, both ways."""
        self._asked, self._learned = peer, False
        self.send_digest(peer, reply=True)

    def send_digest(self, peer: NodeId, *, reply: bool) -> None:
        """Tell ``peer`` the versions held; with ``reply`` it answers with its own, besides what this node lacks."""
        for digest in digests(self._core.table, peer, reply=reply):
            self._core.send(peer, digest)

    def on_gossip(self, sender: NodeId, message: Gossip, now: float) -> None:
        for record in message.records:
            self.on_record(sender, record, now)
        self._find_proofs(message)
        for claim in message.suspicions:
            self._detector.on_claim(sender, claim, now)

    def on_record(self, sender: NodeId, signed: SignedRecord, now: float) -> None:
        """Merge one record. Raises ProtocolError for what no honest member relays."""
        if self._core.table.holds(signed):
            return
        if signed.kind == "load":
            self._on_load(sender, signed, now)
        else:
            self._on_static(sender, signed, now)

    def on_digest(self, sender: NodeId, message: Digest, now: float) -> bool:
        """Send what ``sender`` lacks. Returns whether it ends an exchange that brought news: there may be more."""
        core = self._core
        if len(message.entries) > core.settings.max_members:
            raise ProtocolError(f"digest of {len(message.entries)} members")
        own = core.own.record
        for entry in message.entries:
            accused = entry.state & HEALTH_MASK in (Health.SUSPECT, Health.DEAD)
            if entry.node == core.node and entry.incarnation == own.incarnation and accused:
                # The peer could as well sign a claim; the signers it heard may be unknown here.
                if core.claims.allow(sender, now, of_self=True):
                    self._detector.refute(entry.incarnation, now)
                break
        for gossip in packed(lacking(core.table, core.claims, message, sender)):
            core.send(sender, gossip)
        if message.reply:
            self.send_digest(sender, reply=False)
            return False
        ended = sender == self._asked
        if ended:
            self._asked = None
        return ended and self._learned

    def _on_static(self, sender: NodeId, signed: SignedRecord, now: float) -> None:
        core = self._core
        node = decode_static(signed.body).node
        if node == core.node:
            self._on_own_record(signed, now)
            return
        if not self._permits(node):
            return
        merged, _ = core.table.merge_static(signed, now, lambda new: self._admits(new, sender, now))
        if merged is Merged.NOTHING:
            return
        self._learned |= sender == self._asked
        entry = core.table.entries[node]
        if merged is Merged.CONFLICT:
            self._spread_proof(node, now)
        link = core.links.get(node)
        foreign = link is not None and link.boot != entry.static.record.boot
        # A process must hear what an earlier or another one says under its name.
        news = News(
            entry.static.signed,
            RELAY_FANOUT,
            knowing=frozenset({sender}) if foreign else frozenset({sender, node}),
            always=node if foreign else None,
        )
        core.broadcasts.add(("static", node), news, now)
        if merged is Merged.REBORN or entry.health is Health.LEFT:
            self._detector.close(node, now)
        if entry.health is Health.LEFT:
            self._detector.settle(node)
        core.changed(node)

    def _on_load(self, sender: NodeId, signed: SignedRecord, now: float) -> None:
        core = self._core
        if decode_load(signed.body).node == core.node:
            return
        merged, node = core.table.merge_load(signed, now)
        if merged is Merged.NEWER:
            fanout = OVERLAY_LOAD_FANOUT if core.partial else LOAD_FANOUT
            news = News(signed, fanout, knowing=frozenset({sender, node}))
            core.broadcasts.add(("load", node), news, now)
            core.changed(node)

    def _on_own_record(self, signed: SignedRecord, now: float) -> None:
        """Overrule a record that an earlier process, or another one, signed with this node's key."""
        core = self._core
        held = core.table.verified_static(signed)
        mine = core.own.static
        if held.record.incarnation < mine.record.incarnation:
            return
        if held.record.boot == mine.record.boot and held.version <= mine.version:
            return
        overruled = core.own.overrule(held.record.incarnation, now)
        if overruled is None:
            boot = held.record.boot.hex()
            core.emit(
                OwnIdentityElsewhere(
                    f"another running process (boot {boot}) uses this node's key; one key belongs to one process"
                )
            )
        else:
            core.reincarnate(overruled, now)

    def _find_proofs(self, message: Gossip) -> None:
        """Flag members of which this message carries two bodies of one version."""
        seen: dict[tuple[NodeId, int, int], SignedRecord] = {}
        for signed in message.records if len(message.records) > 1 else ():
            if signed.kind != "static":
                continue
            record = decode_static(signed.body)
            other = seen.setdefault((record.node, record.incarnation, record.sequence), signed)
            if other.body != signed.body:
                node = self._core.table.merge_proof(other, signed)
                if node is not None:
                    self._core.changed(node)

    def _spread_proof(self, node: NodeId, now: float) -> None:
        proof = self._core.table.entries[node].proof
        for number, signed in enumerate(proof or ()):
            self._core.broadcasts.add(("proof", node, str(number)), News(signed, fanout=None), now)

    def _capacity(self) -> float:
        """A link may at most double the view within a minute, from the setting on."""
        return max(self._core.settings.new_members_per_minute, len(self._core.table.entries))

    def _admits(self, node: NodeId, sender: NodeId, now: float) -> bool:
        """Return whether a member that was unknown so far may enter: who is linked, and a bounded number of others."""
        if node in self._core.links or now - self._started < YOUNG_SECONDS:
            return True
        bucket = self._admissions.get(sender)
        if bucket is None:
            return False
        capacity = self._capacity()
        earned = (now - bucket.filled_at) * capacity / MINUTE
        bucket.tokens, bucket.filled_at = min(bucket.tokens + earned, capacity), now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True
