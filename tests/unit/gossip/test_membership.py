"""One Membership among peers that lie, spam, fall silent or restart."""

from __future__ import annotations

import pytest

from swarm.errors import ConfigError, ProtocolError
from swarm.gossip.effects import (
    Abort,
    Dial,
    LinkSuspect,
    LinkTrusted,
    OwnIdentityElsewhere,
    SaveIncarnation,
    Send,
)
from swarm.gossip.member import Health
from swarm.gossip.overlay import ACTIVE, GROWING_SECONDS
from swarm.gossip.record import SpanLoad, decode_load, decode_static
from swarm.protocol.messages import (
    CheckPeer,
    Credit,
    Digest,
    DigestEntry,
    Gossip,
    Heartbeat,
    Leave,
    PeerChecked,
)
from swarm.types import Address


def beating(driven, *peers):
    """Return what makes ``peers`` send heartbeats that echo everything."""
    numbers = dict.fromkeys((p.node for p in peers), 0)

    def speak() -> None:
        newest = max((s.message.number for s in driven.sent(Heartbeat)), default=0)
        for peer in peers:
            numbers[peer.node] += 1
            driven.receive(peer, Heartbeat(numbers[peer.node], newest, 0))

    return speak


def health(driven, peer) -> Health:
    return driven.membership.member(peer.node).health


def test_the_incarnation_is_saved_before_anything_is_sent(driven):
    assert driven.done[0] == SaveIncarnation(1)


def test_a_refutation_is_saved_before_it_is_sent(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    driven.receive(alice, Gossip((), (alice.accuses(driven.me.node),)))
    effects = driven.settle() or driven.done
    saved = effects.index(SaveIncarnation(2))
    driven.wait(0.25)
    spread = [
        number
        for number, effect in enumerate(driven.done)
        if isinstance(effect, Send)
        and isinstance(effect.message, Gossip)
        and any(r.kind == "static" and decode_static(r.body).incarnation == 2 for r in effect.message.records)
    ]
    assert spread
    assert min(spread) > saved


def test_suspicion_spam_of_one_signer_costs_at_most_six_incarnations_a_minute(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    for _ in range(100):
        incarnation = decode_static(driven.membership.record().body).incarnation
        driven.receive(alice, Gossip((), (alice.accuses(driven.me.node, incarnation),)))
    assert decode_static(driven.membership.record().body).incarnation == 7


def test_claims_of_one_liar_about_members_that_are_heard_are_limited_and_bury_nobody(driven, peer):
    liar, victims = peer("liar"), [peer(f"victim {n}") for n in range(10)]
    driven.link(liar, *victims)
    driven.receive(liar, Gossip((), tuple(liar.accuses(v.node) for v in victims)))
    driven.receive(liar, Gossip((), tuple(liar.accuses(v.node, dead=True) for v in victims)))
    suspected = [v for v in victims if health(driven, v) is Health.SUSPECT]
    assert 0 < len(suspected) <= 6
    driven.wait(10.0, beating(driven, liar, *victims))
    assert not any(health(driven, v) is Health.DEAD for v in victims)
    assert all(driven.membership.member(v.node).routable for v in victims)


def test_whoever_is_accused_is_told_even_by_a_signer_of_too_many_claims(driven, peer):
    """A node that was cut off has buried half the swarm: all those must hear of it, or it holds them dead for long."""
    lonely, other, buried = peer("lonely"), peer("other"), [peer(f"buried {n}") for n in range(10)]
    driven.link(lonely, other, *buried)
    claims = {one.node: lonely.accuses(one.node, dead=True) for one in buried}
    driven.receive(other, Gossip((), tuple(claims.values())))
    told = driven.sent(Gossip, driven.wait(0.5))
    assert all(
        any(s.node == node and claim in s.message.suspicions for s in told) for node, claim in claims.items()
    )
    beyond = [one for one in buried if health(driven, one) is Health.ALIVE]
    assert len(beyond) == 4
    for one in beyond:
        assert [s.node for s in told if claims[one.node] in s.message.suspicions] == [one.node]


def test_who_is_heard_is_not_buried_even_by_two_signers(driven, peer):
    victim, liars = peer("victim"), [peer("liar 1"), peer("liar 2")]
    driven.link(victim, *liars)
    driven.receive(liars[0], Gossip((), tuple(liar.accuses(victim.node, dead=True) for liar in liars)))
    driven.wait(10.0, beating(driven, victim, *liars))
    assert health(driven, victim) is Health.SUSPECT
    driven.receive(victim, Gossip((victim.static(2, 2),)))
    assert health(driven, victim) is Health.ALIVE


def test_one_signer_buries_nobody_where_others_could_sign(driven, peer):
    absent, liar = peer("absent"), peer("liar")
    driven.link(liar)
    driven.receive(liar, Gossip((absent.static(),)))
    driven.receive(liar, Gossip((), (liar.accuses(absent.node, dead=True),)))
    assert health(driven, absent) is Health.SUSPECT


@pytest.mark.parametrize("hears", [False, True])
def test_in_an_overlay_a_case_that_comes_to_no_end_is_looked_into(driven, peer, hears):
    """The other signers may be dead, and unknown to a node that joined since: nobody passes on any further claim."""
    members = [peer(f"member {number}") for number in range(50)]
    linked, accused = members[:6], members[-1]
    driven.link(*linked)
    driven.receive(linked[0], Gossip(tuple(one.static() for one in members)))
    speak, answered = beating(driven, *linked), set()

    def answer() -> None:
        speak()
        for asked in driven.sent(CheckPeer):
            if asked.message.nonce not in answered:
                answered.add(asked.message.nonce)
                for helper in linked:
                    driven.receive(helper, PeerChecked(accused.node, asked.message.nonce, hears))

    driven.wait(2.0, answer)
    assert driven.membership.partial
    driven.receive(linked[0], Gossip((), (linked[0].accuses(accused.node, dead=True),)))
    driven.wait(5.0, answer)
    assert not answered
    driven.wait(12.0, answer)
    assert 0 < len(answered) <= 4
    assert health(driven, accused) is (Health.SUSPECT if hears else Health.DEAD)


def test_what_an_earlier_process_of_this_node_signed_counts_still(driven, peer):
    """Others pass on no more than two signers' claims: were its own not taken, one signer would be left for ever."""
    absent, alice = peer("absent"), peer("alice")
    driven.link(alice)
    driven.receive(alice, Gossip((absent.static(),)))
    driven.receive(
        alice, Gossip((), tuple(one.accuses(absent.node, dead=True) for one in (alice, driven.me)))
    )
    assert health(driven, absent) is Health.DEAD


def test_an_own_claim_that_comes_back_accuses_nobody_who_is_heard(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    driven.receive(alice, Gossip((), (driven.me.accuses(bob.node),)))
    assert health(driven, bob) is Health.ALIVE


def test_a_claim_counts_only_for_the_incarnation_held(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice)
    driven.receive(alice, Gossip((bob.static(3),)))
    driven.receive(alice, Gossip((), (alice.accuses(bob.node, 2), alice.accuses(bob.node, 4))))
    assert health(driven, bob) is Health.ALIVE


def test_a_forged_claim_closes_the_link(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    genuine = alice.accuses(driven.me.node)
    forged = type(genuine)(genuine.body, bob.accuses(driven.me.node).signature)
    with pytest.raises(ProtocolError, match="signature"):
        driven.receive(bob, Gossip((), (forged,)))


def test_only_a_higher_incarnation_revives(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    driven.membership.link_down(bob.node, False, driven.now)
    speak = beating(driven, alice)

    def speak_and_agree() -> None:
        speak()
        for check in driven.sent(CheckPeer):
            driven.receive(alice, PeerChecked(check.message.subject, check.message.nonce, False))
        driven.receive(alice, Gossip((), (alice.accuses(bob.node),)))

    driven.wait(6.0, speak_and_agree)
    assert health(driven, bob) is Health.DEAD
    driven.receive(alice, Gossip((bob.static(1, 9),)))
    assert health(driven, bob) is Health.DEAD
    driven.receive(alice, Gossip((bob.static(2, 1),)))
    assert health(driven, bob) is Health.ALIVE


def test_an_answer_from_who_was_not_asked_counts_nothing(driven, peer):
    alice, bob, carol = peer("alice"), peer("bob"), peer("carol")
    driven.link(alice, bob)
    driven.membership.link_down(bob.node, False, driven.now)
    driven.membership.tick(driven.now)
    (check,) = driven.sent(CheckPeer, driven.settle())
    driven.link(carol)
    driven.receive(carol, PeerChecked(bob.node, check.message.nonce, True))
    driven.receive(alice, PeerChecked(bob.node, check.message.nonce + 1, True))
    driven.wait(1.5, beating(driven, alice, carol))
    assert health(driven, bob) is Health.SUSPECT


def test_a_check_is_answered_by_what_the_own_link_says(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    effects = driven.receive(alice, CheckPeer(bob.node, 5))
    assert [s.message for s in driven.sent(PeerChecked, effects)] == [PeerChecked(bob.node, 5, True)]
    driven.wait(3.0, beating(driven, alice))
    effects = driven.receive(alice, CheckPeer(bob.node, 6))
    assert [s.message for s in driven.sent(PeerChecked, effects)] == [PeerChecked(bob.node, 6, False)]


def test_a_silent_link_is_suspect_and_trusted_again_when_it_speaks(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    only_alice, both = beating(driven, alice), beating(driven, alice, bob)
    driven.wait(300.0, both)  # it is known how regularly it speaks
    assert LinkSuspect(bob.node) not in driven.done
    effects = driven.wait(1.75, only_alice)
    assert LinkSuspect(bob.node) in effects
    assert driven.membership.links()[bob.node].suspect
    assert LinkTrusted(bob.node) in driven.wait(1.0, both)


def test_a_new_link_that_falls_silent_is_suspect_within_three_seconds(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    assert LinkSuspect(bob.node) in driven.wait(3.0, beating(driven, alice))


def test_a_peer_whose_echo_stands_still_is_suspect_although_it_speaks(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    driven.wait(2.0, beating(driven, alice))
    number = iter(range(1000, 2000))
    effects = driven.wait(3.5, lambda: driven.receive(alice, Heartbeat(next(number), 1, 0)))
    assert LinkSuspect(alice.node) in effects


def test_the_round_trip_leaves_out_what_the_peer_held(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    driven.wait(0.25)
    sent = driven.sent(Heartbeat)[-1].message.number
    driven.now += 0.25
    driven.receive(alice, Heartbeat(1, sent, 230_000))
    assert driven.membership.links()[alice.node].rtt_seconds == pytest.approx(0.02)


def test_a_link_that_stays_suspect_is_cut(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    speak = beating(driven, alice)

    def alice_hears_bob() -> None:
        speak()
        for check in driven.sent(CheckPeer):
            driven.receive(alice, PeerChecked(check.message.subject, check.message.nonce, True))

    effects = driven.wait(14.0, alice_hears_bob)
    assert [effect.node for effect in effects if isinstance(effect, Abort)] == [bob.node]
    assert health(driven, bob) is Health.ALIVE


def test_who_stood_still_itself_suspects_no_link(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    driven.wait(2.0, beating(driven, alice))
    driven.now += 30.0
    driven.membership.tick(driven.now)
    assert LinkSuspect(alice.node) not in driven.settle()


def test_own_lag_makes_patient(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    driven.wait(120.0, beating(driven, alice, bob))
    driven.membership.observe_lag(driven.now, 2.0)
    assert LinkSuspect(bob.node) not in driven.wait(2.0, beating(driven, alice))


@pytest.mark.parametrize("late", [False, True])
def test_a_failed_dial_is_a_reason_to_doubt_only_for_who_is_on_time_itself(driven, peer, late):
    alice, bob, address = peer("alice"), peer("bob"), Address("192.0.2.9", 7000)
    driven.link(alice)
    driven.receive(alice, Gossip((bob.static(1, 1, addresses=(address,)),)))
    driven.wait(6.0, beating(driven, alice))
    if late:
        driven.membership.observe_lag(driven.now, 1.0)
    driven.membership.dial_failed(address, bob.node, driven.now)
    asked = driven.sent(CheckPeer, driven.wait(0.25, beating(driven, alice)))
    assert bool(asked) is not late


@pytest.mark.parametrize("late", [False, True])
def test_who_is_late_itself_dials_for_nobody(driven, peer, late):
    alice, address = peer("alice"), Address("192.0.2.9", 7000)
    strangers = [peer(f"stranger {number}") for number in range(50)]
    driven.link(alice)
    driven.receive(alice, Gossip(tuple(one.static(1, 1, addresses=(address,)) for one in strangers)))
    driven.wait(6.0, beating(driven, alice))
    assert driven.membership.partial
    if late:
        driven.membership.observe_lag(driven.now, 1.0)
    before = len(driven.done)
    driven.receive(alice, CheckPeer(strangers[0].node, 1))
    dialled = [effect for effect in driven.done[before:] if isinstance(effect, Dial)]
    assert [effect.expected for effect in dialled] == ([] if late else [strangers[0].node])


def test_who_is_late_itself_beats_half_as_often(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    driven.wait(6.0, beating(driven, alice))
    on_time = len(driven.sent(Heartbeat, driven.wait(4.0, beating(driven, alice))))
    driven.membership.observe_lag(driven.now, 1.0)
    driven.wait(0.25, beating(driven, alice))  # this beat was due before
    late = len(driven.sent(Heartbeat, driven.wait(4.0, beating(driven, alice))))
    assert (on_time, late) == (16, 8)


def test_an_earlier_life_with_a_higher_incarnation_is_adopted(driven, peer):
    alice, earlier = peer("alice"), peer("me")
    driven.link(alice)
    effects = driven.receive(alice, Gossip((earlier.static(7, boot=b"olderone"),)))
    assert SaveIncarnation(8) in effects
    assert decode_static(driven.membership.record().body).incarnation == 8
    assert not any(isinstance(effect, OwnIdentityElsewhere) for effect in driven.done)


def test_records_of_an_earlier_life_that_turn_up_one_after_the_other_are_no_other_process(driven, peer):
    alice, earlier = peer("alice"), peer("me")
    driven.link(alice)
    for incarnation in range(1, 9):
        driven.receive(alice, Gossip((earlier.static(incarnation, boot=b"olderone"),)))
    assert decode_static(driven.membership.record().body).incarnation > 8
    assert not any(isinstance(effect, OwnIdentityElsewhere) for effect in driven.done)


def test_a_process_that_answers_every_incarnation_is_another_one(driven, peer):
    alice, copy = peer("alice"), peer("me")
    driven.link(alice)
    for _ in range(3):
        mine = decode_static(driven.membership.record().body).incarnation
        driven.receive(alice, Gossip((copy.static(mine + 1, boot=b"otherone"),)))
    assert any(isinstance(effect, OwnIdentityElsewhere) for effect in driven.done)


def test_a_digest_that_calls_this_node_dead_is_refuted(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    entry = DigestEntry(driven.me.node, 1, 1, 0, int(Health.DEAD))
    assert SaveIncarnation(2) in driven.receive(alice, Digest((entry,)))


@pytest.mark.parametrize("suspect", [False, True])
def test_a_suspect_that_links_is_told_at_once_also_in_an_overlay(driven, peer, suspect):
    members = [peer(f"member {number}") for number in range(50)]
    linked, newcomer = members[:6], members[-1]
    driven.link(*linked)
    driven.receive(linked[0], Gossip(tuple(one.static() for one in members)))
    driven.wait(2.0, beating(driven, *linked))
    assert driven.membership.partial
    if suspect:
        driven.receive(linked[0], Gossip((), (linked[0].accuses(newcomer.node),)))
    before = len(driven.done)
    driven.link(newcomer)
    digests = [s.message for s in driven.sent(Digest, driven.done[before:]) if s.node == newcomer.node]
    states = [e.state for digest in digests for e in digest.entries if e.node == newcomer.node]
    assert states == ([int(Health.SUSPECT)] if suspect else [])


@pytest.mark.parametrize("teller", ["the one that was asked", "another", "nobody"])
def test_an_exchange_of_digests_that_brought_news_is_followed_by_another_soon(driven, peer, teller):
    asked, other = peer("asked"), peer("other")
    driven.link(asked, other)
    speak = beating(driven, asked, other)

    def asks(effects) -> list[str]:
        return [s.node for s in driven.sent(Digest, effects) if s.message.reply]

    while not (chosen := asks(driven.wait(0.25, speak))):
        assert driven.now < 120.0
    if chosen == [other.node]:
        asked, other = other, asked
    tellers = {"the one that was asked": asked, "another": other}
    if teller in tellers:
        driven.receive(tellers[teller], Gossip((peer("unknown so far").static(),)))
    driven.receive(asked, Digest(()))
    again = asks(driven.wait(3.0, speak))
    assert len(again) == (1 if teller == "the one that was asked" else 0)


def test_soon_after_a_link_came_up_digests_are_exchanged_again(driven, peer):
    """News of the moments in which a swarm forms passes by who has few links yet."""
    alice = peer("alice")
    driven.link(alice)
    exchanges = [s for s in driven.sent(Digest, driven.wait(2.5, beating(driven, alice))) if s.message.reply]
    assert len(exchanges) == 1


def test_while_the_swarm_grows_no_more_links_are_opened_than_a_large_one_has(driven, peer):
    linked, others = [peer(f"linked {n}") for n in range(ACTIVE)], [peer(f"other {n}") for n in range(20)]
    driven.link(*linked)
    speak = beating(driven, *linked)
    hears_of = iter(others)

    def grow() -> None:
        speak()
        one = next(hears_of, None)
        if one is not None:
            driven.receive(linked[0], Gossip((one.static(addresses=(Address("192.0.2.1", 7000),)),)))

    assert not [e for e in driven.wait(0.25 * len(others), grow) if isinstance(e, Dial)]
    assert [e for e in driven.wait(GROWING_SECONDS + 2.0, speak) if isinstance(e, Dial)]


def test_one_link_brings_a_hundred_new_members_a_minute(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    speak = beating(driven, alice)
    driven.wait(12.0, speak)
    crowd = [peer(f"crowd {n}").static() for n in range(130)]
    driven.receive(alice, Gossip(tuple(crowd)))
    assert len(driven.membership.members()) == 2 + 100
    driven.wait(12.0, speak)
    driven.receive(alice, Gossip(tuple(crowd)))
    assert 2 + 100 + 18 <= len(driven.membership.members()) <= 2 + 100 + 21


def test_a_node_that_just_started_takes_the_whole_swarm_from_its_first_link(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    driven.receive(alice, Gossip(tuple(peer(f"crowd {n}").static() for n in range(130))))
    assert len(driven.membership.members()) == 2 + 130


def test_a_new_member_that_links_itself_enters_whatever_others_brought(driven, peer):
    alice, late = peer("alice"), peer("late")
    driven.link(alice)
    driven.wait(12.0, beating(driven, alice))
    driven.receive(alice, Gossip(tuple(peer(f"crowd {n}").static() for n in range(130))))
    driven.receive(alice, Gossip((late.static(),)))
    assert driven.membership.member(late.node) is None
    driven.link(late)
    assert driven.membership.member(late.node) is not None


def test_a_member_whose_load_record_stands_still_gets_no_sessions_although_it_is_heard(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    speak = beating(driven, alice)
    driven.receive(alice, Gossip((alice.load(),)))
    driven.wait(25.0, speak)
    assert driven.membership.member(alice.node).routable
    driven.receive(alice, Gossip((alice.load(),)))
    driven.wait(10.0, speak)
    assert not driven.membership.member(alice.node).routable
    driven.receive(alice, Gossip((alice.load(1, 2),)))
    driven.wait(2.0, speak)
    assert driven.membership.member(alice.node).routable


def test_an_equivocating_member_is_flagged_unrouted_and_both_its_records_are_told(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    driven.receive(alice, Gossip((bob.static(1, 2, name="x"), bob.static(1, 2, name="y"))))
    member = driven.membership.member(bob.node)
    assert member.equivocating
    assert not member.routable
    told = {r.body for s in driven.sent(Gossip, driven.wait(0.25)) for r in s.message.records}
    assert {bob.static(1, 2, name="x").body, bob.static(1, 2, name="y").body} <= told


def test_a_farewell_for_another_node_closes_the_link(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    with pytest.raises(ProtocolError, match="farewell"):
        driven.receive(alice, Leave(bob.static(1, 2, state="left")))
    assert health(driven, bob) is Health.ALIVE


def test_a_message_that_is_not_gossip_is_refused(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    with pytest.raises(ProtocolError, match="Credit"):
        driven.receive(alice, Credit(1))


def test_nothing_is_taken_from_a_node_without_a_link(driven, peer):
    alice = peer("alice")
    driven.receive(alice, Gossip((alice.static(),)))
    assert driven.membership.member(alice.node) is None


def test_a_link_with_another_nodes_record_is_refused(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    with pytest.raises(ProtocolError):
        driven.membership.link_up(alice.node, alice.key.public_bytes, alice.boot, bob.static(), driven.now)
    with pytest.raises(ProtocolError):
        driven.membership.link_up(alice.node, bob.key.public_bytes, alice.boot, None, driven.now)


def test_load_is_spread_at_its_pace_and_at_once_when_it_changes_much(driven, peer):
    alice = peer("alice")
    driven.link(alice)
    speak = beating(driven, alice)

    def loads(effects) -> list[int]:
        records = [r for s in driven.sent(Gossip, effects) for r in s.message.records if r.kind == "load"]
        return [decode_load(record.body).queued_rows for record in records]

    assert loads(driven.wait(5.0, speak)) == [], "nobody need be told that a new node has nothing to do"

    def update(rows: int) -> None:
        figures = {
            "sessions": 1,
            "tokens_per_second": 1.0,
            "rss_bytes": 1,
            "spans": (SpanLoad(0, 100.0, 1000),),
        }
        driven.membership.update_load(driven.now, queued_rows=rows, **figures)

    update(1)
    assert loads(driven.wait(0.75, speak)) == [1]
    driven.wait(3.0, speak)
    assert loads(driven.wait(6.0, speak)) == []
    update(2)
    assert loads(driven.wait(0.75, speak)) in ([], [2])
    driven.wait(3.0, speak)
    update(200)
    assert loads(driven.wait(0.75, speak)) == [200]


def test_a_record_that_grows_too_large_is_refused_and_the_old_one_stays(driven):
    before = driven.membership.record()
    with pytest.raises(ConfigError, match="2048"):
        driven.membership.update_self(driven.now, addresses=tuple(Address("h" * 200, n) for n in range(12)))
    assert driven.membership.record() == before


def test_bootstrap_addresses_are_dialled_again_and_again_until_they_lead_to_a_member(driven, peer):
    address = Address("192.0.2.1", 7000)
    driven.membership.bootstrap((address,), driven.now)

    def fail() -> None:
        driven.membership.dial_failed(address, None, driven.now)

    dials = [effect for effect in driven.wait(20.0, fail) if isinstance(effect, Dial)]
    assert 5 <= len(dials) <= 11
    driven.link(alice := peer("alice"))
    driven.membership.dial_succeeded(address, alice.node)
    assert not [e for e in driven.wait(20.0, beating(driven, alice)) if isinstance(e, Dial)]


def test_a_bootstrap_address_is_dialled_on_while_only_others_are_linked(driven, peer):
    address = Address("192.0.2.1", 7000)
    driven.membership.bootstrap((address,), driven.now)
    driven.link(alice := peer("alice"))
    beat = beating(driven, alice)

    def fail_and_beat() -> None:
        driven.membership.dial_failed(address, None, driven.now)
        beat()

    assert len([e for e in driven.wait(20.0, fail_and_beat) if isinstance(e, Dial)]) >= 5
    driven.receive(alice, Gossip((alice.static(1, 2, addresses=(address,)),)))
    assert not [e for e in driven.wait(20.0, beat) if isinstance(e, Dial)]


def test_the_own_address_is_not_dialled_again(driven):
    address = Address("192.0.2.1", 7000)
    driven.membership.bootstrap((address,), driven.now)
    assert Dial(address, None) in driven.wait(0.25)
    driven.membership.address_is_own(address)
    assert not [effect for effect in driven.wait(60.0) if isinstance(effect, Dial)]


def test_a_lost_member_is_dialled_for_ever_and_ever_more_seldom(driven, peer):
    alice, address = peer("alice"), Address("192.0.2.9", 7000)
    driven.link(alice)
    driven.receive(alice, Gossip((alice.static(1, 2, addresses=(address,)),)))
    driven.membership.link_down(alice.node, False, driven.now)

    def fail() -> None:
        driven.membership.dial_failed(address, alice.node, driven.now)

    first = [e for e in driven.wait(60.0, fail) if isinstance(e, Dial)]
    assert 20 <= len(first) <= 32
    driven.wait(1500.0, fail)
    late = [e for e in driven.wait(300.0, fail) if isinstance(e, Dial)]
    assert 6 <= len(late) <= 12


def test_who_left_is_not_dialled(driven, peer):
    alice, address = peer("alice"), Address("192.0.2.9", 7000)
    driven.link(alice)
    driven.receive(alice, Leave(alice.static(1, 2, addresses=(address,), state="left")))
    driven.membership.link_down(alice.node, True, driven.now)
    assert not [effect for effect in driven.wait(60.0) if isinstance(effect, Dial)]
    assert health(driven, alice) is Health.LEFT


def test_leaving_tells_every_neighbour_and_then_says_nothing_more(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    driven.membership.leave(driven.now)
    farewells = driven.sent(Leave, driven.settle())
    assert {send.node for send in farewells} == {alice.node, bob.node}
    assert all(decode_static(send.message.record.body).state == "left" for send in farewells)
    assert not [effect for effect in driven.wait(30.0) if isinstance(effect, Send)]


def test_the_gone_are_forgotten_after_a_day(driven, peer):
    alice, bob = peer("alice"), peer("bob")
    driven.link(alice, bob)
    driven.receive(bob, Leave(bob.static(1, 2, state="left")))
    driven.membership.link_down(bob.node, True, driven.now)
    driven.now += 86_000.0
    driven.membership.tick(driven.now)
    assert driven.membership.member(bob.node) is not None
    driven.now += 500.0
    driven.wait(2.0)
    assert driven.membership.member(bob.node) is None


def test_banned_ids_never_enter(peer, driven):
    import random

    from swarm.config import GossipSettings
    from swarm.gossip.membership import Membership

    alice, banned = peer("alice"), peer("banned")
    membership = Membership(
        key=driven.me.key,
        swarm_id=b"a swarm for tests"[:16],
        boot=driven.me.boot,
        settings=GossipSettings(),
        incarnation=1,
        rng=random.Random(0),
        now=0.0,
        ban=frozenset({banned.node}),
    )
    membership.link_up(alice.node, alice.key.public_bytes, alice.boot, alice.static(), 0.0)
    membership.receive(alice.node, Gossip((banned.static(),)), 0.0)
    assert membership.member(banned.node) is None


def test_records_and_claims_for_another_secret_of_the_keyring_are_taken(peer, driven):
    import hashlib
    import random

    from swarm.config import GossipSettings
    from swarm.gossip.membership import Membership

    new = hashlib.sha256(b"the new secret").digest()[:16]
    alice = peer("alice")
    for others, taken in ((), False), ((b"a swarm for tests"[:16],), True):
        membership = Membership(
            key=driven.me.key,
            swarm_id=new,
            other_swarm_ids=others,
            boot=driven.me.boot,
            settings=GossipSettings(),
            incarnation=1,
            rng=random.Random(0),
            now=0.0,
        )
        membership.link_up(alice.node, alice.key.public_bytes, alice.boot, None, 0.0)
        if taken:
            membership.receive(alice.node, Gossip((alice.static(),)), 0.0)
        else:
            with pytest.raises(ProtocolError, match="signature"):
                membership.receive(alice.node, Gossip((alice.static(),)), 0.0)
        assert (membership.member(alice.node) is not None) == taken
