"""TLS and WebSocket over memory: two ends in one process, and strangers of every kind."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import AuthenticationError, ProtocolError
from swarm.net.tls import TlsPipe, client_context, key_of_certificate, server_context
from swarm.net.wire import Ended, Event, Opened, Wire
from swarm.protocol.identity import NodeKey
from swarm.protocol.limits import MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES, PATH, CloseCode

KEY = NodeKey.from_seed(bytes(range(32)))
SERVER_CONTEXT, CERTIFICATE = server_context(KEY)
CLIENT_CONTEXT = client_context()


def exchange(client: Wire, server: Wire) -> tuple[list[Event], list[Event]]:
    """Carry bytes to and fro until both ends are quiet; return the client's and the server's events."""
    of_client: list[Event] = []
    of_server: list[Event] = []
    while (to_server := client.outgoing()) + (to_client := server.outgoing()):
        if to_server:
            of_server += server.receive(to_server)
        if to_client:
            of_client += client.receive(to_client)
    return of_client, of_server


def pair() -> tuple[Wire, Wire]:
    """Return two ends that are open and live."""
    client, server = Wire(CLIENT_CONTEXT, server_side=False), Wire(SERVER_CONTEXT, server_side=True)
    client.receive(b"")
    assert exchange(client, server) == ([Opened()], [Opened()])
    client.live = server.live = True
    return client, server


class Stranger:
    """Speaks TLS to a Wire, and then whatever a test says."""

    def __init__(self) -> None:
        self.wire = Wire(SERVER_CONTEXT, server_side=True)
        self.tls = TlsPipe(CLIENT_CONTEXT, server_side=False)
        self.heard = b""
        self.tls.receive(b"")
        self._carry(self.tls.outgoing())

    def says(self, data: bytes) -> list[Event]:
        return self._carry(self.tls.send(data))

    def _carry(self, to_server: bytes) -> list[Event]:
        events: list[Event] = []
        while to_server:
            events += self.wire.receive(to_server)
            self.heard += b"".join(self.tls.receive(self.wire.outgoing()))
            to_server = self.tls.outgoing()
        return events


UPGRADE = (
    f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Return a client's WebSocket frame with a mask of zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    if size > 0xFFFF:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([(0x80 if fin else 0) | opcode]) + length + bytes(4) + payload


def test_frames_pass_both_ways() -> None:
    client, server = pair()
    client.send(b"to the server")
    server.send(bytes(MAX_FRAME_BYTES))
    assert exchange(client, server) == ([bytes(MAX_FRAME_BYTES)], [b"to the server"])


def test_tls_is_version_1_3_with_the_nodes_own_key() -> None:
    client, _ = pair()
    assert client.tls.peer_certificate() == CERTIFICATE
    assert key_of_certificate(CERTIFICATE) == KEY.public_bytes


def test_an_older_tls_is_refused() -> None:
    old = client_context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    client, server = TlsPipe(old, server_side=False), Wire(SERVER_CONTEXT, server_side=True)
    client.receive(b"")
    (ended,) = server.receive(client.outgoing())
    assert isinstance(ended, Ended)
    assert "TLS 1.3" in ended.reason


@pytest.mark.parametrize("certificate", [b"", b"garbage", bytes(10_000)])
def test_what_is_no_certificate_of_a_node_is_refused(certificate: bytes) -> None:
    with pytest.raises(AuthenticationError):
        key_of_certificate(certificate)


def test_a_close_arrives_with_its_code_and_a_known_reason() -> None:
    client, server = pair()
    client.close(CloseCode.SECOND_LINK)
    _, of_server = exchange(client, server)
    assert of_server == [Ended("closed by the peer: 4001 'second link of a pair'", 4001)]


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(100),
        b"SSH-2.0-x\r\n",
        bytes(5000),
    ],
)
def test_a_stranger_without_tls_is_refused(greeting: bytes) -> None:
    (ended,) = Wire(SERVER_CONTEXT, server_side=True).receive(greeting)
    assert isinstance(ended, Ended)
    assert "no TLS 1.3" in ended.reason


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (UPGRADE.replace(b"websocket\r\n", b"h2c\r\n", 1), b"426"),
        (UPGRADE.replace(b"Version: 13", b"Version: 12"), b"400"),
        (b"\x00\x01 nonsense\r\n\r\n", b""),
    ],
)
def test_a_request_that_is_not_a_links_upgrade_is_answered_and_ended(
    request_bytes: bytes, answer: bytes
) -> None:
    stranger = Stranger()
    events = stranger.says(request_bytes)
    assert [type(event) for event in events] == [Ended]
    assert answer in stranger.heard


@pytest.mark.parametrize(
    "frame",
    [
        masked(0x1, b"text"),
        masked(0x9, b"ping"),
        masked(0xA, b"pong"),
        masked(0x2, b"first half", fin=False),
        masked(0x3, b"unknown opcode"),
        b"\x82\x04none",
        masked(0x2, bytes(MAX_HANDSHAKE_BYTES + 1)),
        b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4),
    ],
    ids=["text", "ping", "pong", "fragment", "opcode", "unmasked", "too large for a handshake", "a tebibyte"],
)
def test_a_websocket_frame_of_another_kind_is_malformed(frame: bytes) -> None:
    stranger = Stranger()
    assert stranger.says(UPGRADE) == [Opened()]
    assert [type(event) for event in stranger.says(frame)] == [ProtocolError]


@pytest.mark.parametrize("opened", [False, True])
def test_nobody_makes_us_hold_much_before_ready(opened: bool) -> None:
    stranger = Stranger()
    if opened:
        stranger.says(UPGRADE)
    drips = UPGRADE[:-2] + b"X: y\r\n" * 2000 if not opened else masked(0x2, bytes(60_000))
    sent = 0
    for start in range(0, len(drips), 500):
        sent += 500
        if any(
            isinstance(event, ProtocolError | Ended) for event in stranger.says(drips[start : start + 500])
        ):
            break
    assert sent <= MAX_HANDSHAKE_BYTES + 1000


def test_a_live_link_refuses_frames_over_the_limit() -> None:
    client, server = pair()
    client.send(bytes(MAX_FRAME_BYTES + 1))
    _, of_server = exchange(client, server)
    assert [type(event) for event in of_server] == [ProtocolError]


@settings(max_examples=50)
@given(data=st.data())
def test_whatever_bytes_come_at_any_stage_no_other_error_is_raised(data: st.DataObject) -> None:
    junk = data.draw(st.lists(st.binary(min_size=1, max_size=400), max_size=5))
    stage = data.draw(st.sampled_from(["before TLS", "before the upgrade", "after the upgrade"]))
    stranger = Stranger()
    says: Callable[[bytes], list[Event]] = stranger.says
    if stage == "before TLS":
        wire = Wire(SERVER_CONTEXT, server_side=True)
        says = wire.receive
    elif stage == "after the upgrade":
        stranger.says(UPGRADE)
    for piece in junk:
        for event in says(piece):
            assert isinstance(event, bytes | bytearray | Opened | Ended | ProtocolError)
