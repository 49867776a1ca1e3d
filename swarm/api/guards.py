"""Who may talk to this front door: Host, Origin, Content-Type and key, checked as pure functions.

A door on loopback is reachable by every web page in its user's browser; these checks close that way in.
Knows no framework and no socket.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from swarm.api.errors import (
    ContentTypeError,
    ForeignOriginError,
    MisdirectedError,
    MissingKeyError,
    WrongKeyError,
)
from swarm.config import ApiKey, ApiSettings

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%A-Za-z]+)\]|([^\[\]:/@\s]+))(?::(\d{1,5}))?\Z")
_BEARER = re.compile(r"bearer[ \t]+(\S+)[ \t]*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``scope`` is derived from the key and tells callers apart without naming the key."""

    scope: str = ""
    name: str = ""
    """What the settings call the key, if they do."""
    has_key: bool = False
    max_concurrent: int | None = None
    """None: the door's own limit for every key."""
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """The checks of one front door. Each raises a RequestError with the status of its own."""

    hosts: frozenset[str]
    origins: frozenset[str]
    keys: tuple[ApiKey, ...]
    """Known by SHA-256: digests of equal length can be compared in constant time."""

    @classmethod
    def of(cls, settings: ApiSettings) -> Guard:
        return cls(
            hosts=frozenset({"localhost", *(host.lower() for host in settings.hosts)}),
            origins=frozenset(origin.lower().rstrip("/") for origin in settings.origins),
            keys=tuple(ApiKey("", _digest(key)) if isinstance(key, str) else key for key in settings.keys),
        )

    def check_host(self, values: Sequence[str]) -> str:
        """Return the one Host value. A name that is not this door's own is how DNS rebinding arrives."""
        if len(values) == 1 and (match := _HOST.match(values[0])):
            name = (match[1] or match[2]).lower()
            if _is_ip_literal(name, bracketed=match[1] is not None) or (not match[1] and name in self.hosts):
                return values[0]
        shown = ", ".join(values)[:200] or "no host"
        raise MisdirectedError(
            f"This server does not answer for {shown!r}. Use its address or localhost, "
            "or add the name to api.hosts."
        )

    def check_origin(self, values: Sequence[str], scheme: str, host: str) -> str | None:
        """Return the configured origin that may read the answer, or None when CORS has no part in it."""
        if not values:
            return None
        origin = values[0].lower() if len(values) == 1 else ""
        if origin in self.origins:
            return values[0]
        if origin and _authority(origin) == _authority(f"{scheme}://{host}".lower()) is not None:
            return None
        raise ForeignOriginError(
            f"Web pages of origin {', '.join(values)[:200]!r} may not call this server. "
            "Add it to api.origins to allow it."
        )

    def check_content_type(self, values: Sequence[str]) -> None:
        """Refuse what an HTML form can send: only application/json makes a browser ask first."""
        media_type = values[0].partition(";")[0].strip().lower() if len(values) == 1 else ""
        if media_type != "application/json":
            raise ContentTypeError("Send the body as JSON, with the header Content-Type: application/json.")

    def caller(self, authorization: Sequence[str]) -> Caller:
        """Return who asks. Every configured key is compared, so that the time taken tells nothing."""
        if not self.keys:
            return Caller()
        if not authorization:
            raise MissingKeyError
        match = _BEARER.match(authorization[0]) if len(authorization) == 1 else None
        digest = _digest(match[1] if match else "")
        equal = [hmac.compare_digest(key.sha256, digest) for key in self.keys]
        if match is None or not any(equal):
            raise WrongKeyError
        key = self.keys[equal.index(True)]
        return Caller(
            scope=hashlib.sha256(b"swarm-api-scope/1" + digest).hexdigest()[:32],
            name=key.name,
            has_key=True,
            max_concurrent=key.max_concurrent,
            requests_per_minute=key.requests_per_minute,
        )


def is_loopback(host: str) -> bool:
    """Whether ``host`` can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _is_ip_literal(name: str, *, bracketed: bool) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return (address.version == 6) == bracketed


def _authority(origin: str) -> tuple[str, str, int] | None:
    """Return (scheme, host, port) of a serialised origin, None when it is not one (``null`` included)."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if (
        parts.scheme not in _DEFAULT_PORTS
        or not parts.hostname
        or parts.path
        or parts.query
        or parts.fragment
    ):
        return None
    if parts.username is not None:
        return None
    return parts.scheme, parts.hostname, port if port is not None else _DEFAULT_PORTS[parts.scheme]
