"""The view: verified records of all members, merged by version alone. Knows no links and no timers.

Merging is commutative, associative and idempotent: the version (incarnation, sequence, SHA-256 of the body)
orders all records of one member totally, and the table keeps the greatest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, auto

from swarm.errors import ProtocolError
from swarm.gossip.member import Entry, Health, HeldLoad, HeldStatic
from swarm.gossip.record import decode_load, decode_static
from swarm.protocol.identity import node_id_of, verify_record
from swarm.protocol.messages import SignedRecord
from swarm.types import NodeId


class Merged(Enum):
    """What a record did to the view."""

    NOTHING = auto()
    """Held already, older than what is held, or of a member that is not known or not admitted."""
    NEWER = auto()
    REBORN = auto()
    """A higher incarnation than held, or a new member."""
    CONFLICT = auto()
    """Another body for the version held: the member equivocates."""


class Table:
    """Every member's entry, this node's own included."""

    def __init__(self, swarm_ids: tuple[bytes, ...], max_members: int) -> None:
        self._swarm_ids = swarm_ids
        self._max_members = max_members
        self.entries: dict[NodeId, Entry] = {}
        self.version = 0
        """Counts the changes of static records and verdicts, of load records not."""
        self._held: set[bytes] = set()
        self._present: tuple[int, list[Entry]] = (-1, [])

    def get(self, node: NodeId) -> Entry | None:
        return self.entries.get(node)

    def present(self) -> list[Entry]:
        """Return the entries that are not dead and have not left, sorted by id; the list is not to be changed."""
        if self._present[0] != self.version:
            found = [entry for _, entry in sorted(self.entries.items()) if not entry.gone]
            self._present = (self.version, found)
        return self._present[1]

    def holds(self, signed: SignedRecord) -> bool:
        """Return whether exactly this body is the newest held: most of what a relay hears is no news."""
        return signed.body in self._held

    def place(self, held: HeldStatic, now: float) -> Entry:
        """Put a record into the view as the newest of its member."""
        entry = self.entries.get(held.record.node)
        if entry is None:
            entry = self.entries[held.record.node] = Entry(held, now, now)
        else:
            self._held.discard(entry.static.signed.body)
            entry.static = held
        self._held.add(held.signed.body)
        self.version += 1
        return entry

    def place_load(self, entry: Entry, load: HeldLoad, now: float) -> None:
        """Put a load record into the view as the newest of its member."""
        if entry.held_load is not None:
            self._held.discard(entry.held_load.signed.body)
        self._held.add(load.signed.body)
        entry.held_load, entry.load_advanced_at = load, now

    def judge(self, entry: Entry, verdict: Health, now: float) -> None:
        """Hold a member for ``verdict`` at its present incarnation."""
        entry.verdict, entry.verdict_at = verdict, now
        self.version += 1

    def public_key(self, node: NodeId) -> bytes | None:
        entry = self.entries.get(node)
        return entry.static.record.public_key if entry else None

    def verified_static(self, signed: SignedRecord) -> HeldStatic:
        """Return the record if its subject signed it. Raises ProtocolError otherwise."""
        record = decode_static(signed.body)
        if node_id_of(record.public_key) != record.node:
            raise ProtocolError("static record: the key does not belong to the node id")
        self._verify(record.public_key, signed)
        return HeldStatic.of(signed, record)

    def merge_static(
        self, signed: SignedRecord, now: float, admits: Callable[[NodeId], bool]
    ) -> tuple[Merged, NodeId]:
        """Take a static record into the view. ``admits`` is asked before an unknown member is added.

        Raises ProtocolError for what no honest member relays: a bad signature, size or content.
        """
        node = decode_static(signed.body).node
        entry = self.entries.get(node)
        if entry is not None and self._is_old(entry, signed):
            return Merged.NOTHING, node
        new = self.verified_static(signed)
        if entry is None:
            if not admits(node) or not self._make_room():
                return Merged.NOTHING, node
            self.place(new, now)
            return Merged.REBORN, node
        return self._replace(entry, new, now), node

    def merge_load(self, signed: SignedRecord, now: float) -> tuple[Merged, NodeId]:
        """Take a load record of a known member's incarnation into the view. Raises ProtocolError as ``merge_static``.

        One that came before its static record is left to anti-entropy.
        """
        record = decode_load(signed.body)
        entry = self.entries.get(record.node)
        if entry is None or record.incarnation != entry.incarnation:
            return Merged.NOTHING, record.node
        new = HeldLoad.of(signed, record)
        if entry.held_load is not None and new.version <= entry.held_load.version:
            return Merged.NOTHING, record.node
        self._verify(entry.static.record.public_key, signed)
        self.place_load(entry, new, now)
        return Merged.NEWER, record.node

    def merge_proof(self, first: SignedRecord, second: SignedRecord) -> NodeId | None:
        """Flag the member that signed two bodies of one version; return it if that is news.

        Both may be older than the record held, as long as the incarnation is the same.
        """
        one, two = decode_static(first.body), decode_static(second.body)
        same_version = (one.node, one.incarnation, one.sequence) == (two.node, two.incarnation, two.sequence)
        entry = self.entries.get(one.node)
        if not same_version or first.body == second.body or entry is None:
            return None
        if entry.proof is not None or entry.incarnation != one.incarnation:
            return None
        self.verified_static(first)
        self.verified_static(second)
        entry.proof = (first, second)
        self.version += 1
        return one.node

    def forget_old(self, now: float, after_seconds: float) -> list[NodeId]:
        """Drop the members that have been gone for ``after_seconds``, and return them."""
        old = [e.node for e in self.entries.values() if e.gone and now - e.verdict_at >= after_seconds]
        self.drop(old)
        return old

    def drop(self, nodes: Iterable[NodeId]) -> None:
        for node in nodes:
            entry = self.entries.pop(node)
            self._held.discard(entry.static.signed.body)
            if entry.held_load is not None:
                self._held.discard(entry.held_load.signed.body)
        self.version += 1

    def _verify(self, key: bytes, signed: SignedRecord) -> None:
        if not any(verify_record(key, swarm_id, signed) for swarm_id in self._swarm_ids):
            raise ProtocolError(f"{signed.kind} record: bad signature")

    def _is_old(self, entry: Entry, signed: SignedRecord) -> bool:
        held = entry.static
        if signed.body == held.signed.body:
            return True
        record = decode_static(signed.body)
        return (record.incarnation, record.sequence) < held.version[:2]

    def _replace(self, entry: Entry, new: HeldStatic, now: float) -> Merged:
        old = entry.static
        same_version = new.version[:2] == old.version[:2]
        if same_version:
            flagged = entry.proof is not None
            entry.proof = entry.proof or (old.signed, new.signed)
            self.place(max(new, old, key=lambda held: held.version), now)
            return Merged.NOTHING if flagged and entry.static is old else Merged.CONFLICT
        was_gone = entry.gone
        self.place(new, now)
        if new.record.incarnation > old.record.incarnation:
            self.judge(entry, Health.ALIVE, now)
            entry.load_advanced_at = now
            entry.proof = None
            return Merged.REBORN
        if entry.gone and not was_gone:
            entry.verdict_at = now
        return Merged.NEWER

    def _make_room(self) -> bool:
        """Return whether one more member fits; the longest gone makes room for it."""
        if len(self.entries) < self._max_members:
            return True
        gone = [entry for entry in self.entries.values() if entry.gone]
        if not gone:
            return False
        self.drop([min(gone, key=lambda entry: (entry.verdict_at, entry.node)).node])
        return True
