"""The front door of a node, opened, moved and closed while the node runs. Knows no HTTP: a factory is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from swarm.errors import ConfigError

if TYPE_CHECKING:
    from swarm.config import ApiSettings
    from swarm.node.front import FrontDoor
    from swarm.types import Address


class OpenDoorway(Protocol):
    """An open front door."""

    @property
    def address(self) -> Address | None:
        """Where it was bound."""

    async def aclose(self) -> None: ...


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
        self._changing = asyncio.Lock()

    @property
    def address(self) -> Address | None:
        return None if self._door is None else self._door.address

    async def open(self, listen: Address | None = None, keys: tuple[str, ...] | None = None) -> None:
        """Open the door where the settings say, or at ``listen``; a door that is open elsewhere moves.

        Raises ConfigError when the address can't be had; the door that was open is open again then.
        """
        if self._factory is None:
            raise ConfigError("this process has no front door to open")
        settings = replace(self._settings, listen=listen or self._settings.listen)
        if keys is not None:
            settings = replace(settings, keys=keys, key_file="")
        async with self._changing:
            moves = self._door is not None
            if self._door is not None and self._door.address == settings.listen:
                await self._close()
            try:
                opened = await self._factory(self._front, settings)
            except ConfigError:
                if moves and self._door is None:
                    self._door = await self._factory(self._front, self._settings)
                raise
            await self._close()
            self._door, self._settings = opened, settings
        self._on_change(opened.address.port if opened.address else 0)

    async def aclose(self) -> None:
        """Close the door, if one is open. Safe to call twice."""
        async with self._changing:
            if self._door is None:
                return
            await self._close()
        self._on_change(0)

    async def _close(self) -> None:
        door, self._door = self._door, None
        if door is not None:
            await door.aclose()
