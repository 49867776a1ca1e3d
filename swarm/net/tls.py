"""TLS 1.3 for links: the node key's own certificate, the two contexts, and TLS over memory. Opens no socket.

Certificates carry a key and nothing else that counts: nobody checks an authority, a name or a date.
"""

from __future__ import annotations

import datetime
import os
import secrets
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from swarm.errors import AuthenticationError
from swarm.protocol.identity import NodeKey

# Fixed, so that a wrong clock can't expire a key and one key always makes the same certificate.
_NOT_BEFORE = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(2999, 12, 31, tzinfo=datetime.UTC)
_READ_BYTES = 64 * 1024
_MAX_CERTIFICATE_BYTES = 4096


def make_certificate(key: NodeKey) -> x509.Certificate:
    """Return the self-signed certificate of a node key; equal keys give equal bytes."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, key.node_id)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.private_key.public_key())
        .serial_number(1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .sign(key.private_key, algorithm=None)
    )


def server_context(key: NodeKey) -> tuple[ssl.SSLContext, bytes]:
    """Return the listening side's context and its certificate (DER)."""
    certificate = make_certificate(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    _load_key(context, key, certificate)
    return context, certificate.public_bytes(Encoding.DER)


def client_context() -> ssl.SSLContext:
    """Return the dialling side's context; who answers is checked by the key in the certificate instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def key_of_certificate(certificate: bytes) -> bytes:
    """Return the raw Ed25519 key of a certificate (DER). Raises AuthenticationError without one."""
    if len(certificate) > _MAX_CERTIFICATE_BYTES:
        raise AuthenticationError("its certificate is too large for a node's")
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, x509.UnsupportedGeneralNameType) as exc:
        raise AuthenticationError(f"its certificate can't be read: {exc}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise AuthenticationError("its certificate has no Ed25519 key: no swarm node answers there")
    return key.public_bytes_raw()


def _load_key(context: ssl.SSLContext, key: NodeKey, certificate: x509.Certificate) -> None:
    # The ssl module reads keys from files only: what touches the disk is encrypted with a passing password.
    password = secrets.token_hex(32)
    private = key.private_key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode())
    )
    descriptor, name = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(private + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(name, password=password)
    finally:
        Path(name).unlink()


class TlsPipe:
    """One end of a TLS connection between byte strings: no socket, no buffer beyond OpenSSL's own."""

    __slots__ = ("_incoming", "_outgoing", "_ssl", "established")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self.established = False

    def receive(self, data: memoryview | bytes) -> list[bytes]:
        """Take bytes from the network; return plaintext. Raises ssl.SSLError. Then call ``outgoing``."""
        if data:
            self._incoming.write(data)
        plaintext: list[bytes] = []
        try:
            if not self.established:
                self._ssl.do_handshake()
                self.established = True
            while chunk := self._ssl.read(_READ_BYTES):
                plaintext.append(chunk)
                # Asking in vain costs an exception.
                if not self._incoming.pending and not self._ssl.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        return plaintext

    def send(self, data: bytes) -> bytes:
        """Return ``data`` as TLS records, one write for all of it."""
        view = memoryview(data)
        while view:
            view = view[self._ssl.write(view) :]
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """Return what the TLS layer itself has to say (handshake, alerts, key updates)."""
        return self._outgoing.read()

    def peer_certificate(self) -> bytes:
        """Return the peer's certificate (DER). Raises AuthenticationError if it showed none."""
        certificate = self._ssl.getpeercert(binary_form=True)
        if certificate is None:
            raise AuthenticationError("it showed no certificate")
        return certificate
