"""A member with the right secret that lies and grabs: nothing of it is accepted, and its victims stay in service."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from swarm.errors import ConfigError, LinkDownError
from swarm.gossip.member import Health
from swarm.gossip.record import Claim, decode_static, encode
from swarm.node.node import Node
from swarm.protocol.codec import encode as frames_of
from swarm.protocol.identity import sign_claim, sign_record
from swarm.protocol.messages import (
    AnyMessage,
    CloseSession,
    Drain,
    Gossip,
    Hop,
    HopTime,
    Need,
    Opened,
    OpenSession,
    Output,
    Refused,
    Renew,
    SignedRecord,
    Step,
)
from swarm.types import Address, BootId, LayerSpan, NodeId, SessionId
from tests.support.gossip_node import GossipNode
from tests.support.links import SECRET, eventually
from tests.support.nodes_here import PROMPT, answer, generation, identity, node_of
from tests.support.tiny_model import LAYERS, write_tiny_model

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(300)]


class Liar(GossipNode):
    """A member that says what it likes, and hears the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[AnyMessage] = []

    def received(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        if isinstance(message, Opened | Refused):
            self.heard.append(message)
        else:
            super().received(node, message, payload)

    def restated(self, other: SignedRecord, **changes: object) -> SignedRecord:
        """Sign somebody's record with changes, with the own key."""
        record = msgspec.structs.replace(decode_static(other.body), **changes)
        return sign_record(self.key, SECRET.swarm_id, "static", encode(record))

    def lost(self, node: NodeId) -> bool:
        return any(down == node for down, _, _ in self.downs)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Node, Node, str]]:
    """A front node without layers, and a hop with all."""
    model = write_tiny_model(tmp_path / "model")
    async with (
        node_of(tmp_path / "front", model, "none") as front,
        node_of(tmp_path / "hop", model, LayerSpan(0, LAYERS), front.address) as hop,  # type: ignore[attr-defined]
    ):
        await eventually(lambda: any(m.servable for m in front.models()), "the model to be servable", 60)
        yield front, hop, front.models()[0].name


@pytest.fixture
async def liars() -> AsyncIterator[Callable[..., object]]:
    made: list[Liar] = []

    async def make(*met: Node | Address) -> Liar:
        made.append(liar := Liar())
        await liar.start([one.address if isinstance(one, Node) else one for one in met])
        # Liars from before are members too, and linked: nodes are waited for by name.
        nodes = [identity(one) for one in met if isinstance(one, Node)]
        await eventually(
            lambda: len(liar.network.links()) >= len(met) and all(map(liar.network.linked, nodes)),
            "the liar's links",
        )
        return liar

    yield make
    await asyncio.gather(*(liar.aclose() for liar in made))


async def test_frames_for_the_sessions_of_others_close_the_link_and_change_no_token(pair, liars):
    front, hop, model = pair
    undisturbed = await answer(front, model)
    running = await generation(front, model)
    tokens = []
    events = aiter(running)
    async for event in events:
        tokens.append(event.token)
        if len(tokens) == 5:
            break
    (session,) = hop._stage._sessions
    key, epoch = session.key, session.epoch
    origin, opened = (
        key.origin,
        OpenSession(
            key.origin, key.session, epoch + 1, session.model, session.dtype, session.hops, 0, 64, 0, 10_000
        ),
    )
    forged: list[tuple[AnyMessage, bytes]] = [
        (opened, b""),
        (CloseSession(origin, key.session, epoch), b""),
        (Step(origin, key.session, epoch, 6, len(PROMPT) + 6, 1, 64, "float32", "last"), bytes(256)),
        (Need(origin, key.session, epoch, 0, 0), b""),
    ]
    for message, payload in forged:
        liar = await liars(front, hop)
        liar.network.send(identity(hop), message, payload)
        await eventually(lambda liar=liar: liar.lost(identity(hop)), f"the end of the link after {message}")
    liar = await liars(front, hop)
    liar.network.send(identity(hop), Renew((key.session,)))
    for message, payload in (
        (Output(origin, key.session, epoch, 6, len(PROMPT) + 6, 1, 64, "float32"), bytes(256)),
        (Opened(origin, key.session, epoch + 5, 0), b""),
        (Refused(origin, key.session, epoch, "failed"), b""),
    ):
        with contextlib.suppress(LinkDownError):
            liar.network.send(identity(front), message, payload)
    tokens += [event.token async for event in events if event.token >= 0]
    await running.aclose()
    assert tokens == undisturbed
    assert running.stats.recoveries == 0


async def test_paths_that_can_not_work_end_no_node(pair, liars):
    """What a hop hands on at a liar's wish must not come back at it as an error that nobody expects."""
    front, hop, model = pair
    undisturbed = await answer(front, model)
    boot, hosted, hidden = hop._boot, hop._hosting.hosted()[0].model, 64
    liar = await liars(front, hop)
    here = [Hop(identity(hop), BootId(boot), LayerSpan(at, at + 1)) for at in range(2)]
    own = Hop(liar.node, BootId(secrets.token_bytes(8)), LayerSpan(2, 3))

    async def opened(hops: tuple[Hop, ...], *places: tuple[int, str]) -> SessionId:
        session = SessionId(secrets.token_bytes(16))
        liar.heard.clear()
        for index, dtype in places:
            opening = OpenSession(liar.node, session, 1, hosted, dtype, hops, index, 64, 0, 10_000)  # type: ignore[arg-type]
            liar.network.send(identity(hop), opening)
        await eventually(lambda: len(liar.heard) == len(places), "an answer to every OpenSession")
        assert all(isinstance(message, Opened) for message in liar.heard)
        return session

    # Twice over one node, which hands the first hop's rows to a second one that was opened for another dtype.
    session = await opened(tuple(here), (0, "float32"), (1, "bfloat16"))
    one = Step(liar.node, session, 1, 0, 0, 1, hidden, "float32", "last")
    liar.network.send(identity(hop), one, bytes(4 * hidden))
    await eventually(lambda: all(not one.pending for one in hop._stage._sessions), "the step's end")
    assert await answer(front, model) == undisturbed
    # A header as large as may be, to which the hop would add what it took.
    session = await opened((own, here[1], own), (1, "float32"))
    times = (HopTime(1, 1, 1),) * 2100
    payload = bytes(4 * hidden)
    while True:
        one = Step(liar.node, session, 1, 0, 0, 1, hidden, "float32", "last", times, index=1)
        with contextlib.suppress(ValueError):
            frames_of(one, payload, number=1, part_bytes=65536)
            break
        times = times[1:]
    liar.network.send(identity(hop), one, payload)
    await eventually(lambda: liar.lost(identity(hop)), "the end of the link")
    assert await answer(front, model) == undisturbed


async def test_a_member_that_hoards_kv_gets_its_share_and_others_are_served(pair, liars):
    front, hop, model = pair
    undisturbed = await answer(front, model)
    liar = await liars(front, hop)
    boot, hosted = hop._boot, hop._hosting.hosted()[0].model
    for _ in range(300):
        hops = (Hop(identity(hop), BootId(boot), LayerSpan(0, LAYERS)),)
        session = SessionId(secrets.token_bytes(16))
        liar.network.send(
            identity(hop),
            OpenSession(liar.node, session, 1, hosted, "float32", hops, 0, 4096, 0, 60_000),
        )
    await eventually(lambda: len(liar.heard) >= 300, "an answer to every OpenSession")
    assert sum(isinstance(message, Opened) for message in liar.heard) <= 64
    assert {message.code for message in liar.heard if isinstance(message, Refused)} == {"full"}
    assert await answer(front, model) == undisturbed


async def test_lies_about_others_are_not_believed_and_the_victim_stays_in_service(pair, liars):
    front, hop, model = pair
    victim = identity(hop)
    genuine = hop._membership.record()

    def believed() -> bool:
        member = front._membership.member(victim)
        return member is not None and member.routable and member.record == decode_static(genuine.body)

    # Squatting: the victim's id with another key, and the victim's record under another signature.
    for changes in ({"public_key": None}, {"incarnation": 2**40, "state": "left"}):
        liar = await liars(front, hop)
        given = {"public_key": liar.key.public_bytes} if "public_key" in changes else changes
        liar.network.send(identity(front), Gossip((liar.restated(genuine, **given),)))
        await eventually(lambda liar=liar: liar.lost(identity(front)), "the end of the liar's link")
        assert believed()
    # A claim for an incarnation that nobody has said anything at, and one for the real one.
    liar = await liars(front, hop)
    incarnation = decode_static(genuine.body).incarnation
    for number, dead in ((2**50, True), (incarnation, True), (incarnation, False)):
        claim = sign_claim(liar.key, SECRET.swarm_id, encode(Claim(liar.node, victim, number, dead)))
        liar.network.send(identity(front), Gossip((), (claim,)))
    until = time.monotonic() + 4.0
    while time.monotonic() < until:
        member = front._membership.member(victim)
        assert member is not None
        assert member.routable
        assert member.health in (Health.ALIVE, Health.SUSPECT)
        assert member.record.incarnation < 2**40
        await asyncio.sleep(0.05)
    assert front._membership.member(victim).health is Health.ALIVE
    # Drain speaks of its sender only.
    liar.network.send(identity(front), Drain())
    assert await answer(front, model)


async def test_a_copied_state_folder_ends_its_node_with_a_clear_error(tmp_path):
    model = write_tiny_model(tmp_path / "model")
    async with (
        node_of(tmp_path / "first", model, "none") as first,
        node_of(tmp_path / "second", model, "none", first.address) as second,
    ):
        await eventually(
            lambda: first._neighbours.name_of(identity(second)) == "second", "the original to join"
        )
        shutil.copytree(tmp_path / "second", tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
        with pytest.raises(ConfigError, match="may not be copied"):
            async with node_of(tmp_path / "copy", model, "none", first.address) as copy:
                await asyncio.wait_for(copy._stopping.wait(), 30)
        assert first._membership.member(identity(second)).health is Health.ALIVE


async def test_a_record_with_a_victims_address_leads_nobody_astray(liars):
    front, victim = GossipNode(), GossipNode()
    try:
        address = await front.start()
        victim_address = await victim.start([address])
        liar = await liars(address)
        liar.loop.change(lambda m, now: m.update_self(now, addresses=(victim_address,)))
        await eventually(
            lambda: (
                (m := front.membership.member(liar.node)) is not None and victim_address in m.record.addresses
            ),
            "the lie",
        )
        await liar.aclose()
        await eventually(lambda: not front.routable(liar.node), "the liar to be out of service")
        await asyncio.sleep(2.5)
        assert front.routable(victim.node)
        assert victim.routable(front.node)
        assert set(front.network.links()) == {victim.node}
        assert not front.duplicate + victim.duplicate
    finally:
        await asyncio.gather(front.aclose(), victim.aclose())


async def test_a_forged_observed_address_enters_no_record_and_is_never_dialled(liars):
    """What a peer says it sees a connection come from is for a person to read: nothing is done with it."""
    victim, front = GossipNode(), GossipNode()
    told: list[Address | None] = []
    take = front.link_up
    front.link_up = lambda peer: (told.append(peer.observed_self), take(peer))  # type: ignore[method-assign]
    try:
        forged = await victim.network.start(Address("127.0.0.1", 0))
        teller = GossipNode()
        serve = teller.network._serve
        teller.network._serve = lambda connection, _: serve(connection, forged)  # type: ignore[method-assign]
        second = await liars(await teller.start())
        own = await front.start([teller.membership.member(teller.node).record.addresses[0]])
        await eventually(lambda: forged in told and front.routable(second.node), "the lie")
        for node in (front, teller, second):
            await eventually(lambda node=node: node.routable(front.node), "the record")
            assert node.membership.member(front.node).record.addresses == (own,)
        assert victim.network.links() == ()
    finally:
        await asyncio.gather(*(node.aclose() for node in (front, teller)), victim.network.aclose())


async def test_two_stories_of_one_version_flag_the_teller_at_everyone(liars):
    nodes = [GossipNode() for _ in range(3)]
    try:
        first = await nodes[0].start()
        addresses = [first, *[await node.start([first]) for node in nodes[1:]]]
        liar = await liars(*addresses)
        for number, node in enumerate(nodes):
            story = liar.restated(liar.membership.record(), sequence=50, name=f"story {number % 2}")
            liar.network.send(node.node, Gossip((story,)))
        for node in nodes:
            await eventually(
                lambda node=node: (m := node.membership.member(liar.node)) is not None and m.equivocating,
                "the flag",
            )
        assert not any(node.routable(liar.node) for node in nodes)
        assert len({node.membership.member(liar.node).record.name for node in nodes}) == 1
        assert all(node.routable(other.node) for node in nodes for other in nodes)
    finally:
        await asyncio.gather(*(node.aclose() for node in nodes))
