"""A node as a process: signals in, one Node run to its end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from swarm.node.node import Node

if TYPE_CHECKING:
    from swarm.config import Config
    from swarm.models.progress import Progress
    from swarm.node.doors import FrontDoorFactory
    from swarm.node.keystore import Keystore, NodeIdentity
    from swarm.types import Address


SWITCH_SECONDS = 0.0002
"""How long a thread that wants the interpreter waits for it: Python's 5 ms are a quarter of a token, and the compute
thread wants it several times a layer."""


async def run_node(
    config: Config,
    keystore: Keystore,
    identity: NodeIdentity,
    announce: Callable[[str], None],
    *,
    open_front_door: FrontDoorFactory | None = None,
    progress: Progress | None = None,
    on_listening: Callable[[Address], None] | None = None,
    errand: Callable[[Node], Awaitable[None]] | None = None,
) -> None:
    """Run a node until SIGINT or SIGTERM, and until its answers have ended or moved; a second signal ends it at once.

    Raises SwarmError when it can't start or go on.

    ``open_front_door`` is called when the settings, or the node's user later on, ask for a door; callers bring it:
    nodes know no HTTP.
    ``on_listening`` is told the address bound, once it is. With an ``errand`` the node leaves when that is done.
    """
    node = Node(config, keystore, identity, announce, progress)
    loop = asyncio.get_running_loop()
    sys.setswitchinterval(SWITCH_SECONDS)

    def on_signal(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(node.stop)

    if sys.platform == "win32":
        handled = (signal.SIGINT, signal.SIGBREAK)
    else:
        handled = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, on_signal) for number in handled}
    try:
        await node.run(open_front_door, on_listening, errand)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
