"""Digests: what two views differ in, and what one lacks. Pure comparison; merges and sends nothing."""

from __future__ import annotations

from swarm.gossip.member import EQUIVOCATING, HEALTH_MASK, Health
from swarm.gossip.suspicion import Claims
from swarm.gossip.table import Table
from swarm.protocol.messages import Digest, DigestEntry, SignedRecord, SignedSuspicion
from swarm.types import NodeId

Item = SignedRecord | SignedSuspicion

MAX_ENTRIES = 800
"""Of one Digest: an entry has up to 75 bytes, a header at most 64 KiB."""


def digest_of(table: Table, receiver: NodeId | None = None) -> tuple[DigestEntry, ...]:
    """Return the versions of all present members, sorted.

    The gone are left out, or their tombstones would travel for ever; only ``receiver`` learns what is held of itself,
    so that it can refute.
    """
    entries = {entry.node: entry for entry in table.present()}
    own = table.get(receiver) if receiver is not None else None
    if own is not None:
        entries[own.node] = own
    return tuple(entry.digest_entry() for _, entry in sorted(entries.items()))


def digests(table: Table, receiver: NodeId, *, reply: bool) -> list[Digest]:
    """Return the digest of the view in messages that fit a frame; only the last asks for a reply."""
    entries = digest_of(table, receiver)
    parts = [entries[at : at + MAX_ENTRIES] for at in range(0, len(entries), MAX_ENTRIES)]
    bounds = ["", *(part[0].node for part in parts[1:]), ""]
    return [
        Digest(part, reply and number == len(parts) - 1, bounds[number], bounds[number + 1])
        for number, part in enumerate(parts)
    ]


def lacking(table: Table, claims: Claims, theirs: Digest, peer: NodeId) -> list[Item]:
    """Return what the sender of a digest lacks, in the order in which it can use it: static records first."""
    known = {entry.node: entry for entry in theirs.entries}
    statics: list[Item] = []
    others: list[Item] = []
    for node, entry in sorted(table.entries.items()):
        if node < theirs.first or (theirs.end and node >= theirs.end):
            continue
        other = known.get(node)
        if other is None and entry.gone and node != peer:
            continue
        mine = entry.digest_entry()
        if other == mine and mine.state == Health.ALIVE:
            continue
        if other is None or _older(other, mine):
            statics.append(entry.static.signed)
        same_life = other is not None and other.incarnation == mine.incarnation
        if entry.proof and not (other is not None and same_life and other.state & EQUIVOCATING):
            statics.extend(entry.proof)
        if other is not None and other.incarnation > mine.incarnation:
            continue
        if entry.load and (other is None or not same_life or other.load_sequence < mine.load_sequence):
            others.append(entry.load.signed)
        worse = entry.verdict > (_health(other) if other is not None and same_life else Health.ALIVE)
        case = claims.case(node)
        if worse and case is not None and case.incarnation == entry.incarnation:
            others.extend(case.evidence())
    return statics + others


def _older(theirs: DigestEntry, mine: DigestEntry) -> bool:
    """Return whether ``mine`` is another record that is not older. Equal versions with other bodies go both ways."""
    ours = (mine.incarnation, mine.sequence)
    other = (theirs.incarnation, theirs.sequence)
    return other < ours or (other == ours and theirs.digest != mine.digest)


def _health(entry: DigestEntry) -> int:
    return entry.state & HEALTH_MASK
