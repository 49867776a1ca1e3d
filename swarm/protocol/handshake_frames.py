"""The frames of a handshake: their bytes, their proofs and their bounds. What they mean, handshake.py knows."""

from __future__ import annotations

import hashlib
import hmac
from typing import TypeVar

import msgspec

from swarm.errors import ProtocolError
from swarm.protocol.identity import SIGNATURE_BYTES, NodeKey
from swarm.protocol.limits import MAX_HANDSHAKE_BYTES
from swarm.protocol.messages import SignedRecord
from swarm.types import Address

NONCE_BYTES = 32
BOOT_BYTES = 8
CLIENT = b"client"
SERVER = b"server"
_MAC_BYTES = 32
_TRAILER_BYTES = _MAC_BYTES + SIGNATURE_BYTES
_PROTOCOL = b"swarm/1"


class Challenge(msgspec.Struct, frozen=True, array_like=True, tag="challenge"):
    version_min: int
    version_max: int
    nonce: bytes
    swarms: tuple[bytes, ...]
    """Swarm ids the server accepts, the preferred one first."""


class Auth(msgspec.Struct, frozen=True, array_like=True, tag="auth"):
    """The frame is these bytes, then mac (32) and signature (64)."""

    version: int
    features: int
    nonce: bytes
    public_key: bytes
    boot: bytes
    ticket: bytes | None = None
    """Id of a one-time invite whose key made the mac; None: the swarm's admission key did."""


class Accept(msgspec.Struct, frozen=True, array_like=True, tag="accept"):
    """The frame is these bytes, then mac (32) and signature (64)."""

    features: int
    boot: bytes
    observed: Address


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    record: SignedRecord | None


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """What a newcomer with a ticket gets after READY, in place of a link."""

    secrets: tuple[bytes, ...]


_Body = TypeVar("_Body", Challenge, Auth, Accept, Ready, Welcome)
encode = msgspec.msgpack.Encoder().encode
challenges = msgspec.msgpack.Decoder(Challenge)
auths = msgspec.msgpack.Decoder(Auth)
accepts = msgspec.msgpack.Decoder(Accept)
readies = msgspec.msgpack.Decoder(Ready)
welcomes = msgspec.msgpack.Decoder(Welcome)


def lp(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def transcript_of(challenge: bytes, auth: bytes, certificate: bytes) -> bytes:
    return hashlib.sha256(lp(_PROTOCOL) + lp(challenge) + lp(auth) + lp(certificate)).digest()


def accept_transcript_of(client_proof: bytes, accept: bytes) -> bytes:
    return hashlib.sha256(client_proof + lp(accept)).digest()


def claim(role: bytes, transcript: bytes) -> bytes:
    return b"swarm/1 " + role + b" auth" + transcript


def _mac(admission_key: bytes, role: bytes, transcript: bytes) -> bytes:
    return hmac.digest(admission_key, role + transcript, "sha256")


def is_mac(mac: bytes, admission_key: bytes, role: bytes, transcript: bytes) -> bool:
    return hmac.compare_digest(mac, _mac(admission_key, role, transcript))


def seal(body: bytes, admission_key: bytes, key: NodeKey, role: bytes, transcript: bytes) -> bytes:
    return body + _mac(admission_key, role, transcript) + key.sign(claim(role, transcript))


def split(frame: bytes) -> tuple[bytes, bytes, bytes]:
    """Cut a sealed frame into body, mac and signature."""
    bound(frame)
    if len(frame) <= _TRAILER_BYTES:
        raise ProtocolError(f"a handshake frame of {len(frame)} bytes has no room for its proof")
    return frame[:-_TRAILER_BYTES], frame[-_TRAILER_BYTES:-SIGNATURE_BYTES], frame[-SIGNATURE_BYTES:]


def bound(frame: bytes) -> None:
    if len(frame) > MAX_HANDSHAKE_BYTES:
        raise ProtocolError(
            f"a handshake frame of {len(frame)} bytes; at most {MAX_HANDSHAKE_BYTES} are allowed"
        )


def decode(decoder: msgspec.msgpack.Decoder[_Body], body: bytes) -> _Body:
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"not the handshake frame that is due: {exc}") from None


def sized(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{size} bytes are needed, not {len(data)}")
    return data
