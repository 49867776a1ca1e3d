"""Who a node is and what a swarm is: Ed25519 node keys, the swarm secret, signed records.

Knows no files and draws no random bytes: seeds and secrets come in as arguments.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarm.protocol.messages import SignedRecord, SignedSuspicion
from swarm.types import NodeId

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
SWARM_ID_BYTES = 16
SECRET_BYTES = 32

_SEED_BYTES = 32
_NODE_ID_BYTES = 20
_NODE_ID_PREFIX = b"swarm-node-id/1"
_RECORD_PREFIX = b"swarm/1 record"
_SUSPICION = "suspicion"
_HEX_SECRET = re.compile(r"[0-9a-fA-F]{64}\Z")

RecordKind = Literal["static", "load"]


def node_id_of(public_key: bytes) -> NodeId:
    """Return the node id of a raw Ed25519 public key (32 bytes)."""
    digest = hashlib.sha256(_NODE_ID_PREFIX + public_key).digest()
    return NodeId(base64.b32encode(digest[:_NODE_ID_BYTES]).decode().lower())


def verify(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Say whether the owner of ``public_key`` signed ``data``; False for malformed keys too."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


class NodeKey:
    """The Ed25519 key pair of one node."""

    __slots__ = ("_private", "_public", "node_id")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = private.public_key().public_bytes_raw()
        self.node_id = node_id_of(self._public)

    @classmethod
    def from_seed(cls, seed: bytes) -> NodeKey:
        """Build the key of a 32-byte seed. Raises ValueError for another length."""
        if len(seed) != _SEED_BYTES:
            raise ValueError(f"a node key is made from {_SEED_BYTES} bytes, not {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def private_key(self) -> Ed25519PrivateKey:
        return self._private

    @property
    def public_bytes(self) -> bytes:
        return self._public

    @property
    def seed(self) -> bytes:
        return self._private.private_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature over ``data``."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"NodeKey({self.node_id})"


@dataclass(frozen=True, slots=True)
class SwarmSecret:
    """The secret that members share, and what is derived from it with HKDF-SHA256."""

    secret: bytes = field(repr=False)
    swarm_id: bytes = field(init=False)
    """16 bytes, public: names the swarm in CHALLENGE and in signed records."""
    admission_key: bytes = field(init=False, repr=False)
    """32 bytes: the HMAC key that proves membership."""

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a swarm secret has {SECRET_BYTES} bytes, not {len(self.secret)}")
        object.__setattr__(self, "swarm_id", _derive(self.secret, b"swarm/1 swarm id", SWARM_ID_BYTES))
        object.__setattr__(self, "admission_key", _derive(self.secret, b"swarm/1 admission", 32))

    @classmethod
    def from_hex(cls, text: str) -> SwarmSecret:
        """Read 64 hex digits. Raises ValueError that never repeats the text."""
        text = text.strip()
        if not _HEX_SECRET.match(text):
            raise ValueError(
                f"a swarm secret is {2 * SECRET_BYTES} hex digits; this has {len(text)} characters"
            )
        return cls(bytes.fromhex(text))

    def hex(self) -> str:
        return self.secret.hex()


@dataclass(frozen=True, slots=True)
class Keyring:
    """Swarm secrets a node accepts, the preferred one first: several at once are a rotation."""

    secrets: tuple[SwarmSecret, ...]

    def __post_init__(self) -> None:
        if not self.secrets:
            raise ValueError("a keyring holds at least one swarm secret")

    @property
    def preferred(self) -> SwarmSecret:
        return self.secrets[0]

    def find(self, swarm_id: bytes) -> SwarmSecret | None:
        return next((secret for secret in self.secrets if secret.swarm_id == swarm_id), None)

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """Read one hex secret a line; ``#`` starts a comment. Raises ValueError that names the line."""
        secrets = []
        for number, line in enumerate(text.splitlines(), 1):
            entry = line.partition("#")[0].strip()
            if not entry:
                continue
            try:
                secrets.append(SwarmSecret.from_hex(entry))
            except ValueError as exc:
                raise ValueError(f"line {number}: {exc}") from None
        return cls(tuple(secrets))


def sign_record(key: NodeKey, swarm_id: bytes, kind: RecordKind, body: bytes) -> SignedRecord:
    """Sign a record's exact bytes for one swarm."""
    return SignedRecord(kind, body, key.sign(_signed_bytes(swarm_id, kind, body)))


def verify_record(public_key: bytes, swarm_id: bytes, record: SignedRecord) -> bool:
    return verify(public_key, record.signature, _signed_bytes(swarm_id, record.kind, record.body))


def sign_claim(key: NodeKey, swarm_id: bytes, body: bytes) -> SignedSuspicion:
    """Sign a claim that another member is SUSPECT or DEAD."""
    return SignedSuspicion(body, key.sign(_signed_bytes(swarm_id, _SUSPICION, body)))


def verify_claim(public_key: bytes, swarm_id: bytes, claim: SignedSuspicion) -> bool:
    return verify(public_key, claim.signature, _signed_bytes(swarm_id, _SUSPICION, claim.body))


def _signed_bytes(swarm_id: bytes, kind: str, body: bytes) -> bytes:
    # The swarm id has a fixed size and no kind begins another, so this reads one way only.
    return b"".join((_RECORD_PREFIX, swarm_id, kind.encode(), body))


def _derive(secret: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(secret)
