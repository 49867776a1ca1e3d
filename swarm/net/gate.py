"""Who may try to connect now: limits on unauthenticated connections, and strikes. Reads no clock itself."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque

from swarm.config import NetSettings
from swarm.protocol.limits import STRIKE_SECONDS, STRIKES
from swarm.types import NodeId

_MAX_REMEMBERED = 4096
_IPV6_PREFIX = 64


def source_of(host: str) -> str:
    """Return what limits count by: an IPv4 address, or the /64 network of an IPv6 one."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)


class RateLimit:
    """A token bucket for each source; the sources longest unseen are forgotten beyond a bound."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, source: str, now: float) -> bool:
        """Take one token if there is one."""
        tokens, then = self._buckets.get(source, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._per_second)
        allowed = tokens >= 1
        self._buckets[source] = (tokens - 1 if allowed else tokens, now)
        self._buckets.move_to_end(source)
        if len(self._buckets) > _MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed


class AcceptGate:
    """Counts unauthenticated connections, in all and by source. ``ticket`` is the caller's name of one."""

    def __init__(self, settings: NetSettings) -> None:
        self._settings = settings
        self._rate = RateLimit(settings.accepts_per_second, settings.accept_burst)
        self._waiting: OrderedDict[object, str] = OrderedDict()

    def refusal(self, host: str, now: float) -> str | None:
        """Return why a new connection from ``host`` is refused, or None."""
        source = source_of(host)
        if (
            sum(waiting == source for waiting in self._waiting.values())
            >= self._settings.max_unauthenticated_per_address
        ):
            return "too many unauthenticated connections from this address"
        if not self._rate.take(source, now):
            return "too many connections a second from this address"
        return None

    def enter(self, ticket: object, host: str) -> object | None:
        """Count a connection as unauthenticated; return the oldest other one if that is one too many."""
        self._waiting[ticket] = source_of(host)
        if len(self._waiting) <= self._settings.max_unauthenticated:
            return None
        return self._waiting.popitem(last=False)[0]

    def leave(self, ticket: object) -> None:
        self._waiting.pop(ticket, None)


class Strikes:
    """Refuses a node id for a while after several malformed frames in a short time."""

    def __init__(self) -> None:
        self._times: OrderedDict[NodeId, deque[float]] = OrderedDict()

    def strike(self, node: NodeId, now: float) -> None:
        times = self._times.setdefault(node, deque(maxlen=STRIKES))
        times.append(now)
        self._times.move_to_end(node)
        if len(self._times) > _MAX_REMEMBERED:
            self._times.popitem(last=False)

    def refused(self, node: NodeId, now: float) -> bool:
        times = self._times.get(node)
        if times is None or len(times) < STRIKES:
            return False
        return times[-1] - times[0] <= STRIKE_SECONDS and now - times[-1] < STRIKE_SECONDS
