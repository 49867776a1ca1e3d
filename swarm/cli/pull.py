"""How ``swarm models pull`` gets weights from a swarm: through the node that runs here, or as a member for a while."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli import options
from swarm.cli.console import announce, progress, warn
from swarm.errors import ConfigError, SwarmError

if TYPE_CHECKING:
    from swarm.models.store import LocalModel, Wanted
    from swarm.node.node import Node

LOOK_SECONDS = 0.2


def state_folder(state: str | None) -> Path:
    from swarm.node.keystore import default_state_folder

    return Path(state).expanduser() if state else default_state_folder()


def node_runs(state: str | None) -> bool:
    """Say whether a node of this user answers for the state folder."""
    from swarm.node.control import GetState, ask

    try:
        ask(state_folder(state), GetState())
    except ConfigError:
        return False
    return True


def from_node(name: str, layers: str, ends: bool, state: str | None) -> LocalModel:
    """Have the node that runs here get a model, showing how far it is. Raises SwarmError.

    The node goes on when this process is interrupted.
    """
    from swarm.models.store import ModelStore
    from swarm.node.control import PullModel, ask

    folder, show = state_folder(state), _Shown()
    try:
        while (said := ask(folder, PullModel(name, layers, ends)))["state"] == "running":
            show(said)
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        warn("the node goes on fetching; the same command shows how far it is")
        raise
    finally:
        show.end()
    announce(f"The node that runs here has {said['model']}.")
    found = ModelStore().find(said["folder"], name=said["model"].rpartition("@")[0])
    if found is None:
        raise SwarmError(f"the node says that the model is in {said['folder']}, but nothing is there")
    return found


class _Shown:
    """Shows one piece of work after another; each ends when the next begins."""

    def __init__(self) -> None:
        self._show = progress()
        self._what = ""

    def __call__(self, said: dict[str, Any]) -> None:
        if said["what"] != self._what:
            self.end()
            self._what = said["what"]
        if self._what and said["done_bytes"] < said["total_bytes"]:
            self._show(self._what, said["done_bytes"], said["total_bytes"])

    def end(self) -> None:
        if self._what:
            self._show(self._what, 1, 1)
            self._what = ""


def from_swarm(
    name: str,
    span: Wanted,
    ends: bool,
    bootstrap: Sequence[str],
    state: str | None,
    swarm_key_file: str | None,
) -> LocalModel:
    """Be a member without layers until the weights are here. Raises SwarmError."""
    from swarm.node.keystore import Keystore
    from swarm.node.main import run_node

    asked = {"bootstrap": list(bootstrap), "state": state, "swarm_key_file": swarm_key_file}
    # It dials whom it asks; nobody needs to reach it.
    own = {"layers": "none", "listen": "127.0.0.1:0", "name": f"pull-{platform.node()}"[:32], "config": None}
    settings, _ = options.read_settings({**asked, **own})
    got: list[LocalModel] = []

    async def errand(node: Node) -> None:
        got.append(await node.pull(name, span=span, ends=ends))

    with Keystore(Path(settings.node.state) if settings.node.state else None) as keystore:
        identity = keystore.open(
            create_secret=False,
            swarm_key_file=settings.node.swarm_key_file,
            environ_key=os.environ.get("SWARM_KEY"),
        )
        asyncio.run(run_node(settings, keystore, identity, announce, progress=progress(), errand=errand))
    if not got:
        raise SwarmError("it was stopped before the model was here; what came is kept")
    return got[0]
