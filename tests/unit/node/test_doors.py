"""The front door as it opens, moves and changes its keys, over doorways that only note what happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from swarm.config import ApiSettings
from swarm.errors import ConfigError
from swarm.node.doors import Doors
from swarm.types import Address


class Scene:
    """Doorways that open unless their port is taken; ``busy`` ones close when told to or cut."""

    def __init__(self, settings: ApiSettings | None = None) -> None:
        self.events: list[str] = []
        self.taken: set[int] = set()
        self.ports: list[int] = []
        self.doors = Doors(None, settings or ApiSettings(), self._open, self.ports.append)  # type: ignore[arg-type]

    async def _open(self, front: Any, settings: ApiSettings) -> Any:
        assert settings.listen is not None
        if settings.listen.port in self.taken:
            raise ConfigError("another program listens there")
        self.events.append(f"open {settings.listen}")
        return Doorway(self, settings)


class Doorway:
    def __init__(self, scene: Scene, settings: ApiSettings) -> None:
        assert settings.listen is not None
        self.scene, self.address, self.keys = scene, settings.listen, settings.keys

    def change_keys(self, keys: Any) -> None:
        self.scene.events.append(f"{self.address} has {len(keys)} keys")

    async def aclose(self, grace_seconds: float) -> None:
        self.scene.events.append(f"close {self.address} in {grace_seconds:g} s")


def at(port: int, host: str = "127.0.0.1") -> Address:
    return Address(host, port)


async def test_a_door_that_moves_is_open_at_its_new_address_before_the_old_one_closes_and_answers_may_end():
    scene = Scene()
    await scene.doors.open(at(1))
    await scene.doors.open(at(2))
    await asyncio.sleep(0)
    assert scene.events == ["open 127.0.0.1:1", "open 127.0.0.1:2", "close 127.0.0.1:1 in 600 s"]
    assert scene.ports == [1, 2]
    await scene.doors.aclose()
    assert scene.events[-1] == "close 127.0.0.1:2 in 5 s"
    assert scene.ports[-1] == 0
    assert scene.doors.usual_address == at(2)


async def test_a_move_that_fails_leaves_the_door_where_it_was():
    scene = Scene()
    await scene.doors.open(at(1))
    scene.taken = {2}
    with pytest.raises(ConfigError):
        await scene.doors.open(at(2))
    assert scene.doors.address == at(1)
    assert scene.events == ["open 127.0.0.1:1"]


async def test_one_port_on_another_host_is_given_up_first_and_taken_back_when_that_fails():
    scene = Scene()
    await scene.doors.open(at(1))
    await scene.doors.open(at(1, "0.0.0.0"))
    assert scene.events == ["open 127.0.0.1:1", "close 127.0.0.1:1 in 5 s", "open 0.0.0.0:1"]


async def test_keys_change_without_the_door_being_opened_anew_and_stay_when_it_moves():
    scene = Scene(ApiSettings(keys=("one",)))
    await scene.doors.open(at(1))
    await scene.doors.change_keys(["two"], [])
    await scene.doors.open(at(1), keys=("three",))
    assert scene.events == ["open 127.0.0.1:1", "127.0.0.1:1 has 2 keys", "127.0.0.1:1 has 1 keys"]
    await scene.doors.aclose()
    await scene.doors.open(at(3))
    assert [key["id"] for key in scene.doors.state()["keys"]] != []
    assert len(scene.doors.state()["keys"]) == 1


async def test_keys_of_a_file_are_listed_and_a_file_that_is_gone_is_said(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one\ntwo\n")
    scene = Scene(ApiSettings(key_file=str(file)))
    assert len(scene.doors.state()["keys"]) == 2
    file.unlink()
    assert "can't be read" in scene.doors.state()["problem"]
