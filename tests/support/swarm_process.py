"""Real nodes as processes, for tests and benchmarks: started, waited for, killed and ended by their own ids."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tests.support.preloaded import ENVIRONMENT, PreloadedNode
from tests.support.slow_link import SlowLinks

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
START_SECONDS = 120.0
GOES_ON = re.compile(r"^(\S+ \S+) INFO swarm\.\S+ an answer goes on", re.MULTILINE)
Found = TypeVar("Found")
PLAIN = (sys.executable, "-m", "swarm")

preload = False
"""Whether nodes are forked from a process that has imported what they import; set by tests/integration."""


def free_port() -> int:
    """A port of loopback that nobody listens on now, and that the system gives to nobody who asks for any port.

    A node takes it seconds later: until then tests beside this one open many sockets.
    """
    while True:
        port = 10_000 + secrets.randbelow(22_768)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_for(what: str, probe: Callable[[], Found | None], *, seconds: float = START_SECONDS) -> Found:
    """Poll until ``probe`` returns something true; fail loudly after ``seconds``."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        found = probe()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"waited {seconds:.0f} s for {what}")


@dataclass
class NodeProcess:
    """One ``python -m swarm join``."""

    name: str
    folder: Path
    arguments: list[str]
    listen: int
    api: int | None
    environment: dict[str, str]
    reached_by: int
    """The port other nodes use: this node's own, or a proxy's."""
    program: Sequence[str] = PLAIN
    process: subprocess.Popen[bytes] | PreloadedNode | None = None
    started_at: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def reroutes(self) -> list[float]:
        """When its answers went on over another path: seconds since 1970, by the milliseconds of its log."""
        moments = GOES_ON.findall(self.log)
        return [datetime.strptime(moment, "%Y-%m-%d %H:%M:%S,%f").timestamp() for moment in moments]

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self.process.pid

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started_at = time.monotonic()
        plain = self.program == PLAIN and self.environment["OMP_NUM_THREADS"] == "1"
        if preload and plain and self.environment.keys() == ENVIRONMENT:
            (self.folder / "log").touch()  # to be read at once, as where this process opens it
            own = {**os.environ, **self.environment}
            self.process = PreloadedNode(self.arguments, own, self.folder / "log")
            return
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "join", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
            )

    def get(self, path: str) -> tuple[int, Any]:
        """GET from this node's front door; returns status and JSON body (None when it can't be reached)."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            return exc.code, json.load(exc)
        except OSError:
            return 0, None

    def at_rest(self) -> bool:
        """Whether this node, which has a front door, works for nobody and holds no KV but what it keeps."""
        _, state = self.get("/swarm/state")
        engine = state["engine"] if state else {"hop_sessions": -1}
        return bool(
            engine["hop_sessions"] == 0
            and engine["kv_used_bytes"] == engine["kv_kept_bytes"]
            and not state["sessions"]
        )

    def servable(self) -> bool:
        self.check()
        return self.get("/health")[0] == 200

    def check(self) -> None:
        """Raise what the log says if the process has ended."""
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log[-4000:]}")

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: the process does nothing and its connections stay."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start the same node again, with its identity; what ran is killed if it has not ended."""
        self.kill()
        self.start()

    @property
    def node_id(self) -> str:
        """What it says of itself in its log; empty before that."""
        found = re.search(r"^Node (\S+) \(", self.log, re.MULTILINE)
        return found[1] if found else ""

    def stop(self, seconds: float = 15) -> None:
        """SIGTERM, and SIGKILL if it has not left within so many seconds."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass
class SwarmProcesses:
    """A swarm of processes on loopback; the first node added starts it."""

    folder: Path
    dtype: str = "float32"
    model: str = MODEL
    threads: int = 1
    key: str = field(default_factory=lambda: secrets.token_hex(32))
    nodes: list[NodeProcess] = field(default_factory=list)
    settings: str = ""
    """TOML for every node."""
    slow_links: SlowLinks | None = None
    """Others reach every node through a proxy of these, if given."""
    program: Sequence[str] = PLAIN

    def add(
        self,
        layers: str,
        *,
        api: bool = True,
        start: bool = True,
        name_model: bool = True,
        extra: Sequence[str] = (),
    ) -> NodeProcess:
        """Add a node that holds ``layers`` (``A:B``, ``none`` or ``auto``), told the model or left to find out."""
        index = len(self.nodes)
        listen, door = free_port(), free_port() if api else None
        folder = self.folder / f"node{index}"
        arguments = ["--listen", f"127.0.0.1:{listen}", "--dtype", self.dtype]
        if name_model:
            arguments += ["--model", self.model]
        arguments += [
            "--threads",
            str(self.threads),
            "--state",
            str(folder / "state"),
            "--name",
            f"node{index}",
        ]
        if layers != "auto":
            arguments += ["--layers", layers]
        if door is not None:
            arguments += ["--api", f"127.0.0.1:{door}"]
        reached_by = self.slow_links.to(listen) if self.slow_links else listen
        if self.settings:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "swarm.toml").write_text(self.settings, encoding="utf-8")
            arguments += ["--config", str(folder / "swarm.toml")]
        if self.slow_links:
            arguments += ["--advertise", f"127.0.0.1:{reached_by}"]
        for other in self.nodes[:2]:
            arguments += ["--bootstrap", f"127.0.0.1:{other.reached_by}"]
        environment = {"SWARM_KEY": self.key, "OMP_NUM_THREADS": str(self.threads)}
        node = NodeProcess(
            f"node{index}",
            folder,
            arguments + list(extra),
            listen,
            door,
            environment,
            reached_by,
            self.program,
        )
        self.nodes.append(node)
        if start:
            node.start()
        return node

    def on_route(self, route: str, layer: int) -> NodeProcess:
        """The process that computes ``layer`` on a route as the header x-swarm-route says it."""
        for hop in route.split(","):
            identity, _, span = hop.strip().partition("=")
            start, _, end = span.partition(":")
            if int(start) <= layer < int(end):
                return next(node for node in self.nodes if node.node_id.startswith(identity))
        raise ValueError(f"nobody computes layer {layer} on {route}")

    def holders(self, door: NodeProcess, span: str) -> int:
        """How many nodes hold exactly ``span`` and get new sessions, as ``door`` sees it."""
        _, state = door.get("/swarm/state")
        members = state["members"] if state else []
        return sum(
            member["routable"] and any(held["layers"] == span for held in member["spans"])
            for member in members
        )

    def wait_servable(self, nodes: Sequence[NodeProcess] | None = None) -> None:
        """Wait until every front door says that its model can be served."""
        for node in nodes or self.nodes:
            if node.api is not None:
                wait_for(f"{node.name} to be servable", node.servable)

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.stop()


@contextlib.contextmanager
def swarm_of(
    spans: Sequence[str],
    *,
    doors: Sequence[bool] | None = None,
    extra: Sequence[str] = (),
    labels: Sequence[str] = (),
    **options: Any,
) -> Iterator[SwarmProcesses]:
    """Run one node for each of ``spans``, with its label if there are any; yields when all doors can serve."""
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        swarm = SwarmProcesses(Path(folder), **options)
        try:
            for index, span in enumerate(spans):
                own = ["--label", labels[index]] if labels else []
                swarm.add(span, api=doors[index] if doors else True, extra=[*extra, *own])
            swarm.wait_servable()
            yield swarm
        finally:
            swarm.stop()
