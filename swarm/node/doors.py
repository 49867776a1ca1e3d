"""The front door of a node, opened, moved and closed while the node runs. Knows no HTTP: a factory is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from swarm.errors import ConfigError
from swarm.node.apikeys import Key, changed, keys_in, listed

if TYPE_CHECKING:
    from swarm.config import ApiSettings
    from swarm.node.front import FrontDoor
    from swarm.types import Address

CLOSING_SECONDS = 5.0
MOVED_SECONDS = 600.0
"""How long answers of a door that moved may go on at its old address, where nothing new is taken."""


class OpenDoorway(Protocol):
    """An open front door."""

    @property
    def address(self) -> Address | None:
        """Where it was bound."""

    def change_keys(self, keys: tuple[Key, ...]) -> None:
        """Ask new requests for one of ``keys``. Raises ConfigError where that would open it to a network."""

    async def aclose(self, grace_seconds: float) -> None:
        """Take nothing new, and cut what still runs after so long."""


FrontDoorFactory = Callable[["FrontDoor", "ApiSettings"], Awaitable[OpenDoorway]]


class Doors:
    """At most one door is open. ``on_change`` is told the port, 0 when closed."""

    def __init__(
        self,
        front: FrontDoor,
        settings: ApiSettings,
        factory: FrontDoorFactory | None,
        on_change: Callable[[int], None],
    ) -> None:
        self._front = front
        self._settings = settings
        self._factory = factory
        self._on_change = on_change
        self._door: OpenDoorway | None = None
        self._parting: dict[asyncio.Task[None], OpenDoorway] = {}
        self._changing = asyncio.Lock()

    @property
    def address(self) -> Address | None:
        return None if self._door is None else self._door.address

    @property
    def usual_address(self) -> Address | None:
        """Where the door was, or would be by the settings."""
        return self.address or self._settings.listen

    def state(self) -> dict[str, Any]:
        """Return where the door is and which keys it takes, as JSON values without any key."""
        try:
            keys, problem = listed(self._keys()), ""
        except ConfigError as exc:
            keys, problem = [], str(exc)
        return {
            "listen": None if self.address is None else str(self.address),
            "keys": keys,
            "problem": problem,
        }

    async def open(self, listen: Address | None = None, keys: tuple[str, ...] | None = None) -> None:
        """Open the door where the settings say, or at ``listen``; a door that is open elsewhere moves.

        Who moves loses no answer: the new address is open before the old one takes nothing new, and what runs there
        may end. Raises ConfigError when the address can't be had; the door that was open is open then as before.
        """
        if self._factory is None:
            raise ConfigError("this process has no front door to open")
        settings = replace(self._settings, listen=listen or self._settings.listen)
        if keys is not None:
            settings = replace(settings, keys=keys, key_file="")
        async with self._changing:
            door = self._door
            if door is not None and door.address is not None and door.address == settings.listen:
                if keys is not None:
                    door.change_keys(keys)
                self._settings = settings
                return
            moves_host = door is not None and _port(door.address) == _port(settings.listen) != 0
            if moves_host:
                # No system lets two sockets have one port on overlapping hosts.
                await self._close()
            try:
                opened = await self._factory(self._front, settings)
            except ConfigError:
                if moves_host:
                    self._door = await self._factory(self._front, self._settings)
                raise
            self._part()
            self._door, self._settings = opened, replace(settings, listen=opened.address or settings.listen)
        self._on_change(_port(opened.address))

    async def change_keys(self, add: Sequence[str], remove: Sequence[str]) -> None:
        """Add and remove API keys, for the door that is open without a moment's pause, until this node ends.

        Requests under way are not asked again. Raises ConfigError when the last key of a door that a network reaches
        would go, and as swarm.node.apikeys does.
        """
        async with self._changing:
            keys = changed(self._keys(), add, remove)
            if self._door is not None:
                self._door.change_keys(keys)
            self._settings = replace(self._settings, keys=keys, key_file="")

    async def aclose(self) -> None:
        """Close the door, if one is open, and what is left of doors that moved. Safe to call twice."""
        async with self._changing:
            parting = list(self._parting.items())
            for task, _ in parting:
                task.cancel()
            await asyncio.gather(*(task for task, _ in parting), return_exceptions=True)
            await asyncio.gather(*(door.aclose(CLOSING_SECONDS) for _, door in parting))
            if self._door is None:
                return
            await self._close()
        self._on_change(0)

    def _keys(self) -> tuple[Key, ...]:
        return (*self._settings.keys, *keys_in(self._settings.key_file))

    async def _close(self) -> None:
        door, self._door = self._door, None
        if door is not None:
            await door.aclose(CLOSING_SECONDS)

    def _part(self) -> None:
        """Let the door that was open end on its own time."""
        door, self._door = self._door, None
        if door is not None:
            task = asyncio.create_task(door.aclose(MOVED_SECONDS), name="a door that moved")
            self._parting[task] = door
            task.add_done_callback(lambda done: self._parting.pop(done, None))


def _port(address: Address | None) -> int:
    return 0 if address is None else address.port
