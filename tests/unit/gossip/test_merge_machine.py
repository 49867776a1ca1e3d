"""Views that hear records and claims in any order, some twice, some forged: a model says what each may hold."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from swarm.errors import ProtocolError
from swarm.gossip.effects import Send
from swarm.gossip.member import EQUIVOCATING, Health
from swarm.gossip.record import decode_claim, decode_load, decode_static
from swarm.protocol.identity import verify_record
from swarm.protocol.messages import Digest, Gossip, Heartbeat, SignedRecord, SignedSuspicion
from swarm.types import NodeId
from tests.unit.gossip.conftest import SWARM, Driven, Peer

RELAY, HEARD = Peer("relay"), Peer("heard")
SUBJECTS = (Peer("alice"), Peer("bob"), HEARD)
SIGNERS = (Peer("signer 1"), Peer("signer 2"), Peer("signer 3"))
REFUTE_SECONDS = 3.0
subjects, signers = st.sampled_from(SUBJECTS), st.sampled_from(SIGNERS)
versions = st.integers(1, 3)
Version = tuple[int, int, bytes]


class View:
    """A membership that hears the relay and HEARD, and the model of what reached it."""

    def __init__(self) -> None:
        self.driven = Driven()
        self.statics: dict[NodeId, set[bytes]] = {}
        self.loads: dict[NodeId, set[bytes]] = {}
        self.claims: dict[tuple[NodeId, int], dict[NodeId, tuple[float, bool]]] = {}
        self._beats = 0
        for peer in (RELAY, HEARD):
            self.driven.link(peer)
            self._heard(peer.static())
        self.give(Gossip(tuple(peer.static() for peer in (*SIGNERS, *SUBJECTS))))

    def give(self, message: Gossip) -> None:
        """Deliver gossip by the relay, and note what of it an honest view may take."""
        for record in message.records:
            self._heard(record)
        for claim in message.suspicions:
            self._claimed(claim)
        self._note(self.driven.receive(RELAY, message))

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.25)):
            self._note(self.driven.wait(0.25, self._beat))

    def entries(self) -> dict[NodeId, Any]:
        known = {peer.node for peer in SUBJECTS}
        return {entry.node: entry for entry in self.driven.membership.digest() if entry.node in known}

    def answers(self, digest: Digest) -> list[Gossip]:
        """Return what this view sends to somebody who shows it ``digest``."""
        effects = self.driven.receive(RELAY, digest)
        self._note(effects)
        return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Gossip)]

    def _beat(self) -> None:
        self._beats += 1
        newest = max(
            (s.message.number for s in self.driven.sent(Heartbeat, self.driven.done[-40:])), default=0
        )
        for peer in (RELAY, HEARD):
            self._note(self.driven.receive(peer, Heartbeat(self._beats, newest, 0)))

    def _heard(self, record: SignedRecord) -> None:
        if record.kind == "static":
            self.statics.setdefault(decode_static(record.body).node, set()).add(record.body)
        else:
            self.loads.setdefault(decode_load(record.body).node, set()).add(record.body)

    def _claimed(self, signed: SignedSuspicion) -> None:
        claim = decode_claim(signed.body)
        known = self.claims.setdefault((claim.subject, claim.incarnation), {})
        at, dead = known.get(claim.signer, (self.driven.now, False))
        known[claim.signer] = (at, dead or claim.dead)

    def _note(self, effects: list[Any]) -> None:
        """Claims of this view's own count as signed by it."""
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Gossip):
                for claim in effect.message.suspicions:
                    if decode_claim(claim.body).signer == self.driven.me.node:
                        self._claimed(claim)


def version(body: bytes) -> Version:
    record = decode_static(body)
    return record.incarnation, record.sequence, hashlib.sha256(body).digest()


class Merging(RuleBasedStateMachine):
    """Three views of the same members."""

    @initialize()
    def start(self) -> None:
        self.views = [View() for _ in range(3)]

    @rule(which=st.integers(0, 2), who=subjects, life=versions, number=versions, name=st.sampled_from("xy"))
    def hear_a_record(self, which: int, who: Peer, life: int, number: int, name: str) -> None:
        view, record = self.views[which], who.static(life, number, name=name)
        held = view.driven.membership.signed(who.node)
        view.give(Gossip((record,)))
        if held and held[0].body != record.body and version(held[0].body)[:2] == (life, number):
            assert view.driven.membership.member(who.node).equivocating

    @rule(which=st.integers(0, 2), who=subjects, life=versions, number=versions)
    def hear_a_load(self, which: int, who: Peer, life: int, number: int) -> None:
        self.views[which].give(Gossip((who.load(life, number),)))

    @rule(
        which=st.integers(0, 2),
        who=st.sets(signers, min_size=1, max_size=2),
        whom=subjects,
        off=st.sampled_from([0, 0, 0, 1, -1]),
        dead=st.booleans(),
        then=st.sampled_from([0.0, 1.75, 4.0]),
    )
    def hear_claims(self, which: int, who: set[Peer], whom: Peer, off: int, dead: bool, then: float) -> None:
        view = self.views[which]
        member = view.driven.membership.member(whom.node)
        life = max(1, (member.record.incarnation if member is not None else 1) + off)
        claims = (peer.accuses(whom.node, life, dead=dead) for peer in sorted(who, key=lambda p: p.node))
        view.give(Gossip((), tuple(claims)))
        view.wait(then)

    @rule(which=st.integers(0, 2), who=subjects, by=signers, life=versions, number=versions)
    def hear_a_forged_record(self, which: int, who: Peer, by: Peer, life: int, number: int) -> None:
        view = self.views[which]
        forged = by.sign("static", who.static(life + 3, number, name="forged").body)
        before = view.driven.membership.digest()
        with pytest.raises(ProtocolError, match="signature"):
            view.driven.receive(RELAY, Gossip((forged,)))
        assert view.driven.membership.digest() == before

    @rule(which=st.integers(0, 2), who=signers, by=signers, whom=subjects)
    def hear_a_forged_claim(self, which: int, who: Peer, by: Peer, whom: Peer) -> None:
        view = self.views[which]
        held = view.driven.membership.member(whom.node)
        if who is by or held is None:
            return
        genuine = who.accuses(whom.node, held.record.incarnation)
        forged = SignedSuspicion(genuine.body, by.accuses(whom.node, held.record.incarnation).signature)
        before = view.driven.membership.digest()
        with contextlib.suppress(ProtocolError):
            view.driven.receive(RELAY, Gossip((), (forged,)))
        assert view.driven.membership.digest() == before

    @rule(one=st.integers(0, 2), other=st.integers(0, 2))
    def exchange(self, one: int, other: int) -> None:
        if one != other:
            self._sync(self.views[one], self.views[other])

    @invariant()
    def the_greatest_version_heard_is_held(self) -> None:
        for view in self.views:
            held = view.entries()
            for peer in SUBJECTS:
                heard = view.statics.get(peer.node)
                member = view.driven.membership.member(peer.node)
                assert (member is None) == (heard is None)
                if heard is not None and member is not None:
                    (static, *_) = view.driven.membership.signed(peer.node)
                    assert version(static.body) == max(map(version, heard))
                    if peer.node in held and held[peer.node].state & EQUIVOCATING:
                        life = [
                            version(body)[:2]
                            for body in heard
                            if version(body)[0] == member.record.incarnation
                        ]
                        assert len(life) > len(set(life))

    @invariant()
    def everything_held_was_signed_by_its_subject(self) -> None:
        for view in self.views:
            for peer in SUBJECTS:
                for signed in view.driven.membership.signed(peer.node):
                    assert verify_record(peer.key.public_bytes, SWARM, signed)

    @invariant()
    def nobody_is_dead_but_by_two_signers_who_gave_time_to_refute(self) -> None:
        for view in self.views:
            assert view.driven.membership.member(HEARD.node).health is not Health.DEAD
            for peer in SUBJECTS:
                member = view.driven.membership.member(peer.node)
                if member is None or member.health is not Health.DEAD:
                    continue
                claims = view.claims.get((peer.node, member.record.incarnation), {})
                assert len(claims) >= 2
                waited = view.driven.now - min(at for at, _ in claims.values()) >= REFUTE_SECONDS
                assert waited or sum(dead for _, dead in claims.values()) >= 2

    def teardown(self) -> None:
        """However the news came, a few exchanges make the views equal."""
        if not hasattr(self, "views"):
            return
        for _ in range(3):
            for one in self.views:
                for other in self.views:
                    if one is not other:
                        self._sync(one, other)
        first, *others = ({n: self._settled(e) for n, e in v.entries().items()} for v in self.views)
        for other in others:
            dead_somewhere = {node for node in (*first, *other) if node not in first or node not in other}
            assert {n: e for n, e in first.items() if n not in dead_somewhere} == {
                n: e for n, e in other.items() if n not in dead_somewhere
            }
            for node in dead_somewhere:
                assert any(v.driven.membership.member(node).health is Health.DEAD for v in self.views)

    def _settled(self, entry: Any) -> tuple[Any, ...]:
        return entry.incarnation, entry.sequence, entry.digest, entry.state & EQUIVOCATING

    def _sync(self, one: View, other: View) -> None:
        digest = Digest(tuple(e for _, e in sorted(other.entries().items())))
        for gossip in one.answers(digest):
            known = {peer.node for peer in (*SUBJECTS, *SIGNERS)}
            records = tuple(r for r in gossip.records if self._subject(r) in known)
            claims = tuple(c for c in gossip.suspicions if decode_claim(c.body).signer in known)
            if records or claims:
                other.give(Gossip(records, claims))

    def _subject(self, record: SignedRecord) -> NodeId:
        decode = decode_static if record.kind == "static" else decode_load
        return decode(record.body).node


Merging.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestMerging = Merging.TestCase
