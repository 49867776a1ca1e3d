"""scripts/demo as a person runs it: an answer, its route, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.swarm_process import wait_for

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo"

pytestmark = [pytest.mark.real_model, pytest.mark.processes, pytest.mark.timeout(300)]


def test_the_demo_answers_shows_route_and_speed_and_ends_whatever_the_environment_says() -> None:
    nowhere = "http://127.0.0.1:9"
    run = subprocess.run(
        [sys.executable, DEMO, "--once", "--port", "0", "--nodes", "3"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"http_proxy": nowhere, "SWARM_API_KEYS": "hunter2", "SWARM_KEY": "no secret"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Paris" in run.stdout
    assert "Route: node-1 layers 0:10 -> node-2 layers 10:20 -> node-3 layers 20:30" in run.stdout
    assert re.search(r"Time to first token: \d+\.\d+ s", run.stdout)
    assert re.search(r"Tokens per second: \d+\.\d+", run.stdout)


def test_a_port_that_another_program_has_ends_the_demo_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = subprocess.run(
            [sys.executable, DEMO, "--port", str(port)], capture_output=True, text=True, check=False
        )
    assert (run.returncode, run.stdout) == (1, "")
    assert (
        run.stderr
        == f"demo: port {port} of 127.0.0.1 can't be used: another program has it, or only root may\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_no_node_outlives_the_demo(number: signal.Signals) -> None:
    with serving_demo() as demo:
        nodes = psutil.Process(demo.pid).children(recursive=True)
        assert sum("join" in node.cmdline() for node in nodes) == 2
        demo.send_signal(number)
        demo.wait()
        wait_for("the nodes to be gone", lambda: not any(node.is_running() for node in nodes), seconds=60)


def test_a_node_that_ends_ends_the_demo_with_its_log() -> None:
    with serving_demo() as demo:
        psutil.Process(demo.pid).children()[1].kill()
        _, errors = demo.communicate()
    assert demo.returncode == 1
    assert "demo: node-2 ended with exit code -9" in errors
    assert "--- log of node-2 ---" in errors


@contextlib.contextmanager
def serving_demo() -> Iterator[subprocess.Popen[str]]:
    """Run two nodes until the demo says that it serves; kill it at the end if it still runs."""
    demo = subprocess.Popen(
        [sys.executable, DEMO, "--port", "0", "--nodes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in demo.stdout or ():
            if line.startswith("Serving until Ctrl-C"):
                assert "In a browser" in line
                break
        else:
            raise RuntimeError(f"the demo ended with {demo.wait()}")
        yield demo
    finally:
        demo.kill()
        demo.wait()
        for pipe in (demo.stdout, demo.stderr):
            if pipe is not None:
                pipe.close()
