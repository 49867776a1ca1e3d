"""Nodes as processes of their own that need not import what every node imports: that is most of what a start costs.

Python's fork server imports it once (warm.py) and is forked for each node. What a node is told, its signals and how it
ends are as with `python -m swarm join`; starts from nothing are shown by the tests of the demo, invites and terminals.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

AVAILABLE = sys.platform == "linux"
"""macOS's own libraries don't survive a fork, Windows has none."""

ENVIRONMENT = frozenset({"SWARM_KEY", "OMP_NUM_THREADS"})
"""What may differ from one node to the other: libraries read other variables when they are imported."""

_MODULES = ["tests.support.warm", "tests.support.preloaded"]


class PreloadedNode:
    """As much of subprocess.Popen as swarms of tests use."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        _start_server()
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_join, args=(list(arguments), dict(environment), str(log)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return how it ended. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("swarm join", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _start_server() -> None:
    multiprocessing.get_context("forkserver").set_forkserver_preload(_MODULES)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the library when torch is imported
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _join(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Run a node in the forked process."""
    gc.freeze()
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["swarm", "join", *arguments]
    from swarm.__main__ import main

    main()
