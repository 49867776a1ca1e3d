"""Mutual authentication: who gets in, who does not, and what each side is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import AuthenticationError, ProtocolError
from swarm.protocol.handshake import Authenticated, ClientHandshake, ServerHandshake
from swarm.protocol.identity import Keyring, NodeKey, SwarmSecret, sign_record
from swarm.protocol.limits import MAX_HANDSHAKE_BYTES, CloseCode
from swarm.protocol.messages import SignedRecord
from swarm.types import Address, BootId

SERVER = NodeKey.from_seed(b"S" * 32)
CLIENT = NodeKey.from_seed(b"C" * 32)
SECRET = SwarmSecret(b"k" * 32)
RING = Keyring((SECRET,))
CERTIFICATE = b"certificate of the server"
OBSERVED = Address("192.0.2.7", 50123)
RECORD = sign_record(CLIENT, SECRET.swarm_id, "static", b"who I am")


def server(**changes: Any) -> ServerHandshake:
    values = {
        "key": SERVER,
        "keyring": RING,
        "boot": BootId(b"s" * 8),
        "nonce": b"1" * 32,
        "certificate": CERTIFICATE,
    }
    return ServerHandshake(**(values | changes))


def client(**changes: Any) -> ClientHandshake:
    values = {
        "key": CLIENT,
        "keyring": RING,
        "boot": BootId(b"c" * 8),
        "nonce": b"2" * 32,
        "server_key": SERVER.public_bytes,
        "certificate": CERTIFICATE,
    }
    return ClientHandshake(**(values | changes))


def run(serving: ServerHandshake, dialling: ClientHandshake) -> tuple[Authenticated, Authenticated]:
    """Return what the server knows of the client, and the client of the server."""
    serving.read_auth(dialling.read_challenge(serving.challenge()))
    of_server = dialling.read_accept(serving.accept(OBSERVED))
    return serving.read_ready(dialling.ready(RECORD)), of_server


def test_two_members_know_each_other_afterwards() -> None:
    of_client, of_server = run(server(), client())
    assert (of_client.node, of_client.public_key, of_client.boot) == (
        CLIENT.node_id,
        CLIENT.public_bytes,
        b"c" * 8,
    )
    assert (of_server.node, of_server.public_key, of_server.boot) == (
        SERVER.node_id,
        SERVER.public_bytes,
        b"s" * 8,
    )
    assert of_client.record == RECORD
    assert of_server.observed == OBSERVED
    assert of_client.swarm_id == of_server.swarm_id == SECRET.swarm_id


def test_features_are_those_that_both_offer() -> None:
    of_client, of_server = run(server(features=0b110), client(features=0b011))
    assert of_client.features == of_server.features == 0b010


def test_during_a_rotation_the_servers_preferred_common_secret_is_used() -> None:
    new, old = SwarmSecret(b"n" * 32), SwarmSecret(b"o" * 32)
    of_client, of_server = run(server(keyring=Keyring((new, old))), client(keyring=Keyring((old,))))
    assert of_client.swarm_id == of_server.swarm_id == old.swarm_id
    of_client, _ = run(server(keyring=Keyring((new, old))), client(keyring=Keyring((old, new))))
    assert of_client.swarm_id == new.swarm_id


def test_a_client_of_another_swarm_learns_it_from_the_challenge() -> None:
    with pytest.raises(AuthenticationError, match="wrong swarm secret") as caught:
        client(keyring=Keyring((SwarmSecret(b"x" * 32),))).read_challenge(server().challenge())
    assert caught.value.close_code == CloseCode.AUTHENTICATION


class Impostor(SwarmSecret):
    """Another secret that claims the swarm's public id."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "swarm_id", SECRET.swarm_id)


def test_a_client_that_only_knows_the_swarm_id_is_told_apart_as_a_wrong_secret() -> None:
    serving = server()
    auth = client(keyring=Keyring((Impostor(b"x" * 32),))).read_challenge(serving.challenge())
    with pytest.raises(AuthenticationError, match="wrong swarm secret") as caught:
        serving.read_auth(auth)
    assert caught.value.close_code == CloseCode.AUTHENTICATION


def test_a_server_that_signs_but_lacks_the_secret_is_refused() -> None:
    serving, dialling = server(), client()
    serving.read_auth(dialling.read_challenge(serving.challenge()))
    accept = serving.accept(OBSERVED)
    with pytest.raises(AuthenticationError, match="could not prove that it holds ours"):
        dialling.read_accept(accept[:-96] + bytes(32) + accept[-64:])


def test_a_replayed_auth_is_refused() -> None:
    recorded = server()
    auth = client().read_challenge(recorded.challenge())
    recorded.read_auth(auth)
    with pytest.raises(AuthenticationError, match="replayed"):
        server(nonce=b"3" * 32).read_auth(auth)


def test_a_replayed_accept_is_refused() -> None:
    recorded = server()
    recorded.read_auth(client().read_challenge(recorded.challenge()))
    accept = recorded.accept(OBSERVED)
    dialling = client(nonce=b"9" * 32)
    dialling.read_challenge(server().challenge())
    with pytest.raises(AuthenticationError, match="replayed"):
        dialling.read_accept(accept)


def test_a_man_in_the_middle_with_a_certificate_of_its_own_is_refused() -> None:
    middle = NodeKey.from_seed(b"M" * 32)
    serving = server()
    auth = client(server_key=middle.public_bytes, certificate=b"of the middle").read_challenge(
        serving.challenge()
    )
    with pytest.raises(AuthenticationError, match="changed on the way"):
        serving.read_auth(auth)


def test_a_server_other_than_the_expected_one_is_refused() -> None:
    with pytest.raises(AuthenticationError, match="was expected"):
        client(expected=CLIENT.node_id)
    assert client(expected=SERVER.node_id).server == SERVER.node_id


TICKET, TICKET_KEY = b"ticket-1", b"t" * 32


def invited(**changes: Any) -> ClientHandshake:
    return client(**({"keyring": None, "expected": SERVER.node_id, "ticket": (TICKET, TICKET_KEY)} | changes))


def issuing(**changes: Any) -> ServerHandshake:
    return server(**({"ticket_key": {TICKET: TICKET_KEY}.get} | changes))


def test_a_ticket_proves_both_sides_and_is_answered_with_the_secrets() -> None:
    ring = Keyring((SECRET, SwarmSecret(b"o" * 32)))
    serving, dialling = issuing(keyring=ring), invited()
    of_client, of_server = run(serving, dialling)
    assert (of_client.node, of_client.ticket) == (CLIENT.node_id, TICKET)
    assert of_server.node == SERVER.node_id
    assert dialling.read_welcome(serving.welcome()) == ring


@pytest.mark.parametrize(
    "dialling",
    [
        invited(ticket=(b"ticket-2", TICKET_KEY)),
        invited(ticket=(TICKET, b"x" * 32)),
        invited(ticket=(TICKET, SECRET.admission_key)),
    ],
    ids=["unknown", "wrong key", "a ticket with the swarm's key"],
)
def test_a_wrong_ticket_is_refused(dialling: ClientHandshake) -> None:
    serving = issuing()
    with pytest.raises(AuthenticationError, match="invite"):
        serving.read_auth(dialling.read_challenge(serving.challenge()))


def test_a_tickets_key_without_the_ticket_lets_nobody_in() -> None:
    serving = issuing()
    outsider = client(keyring=None, ticket=(None, TICKET_KEY))
    with pytest.raises(AuthenticationError, match="wrong swarm secret"):
        serving.read_auth(outsider.read_challenge(serving.challenge()))


def test_a_server_that_does_not_know_the_ticket_can_not_pose_as_its_issuer() -> None:
    # It owns the right node key, but another made the ticket.
    serving, dialling = issuing(ticket_key=lambda _: TICKET_KEY), invited(ticket=(TICKET, TICKET_KEY))
    serving.read_auth(dialling.read_challenge(serving.challenge()))
    accept = bytearray(serving.accept(OBSERVED))
    accept[-96] ^= 1
    with pytest.raises(AuthenticationError, match="could not prove"):
        dialling.read_accept(bytes(accept))


def test_a_member_is_never_sent_the_secrets() -> None:
    serving, dialling = issuing(), client()
    run(serving, dialling)
    with pytest.raises(RuntimeError):
        serving.welcome()


@given(st.binary(max_size=300))
def test_a_welcome_of_any_other_bytes_is_refused(frame: bytes) -> None:
    serving, dialling = issuing(), invited()
    run(serving, dialling)
    with pytest.raises(ProtocolError):
        dialling.read_welcome(frame)


@pytest.mark.parametrize(("name", "value"), [("PROTOCOL_MIN", 2), ("PROTOCOL_MAX", 0)])
def test_a_client_refuses_a_server_without_a_common_version(
    monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    challenge = server().challenge()
    monkeypatch.setattr(f"swarm.protocol.handshake.{name}", value)
    with pytest.raises(AuthenticationError, match="protocol") as caught:
        client().read_challenge(challenge)
    assert caught.value.close_code == CloseCode.VERSION


def test_a_server_refuses_a_version_it_did_not_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    serving = server()
    auth = client().read_challenge(serving.challenge())
    monkeypatch.setattr("swarm.protocol.handshake.PROTOCOL_MIN", 2)
    with pytest.raises(AuthenticationError) as caught:
        serving.read_auth(auth)
    assert caught.value.close_code == CloseCode.VERSION


def test_a_record_that_does_not_fit_ready_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        client().ready(SignedRecord("static", bytes(MAX_HANDSHAKE_BYTES), bytes(64)))


def test_steps_out_of_order_are_the_callers_error() -> None:
    with pytest.raises(RuntimeError):
        server().accept(OBSERVED)
    with pytest.raises(RuntimeError):
        server().read_ready(b"")
    with pytest.raises(RuntimeError):
        client().read_accept(b"")


def _honest_frames() -> dict[str, bytes]:
    serving, dialling = server(), client()
    challenge = serving.challenge()
    auth = dialling.read_challenge(challenge)
    serving.read_auth(auth)
    accept = serving.accept(OBSERVED)
    return {"challenge": challenge, "auth": auth, "accept": accept, "ready": dialling.ready(RECORD)}


FRAMES = _honest_frames()


def _reader(stage: str) -> Callable[[bytes], object]:
    """Return the function that reads one kind of frame, brought to the point where that frame is due."""
    serving, dialling = server(), client()
    if stage == "challenge":
        return dialling.read_challenge
    auth = dialling.read_challenge(serving.challenge())
    if stage == "auth":
        return serving.read_auth
    serving.read_auth(auth)
    return dialling.read_accept if stage == "accept" else serving.read_ready


@pytest.mark.parametrize("stage", ["auth", "accept"])
def test_no_single_changed_bit_of_a_proof_passes(stage: str) -> None:
    honest = FRAMES[stage]
    for position in range(len(honest)):
        changed = bytearray(honest)
        changed[position] ^= 1
        with pytest.raises(ProtocolError):
            _reader(stage)(bytes(changed))


@pytest.mark.parametrize("stage", ["challenge", "auth", "accept", "ready"])
@given(data=st.data())
def test_whatever_comes_only_protocol_errors_are_raised(stage: str, data: st.DataObject) -> None:
    honest = FRAMES[stage]
    frame = data.draw(
        st.one_of(
            st.binary(max_size=300),
            st.binary(min_size=MAX_HANDSHAKE_BYTES + 1, max_size=MAX_HANDSHAKE_BYTES + 20),
            st.sampled_from(sorted(FRAMES.values())),
            st.integers(0, len(honest)).map(lambda cut: honest[:cut]),
            st.tuples(st.integers(0, len(honest) - 1), st.binary(min_size=1, max_size=8)).map(
                lambda edit: honest[: edit[0]] + edit[1] + honest[edit[0] + len(edit[1]) :]
            ),
        )
    )
    read = _reader(stage)
    try:
        read(frame)
    except ProtocolError:
        return
    # What passes is the honest frame, or one of the two unsigned ones with other values in it.
    assert frame == honest or stage in ("challenge", "ready")
