"""The node processes of scripts/demo: started, watched and ended. Knows nothing of questions and answers."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _bootstrap import fail

if TYPE_CHECKING:
    from swarm.models.store import LocalModel

HOST = "127.0.0.1"
FIRST_API_PORT = 8000
API_PORTS_TRIED = 100
START_SECONDS = 180.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.1
LOG_TAIL_CHARACTERS = 4000

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens URLs of loopback: a proxy that the environment names can't reach them."""

# Nodes don't get the terminal's Ctrl-C: this process stops them when it has said so.
if sys.platform == "win32":
    _APART: dict[str, Any] = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
else:
    _APART: dict[str, Any] = {"start_new_session": True}


class DemoError(Exception):
    """The demo can't go on; the text says why."""


class Nodes:
    """``count`` nodes on loopback with even spans; the first has the front door."""

    def __init__(self, folder: Path, model: LocalModel, *, count: int, port: int, dtype: str) -> None:
        layers = model.spec.layers
        if count > layers:
            fail(f"{model.id.name} has {layers} layers, too few for {count} nodes")
        self._folder = folder
        self._model = model
        self._dtype = dtype
        self._spans = [(i * layers // count, (i + 1) * layers // count) for i in range(count)]
        self._api_port = port
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = f"http://{HOST}:{self._api_port}"

    def start(self) -> None:
        """Start every node; they find each other by themselves."""
        threads = str(max(1, (os.cpu_count() or 1) // len(self._spans)))
        # The demo's settings are its own; only where models are is the user's to say.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name == "SWARM_HOME" or not name.startswith("SWARM_")
        }
        environment = inherited | {
            "SWARM_KEY": secrets.token_hex(32),
            "OMP_NUM_THREADS": threads,
            "PYTHONUTF8": "1",
        }
        first_port = _free_port()
        for number, (start, end) in enumerate(self._spans, 1):
            print(f"Starting node-{number} with layers {start}:{end} …", flush=True)
            node = [
                "--name",
                f"node-{number}",
                "--state",
                str(self._folder / f"node-{number}"),
                "--exit-with-stdin",
            ]
            what = ["--model", self._model.id.name, "--layers", f"{start}:{end}", "--dtype", self._dtype]
            where = ["--listen", f"{HOST}:{first_port if number == 1 else 0}", "--threads", threads]
            where += ["--api", f"{HOST}:{self._api_port}"] if number == 1 else []
            where += ["--bootstrap", f"{HOST}:{first_port}"] if number > 1 else []
            self._processes.append(self._spawn(number, [*node, *what, *where], environment))

    def _spawn(
        self, number: int, arguments: list[str], environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        with self._log(number).open("wb") as log:
            # The pipe is never written to. It closes when this process ends, however it ends, and the node with it.
            return subprocess.Popen(
                [sys.executable, "-m", "swarm", "join", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                **_APART,
            )

    def wait_until_servable(self) -> None:
        """Wait for a front door that finds every layer. Raises DemoError when a node ends or time is up."""
        words = "Waiting for the nodes to load and find each other …"
        on_terminal = sys.stdout.isatty()
        print(words, end="" if on_terminal else "\n", flush=True)
        begun = time.monotonic()
        health: Any = None
        try:
            while not self._is_servable(health):
                waited = time.monotonic() - begun
                if waited > START_SECONDS:
                    raise DemoError(
                        f"the swarm is not ready after {START_SECONDS:.0f} s; last seen: {health}"
                    )
                if on_terminal:
                    print(f"\r{words} {waited:.0f} s{_still_missing(health)}\x1b[K", end="", flush=True)
                time.sleep(POLL_SECONDS)
                health = self._health()
                self._check()  # after the probe: if a node has ended, who answered was another program
        finally:
            if on_terminal:
                print(flush=True)

    def watch(self) -> None:
        """Return never; raise DemoError when a node ends."""
        while True:
            self._check()
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End every node: politely, then by force."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        give_up = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def logs(self) -> str:
        """Return the end of every node's log."""
        parts = []
        for number in range(1, len(self._processes) + 1):
            text = self._log(number).read_text(encoding="utf-8", errors="replace")
            parts.append(f"--- log of node-{number} ---\n{text[-LOG_TAIL_CHARACTERS:]}")
        return "\n".join(parts)

    def _log(self, number: int) -> Path:
        return self._folder / f"node-{number}.log"

    def _check(self) -> None:
        for number, process in enumerate(self._processes, 1):
            if process.poll() is not None:
                raise DemoError(f"node-{number} ended with exit code {process.returncode}")

    def _health(self) -> Any:
        try:
            try:
                answer = DIRECT.open(f"{self.url}/health", timeout=5)
            except urllib.error.HTTPError as exc:
                answer = exc  # "not servable yet" has a body too
            with answer:
                return json.load(answer)
        except (OSError, ValueError, http.client.HTTPException):
            return None  # not listening yet, or not one of ours

    def _is_servable(self, health: Any) -> bool:
        models = health.get("models", []) if isinstance(health, dict) else []
        return any(model.get("servable") for model in models)


def _still_missing(health: Any) -> str:
    models = health.get("models", []) if isinstance(health, dict) else []
    missing = models[0].get("missing", []) if models else []
    return f", layers {', '.join(missing)} are still to come" if missing else ""


def choose_api_port(wanted: int | None) -> int:
    """Return the port of the API: the wanted one, any free one for 0, else the first free from 8000 on.

    Ends the program when the wanted port is taken.
    """
    if wanted == 0:
        return _free_port()
    if wanted is None:
        tried = range(FIRST_API_PORT, FIRST_API_PORT + API_PORTS_TRIED)
        return next((port for port in tried if _is_free(port)), None) or _free_port()
    if not _is_free(wanted):
        fail(f"port {wanted} of {HOST} can't be used: another program has it, or only root may")
    return wanted


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        if os.name == "posix":  # as servers do: connections that just ended don't count
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
        return True
