"""The wire format, byte for byte: a full handshake and a few frames, checked against tests/golden and the formulas."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from swarm.models.chunks import CHUNK_BYTES, table_root
from swarm.models.manifest import FileEntry, digest_of
from swarm.net.tls import make_certificate
from swarm.protocol.codec import encode
from swarm.protocol.handshake import ClientHandshake, ServerHandshake
from swarm.protocol.identity import Keyring, NodeKey, SwarmSecret, sign_record, verify
from swarm.protocol.messages import (
    AnyMessage,
    CloseSession,
    Drain,
    Filled,
    Heartbeat,
    HopTime,
    NoWeights,
    Opened,
    Refused,
    Replay,
    Step,
    WantWeights,
    Weights,
)
from swarm.transfer.offer import Offer, OfferedFile, encode_offer
from swarm.types import Address, BootId, NodeId, SessionId

GOLDEN = Path(__file__).parents[2] / "golden" / "wire.json"

SERVER = NodeKey.from_seed(bytes(range(32)))
CLIENT = NodeKey.from_seed(bytes(range(32, 64)))
SECRET = SwarmSecret(bytes(range(64, 96)))
CERTIFICATE = b"any certificate: only its bytes count here"


ORIGIN, SESSION = NodeId("a" * 32), SessionId(b"s" * 16)
RECOVERY: dict[str, AnyMessage] = {
    "opened": Opened(ORIGIN, SESSION, 2, 96, 32, 0, 1, 64),
    "refused": Refused(ORIGIN, SESSION, 2, "log_gap", 0, "why", None, 1),
    "close": CloseSession(ORIGIN, SESSION, 2, (b"n" * 16,), 1),
    "replay": Replay(ORIGIN, SESSION, 2, 0, 5, 64, 32, 2, NodeId("b" * 32), 3, 1),
    "filled": Filled(ORIGIN, SESSION, 3, 5, 96, 1, (HopTime(5, 6, 7),)),
    "drain": Drain((SESSION,)),
}


def offer() -> bytes:
    """Return an offer of a file that is here in part and of one that is not."""
    here = OfferedFile("b.safetensors", 3 * CHUNK_BYTES, "b" * 64, "c" * 64, ((0, 1), (2, 3)))
    return encode_offer(Offer((here, OfferedFile("config.json", 2, "a" * 64)), "d" * 64))


def transcript() -> dict[str, str]:
    """Run one handshake with fixed inputs and return every byte string that another implementation must match."""
    ring = Keyring((SECRET,))
    server = ServerHandshake(
        key=SERVER, keyring=ring, boot=BootId(b"bootserv"), nonce=b"\x01" * 32, certificate=CERTIFICATE
    )
    client = ClientHandshake(
        key=CLIENT,
        keyring=ring,
        boot=BootId(b"bootclie"),
        nonce=b"\x02" * 32,
        server_key=SERVER.public_bytes,
        certificate=CERTIFICATE,
    )
    challenge = server.challenge()
    auth = client.read_challenge(challenge)
    server.read_auth(auth)
    accept = server.accept(Address("192.0.2.7", 50123))
    client.read_accept(accept)
    ready = client.ready(sign_record(CLIENT, SECRET.swarm_id, "static", b"a record"))
    step = Step(
        origin=NodeId("a" * 32),
        session=SessionId(b"s" * 16),
        epoch=1,
        step=2,
        position=3,
        count=1,
        hidden=4,
        dtype="bfloat16",
        rows="last",
        times=(HopTime(5, 6, 7),),
    )
    (heartbeat_frame,) = encode(Heartbeat(1, 2, 3), number=4, part_bytes=65536)
    (step_frame,) = encode(step, b"12345678", number=5, part_bytes=65536)
    digest = "0123456789abcdef" * 4
    (want_frame,) = encode(WantWeights(digest, "chunk", 7), number=6, part_bytes=65536)
    (weights_frame,) = encode(Weights(digest, "chunk", 7, 5), b"bytes", number=7, part_bytes=65536)
    (none_frame,) = encode(NoWeights(digest, "chunk", 7, "absent"), number=8, part_bytes=65536)
    return {
        "server node id": SERVER.node_id,
        "client node id": CLIENT.node_id,
        "swarm id": SECRET.swarm_id.hex(),
        "admission key": SECRET.admission_key.hex(),
        "challenge": challenge.hex(),
        "auth": auth.hex(),
        "accept": accept.hex(),
        "ready": ready.hex(),
        "heartbeat": b"".join(heartbeat_frame).hex(),
        "step": b"".join(step_frame).hex(),
        **{name: _frame(message) for name, message in RECOVERY.items()},
        "want weights": b"".join(want_frame).hex(),
        "weights": b"".join(weights_frame).hex(),
        "no weights": b"".join(none_frame).hex(),
        "listing digest": digest_of(
            [FileEntry("config.json", 2, "a" * 64), FileEntry("b.safetensors", 1, "b" * 64)]
        ),
        "table root": table_root(bytes(range(64))),
        "offer": offer().hex(),
    }


def _frame(message: AnyMessage) -> str:
    (frame,) = encode(message, number=6, part_bytes=65536)
    return b"".join(frame).hex()


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text()))


@pytest.mark.parametrize("name", transcript())
def test_the_bytes_on_the_wire_have_not_changed(golden: dict[str, str], name: str) -> None:
    assert transcript()[name] == golden[name]


def test_the_proofs_follow_the_published_formulas(golden: dict[str, str]) -> None:
    def lp(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    challenge, auth, accept = (bytes.fromhex(golden[name]) for name in ("challenge", "auth", "accept"))
    key = bytes.fromhex(golden["admission key"])
    t = hashlib.sha256(lp(b"swarm/1") + lp(challenge) + lp(auth[:-96]) + lp(CERTIFICATE)).digest()
    t2 = hashlib.sha256(t + lp(auth[-64:]) + lp(accept[:-96])).digest()
    assert auth[-96:-64] == hmac.digest(key, b"client" + t, "sha256")
    assert accept[-96:-64] == hmac.digest(key, b"server" + t2, "sha256")
    assert verify(CLIENT.public_bytes, auth[-64:], b"swarm/1 client auth" + t)
    assert verify(SERVER.public_bytes, accept[-64:], b"swarm/1 server auth" + t2)


def test_one_key_always_makes_the_same_certificate() -> None:
    assert make_certificate(SERVER) == make_certificate(NodeKey.from_seed(SERVER.seed))
