"""Who may try to connect now: limits on unauthenticated connections, and strikes. Reads no clock itself."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict, deque

from swarm.config import NetSettings
from swarm.protocol.limits import STRIKE_SECONDS, STRIKES
from swarm.types import NodeId

_MAX_REMEMBERED = 4096
YOUNG_SECONDS = 1.0
"""An unauthenticated connection, the only one of its source, that young is not dropped for a newcomer. Where a swarm
forms at once all handshakes take long, and dropping the oldest would let none of them end."""
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
        self._waiting: OrderedDict[object, tuple[str, float]] = OrderedDict()

    def refusal(self, host: str, now: float) -> str | None:
        """Return why a new connection from ``host`` is refused, or None."""
        source = source_of(host)
        if (
            sum(waiting == source for waiting, _ in self._waiting.values())
            >= self._settings.max_unauthenticated_per_address
        ):
            return "too many unauthenticated connections from this address"
        if not self._rate.take(source, now):
            return "too many connections a second from this address"
        return None

    def full_for(self, now: float) -> float:
        """Return for how many seconds there is no room for one more, unless one leaves; 0 if there is."""
        if len(self._waiting) < self._settings.max_unauthenticated or self._busiest() is not None:
            return 0.0
        _, since = next(iter(self._waiting.values()))
        return max(0.0, since + YOUNG_SECONDS - now)

    def enter(self, ticket: object, host: str, now: float) -> object | None:
        """Count a connection as unauthenticated; return the one to drop for it if that is one too many.

        That is the oldest of the source that has the most, or of all if none has more than one.
        """
        dropped = None
        if len(self._waiting) >= self._settings.max_unauthenticated:
            busiest = self._busiest()
            dropped = next(
                ticket for ticket, (source, _) in self._waiting.items() if busiest in (None, source)
            )
            del self._waiting[dropped]
        self._waiting[ticket] = (source_of(host), now)
        return dropped

    def _busiest(self) -> str | None:
        """Return the source with the most unauthenticated connections; None if no source has two."""
        source, count = Counter(source for source, _ in self._waiting.values()).most_common(1)[0]
        return source if count > 1 else None

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
