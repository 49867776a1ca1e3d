"""Members that lie inside a whole swarm: victims stay in service, lies stay out, and all views agree."""

from __future__ import annotations

import msgspec
import pytest

from swarm.gossip.member import Health
from swarm.gossip.record import Claim, StaticRecord, decode_static, encode
from swarm.protocol.identity import sign_claim, sign_record
from swarm.protocol.messages import Gossip, SignedRecord
from tests.sim.process import SWARM_ID, Process, key_of
from tests.sim.test_joining_and_dying import swarm_of
from tests.sim.world import World


def say(world: World, liar: Process, *, records=(), claims=()) -> None:
    """Send gossip of the liar's own making over all its links."""
    for connection in list(liar.links.values()):
        message = msgspec.msgpack.encode(Gossip(tuple(records), tuple(claims)))
        world.network.send(connection, liar, message)


def restated(process: Process, **changes) -> StaticRecord:
    return msgspec.structs.replace(decode_static(process.membership.record().body), **changes)


def signed(process: Process, record: StaticRecord) -> SignedRecord:
    return sign_record(process.key, SWARM_ID, "static", encode(record))


def test_forged_records_of_a_victim_enter_no_view_and_cost_the_liar_its_links():
    world = swarm_of(6)
    liar, victim = world.processes["n1"], world.processes["n2"]
    say(world, liar, records=[signed(liar, restated(victim, sequence=99, state="left"))])
    world.run(5.0)
    assert [len(p.protocol_errors) for p in world.alive() if p is not liar] == [1] * 5
    assert world.all_see("n2", Health.ALIVE)
    assert all(world.seen(p.name, "n2").record.sequence < 99 for p in world.alive() if p.name != "n2")


def test_a_record_from_another_swarm_enters_no_view():
    world = swarm_of(4)
    stranger = key_of("stranger")
    record = msgspec.structs.replace(
        restated(world.processes["n1"]), node=stranger.node_id, public_key=stranger.public_bytes
    )
    foreign = sign_record(stranger, b"some other swarm", "static", encode(record))
    say(world, world.processes["n1"], records=[foreign])
    world.run(15.0)
    assert not any(process.membership.member(stranger.node_id) for process in world.alive())


def test_stale_records_change_nothing():
    world = swarm_of(5)
    victim = world.processes["n2"]
    old = victim.membership.record()
    victim.act(lambda now: victim.membership.update_self(now, name="renamed"))
    world.run(1.0)
    say(world, world.processes["n1"], records=[old] * 20)
    world.run(1.0)
    assert all(world.seen(p.name, "n2").record.name == "renamed" for p in world.alive())


def test_an_equivocating_member_is_flagged_by_everyone_who_all_hold_the_same_record():
    world = swarm_of(8)
    liar = world.processes["n1"]
    names = ("one story", "another story")
    stories = [signed(liar, restated(liar, sequence=50, name=name)) for name in names]
    for (_peer, connection), story in zip(
        sorted(liar.links.items(), key=lambda i: i[0].name), stories * 4, strict=False
    ):
        world.network.send(connection, liar, msgspec.msgpack.encode(Gossip((story,))))
    liar.pause()
    world.run(1.0)
    others = [process for process in world.alive() if process is not liar]
    assert all(
        world.seen(p.name, "n1").equivocating and not world.seen(p.name, "n1").routable for p in others
    )
    assert len({world.seen(p.name, "n1").record.name for p in others}) == 1
    world.start("late", bootstrap=["n3"])
    world.run(1.0)
    assert world.seen("late", "n1").equivocating


@pytest.mark.parametrize("dead", [False, True], ids=["suspect", "dead"])
def test_suspicion_spam_leaves_the_victim_in_service(dead: bool):
    world = swarm_of(6)
    liar, victim = world.processes["n1"], world.processes["n2"]
    for _ in range(100):
        incarnation = decode_static(victim.membership.record().body).incarnation
        claim = Claim(liar.key.node_id, victim.key.node_id, incarnation, dead)
        say(world, liar, claims=[sign_claim(liar.key, SWARM_ID, encode(claim))])
        world.run(0.2)
        assert all(world.seen(p.name, "n2").routable for p in world.alive())
    assert decode_static(victim.membership.record().body).incarnation <= 7
    world.run(70.0)
    assert world.all_see("n2", Health.ALIVE)
    assert world.converged()


def test_two_liars_bury_nobody_who_is_heard():
    world = swarm_of(7)
    victim = world.processes["n3"]
    for _ in range(20):
        for name in ("n1", "n2"):
            liar = world.processes[name]
            incarnation = decode_static(victim.membership.record().body).incarnation
            claim = Claim(liar.key.node_id, victim.key.node_id, incarnation, dead=True)
            say(world, liar, claims=[sign_claim(liar.key, SWARM_ID, encode(claim))])
        world.run(0.5)
    node = victim.key.node_id[:8]
    assert not world.ever(f"sees {node} DEAD")
