"""Which weights a name means, and where a node turns for them: disk, members, hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarm.errors import AmbiguousModelError, ModelError, ModelOnItsWayError, UnknownModelError
from swarm.models.progress import silent
from swarm.models.store import LocalModel, ModelStore
from swarm.node.library import Library
from swarm.node.listing import NoSourceError
from swarm.node.pins import Pins
from swarm.node.transfer import Transfer
from swarm.types import LayerSpan, ModelId

NAME = "org/model"
ONE, TWO = ModelId(NAME, "1" * 64), ModelId(NAME, "2" * 64)
SPAN = LayerSpan(0, 2)


def local(model: ModelId, *, whole: bool = True) -> LocalModel:
    fake = SimpleNamespace(id=model, lacks=lambda span, ends: () if whole else ("model.safetensors",))
    return cast(LocalModel, fake)


@dataclass
class World:
    """A disk, members and a hub that give what they are told, and note that they were asked."""

    disk: LocalModel | None = None
    members: dict[ModelId, LocalModel] = field(default_factory=dict)
    hub: LocalModel | None = None
    pins: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def library(self) -> Library:
        return Library(
            store=cast(ModelStore, self),
            transfer=cast(Transfer, SimpleNamespace(obtain=self.from_members)),
            served=lambda: self.members,
            known=lambda: self.members,
            holders=lambda model: [],
            joined=self.joined,
            pins=Pins(self.pins),
            announce=self.said.append,
            progress=silent,
        )

    async def joined(self) -> None:
        self.asked.append("joined")

    def find(self, name: str, progress: Any) -> LocalModel | None:
        return self.disk

    def obtain(self, name: str, **_: Any) -> LocalModel:
        self.asked.append("hub")
        if self.hub is None:
            raise ModelError("no hub")
        return self.hub

    async def from_members(self, model: ModelId, **_: Any) -> LocalModel:
        self.asked.append(f"members for {model}")
        found = self.members[model]
        if found.lacks(SPAN, ends=False):
            raise NoSourceError("no member gives it")
        return found


async def test_what_is_on_the_disk_asks_nobody() -> None:
    world = World(disk=local(ONE), members={ONE: local(ONE)})
    assert (await world.library().named(NAME, span=SPAN, ends=True)).id == ONE
    assert world.asked == []


async def test_members_come_before_the_hub() -> None:
    world = World(members={ONE: local(ONE)}, hub=local(TWO))
    assert (await world.library().named(NAME, span=SPAN, ends=True)).id == ONE
    assert world.asked == ["joined", f"members for {ONE}"]


async def test_the_hub_is_asked_when_no_member_gives() -> None:
    world = World(members={ONE: local(ONE, whole=False)}, hub=local(ONE))
    assert (await world.library().named(NAME, span=SPAN, ends=True)).id == ONE
    assert world.asked[-1] == "hub"
    assert "Trying the Hugging Face hub" in world.said[0]


async def test_a_disk_with_other_weights_says_that_they_never_mix() -> None:
    world = World(disk=local(ONE), members={TWO: local(TWO)})
    assert (await world.library().named(NAME, span=SPAN, ends=True)).id == ONE
    assert str(ONE) in world.said[0]
    assert f"--model {TWO}" in world.said[0]


async def test_a_digest_in_the_name_passes_over_other_weights_on_the_disk() -> None:
    world = World(disk=local(ONE), members={TWO: local(TWO)})
    assert (await world.library().named(f"{NAME}@{'2' * 12}", span=SPAN, ends=True)).id == TWO


async def test_a_hub_that_has_other_weights_than_asked_for_is_refused() -> None:
    world = World(hub=local(TWO))
    with pytest.raises(ModelError, match="asked for"):
        await world.library().named(f"{NAME}@{'1' * 12}", span=SPAN, ends=True)


async def test_two_models_of_one_name_in_the_swarm_are_both_named() -> None:
    world = World(members={ONE: local(ONE), TWO: local(TWO)})
    with pytest.raises(AmbiguousModelError) as caught:
        await world.library().named(NAME, span=SPAN, ends=True)
    assert str(ONE) in str(caught.value)
    assert str(TWO) in str(caught.value)


def test_a_name_means_the_only_model_in_view() -> None:
    assert World(members={ONE: local(ONE)}).library().resolve(NAME) == ONE


def test_a_name_of_several_is_ambiguous_until_it_is_pinned() -> None:
    members = {ONE: local(ONE), TWO: local(TWO)}
    with pytest.raises(AmbiguousModelError):
        World(members=members).library().resolve(NAME)
    pinned = World(members=members, pins=(f"{NAME}@{'2' * 8}",)).library()
    assert pinned.resolve(NAME) == TWO
    assert pinned.resolve(str(ONE)) == ONE


async def test_a_name_means_what_this_node_loaded_itself_before_all() -> None:
    world = World(disk=local(ONE), members={ONE: local(ONE), TWO: local(TWO)})
    library = world.library()
    await library.named(NAME, span=SPAN, ends=True)
    assert library.resolve(NAME) == ONE


def test_an_unknown_name_says_what_is_known() -> None:
    with pytest.raises(UnknownModelError, match=NAME):
        World(members={ONE: local(ONE)}).library().resolve("org/other")


def test_a_folder_with_an_at_sign_is_no_digest(tmp_path: Path) -> None:
    folder = tmp_path / f"model@{'a' * 12}"
    folder.mkdir()
    with pytest.raises(UnknownModelError, match="model@"):
        World().library().resolve(str(folder))


async def test_what_is_only_pulled_is_on_the_disk_and_not_used() -> None:
    world = World(members={ONE: local(ONE)})
    library = world.library()
    found = await library.pull(NAME, span=SPAN, ends=False, progress=silent)
    assert found.id == ONE
    assert library.models == {}
    assert f"members for {ONE}" in world.asked


async def test_a_model_that_nodes_are_only_loading_is_worth_waiting_for() -> None:
    library = World().library()
    with pytest.raises(ModelOnItsWayError, match="are loading"):
        library.resolve(ONE.name, coming=[ONE])
    with pytest.raises(UnknownModelError):
        library.resolve("another/model", coming=[ONE])
    served = World(members={ONE: cast(LocalModel, SimpleNamespace())}).library()
    assert served.resolve(ONE.name, coming=[ONE]) == ONE
