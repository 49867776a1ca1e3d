"""Mutual authentication of a link, both sides, as pure state machines bound to the TLS certificate.

Opens no socket and draws no nonce. The server's key owner is proven by TLS, the client's by a signature, and
membership of both by an HMAC; all of them over hashes of the exact frame bytes:

    S->C CHALLENGE    C->S AUTH    S->C ACCEPT    C->S READY
    t  = SHA-256(LP("swarm/1") | LP(CHALLENGE) | LP(AUTH before mac) | LP(server certificate, DER))
    t2 = SHA-256(t | LP(client signature) | LP(ACCEPT before mac))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from swarm.errors import AuthenticationError, ProtocolError
from swarm.protocol.handshake_frames import (
    BOOT_BYTES,
    CLIENT,
    NONCE_BYTES,
    SERVER,
    Accept,
    Auth,
    Challenge,
    Ready,
    Welcome,
    accept_transcript_of,
    accepts,
    auths,
    bound,
    challenges,
    claim,
    decode,
    encode,
    is_mac,
    lp,
    readies,
    seal,
    sized,
    split,
    transcript_of,
    welcomes,
)
from swarm.protocol.identity import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    SWARM_ID_BYTES,
    Keyring,
    NodeKey,
    SwarmSecret,
    node_id_of,
    verify,
)
from swarm.protocol.limits import FEATURES, MAX_HANDSHAKE_BYTES, PROTOCOL_MAX, PROTOCOL_MIN, CloseCode
from swarm.protocol.messages import SignedRecord
from swarm.types import Address, BootId, NodeId, short

_MAX_SWARMS = 16


@dataclass(frozen=True, slots=True)
class Authenticated:
    """What one end knows of the other after the handshake."""

    node: NodeId
    public_key: bytes
    boot: BootId
    swarm_id: bytes
    features: int
    """Bits that both ends offer."""
    observed: Address | None = None
    """This end's address as the peer sees it: a hint. Only the client is told."""
    record: SignedRecord | None = None
    """The client's record from READY, its signature not yet verified. Only the server gets it."""
    ticket: bytes | None = None
    """The invite that the client came with: it is no member yet and gets the secret instead of a link."""


class ServerHandshake:
    """The accepting side: ``challenge``, ``read_auth``, ``accept``, ``read_ready``, in this order.

    Between ``read_auth`` and ``accept`` the caller decides whether this peer may link now.
    """

    def __init__(
        self,
        *,
        key: NodeKey,
        keyring: Keyring,
        boot: BootId,
        nonce: bytes,
        certificate: bytes,
        features: int = FEATURES,
        ticket_key: Callable[[bytes], bytes | None] = lambda _: None,
    ) -> None:
        """``ticket_key`` returns the key of an invite's ticket that is open now, by the ticket's id."""
        self._key = key
        self._keyring = keyring
        self._boot = boot
        self._certificate = certificate
        self._features = features
        self._ticket_key = ticket_key
        swarms = tuple(secret.swarm_id for secret in keyring.secrets[:_MAX_SWARMS])
        self._challenge = encode(Challenge(PROTOCOL_MIN, PROTOCOL_MAX, sized(nonce, NONCE_BYTES), swarms))
        self._admission_key = b""
        self._client_proof = b""
        self._peer: Authenticated | None = None

    def challenge(self) -> bytes:
        return self._challenge

    def read_auth(self, frame: bytes) -> Authenticated:
        """Check AUTH. Raises AuthenticationError, or ProtocolError for bytes that are no AUTH."""
        body, mac, signature = split(frame)
        auth = decode(auths, body)
        if not PROTOCOL_MIN <= auth.version <= PROTOCOL_MAX:
            raise AuthenticationError(
                f"it speaks protocol {auth.version}, we speak {PROTOCOL_MIN} to {PROTOCOL_MAX}",
                CloseCode.VERSION,
            )
        if (
            len(auth.nonce) != NONCE_BYTES
            or len(auth.public_key) != PUBLIC_KEY_BYTES
            or len(auth.boot) != BOOT_BYTES
        ):
            raise ProtocolError("AUTH has a nonce, key or boot id of a wrong size")
        transcript = transcript_of(self._challenge, body, self._certificate)
        if not verify(auth.public_key, signature, claim(CLIENT, transcript)):
            raise AuthenticationError(
                "its signature is not over this handshake: replayed, or changed on the way"
            )
        self._admission_key, swarm_id = self._proven(auth.ticket, mac, transcript)
        self._client_proof = transcript + lp(signature)
        self._peer = Authenticated(
            node=node_id_of(auth.public_key),
            public_key=auth.public_key,
            boot=BootId(auth.boot),
            swarm_id=swarm_id,
            features=self._features & auth.features,
            ticket=auth.ticket,
        )
        return self._peer

    def _proven(self, ticket: bytes | None, mac: bytes, transcript: bytes) -> tuple[bytes, bytes]:
        """Return the key that made the mac and the swarm it lets into."""
        if ticket is not None:
            key = self._ticket_key(ticket)
            if key is None or not is_mac(mac, key, CLIENT, transcript):
                raise AuthenticationError("its invite is unknown, used up or expired")
            return key, self._keyring.preferred.swarm_id
        for secret in self._keyring.secrets:
            if is_mac(mac, secret.admission_key, CLIENT, transcript):
                return secret.admission_key, secret.swarm_id
        raise AuthenticationError("wrong swarm secret")

    def accept(self, observed: Address) -> bytes:
        """Return ACCEPT, which tells the client the address that it is seen at."""
        if self._peer is None:
            raise RuntimeError("accept() comes after read_auth()")
        body = encode(Accept(self._features, self._boot, observed))
        return seal(
            body, self._admission_key, self._key, SERVER, accept_transcript_of(self._client_proof, body)
        )

    def read_ready(self, frame: bytes) -> Authenticated:
        """Return the peer with its record. Raises ProtocolError for bytes that are no READY."""
        bound(frame)
        if self._peer is None:
            raise RuntimeError("read_ready() comes after read_auth()")
        ready = decode(readies, frame)
        return replace(self._peer, record=ready.record)

    def welcome(self) -> bytes:
        """Return WELCOME, the swarm's secrets for a newcomer that came with a ticket and is READY."""
        if self._peer is None or self._peer.ticket is None:
            raise RuntimeError("welcome() is for who came with a ticket")
        return encode(Welcome(tuple(secret.secret for secret in self._keyring.secrets[:_MAX_SWARMS])))


def challenged_swarms(frame: bytes) -> tuple[bytes, ...]:
    """Return the swarm ids that a CHALLENGE offers. Raises ProtocolError for other bytes."""
    bound(frame)
    return decode(challenges, frame).swarms


class ClientHandshake:
    """The dialling side: ``read_challenge``, ``read_accept``, ``ready``, in this order."""

    def __init__(
        self,
        *,
        key: NodeKey,
        keyring: Keyring | None,
        boot: BootId,
        nonce: bytes,
        server_key: bytes,
        certificate: bytes,
        expected: NodeId | None = None,
        features: int = FEATURES,
        ticket: tuple[bytes, bytes] | None = None,
    ) -> None:
        """``certificate`` (DER) and its Ed25519 ``server_key`` come from TLS; ``expected`` is a pinned id.

        ``ticket`` is the id and key of an invite, for a newcomer without a keyring.

        Raises AuthenticationError when the server is not the expected node.
        """
        self._key = key
        self._keyring = keyring
        self._boot = boot
        self._nonce = sized(nonce, NONCE_BYTES)
        self._server_key = server_key
        self._certificate = certificate
        self._features = features
        self._ticket = ticket
        self.server = node_id_of(server_key)
        if expected is not None and self.server != expected:
            raise AuthenticationError(
                f"node {short(expected)} was expected, node {short(self.server)} answers"
            )
        self._client_proof = b""
        self._admission_key = b""
        self._swarm_id = b""

    def read_challenge(self, frame: bytes) -> bytes:
        """Return AUTH. Raises AuthenticationError when there is no common swarm or version."""
        bound(frame)
        challenge = decode(challenges, frame)
        if len(challenge.nonce) != NONCE_BYTES or any(
            len(swarm) != SWARM_ID_BYTES for swarm in challenge.swarms
        ):
            raise ProtocolError("CHALLENGE has a nonce or swarm id of a wrong size")
        version = min(challenge.version_max, PROTOCOL_MAX)
        if version < max(challenge.version_min, PROTOCOL_MIN):
            raise AuthenticationError(
                f"it speaks protocols {challenge.version_min} to {challenge.version_max}, "
                f"we speak {PROTOCOL_MIN} to {PROTOCOL_MAX}",
                CloseCode.VERSION,
            )
        self._admission_key, self._swarm_id = self._means(challenge)
        ticket = None if self._ticket is None else self._ticket[0]
        body = encode(Auth(version, self._features, self._nonce, self._key.public_bytes, self._boot, ticket))
        transcript = transcript_of(frame, body, self._certificate)
        sealed = seal(body, self._admission_key, self._key, CLIENT, transcript)
        self._client_proof = transcript + lp(sealed[-SIGNATURE_BYTES:])
        return sealed

    def _means(self, challenge: Challenge) -> tuple[bytes, bytes]:
        """Return the key that proves us and the swarm it is for."""
        if self._ticket is not None:
            return self._ticket[1], challenge.swarms[0] if challenge.swarms else b""
        known = self._keyring.find if self._keyring is not None else lambda _: None
        secret = next(filter(None, map(known, challenge.swarms[:_MAX_SWARMS])), None)
        if secret is None:
            raise AuthenticationError(
                "wrong swarm secret: ours is not this swarm's; copy the key file of a member (--swarm-key-file) "
                "or ask one for an invite (`swarm invite`)"
            )
        return secret.admission_key, secret.swarm_id

    def read_accept(self, frame: bytes) -> Authenticated:
        """Check the server's own proof. Raises AuthenticationError, or ProtocolError if this is no ACCEPT."""
        if not self._client_proof:
            raise RuntimeError("read_accept() comes after read_challenge()")
        body, mac, signature = split(frame)
        accept = decode(accepts, body)
        if len(accept.boot) != BOOT_BYTES:
            raise ProtocolError("ACCEPT has a boot id of a wrong size")
        transcript = accept_transcript_of(self._client_proof, body)
        if not verify(self._server_key, signature, claim(SERVER, transcript)):
            raise AuthenticationError(
                "its signature is not over this handshake: replayed, or changed on the way"
            )
        if not is_mac(mac, self._admission_key, SERVER, transcript):
            raise AuthenticationError("wrong swarm secret: it could not prove that it holds ours")
        return Authenticated(
            node=self.server,
            public_key=self._server_key,
            boot=BootId(accept.boot),
            swarm_id=self._swarm_id,
            features=self._features & accept.features,
            observed=accept.observed,
        )

    def ready(self, record: SignedRecord | None) -> bytes:
        """Return READY. Raises ValueError for a record that does not fit the frame."""
        frame = encode(Ready(record))
        if len(frame) > MAX_HANDSHAKE_BYTES:
            raise ValueError(f"a record of {len(frame)} bytes does not fit READY ({MAX_HANDSHAKE_BYTES})")
        return frame

    def read_welcome(self, frame: bytes) -> Keyring:
        """Return the swarm's secrets that a ticket is answered with. Raises ProtocolError for other bytes."""
        bound(frame)
        if not self._swarm_id or self._ticket is None:
            raise RuntimeError("read_welcome() comes after read_accept(), with a ticket")
        welcome = decode(welcomes, frame)
        try:
            return Keyring(tuple(map(SwarmSecret, welcome.secrets)))
        except ValueError as exc:
            raise ProtocolError(f"WELCOME without a usable secret: {exc}") from None
