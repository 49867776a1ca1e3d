"""Clients that need an environment of their own: where it is, what they are told, and the scripted door for them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.front_door import MODEL as SCRIPTED_MODEL
from tests.support.swarm_process import MODEL

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "clients"
PYTHON = ROOT / ".venv-clients" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "127.0.0.1,localhost",
    "OMP_NUM_THREADS": "1",
}


def environment(real: str, scripted: str) -> dict[str, str]:
    """Return the variables that tell clients of both doors, given their URLs; nothing calls home."""
    doors = {
        "SWARM_REAL": real,
        "SWARM_REAL_MODEL": MODEL,
        "SWARM_SCRIPTED": scripted,
        "SWARM_SCRIPTED_MODEL": SCRIPTED_MODEL,
    }
    return os.environ | doors | _QUIET


def run_by_pytest(file: str, *arguments: str) -> list[str]:
    """Return the command that runs a file of tests/clients with the clients' own pytest."""
    settings = ["-c", str(FOLDER / "pytest.ini"), "-p", "no:cacheprovider", "-q"]
    return [str(PYTHON), "-m", "pytest", *settings, str(FOLDER / file), *arguments]


@contextlib.contextmanager
def scripted_door() -> Iterator[str]:
    """Run a front door with a scripted node; yields its URL."""
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "scripted_door.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        url = process.stdout.readline().strip() if process.stdout else ""
        if not url:
            raise RuntimeError("the scripted door did not start; what it says stands above")
        yield url
    finally:
        process.terminate()
        process.wait()
