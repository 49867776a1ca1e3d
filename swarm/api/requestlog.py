"""One line a request in the log: numbers and names, never a key and never text of a user. Knows no framework."""

from __future__ import annotations

import logging
from typing import Any

from swarm.api.exchange import Exchange
from swarm.api.metrics import route_of

HEALTH_PATHS = frozenset({"/health", "/v1/health"})

_log = logging.getLogger("swarm.requests")


def log_request(exchange: Exchange, method: str, path: str, status: int, now: float) -> None:
    """Log a request that has ended; what generated nothing and went well is for debugging only.

    ``fields`` of the record has all that is said, for formatters that write more than a line of text.
    """
    account = exchange.account
    fields: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": method,
        "path": route_of(path),
        "status": status,
        "seconds": round(now - account.began, 4),
        **account.told(now),
    }
    if exchange.caller.name:
        fields["key"] = exchange.caller.name
    # A health check that says "not yet" is its poller's affair, once a second.
    worth = bool(account.operation) or (status >= 500 and path not in HEALTH_PATHS)
    text = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
    _log.log(logging.INFO if worth else logging.DEBUG, "%s", text, extra={"fields": fields})


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f'"{text}"' if " " in text or not text else text
