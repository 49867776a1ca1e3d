"""Strangers, impostors and broken peers at the port: refused with one clear line, while others go on."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from swarm.config import NetSettings
from swarm.errors import AuthenticationError, ProtocolError
from swarm.net.peers import PeerInfo
from swarm.net.tls import client_context, server_context
from swarm.protocol.identity import NodeKey, SwarmSecret
from swarm.protocol.limits import MAX_HANDSHAKE_BYTES, CloseCode
from swarm.protocol.messages import Drain
from swarm.types import Address
from tests.support.links import (
    SECRET,
    Peer,
    Relay,
    client_handshake,
    eventually,
    raw_connection,
    raw_member,
)

ATTACKER = "127.0.0.2"
"""Limits count by address: attackers use another one than honest peers."""
GARBAGE = [
    b"\0" * 64,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-x\r\n",
    b"\x16\x03\x01\x02\x00\x01" + b"\xff" * 512,
]


@pytest.fixture
async def victim() -> AsyncIterator[tuple[Peer, Address]]:
    """A listening peer with a short deadline."""
    peer = Peer(b"v" * 32, settings=NetSettings(handshake_seconds=0.5, max_unauthenticated=16))
    yield peer, await peer.listen()
    await peer.network.aclose()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "swarm.net"]


async def honest_peer_joins(address: Address, seed: bytes = b"h" * 32) -> None:
    """Fail unless a member gets in and is heard."""
    peer = Peer(seed)
    try:
        await peer.network.connect(address)
    finally:
        await peer.network.aclose()


async def test_a_wrong_secret_is_one_clear_line_on_both_sides(
    victim: tuple[Peer, Address], caplog: pytest.LogCaptureFixture
) -> None:
    peer, address = victim
    wrong = SwarmSecret(b"w" * 32)
    stranger = Peer(b"s" * 32, secret=wrong)
    with pytest.raises(AuthenticationError, match="wrong swarm secret") as caught:
        await stranger.network.connect(address)
    await eventually(lambda: lines(caplog))
    assert len(lines(caplog)) == 1
    assert "wrong swarm secret" in lines(caplog)[0]
    assert "\n" not in str(caught.value) + lines(caplog)[0]
    for secret in (wrong, SECRET):
        assert secret.hex() not in caplog.text + str(caught.value)
    assert not peer.ups + stranger.ups
    await stranger.network.aclose()


class Impostor(SwarmSecret):
    """Another secret that claims the swarm's public id."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "swarm_id", SECRET.swarm_id)


async def test_who_knows_only_the_swarm_id_is_told_no_more_than_failed(
    victim: tuple[Peer, Address], caplog: pytest.LogCaptureFixture
) -> None:
    _, address = victim
    stranger = Peer(b"s" * 32, secret=Impostor(b"w" * 32))
    with pytest.raises(AuthenticationError, match="authentication failed"):
        await stranger.network.connect(address)
    await eventually(lambda: lines(caplog))
    assert [line for line in lines(caplog) if "wrong swarm secret" in line]
    await stranger.network.aclose()


async def test_a_replayed_auth_is_refused(victim: tuple[Peer, Address]) -> None:
    peer, address = victim
    async with raw_connection(address) as websocket:
        auth = client_handshake(websocket, b"r" * 32).read_challenge(
            bytes(await websocket.recv(decode=False))
        )
        await websocket.send(auth)
        await websocket.recv()
    async with raw_connection(address) as websocket:
        await websocket.recv()
        await websocket.send(auth)
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.recv()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (
        CloseCode.AUTHENTICATION,
        "authentication failed",
    )
    assert not peer.ups


async def test_a_man_in_the_middle_that_ends_tls_gets_no_link(
    victim: tuple[Peer, Address], caplog: pytest.LogCaptureFixture
) -> None:
    peer, address = victim
    own_context, _ = server_context(NodeKey.from_seed(b"m" * 32))
    middle = Relay(address)
    middle_address = await middle.listen(accept_tls=own_context, dial_tls=client_context())
    honest = Peer(b"h" * 32)
    with pytest.raises(AuthenticationError, match="authentication failed"):
        await honest.network.connect(middle_address)
    with pytest.raises(AuthenticationError, match="was expected"):
        await honest.network.connect(middle_address, expected=peer.node)
    assert any("changed on the way" in line for line in lines(caplog))
    assert not peer.ups + honest.ups
    await honest.network.aclose()
    await middle.aclose()


@pytest.mark.parametrize("greeting", GARBAGE, ids=["zeros", "plain HTTP", "ssh", "broken TLS"])
async def test_garbage_on_the_port_is_dropped_with_one_line(
    victim: tuple[Peer, Address], caplog: pytest.LogCaptureFixture, greeting: bytes
) -> None:
    _, address = victim
    reader, writer = await asyncio.open_connection(address.host, address.port, local_addr=(ATTACKER, 0))
    writer.write(greeting)
    await writer.drain()
    await asyncio.wait_for(_until_closed(reader), 10)
    writer.close()
    await honest_peer_joins(address)
    assert len(lines(caplog)) == 1
    assert "refused 127.0.0.2" in lines(caplog)[0]


async def test_http_over_tls_is_answered_and_dropped(victim: tuple[Peer, Address]) -> None:
    _, address = victim
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=client_context())
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 404")
    writer.close()


async def test_slow_connections_are_dropped_at_the_deadline_while_others_join(
    victim: tuple[Peer, Address],
) -> None:
    _, address = victim
    slow = [
        await asyncio.open_connection(address.host, address.port, local_addr=(ATTACKER, 0)) for _ in range(8)
    ]
    for _, writer in slow:
        writer.write(b"\x16")
    await honest_peer_joins(address)
    await asyncio.wait_for(asyncio.gather(*(_until_closed(reader) for reader, _ in slow)), 10)
    for _, writer in slow:
        writer.close()


async def test_a_websocket_that_never_authenticates_is_dropped_at_the_deadline(
    victim: tuple[Peer, Address],
) -> None:
    _, address = victim
    async with raw_connection(address) as websocket:
        await websocket.recv()
        with pytest.raises(ConnectionClosed):
            await websocket.recv()


async def test_one_address_holds_at_most_its_share_of_waiting_connections(
    victim: tuple[Peer, Address],
) -> None:
    _, address = victim
    several = [
        await asyncio.open_connection(address.host, address.port, local_addr=(ATTACKER, 0)) for _ in range(12)
    ]
    # Those over the share of 8 end at once, long before the deadline that ends the others.
    first, _ = await asyncio.wait(
        [asyncio.create_task(_until_closed(reader)) for reader, _ in several[8:]],
        return_when=asyncio.ALL_COMPLETED,
    )
    assert len(first) == 4
    for _, writer in several:
        writer.close()


async def test_many_addresses_at_once_push_out_the_oldest_and_not_the_newcomer() -> None:
    peer = Peer(b"v" * 32, settings=NetSettings(handshake_seconds=60, max_unauthenticated=4))
    address = await peer.listen()
    crowd = [
        await asyncio.open_connection(address.host, address.port, local_addr=(f"127.0.1.{number}", 0))
        for number in range(1, 9)
    ]
    await asyncio.wait_for(asyncio.gather(*(_until_closed(reader) for reader, _ in crowd[:4])), 10)
    await honest_peer_joins(address)
    for _, writer in crowd:
        writer.close()
    await peer.network.aclose()


async def test_an_oversized_frame_before_ready_is_malformed(victim: tuple[Peer, Address]) -> None:
    _, address = victim
    async with raw_connection(address) as websocket:
        await websocket.recv()
        await websocket.send(bytes(MAX_HANDSHAKE_BYTES + 1))
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == CloseCode.MALFORMED


@pytest.mark.parametrize(
    "junk", [b"", b"\0" * 10, b"\xff" * 200, bytes(100_000)], ids=["empty", "zeros", "ones", "oversize"]
)
async def test_a_member_that_sends_junk_loses_its_link_and_nobody_else_does(
    victim: tuple[Peer, Address], junk: bytes
) -> None:
    peer, address = victim
    other = Peer(b"o" * 32)
    await other.network.connect(address)
    async with raw_member(address, b"j" * 32) as websocket:
        await eventually(lambda: len(peer.ups) == 2)
        await websocket.send(junk)
        with pytest.raises(ConnectionClosed) as caught:
            await _receive_for_ever(websocket)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code in (CloseCode.MALFORMED, 1009)
    await eventually(lambda: peer.downs)
    other.network.send(peer.node, Drain())
    await eventually(lambda: peer.messages)
    assert peer.messages == [(other.node, Drain(), b"")]
    await other.network.aclose()


async def test_a_member_whose_record_is_none_gets_no_link_and_a_line_in_the_log(
    victim: tuple[Peer, Address], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, address = victim

    def refuse(_info: PeerInfo) -> None:
        raise ProtocolError("static record: it is none")

    monkeypatch.setattr(peer, "link_up", refuse)
    async with raw_member(address, b"n" * 32) as websocket:
        with pytest.raises(ConnectionClosed) as caught:
            await _receive_for_ever(websocket)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == CloseCode.MALFORMED
    assert peer.network.links() == ()
    assert any("static record" in line for line in lines(caplog))


async def test_a_refused_flood_leaves_room_for_honest_peers(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer(b"v" * 32)
    address = await peer.listen()
    caplog.set_level(logging.WARNING)
    refused = 0
    for _ in range(100):
        reader, writer = await asyncio.open_connection(address.host, address.port, local_addr=(ATTACKER, 0))
        writer.write(b"junk that is no TLS at all")
        await _until_closed(reader)
        refused += 1
        writer.close()
    await honest_peer_joins(address)
    assert refused == 100
    assert len(lines(caplog)) == 1
    await peer.network.aclose()


async def _receive_for_ever(websocket: ClientConnection) -> None:
    while True:
        await websocket.recv()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(4096):
            pass
    except (ConnectionError, ssl.SSLError):
        return
