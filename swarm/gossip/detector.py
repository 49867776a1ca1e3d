"""The slow tier: whether a member is SUSPECT or DEAD, by the word of several. Knows no records' content.

Nobody is accused before others were asked, and whoever hears a member never buries it, whatever is claimed.
"""

from __future__ import annotations

from swarm.errors import ProtocolError
from swarm.gossip.broadcasts import RELAY_FANOUT, News
from swarm.gossip.checks import Doubts, Errands
from swarm.gossip.core import Core
from swarm.gossip.effects import Abort, Dial
from swarm.gossip.member import Entry, Health
from swarm.gossip.record import Claim, decode_claim, encode
from swarm.gossip.suspicion import ENOUGH_SIGNERS, refute_period
from swarm.protocol.identity import sign_claim, verify_claim
from swarm.protocol.messages import CheckPeer, PeerChecked, SignedSuspicion
from swarm.types import NodeId


class Detector:
    """Doubts, claims and verdicts over the members of one view."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._doubts = Doubts(core.settings.check_seconds, core.settings.sync_seconds)
        self._errands = Errands()

    def doubt(self, subject: NodeId, now: float) -> None:
        """Begin indirect checks of a known member that this node does not hear."""
        entry = self._core.table.get(subject)
        if entry is not None and not entry.gone and subject != self._core.node:
            self._doubts.raise_(subject, now)

    def settle(self, subject: NodeId) -> None:
        self._doubts.settle(subject)

    def reached(self, subject: NodeId, now: float) -> None:
        """A link to the subject stands; whoever asked for it is told."""
        self._doubts.settle(subject)
        for asker, nonce in self._errands.end(subject, reached=True, now=now).items():
            self._core.send(asker, PeerChecked(subject, nonce, True))

    def unreachable(self, subject: NodeId, now: float) -> None:
        """A dial came to nothing: that is a reason to begin to doubt, but none to doubt more.

        Who dialled for others only tells them, and joins in when the subject is suspected already: two must sign.
        From a node that is late itself it is no evidence at all. Where all are late, as when a swarm forms on a slow
        machine, doubts would bring dials, and dials doubts.
        """
        if self._core.late(now):
            self._errands.drop(subject)
            return
        askers = self._errands.end(subject, reached=False, now=now)
        for asker, nonce in askers.items():
            self._core.send(asker, PeerChecked(subject, nonce, False))
        if subject not in self._doubts and (not askers or self._is_suspect(subject)):
            self.doubt(subject, now)

    def _is_suspect(self, subject: NodeId) -> bool:
        entry = self._core.table.get(subject)
        return entry is not None and entry.health is Health.SUSPECT

    def close(self, subject: NodeId, now: float) -> None:
        """The subject spoke for itself, with a higher incarnation or a farewell: somebody heard it."""
        self._core.claims.close(subject)
        self._doubts.vouch(subject, now, lasting=not self._core.partial)

    def postpone(self, seconds: float) -> None:
        self._doubts.postpone(seconds)
        self._core.claims.postpone(seconds)

    def wakeup(self) -> float:
        return self._doubts.wakeup()

    def tick(self, now: float) -> None:
        for subject in self._doubts.due(now):
            self._check(subject, now)
        self._doubts.expire(now, self._core.rng.random())
        for subject in self._doubts.to_accuse(now):
            self._accuse(subject, now)
        for subject in self._core.claims.subjects():
            self._judge(subject, now)

    def on_check(self, sender: NodeId, message: CheckPeer, now: float) -> None:
        """Say whether this node hears the subject. Where members link to a few others only, it dials to find out."""
        core = self._core
        subject = message.subject
        entry = core.table.get(subject)
        alive = subject == core.node or core.links.hears(subject)
        if alive or not core.partial or entry is None or entry.gone or subject in core.links:
            core.send(sender, PeerChecked(subject, message.nonce, alive))
            return
        addresses = entry.static.record.addresses
        if addresses and not core.late(now) and self._errands.take(subject, sender, message.nonce, now):
            core.emit(Dial(core.rng.choice(addresses), subject))

    def on_answer(self, sender: NodeId, message: PeerChecked, now: float) -> None:
        core = self._core
        self._doubts.answer(sender, message, now, core.rng.random(), lasting=not core.partial)

    def on_claim(self, sender: NodeId, signed: SignedSuspicion, now: float) -> None:
        """Take a relayed claim. Raises ProtocolError if it is malformed or its signature is wrong."""
        claim = decode_claim(signed.body)
        core = self._core
        key = core.table.public_key(claim.signer)
        entry = core.table.get(claim.subject)
        if key is None or entry is None:
            return
        if claim.signer == core.node and core.links.hears(claim.subject):
            return  # an echo of what was true; of who is not heard, it may be an earlier process' of this node
        if (
            entry.incarnation != claim.incarnation
            or entry.health is Health.LEFT
            or not core.claims.wants(claim)
        ):
            return
        if not any(verify_claim(key, swarm_id, signed) for swarm_id in core.accepted_swarm_ids):
            raise ProtocolError("claim: bad signature")
        if claim.subject == core.node:
            if core.claims.allow(claim.signer, now, of_self=True):
                self.refute(claim.incarnation, now)
        elif not core.links.hears(claim.subject) or core.claims.allow(claim.signer, now):
            self._count(entry, claim, signed, sender, now)
        else:
            # The signer may be honest and have been cut off from many: only the subject can clear this up.
            self._spread(claim, signed, sender, now, fanout=0)

    def refute(self, incarnation: int, now: float) -> None:
        """Overrule claims against this node at ``incarnation``; they may be true of its speed."""
        self._core.reincarnate(incarnation, now)
        self._core.local_health.worsen(now)

    def _check(self, subject: NodeId, now: float) -> None:
        core = self._core
        entry = core.table.get(subject)
        if entry is None or entry.gone or core.links.hears(subject):
            self._doubts.settle(subject)
            return
        others = [node for node in core.links.trusted() if node != subject]
        helpers = core.rng.sample(others, min(core.settings.check_peers, len(others)))
        nonce = self._doubts.begin(subject, helpers, now, core.patience(now))
        for helper in helpers:
            core.send(helper, CheckPeer(subject, nonce))

    def _accuse(self, subject: NodeId, now: float) -> None:
        core = self._core
        entry = core.table.get(subject)
        if entry is None or entry.gone or core.links.hears(subject):
            return
        case = core.claims.case(subject)
        signers = case.signers if case is not None and case.incarnation == entry.incarnation else set()
        if case is not None and core.node in case.suspecting:
            # Whoever still heard the subject when the claim came may have dropped it.
            claim = Claim(core.node, subject, entry.incarnation)
            self._spread(claim, case.suspecting[core.node], None, now)
        elif len(signers) < ENOUGH_SIGNERS:
            self._sign(entry, dead=False, now=now)

    def _sign(self, entry: Entry, *, dead: bool, now: float) -> None:
        claim = Claim(self._core.node, entry.node, entry.incarnation, dead)
        signed = sign_claim(self._core.key, self._core.swarm_id, encode(claim))
        self._count(entry, claim, signed, None, now)

    def _count(
        self, entry: Entry, claim: Claim, signed: SignedSuspicion, sender: NodeId | None, now: float
    ) -> None:
        core = self._core
        core.claims.add(claim, signed, now)
        self._spread(claim, signed, sender, now)
        if entry.verdict is Health.ALIVE:
            core.table.judge(entry, Health.SUSPECT, now)
            core.changed(entry.node)
        if not core.links.hears(entry.node) and self._concerns(entry.node, now):
            self.doubt(entry.node, now)
        self._judge(entry.node, now)

    def _concerns(self, subject: NodeId, now: float) -> bool:
        """Return whether a claim about a member that is not heard is for this node to check.

        Where all link to all, it is. Elsewhere a thousand would ask and dial: those do that had a link, and who
        failed to reach the subject on an errand, so that two can sign.
        """
        return not self._core.partial or subject in self._core.links or self._errands.missed(subject, now)

    def _spread(
        self,
        claim: Claim,
        signed: SignedSuspicion,
        sender: NodeId | None,
        now: float,
        fanout: int = RELAY_FANOUT,
    ) -> None:
        """Pass a claim on to its subject, if that is linked, and to ``fanout`` others."""
        knowing = frozenset() if sender is None else frozenset({sender})
        news = News(signed, fanout, knowing=knowing, always=claim.subject)
        key = ("claim", claim.signer, claim.subject, "dead" if claim.dead else "suspect")
        self._core.broadcasts.add(key, news, now)

    def _judge(self, subject: NodeId, now: float) -> None:
        """Bury a suspect when enough signers agree and it had its time to refute."""
        core = self._core
        entry = core.table.get(subject)
        case = core.claims.case(subject)
        if entry is None or case is None or entry.health is not Health.SUSPECT or core.links.hears(subject):
            return
        needed = 2 if any(node != subject for node in core.links.trusted()) else 1
        period = refute_period(core.settings.refute_seconds, len(core.table.present()), core.patience(now))
        silent = len(case.signers) >= needed and now >= case.opened_at + period
        # Where few hear the subject, the word of those who buried it elsewhere does not save the time to refute.
        agreed = len(case.burying) >= needed and not core.partial
        if silent or agreed:
            self._bury(entry, now)
        elif case.is_stuck(now, period):
            # Of its signers some may be dead and unknown to who joined since; the others want no more of them.
            case.checked_at = now
            self.doubt(subject, now)

    def _bury(self, entry: Entry, now: float) -> None:
        core = self._core
        core.table.judge(entry, Health.DEAD, now)
        self._doubts.settle(entry.node)
        case = core.claims.case(entry.node)
        if case is not None and core.node in case.suspecting and len(case.burying) < ENOUGH_SIGNERS:
            self._sign(entry, dead=True, now=now)
        if entry.node in core.links:
            core.emit(Abort(entry.node, "declared dead"))
        core.changed(entry.node)
