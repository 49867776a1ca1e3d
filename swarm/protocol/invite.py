"""Invites: one string that lets one machine in once. Pure; keys and ticket ids are drawn by the caller.

An invite holds no swarm secret. Its ticket's key proves the newcomer to the node that issued it, and that node to the
newcomer; the secret follows over the authenticated link, and the ticket is used up (docs/protocol.md, "Invites").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from swarm.protocol.identity import SWARM_ID_BYTES
from swarm.types import Address, NodeId

PREFIX = "swarm1:"
TICKET_ID_BYTES = 8
TICKET_KEY_BYTES = 32
MAX_ADDRESSES = 8
MAX_TICKETS = 256
MAX_CHUNK_ROOTS = 4
_CHECK_BYTES = 4
_LETTERS = re.compile(r"[A-Za-z0-9_-]+\Z")
_NODE_ID_BYTES = 20
_DIGEST_BYTES = 32
_MAX_CHARACTERS = 2048


class _Body(msgspec.Struct, frozen=True, array_like=True):
    addresses: tuple[Address, ...]
    issuer: bytes
    swarm_id: bytes
    ticket: bytes
    key: bytes
    chunk_roots: tuple[tuple[bytes, bytes], ...] = ()


_bodies = msgspec.msgpack.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Invite:
    """What the string says: where the issuer listens, who it is, and the ticket."""

    addresses: tuple[Address, ...]
    issuer: NodeId
    swarm_id: bytes
    """16 bytes, public: a machine that is a member already needs no second ticket."""
    ticket: bytes
    key: bytes = field(repr=False)
    chunk_roots: Mapping[str, str] = field(default_factory=dict)
    """Digest of a model -> what proves the chunks of it that members give; both hex. At most MAX_CHUNK_ROOTS."""

    def encode(self) -> str:
        """Return ``swarm1:`` and unpadded base64url of the MessagePack body behind 4 bytes of its SHA-256."""
        roots = sorted(self.chunk_roots.items())[:MAX_CHUNK_ROOTS]
        body = msgspec.msgpack.encode(
            _Body(
                self.addresses[:MAX_ADDRESSES],
                _id_bytes(self.issuer),
                self.swarm_id,
                self.ticket,
                self.key,
                tuple((bytes.fromhex(digest), bytes.fromhex(root)) for digest, root in roots),
            )
        )
        return PREFIX + base64.urlsafe_b64encode(_check(body) + body).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Read an invite. Raises ValueError that says what is wrong and never repeats the text."""
        text = "".join(text.split())
        if not text.startswith(PREFIX):
            raise ValueError(f"an invite begins with {PREFIX!r}")
        if len(text) > _MAX_CHARACTERS:
            raise ValueError(f"an invite has at most {_MAX_CHARACTERS} characters")
        encoded = text[len(PREFIX) :]
        try:
            # b64decode takes + and / beside the letters that stand for them here.
            data = (
                base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
                if _LETTERS.match(encoded)
                else b""
            )
        except binascii.Error:
            data = b""
        if not data:
            raise ValueError("it has characters that no invite has; copy it again, whole")
        check, body = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
        if check != _check(body):
            raise ValueError("its checksum is wrong: a part is missing or was changed; copy it again, whole")
        try:
            read = _bodies.decode(body)
        except (ValueError, RecursionError):
            raise ValueError("it is of another version; both machines need the same swarm version") from None
        sizes = (len(read.issuer), len(read.swarm_id), len(read.ticket), len(read.key))
        wanted = (_NODE_ID_BYTES, SWARM_ID_BYTES, TICKET_ID_BYTES, TICKET_KEY_BYTES)
        odd = any(len(part) != _DIGEST_BYTES for pair in read.chunk_roots for part in pair)
        if sizes != wanted or not read.addresses or odd:
            raise ValueError("it is of another version; both machines need the same swarm version")
        issuer = NodeId(base64.b32encode(read.issuer).decode().lower())
        roots = {digest.hex(): root.hex() for digest, root in read.chunk_roots[:MAX_CHUNK_ROOTS]}
        return cls(read.addresses[:MAX_ADDRESSES], issuer, read.swarm_id, read.ticket, read.key, roots)


@dataclass(slots=True)
class _Ticket:
    key: bytes
    until: float
    claimed: bool = False


class Tickets:
    """The tickets one node has issued and nobody has used yet. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._open: dict[bytes, _Ticket] = {}

    def issue(self, ticket: bytes, key: bytes, now: float, seconds: float) -> None:
        """Remember a ticket for ``seconds``. Raises ValueError when too many are open."""
        self._forget_old(now)
        if len(self._open) >= MAX_TICKETS:
            raise ValueError(f"{MAX_TICKETS} invites are open already; wait until some are used or expire")
        self._open[ticket] = _Ticket(key, now + seconds)

    def key_of(self, ticket: bytes, now: float) -> bytes | None:
        """Return the key of an open ticket that nobody is using at this moment."""
        self._forget_old(now)
        found = self._open.get(ticket)
        return None if found is None or found.claimed else found.key

    def claim(self, ticket: bytes, now: float) -> bool:
        """Let one newcomer use the ticket; False when another does, or it is gone."""
        if self.key_of(ticket, now) is None:
            return False
        self._open[ticket].claimed = True
        return True

    def release(self, ticket: bytes) -> None:
        """The newcomer left before it got the secret: the ticket stays good."""
        if ticket in self._open:
            self._open[ticket].claimed = False

    def burn(self, ticket: bytes) -> None:
        """The secret is on its way: nobody gets in by this ticket again."""
        self._open.pop(ticket, None)

    def _forget_old(self, now: float) -> None:
        for ticket in [ticket for ticket, known in self._open.items() if known.until <= now]:
            del self._open[ticket]


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]


def _id_bytes(node: NodeId) -> bytes:
    return base64.b32decode(node.upper())
