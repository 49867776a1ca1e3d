"""Load on a swarm of processes with a small model: requests, readers that stop reading, and what is left of them."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.streams import body_of
from tests.support.swarm_process import NodeProcess, SwarmProcesses, wait_for

SPANS = ("0:3", "3:6")
"""The halves of the model of tests/support/tiny_model.py."""
END_SECONDS = 20.0


def all_held(swarm: SwarmProcesses, door: NodeProcess) -> bool:
    """Whether ``door`` sees two holders of each half."""
    return all(swarm.holders(door, span) == 2 for span in SPANS)


def asking(swarm: SwarmProcesses, number: int, tokens: int, *, words: int = 5, **more: Any) -> dict[str, Any]:
    """Return a request for ``tokens`` tokens whose prompt is of so many words, each several tokens."""
    prompt = " ".join(f"word{number}" for _ in range(words))
    return body_of(Path(swarm.model).name, prompt, tokens, **more)


def wait_at_rest(swarm: SwarmProcesses, seconds: float = 15.0) -> float:
    """Wait until no node holds anything for anybody; return how long that took."""
    began = time.monotonic()
    for node in swarm.nodes:
        if node.process is not None and node.process.poll() is None:
            wait_for(f"{node.name} to hold nothing", node.at_rest, seconds=seconds)
    return time.monotonic() - began


def stalled(url: str, body: dict[str, Any]) -> socket.socket:
    """Ask over a connection that takes 4 KiB, and read nothing."""
    where = httpx.URL(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((where.host, where.port))
    request = httpx.Request("POST", f"{url}/v1/chat/completions", json=body)
    head = f"POST {request.url.path} HTTP/1.1\r\n" + "".join(
        f"{k}: {v}\r\n" for k, v in request.headers.items()
    )
    connection.sendall(head.encode() + b"\r\n" + request.content)
    return connection


def end_of(connection: socket.socket) -> tuple[bytes, bool]:
    """Read what is still on its way; return it and whether the connection was reset.

    Raises TimeoutError for one that neither says more nor ends.
    """
    connection.settimeout(END_SECONDS)
    read = bytearray()
    try:
        while data := connection.recv(65536):
            read += data
    except ConnectionResetError:
        return bytes(read), True
    return bytes(read), False


def metric(door: NodeProcess, name: str) -> float:
    """Return one number without labels of a door's metrics."""
    lines = httpx.get(f"{door.url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def being_written(door: NodeProcess) -> int:
    """How many answers this door has not yet sent to their end."""
    return int(metric(door, "swarm_running_answers"))
