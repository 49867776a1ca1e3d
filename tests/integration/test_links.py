"""The life of links on real sockets: joining, one link a pair, ends of every kind, nothing left behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from swarm.config import NetSettings
from swarm.errors import AuthenticationError, ConfigError, DialError, LinkDownError, ProtocolError
from swarm.protocol.identity import verify_record
from swarm.protocol.limits import CloseCode
from swarm.protocol.messages import Drain, Heartbeat
from swarm.types import Address, NodeId
from tests.support.links import SECRET, Peer, Relay, eventually, step

MakePeer = Callable[..., Peer]


@pytest.fixture
async def make_peer() -> AsyncIterator[MakePeer]:
    """Make peers that are closed at the end; then no task of theirs may be left."""
    peers: list[Peer] = []

    def make(name: str, **options: Any) -> Peer:
        peer = Peer(name.encode().ljust(32, b"."), **options)
        peers.append(peer)
        return peer

    yield make
    await asyncio.gather(*(peer.network.aclose() for peer in peers))
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("swarm")]
    assert not left


@pytest.fixture
async def make_relay() -> AsyncIterator[Callable[[Address], Relay]]:
    relays: list[Relay] = []

    def make(target: Address) -> Relay:
        relays.append(Relay(target))
        return relays[-1]

    yield make
    for relay in relays:
        await relay.aclose()


async def linked_pair(make_peer: MakePeer, **options: Any) -> tuple[Peer, Peer]:
    """Return two linked peers; the first one dialled."""
    near, far = make_peer("near", **options), make_peer("far", **options)
    await near.network.connect(await far.listen())
    await eventually(lambda: far.ups, "the link at the listening side")
    return near, far


async def test_both_ends_know_each_other_after_joining(make_peer: MakePeer) -> None:
    near, far = make_peer("near"), make_peer("far")
    address = await far.listen()
    assert await near.network.connect(address, expected=far.node) == far.node
    await eventually(lambda: far.ups)
    (seen_far,), (seen_near,) = near.ups, far.ups
    assert (seen_far.node, seen_far.boot, seen_far.dialled) == (far.node, far.boot, address)
    assert (seen_near.node, seen_near.boot, seen_near.dialled) == (near.node, near.boot, None)
    assert seen_far.observed_self == seen_near.observed
    assert seen_near.record is not None
    assert verify_record(near.key.public_bytes, SECRET.swarm_id, seen_near.record)
    assert near.network.links() == (far.node,)
    assert far.network.linked(near.node)


async def test_messages_and_payloads_pass_both_ways(make_peer: MakePeer) -> None:
    near, far = await linked_pair(make_peer)
    prompt = bytes(range(256)) * 4 * 2048
    near.network.send(far.node, step(1024), prompt)
    near.network.send(far.node, Heartbeat(1, 2, 3))
    far.network.send(near.node, step(1), prompt[:2048])
    await eventually(lambda: len(far.messages) == 2 and near.messages, "all messages")
    assert (near.node, step(1024), prompt) in far.messages
    assert near.messages == [(far.node, step(1), prompt[:2048])]


async def test_dialling_a_linked_peer_again_keeps_its_link(make_peer: MakePeer) -> None:
    near, far = make_peer("near"), make_peer("far")
    address = await far.listen()
    await asyncio.gather(*(near.network.connect(address) for _ in range(5)))
    assert await near.network.connect(address, expected=far.node) == far.node
    await eventually(lambda: len(far.ups) == 1)
    assert len(near.ups) == 1
    assert not near.downs + far.downs


async def test_both_ends_dialling_at_once_leaves_the_link_that_the_lower_id_dialled(
    make_peer: MakePeer,
) -> None:
    for number in range(20):
        first, second = make_peer(f"one of {number}"), make_peer(f"two of {number}")
        addresses = [await first.listen(), await second.listen()]
        await asyncio.gather(first.network.connect(addresses[1]), second.network.connect(addresses[0]))
        low, high = sorted((first, second), key=lambda peer: peer.node)

        def settled(low: Peer = low, high: Peer = high) -> bool:
            ends = low.network.linked(high.node) and high.network.linked(low.node)
            return ends and low.ups[-1].dialled is not None and high.ups[-1].dialled is None

        await eventually(settled, "one link, dialled by the lower id")
        low.network.send(high.node, Heartbeat(1, 1, 1))
        high.network.send(low.node, Heartbeat(2, 2, 2))
        await eventually(lambda low=low, high=high: low.messages and high.messages, "messages both ways")
        for peer in (low, high):
            assert len(peer.ups) == len(peer.downs) + 1
            assert all(graceful for _, _, graceful in peer.downs)


async def test_dialling_oneself_is_told_apart(make_peer: MakePeer) -> None:
    peer = make_peer("alone")
    with pytest.raises(DialError, match="our own address") as caught:
        await peer.network.connect(await peer.listen())
    assert caught.value.own
    assert not peer.ups


async def test_a_closed_link_is_graceful_and_an_aborted_one_is_not(make_peer: MakePeer) -> None:
    near, far = await linked_pair(make_peer)
    near.network.close(far.node)
    assert not near.network.linked(far.node)
    await eventually(lambda: near.downs and far.downs)
    assert near.downs == [(far.node, "no longer needed", True)]
    assert far.downs == [(near.node, "closed by the peer: 4002 'overlay change'", True)]

    await near.network.connect(far.ups[0].observed_self or near.ups[0].observed)
    await eventually(lambda: len(far.ups) == 2)
    near.network.abort(far.node, "silent")
    await eventually(lambda: len(near.downs) == len(far.downs) == 2)
    assert near.downs[1] == (far.node, "silent", False)
    assert far.downs[1][2] is False


async def test_a_lost_link_is_seen_at_both_ends(
    make_peer: MakePeer, make_relay: Callable[[Address], Relay]
) -> None:
    near, far = make_peer("near"), make_peer("far")
    relay = make_relay(await far.listen())
    await near.network.connect(await relay.listen())
    await eventually(lambda: far.ups)
    relay.cut()
    await eventually(lambda: near.downs and far.downs)
    assert [down[2] for down in near.downs + far.downs] == [False, False]
    with pytest.raises(LinkDownError):
        near.network.send(far.node, Drain())


async def test_a_taken_port_and_an_unknown_host_are_said_plainly(make_peer: MakePeer) -> None:
    peer, other = make_peer("one"), make_peer("two")
    address = await peer.listen()
    with pytest.raises(ConfigError, match=r"can't listen on 127.0.0.1:\d+: the port is taken"):
        await other.network.start(address)
    with pytest.raises(DialError, match="no such host"):
        await other.network.connect(Address("no-such-host.invalid", 1))


async def test_nobody_listening_and_nobody_answering_are_said_plainly(make_peer: MakePeer) -> None:
    peer = make_peer("one", settings=NetSettings(handshake_seconds=0.1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(DialError, match=r"no handshake within 0.1 s"):
            await peer.network.connect(address)
    with pytest.raises(DialError, match="connection refused"):
        await peer.network.connect(address)


async def test_another_node_than_the_expected_one_is_not_linked(make_peer: MakePeer) -> None:
    near, far = make_peer("near"), make_peer("far")
    with pytest.raises(AuthenticationError, match="was expected"):
        await near.network.connect(await far.listen(), expected=NodeId("x" * 32))
    assert not near.ups + far.ups


@pytest.mark.parametrize("refusing", ["near", "far"])
async def test_a_banned_node_is_refused_by_either_side(make_peer: MakePeer, refusing: str) -> None:
    refused: Callable[[NodeId], bool] = lambda _node: False  # noqa: E731
    near = make_peer("near", **({"admit": refused} if refusing == "near" else {}))
    far = make_peer("far", **({"admit": refused} if refusing == "far" else {}))
    with pytest.raises(AuthenticationError) as caught:
        await near.network.connect(await far.listen())
    assert caught.value.close_code == CloseCode.BANNED
    assert not near.ups + far.ups


async def test_a_second_process_with_the_same_key_is_turned_away(make_peer: MakePeer) -> None:
    near, far = await linked_pair(make_peer)
    copy = make_peer("near")
    with pytest.raises(
        AuthenticationError, match="another process with this node's key is running"
    ) as caught:
        await copy.network.connect(near.ups[0].observed)
    assert caught.value.close_code == CloseCode.DUPLICATE
    assert far.network.linked(near.node)
    assert not far.downs


async def test_a_copy_of_the_dialled_node_itself_is_turned_away(make_peer: MakePeer) -> None:
    original, copy = make_peer("same"), make_peer("same")
    with pytest.raises(AuthenticationError) as caught:
        await copy.network.connect(await original.listen())
    assert caught.value.close_code == CloseCode.DUPLICATE


async def test_a_restarted_node_replaces_its_silent_old_link(
    make_peer: MakePeer, make_relay: Callable[[Address], Relay]
) -> None:
    far, old, new = make_peer("far"), make_peer("near"), make_peer("near")
    address = await far.listen()
    relay = make_relay(address)
    await old.network.connect(await relay.listen())
    await eventually(lambda: far.ups)
    relay.hold()
    await new.network.connect(address)
    await eventually(lambda: len(far.ups) == 2)
    assert [up.boot for up in far.ups] == [old.boot, new.boot]
    assert far.told == ["up", "down", "up"]
    assert [down[0] for down in far.downs] == [old.node]
    new.network.send(far.node, Drain())
    await eventually(lambda: far.messages)


async def test_a_receiver_that_objects_closes_the_link_and_three_times_shuts_the_door(
    make_peer: MakePeer,
) -> None:
    near, far, other = make_peer("near"), make_peer("far"), make_peer("other")
    address = await far.listen()

    def object_to(_node: NodeId, _message: object) -> None:
        raise ProtocolError("not yours to send")

    far.on_message = object_to
    await other.network.connect(address)
    for number in range(1, 4):
        await near.network.connect(address)
        near.network.send(far.node, Drain())
        await eventually(lambda number=number: len(near.downs) == number)
        assert near.downs[-1] == (far.node, "closed by the peer: 4400 'malformed frame'", False)
    with pytest.raises(AuthenticationError, match="refuses this node for a minute"):
        await near.network.connect(address)
    assert other.network.linked(far.node)
    assert far.network.linked(other.node)


async def test_a_peer_that_reads_nothing_breaks_its_own_link_only(
    make_peer: MakePeer, make_relay: Callable[[Address], Relay]
) -> None:
    limit = 4 * 1024 * 1024
    near, far = make_peer("near", settings=NetSettings(send_queue_bytes=limit)), make_peer("far")
    relay = make_relay(await far.listen())
    await near.network.connect(await relay.listen())
    relay.hold(reading=False)

    def flood() -> None:
        for number in range(10_000):
            near.network.send(far.node, step(8, hidden=4096, number=number), bytes(65536))

    with pytest.raises(LinkDownError, match="waiting to be sent"):
        flood()
    assert not near.network.linked(far.node)
    await eventually(lambda: near.downs)
    assert near.downs[0][2] is False


async def test_hundreds_of_links_close_and_leave_nothing(make_peer: MakePeer) -> None:
    settings = NetSettings(accept_burst=1000)
    hub = make_peer("hub", settings=settings)
    address = await hub.listen()
    before = len(asyncio.all_tasks())
    leaves = [make_peer(f"leaf {number}") for number in range(200)]
    for start in range(0, len(leaves), 8):
        await asyncio.gather(*(leaf.network.connect(address) for leaf in leaves[start : start + 8]))
    await eventually(lambda: len(hub.network.links()) == len(leaves))
    await eventually(lambda: len(asyncio.all_tasks()) == before, "live links without tasks")
    await hub.network.aclose()
    await eventually(lambda: all(leaf.downs for leaf in leaves), "the end of every link")
    assert not hub.network.links()
    assert sum(bool(leaf.network.links()) for leaf in leaves) == 0
    assert len(hub.downs) == len(leaves)
