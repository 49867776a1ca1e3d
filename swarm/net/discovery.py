"""Finding a swarm's nodes on the local network by mDNS (DNS-SD). What is found is only dialled: links prove themselves.

What is announced: a port, this host's addresses, the node's id and the public swarm id. No name, no secret.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zeroconf import InterfaceChoice, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from swarm.types import Address, NodeId, short

log = logging.getLogger("swarm.net")

SERVICE = "_swarm-node._tcp.local."
LOOPBACK = "127.0.0.1"
_NODE, _SWARM = "node", "swarm"
_RESOLVE_MILLISECONDS = 3000
_MAX_FOUND = 256


@dataclass(frozen=True, slots=True)
class Found:
    """A node that says it is of a swarm. Nothing of it is proven."""

    node: NodeId
    swarm_id: bytes
    addresses: tuple[Address, ...]


class Discovery:
    """Announces this node, and tells ``on_found`` of each other one, until ``aclose``."""

    def __init__(self, on_found: Callable[[Found], None]) -> None:
        self._on_found = on_found
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._resolving: set[asyncio.Task[None]] = set()
        self._seen: set[Found] = set()

    async def start(self, own: Found | None = None) -> None:
        """Begin to look, and to announce ``own`` if it is given; a node on loopback stays on loopback.

        Raises OSError where multicast is impossible.
        """
        only_here = own is not None and all(address.host.startswith("127.") for address in own.addresses)
        self._zeroconf = AsyncZeroconf(interfaces=[LOOPBACK] if only_here else InterfaceChoice.All)
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, [SERVICE], handlers=[self._changed])
        if own is not None and own.addresses:
            info = AsyncServiceInfo(
                SERVICE,
                f"{own.node}.{SERVICE}",
                port=own.addresses[0].port,
                properties={_NODE: own.node, _SWARM: own.swarm_id.hex()},
                parsed_addresses=[address.host for address in own.addresses if _is_ip(address.host)],
                server=f"swarm-{own.node}.local.",
            )
            await self._zeroconf.async_register_service(info)

    async def aclose(self) -> None:
        for task in self._resolving:
            task.cancel()
        await asyncio.gather(*self._resolving, return_exceptions=True)
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            await self._zeroconf.async_close()

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed or len(self._resolving) >= _MAX_FOUND:
            return
        task = asyncio.ensure_future(self._resolve(zeroconf, service_type, name))
        self._resolving.add(task)
        task.add_done_callback(self._resolving.discard)

    async def _resolve(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        info = AsyncServiceInfo(service_type, name)
        if not await info.async_request(zeroconf, _RESOLVE_MILLISECONDS):
            return
        found = _read(info)
        if found is None or found in self._seen or len(self._seen) >= _MAX_FOUND:
            return
        self._seen.add(found)
        log.info("node %s is announced on this network", short(found.node))
        self._on_found(found)


async def look(seconds: float) -> list[Found]:
    """Return the nodes that are announced, having waited for ``seconds``. Raises OSError without multicast."""
    found: list[Found] = []
    discovery = Discovery(found.append)
    try:
        await discovery.start()
        await asyncio.sleep(seconds)
    finally:
        await discovery.aclose()
    return found


def _read(info: AsyncServiceInfo) -> Found | None:
    """Return what an announcement says, None when it is not of a swarm node."""
    properties: dict[Any, Any] = info.properties
    node, swarm = properties.get(_NODE.encode()), properties.get(_SWARM.encode())
    if not node or not swarm or not info.port or len(node) != 32 or len(swarm) != 32:
        return None
    try:
        swarm_id, node_id = bytes.fromhex(swarm.decode("ascii")), NodeId(node.decode("ascii"))
    except ValueError:
        return None
    addresses = tuple(Address(host, info.port) for host in info.parsed_scoped_addresses()[:8])
    return Found(node_id, swarm_id, addresses) if addresses else None


def _is_ip(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False
