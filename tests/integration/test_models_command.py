"""``swarm models``: pulled from a hub on loopback, listed, verified and removed; and what it says when that fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from swarm.cli.models import app, size
from swarm.errors import ModelError
from swarm.models.store import ModelStore
from swarm.types import LayerSpan
from tests.support.hub_server import Hub, serving_hub
from tests.support.model_folders import FIRST, LAYERS, MIDDLE, write_large, write_sharded
from tests.support.weight_peers import weight_peers

NAME = "org/model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("SWARM_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        served.repositories[NAME] = write_sharded(tmp_path / "served")
        yield served


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def listed() -> list[dict[str, Any]]:
    return list(json.loads(run("list", "--json").stdout))


def test_a_pulled_model_is_listed_verified_and_removed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("pull", NAME).exit_code == 0
    (model,) = listed()
    assert model["name"] == NAME
    assert model["layers_here"] == [f"0:{LAYERS}"]
    assert model["ends_here"] is True
    assert model["disk_bytes"] > 0
    assert NAME in run("list").stdout
    monkeypatch.setenv("COLUMNS", "60")  # nothing that one copies is broken into pieces
    narrow = run("list").stdout.splitlines()
    assert narrow[0] == f"{NAME}@{model['digest'][:12]}"
    assert narrow[2].strip() == model["folder"]
    assert all(one["right"] for one in json.loads(run("verify", NAME, "--json").stdout))
    assert re.fullmatch(f"{NAME}@{model['digest']}:[0-9a-f]{{64}}", model["pin"])
    assert f'pins = ["{model["pin"]}"]' in "".join(run("verify", NAME).output.split("\n"))
    assert run("remove", NAME, "--yes").exit_code == 0
    assert listed() == []
    assert not (tmp_path / "home" / "models" / "org" / "model").exists()


def test_only_the_layers_asked_for_are_pulled(hub: Hub) -> None:
    assert run("pull", NAME, "--layers", "1:3", "--no-ends").exit_code == 0
    assert hub.sent_weights() == {MIDDLE}
    (model,) = listed()
    assert model["layers_here"] == ["1:3"]
    assert model["ends_here"] is False


def test_a_file_that_changed_is_told_by_verify(hub: Hub, tmp_path: Path) -> None:
    run("pull", NAME)
    file = tmp_path / "home" / "models" / "org" / "model" / FIRST
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    stat = file.stat()
    file.write_bytes(data)
    # As a failing disk would: neither size nor time tell.
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ended = run("verify", NAME)
    assert isinstance(ended.exception, ModelError)
    assert FIRST in str(ended.exception)
    assert "damaged" in ended.stdout


def test_a_hub_that_breaks_off_leaves_nothing_that_counts(hub: Hub) -> None:
    hub.status = 500
    ended = run("pull", NAME)
    assert isinstance(ended.exception, ModelError)
    assert listed() == []


def test_what_is_not_there_can_be_neither_verified_nor_removed(hub: Hub) -> None:
    for command in (["verify", "org/none"], ["remove", "org/none", "--yes"]):
        ended = run(*command)
        assert isinstance(ended.exception, ModelError)
        assert "org/none is not" in str(ended.exception)


def test_of_a_model_in_part_only_what_is_here_is_counted(hub: Hub, tmp_path: Path) -> None:
    async def fetch() -> None:
        async with weight_peers(tmp_path, 2) as (giver, taker):
            taker.store = taker.transfer.store = ModelStore()
            model = giver.adopt(write_large(tmp_path / "large", files=1), "org/large")
            await taker.obtain(model, [giver], span=LayerSpan(1, 2))

    asyncio.run(fetch())
    (model,) = listed()
    assert model["layers_here"] == ["1:2"]
    assert model["disk_bytes"] < model["weight_bytes"] / 2
    (config, weights) = json.loads(run("verify", "org/large", "--json").stdout)
    assert config["state"] == "right"
    assert "chunks here, all right" in weights["state"]


@pytest.mark.parametrize(
    ("octets", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (272_400_000, "272.4 MB"), (8 * 10**12, "8.0 TB")],
)
def test_sizes_are_said_as_people_read_them(octets: int, shown: str) -> None:
    assert size(octets) == shown
