"""The rivals of scripts/bench_serving.py: found, started on loopback with the same model, waited for and stopped.

Knows nothing of prompts, of rates or of swarm's own nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.models.store import ModelStore
from tests.support.swarm_process import free_port, wait_for

HOST = "127.0.0.1"
READY_SECONDS = 180.0
STOP_SECONDS = 15.0
VERSION_SECONDS = 60.0
LOG_TAIL_CHARACTERS = 2000


class PeerError(Exception):
    """A rival is missing, can't run as asked, or did not start; the text says why and what to do."""


@dataclass(frozen=True)
class Wanted:
    """What a rival shall run. ``context`` is in tokens a stream, prompt and answer together."""

    model: str
    nodes: int
    threads: int
    dtype: str
    streams: int
    context: int
    gguf: Path | None = None

    def layers_of(self, layers: int) -> list[int]:
        """How many of ``layers`` each node holds: as even as can be."""
        return [(node + 1) * layers // self.nodes - node * layers // self.nodes for node in range(self.nodes)]


@dataclass
class RunningPeer:
    """A rival that answers ``url``/v1/chat/completions."""

    name: str
    version: str
    weights: str
    url: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]


class Processes:
    """Processes of one rival with a log each in ``folder``; ended by their own ids, the last started first."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.all: list[subprocess.Popen[bytes]] = []
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        with self._log(len(self.all)).open("wb") as log:
            self.all.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    env={**self._environment, **(environment or {})},
                )
            )

    def wait(self, what: str, probe: Callable[[], bool]) -> None:
        """Poll ``probe``; raises PeerError with the logs when a process ends or the time is over."""

        def probed() -> bool:
            for index, process in enumerate(self.all):
                if process.poll() is not None:
                    raise PeerError(f"{what}: a process ended with {process.returncode}\n{self.log(index)}")
            return probe()

        try:
            wait_for(what, probed, seconds=READY_SECONDS)
        except TimeoutError as exc:
            logs = "\n".join(self.log(index) for index in range(len(self.all)))
            raise PeerError(f"{exc}\n{logs}") from exc

    def log(self, index: int) -> str:
        return self._log(index).read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]

    def stop(self) -> None:
        for process in reversed(self.all):
            process.terminate()
        for process in reversed(self.all):
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log(self, index: int) -> Path:
        return self.folder / f"log{index}"


class LanguagePipes:
    """Language Pipes: every node holds layers, the first also the ends and the API.

    It opens its ports on every address of this machine, whatever it is told: without a key, so run it where
    others can't reach them. It knows no ``ignore_eos`` and always computes in bfloat16.
    """

    name = "language-pipes"
    install = "pip install language-pipes in an environment of its own, and put language-pipes on the PATH"

    def check(self, wanted: Wanted) -> None:
        _executable(self, "language-pipes")
        if wanted.dtype != "bfloat16":
            raise PeerError("language-pipes computes in bfloat16 only: run the bench with --dtype bfloat16")
        _model_folder(wanted.model)

    def start(self, wanted: Wanted, processes: Processes) -> RunningPeer:
        program = _executable(self, "language-pipes")
        folder = _model_folder(wanted.model)
        models = processes.folder / "models"
        _link(folder, models / wanted.model / "data")
        layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
        api, first = free_port(), free_port()
        ports = [first, *[free_port() for _ in range(wanted.nodes - 1)]]
        for node, (port, count) in enumerate(zip(ports, wanted.layers_of(layers), strict=True)):
            home = processes.folder / f"node{node}"
            home.mkdir()
            # It divides the memory by the size of a layer and rounds down.
            memory = (count + 0.5) * _layer_bytes(folder) / 2**30
            (home / "node.toml").write_text(_pipes_settings(wanted, node, port, first, api, memory))
            environment = {
                "LP_APP_DIR": str(home / "app"),
                "LP_MODEL_DIR": str(models),
                "HOME": str(home),
                "USERPROFILE": str(home),
                "HF_HUB_OFFLINE": "1",
            }
            processes.start([program, "-c", str(home / "node.toml"), "run"], environment)
            # A node takes the layers that nobody before it has announced, so they start one by one.
            processes.wait(
                f"language-pipes node {node} to hold {count} layers",
                lambda node=node: "successfully loaded on" in processes.log(node),  # type: ignore[misc]
            )
        url = f"http://{HOST}:{api}"
        processes.wait(
            "language-pipes to offer the model",
            lambda: wanted.model in json.dumps(_get(f"{url}/v1/models")),
        )
        return RunningPeer(self.name, _version(program, "-v"), "bfloat16", url, processes.all)


class LlamaCpp:
    """llama.cpp: llama-server and, from two nodes up, RPC servers that hold the later layers and the head."""

    name = "llama.cpp"
    install = (
        "build llama.cpp with -DGGML_RPC=ON, put llama-server and ggml-rpc-server on the PATH, "
        "make a GGUF file with its convert_hf_to_gguf.py --outtype bf16 and name it with --gguf"
    )

    def check(self, wanted: Wanted) -> None:
        _executable(self, "llama-server")
        if wanted.nodes > 1:
            _executable(self, "ggml-rpc-server", "rpc-server")
        if wanted.gguf is None or not wanted.gguf.is_file():
            raise PeerError(f"llama.cpp needs a GGUF file of {wanted.model}: {self.install}")

    def start(self, wanted: Wanted, processes: Processes) -> RunningPeer:
        self.check(wanted)
        if wanted.gguf is None:
            raise PeerError(self.install)
        program = _executable(self, "llama-server")
        layers, weights = _gguf_facts(wanted.gguf)
        api = free_port()
        command = [program, "--model", str(wanted.gguf.resolve()), "--host", HOST, "--port", str(api)]
        command += ["--threads", str(wanted.threads), "--threads-batch", str(wanted.threads)]
        command += ["--parallel", str(wanted.streams), "--ctx-size", str(wanted.streams * wanted.context)]
        rpc = [free_port() for _ in range(wanted.nodes - 1)]
        for port in rpc:
            server = _executable(self, "ggml-rpc-server", "rpc-server")
            options = ["--host", HOST, "--port", str(port), "--threads", str(wanted.threads)]
            processes.start([server, *options])
        if rpc:
            # The output layer counts as one more and goes with the last layers.
            away = sum(wanted.layers_of(layers)[1:]) + 1
            command += ["--rpc", ",".join(f"{HOST}:{port}" for port in rpc), "--gpu-layers", str(away)]
            command += ["--tensor-split", ",".join("1" for _ in rpc), "--fit", "off"]
        processes.start(command)
        url = f"http://{HOST}:{api}"
        processes.wait("llama-server to be ready", lambda: _get(f"{url}/health") is not None)
        return RunningPeer(self.name, _version(program, "--version"), weights, url, processes.all)


Peer = LanguagePipes | LlamaCpp
PEERS: dict[str, Peer] = {peer.name: peer for peer in (LanguagePipes(), LlamaCpp())}


@contextlib.contextmanager
def running(name: str, wanted: Wanted) -> Iterator[RunningPeer]:
    """Run a rival as ``wanted``; yields when it answers and ends its processes. Raises PeerError."""
    peer = PEERS[name]
    peer.check(wanted)
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder:
        processes = Processes(Path(folder), wanted.threads)
        try:
            yield peer.start(wanted, processes)
        finally:
            processes.stop()


def _executable(peer: Peer, *names: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found:
            return str(Path(found).absolute())
    raise PeerError(f"{peer.name}: no {' or '.join(names)} on the PATH. To have it: {peer.install}")


def _version(program: str, option: str) -> str:
    done = subprocess.run(
        [program, option], capture_output=True, text=True, check=False, timeout=VERSION_SECONDS
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return next((line for line in lines if "version" in line), lines[0] if lines else "unknown")


def _get(url: str) -> Any | None:
    """The JSON that ``url`` answers with, None while it does not."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def _model_folder(model: str) -> Path:
    found = ModelStore().find(model)
    if found is None:
        raise PeerError(f"the rivals need {model} on disk: run swarm once")
    return found.folder.resolve()


def _link(target: Path, link: Path) -> None:
    """Show ``target`` at ``link``: a link where the system lets us, a copy elsewhere."""
    link.parent.mkdir(parents=True)
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        shutil.copytree(target, link)


def _layer_bytes(folder: Path) -> int:
    """The size of the first layer's tensors in ``folder``/model.safetensors."""
    with (folder / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    spans = [entry["data_offsets"] for name, entry in header.items() if ".layers.0." in name]
    return sum(end - start for start, end in spans)


def _gguf_facts(file: Path) -> tuple[int, str]:
    """How many layers a GGUF file has, and how most of its weights are stored."""
    import gguf

    reader = gguf.GGUFReader(file)

    def value(key: str) -> Any:
        found = reader.get_field(key)
        if found is None:
            raise PeerError(f"{file.name} does not say its {key}")
        return found.contents()

    architecture = value("general.architecture")
    kind = gguf.LlamaFileType(value("general.file_type")).name
    return int(value(f"{architecture}.block_count")), str(kind).removeprefix("MOSTLY_").removeprefix("ALL_")


def _pipes_settings(wanted: Wanted, node: int, port: int, first: int, api: int, memory: float) -> str:
    """The TOML file of one Language Pipes node; the first has the ends and the API."""
    jobs = 2 * wanted.streams
    lines = [f'node_id = "node-{node}"', f'network_ip = "{HOST}"', f"peer_port = {port}"]
    lines += [f"max_node_jobs = {jobs}", f"max_api_jobs = {jobs}"]
    if node == 0:
        lines += [f"job_port = {api}", f'end_models = ["{wanted.model}"]']
    lines += ["[[layer_models]]", f'model_id = "{wanted.model}"', 'device = "cpu"', f"memory = {memory!r}"]
    if node:
        lines += ["[[bootstrap_nodes]]", f'address = "{HOST}"', f"port = {first}"]
    return "\n".join(lines) + "\n"
