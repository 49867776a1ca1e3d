"""One HTTP request beside its body: its id, who asks, and what must be closed at its end."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field

from swarm.api.account import Account
from swarm.api.guards import Caller


@dataclass(slots=True)
class Exchange:
    """``cleanup`` is closed when the request has ended: answered, failed, or its client gone."""

    request_id: str
    caller: Caller = field(default_factory=Caller)
    from_loopback: bool = False
    timeout_seconds: float | None = None
    """The deadline named in the request's headers."""
    account: Account = field(default_factory=Account)
    cleanup: AsyncExitStack = field(default_factory=AsyncExitStack)
    charge: Callable[[], None] = field(default=lambda: None)
    """Counts a request that comes as a message; raises a RequestError when the key may not ask now."""


def new_request_id() -> str:
    return f"req_{secrets.token_hex(16)}"


_current: ContextVar[Exchange] = ContextVar("swarm_api_exchange")


def current() -> Exchange:
    """Return the exchange of the running request. Raises LookupError outside of one."""
    return _current.get()


def enter(exchange: Exchange) -> None:
    _current.set(exchange)
