"""What a node does when its own user asks through the control socket. Moves no bytes itself."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swarm import __version__
from swarm.errors import ConfigError, ModelError, SwarmError
from swarm.node.control import (
    AnyRequest,
    ChangeKeys,
    CloseDoor,
    GetState,
    MakeInvite,
    OpenDoor,
    PullModel,
    SetLayers,
    Stop,
)
from swarm.protocol.invite import MAX_ADDRESSES, TICKET_ID_BYTES, TICKET_KEY_BYTES, Invite, Tickets
from swarm.types import Address, NodeId

if TYPE_CHECKING:
    from swarm.node.doors import Doors
    from swarm.node.holding import Holding
    from swarm.node.hosting import Hosting
    from swarm.node.pulls import Pulls

log = logging.getLogger("swarm.node")

DEFAULT_API_HOST = "127.0.0.1"
DEFAULT_API_PORT = 8000
MAX_INVITE_MINUTES = 24 * 60


class Controls:
    """Answers one request at a time; raises SwarmError with what the person should read."""

    def __init__(
        self,
        *,
        node: NodeId,
        swarm_id: bytes,
        tickets: Tickets,
        addresses: Callable[[], tuple[Address, ...]],
        doors: Doors,
        pulls: Pulls,
        holding: Holding,
        hosting: Hosting,
        chunk_roots: Callable[[], dict[str, str]],
        state: Callable[[], dict[str, Any]],
        stop: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """``clock`` is the one that the tickets are checked by; ``chunk_roots`` blocks."""
        self._node = node
        self._swarm_id = swarm_id
        self._tickets = tickets
        self._addresses = addresses
        self._doors = doors
        self._pulls = pulls
        self._holding = holding
        self._hosting = hosting
        self._chunk_roots = chunk_roots
        self._state = state
        self._stop = stop
        self._clock = clock

    async def handle(self, request: AnyRequest) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        match request:
            case GetState():
                answer = self._shown()
            case MakeInvite(minutes):
                answer = await self._invite(minutes)
            case PullModel(name, layers, ends):
                answer = await self._pulls.ask(name, layers, ends)
            case Stop():
                self._stop()
            case OpenDoor(listen, keys):
                answer = await self._open(listen, keys)
            case CloseDoor():
                await self._doors.aclose()
            case ChangeKeys(add, remove):
                await self._doors.change_keys(add, remove)
                answer = {"keys": self._doors.state()["keys"]}
            case SetLayers(layers, model, force):
                answer = await self._holding.change(model, layers, force=force)
        return answer

    def _shown(self) -> dict[str, Any]:
        door = self._doors.state()
        return {
            **self._state(),
            "version": __version__,
            "api": door["listen"],
            "door": door,
            "holding": self._holding.state(),
            "memory": self._hosting.memory(),
        }

    async def _invite(self, minutes: float) -> dict[str, Any]:
        if not 0 < minutes <= MAX_INVITE_MINUTES:
            raise ConfigError(f"an invite is good for up to {MAX_INVITE_MINUTES} minutes, not {minutes:g}")
        try:
            roots = await asyncio.to_thread(self._chunk_roots)
        except (OSError, ModelError) as exc:
            log.warning("the invite proves no weights: %s", exc)
            roots = {}
        ticket, key = secrets.token_bytes(TICKET_ID_BYTES), secrets.token_bytes(TICKET_KEY_BYTES)
        addresses = self._addresses()[:MAX_ADDRESSES]
        try:
            self._tickets.issue(ticket, key, self._clock(), minutes * 60)
        except ValueError as exc:
            raise SwarmError(str(exc)) from None
        invite = Invite(addresses, self._node, self._swarm_id, ticket, key, roots)
        return {"invite": invite.encode(), "addresses": list(map(str, addresses)), "minutes": minutes}

    async def _open(self, listen: str, keys: tuple[str, ...] | None) -> dict[str, Any]:
        usual = self._doors.usual_address or Address(DEFAULT_API_HOST, DEFAULT_API_PORT)
        try:
            address = Address.parse(listen, usual.host) if listen else usual
        except ValueError as exc:
            raise ConfigError(f"the address of the API: {exc}") from None
        await self._doors.open(address, keys)
        return {"listen": str(self._doors.address)}
