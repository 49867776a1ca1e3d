"""Makes `.venv` and continues in it; makes `.venv-clients`. Standard library only; knows nothing of the project."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CLIENTS_VENV = ROOT / ".venv-clients"
CLIENTS_PINS = ROOT / "tests" / "clients" / "constraints.txt"
STAMP = VENV / "swarm-setup.json"
OLDEST_PYTHON = (3, 11)
SUITABLE_PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14")


def enter_environment(*, with_tests: bool) -> None:
    """Return once the script runs on `.venv`'s Python with all installed; may start the script anew."""
    _require_python()
    if not _inside_venv():
        if not _python_of(VENV).exists():
            _make_venv(VENV)
        _continue_with(_python_of(VENV))
    if not _is_installed(with_tests):
        _install(with_tests)
        _continue_with(_python_of(VENV))  # a running interpreter doesn't see what was just installed


def ensure_clients() -> None:
    """Make the environment of the Python clients in tests/clients: their needs must not bend swarm's own."""
    stamp = CLIENTS_VENV / STAMP.name
    wanted = _digest(Path("pyproject.toml"), CLIENTS_PINS)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    import tomllib

    python = _python_of(CLIENTS_VENV)
    if not python.exists():
        _make_venv(CLIENTS_VENV)
    print(f"Installing the Python clients into {CLIENTS_VENV.name} …", flush=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        str(CLIENTS_PINS),
    ]
    if subprocess.run([*pip, *project["optional-dependencies"]["clients"]], check=False).returncode != 0:
        fail("pip could not install the clients; its message stands above")
    stamp.write_text(wanted)


def fail(message: str) -> NoReturn:
    """End with exit status 1 and one line that says what to do."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(1)


def _require_python() -> None:
    if sys.version_info >= OLDEST_PYTHON:
        return
    for name in SUITABLE_PYTHONS:
        found = shutil.which(name)
        if found is not None:
            _continue_with(Path(found))
    fail(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}")


def _continue_with(python: Path) -> NoReturn:
    sys.stdout.flush()
    command = [str(python), str(Path(sys.argv[0]).resolve()), *sys.argv[1:]]
    if os.name != "nt":
        os.execv(command[0], command)
    # execv on Windows would hand the console back to the shell while the new process still writes to it.
    child = subprocess.Popen(command)
    while True:
        try:
            raise SystemExit(child.wait())
        except KeyboardInterrupt:
            continue  # the console sent Ctrl-C to the child too; it cleans up and ends by itself


def _python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _inside_venv() -> bool:
    return VENV.exists() and Path(sys.prefix).samefile(VENV)


def _make_venv(venv: Path) -> None:
    print(f"Making {venv.name} with Python {sys.version.split()[0]} …", flush=True)
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=False).returncode != 0:
        shutil.rmtree(venv, ignore_errors=True)
        fail(f"could not make {venv}; on Debian and Ubuntu install the package python3-venv first")


def _wanted_digest() -> str:
    return _digest(Path("pyproject.toml"), Path("constraints.txt"))


def _digest(*files: Path) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update((ROOT / file).read_bytes())
    return digest.hexdigest()


def _is_installed(with_tests: bool) -> bool:
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return False
    return bool(stamp.get("digest") == _wanted_digest() and (stamp.get("with_tests") or not with_tests))


def _install(with_tests: bool) -> None:
    project = str(ROOT) + ("[dev,docs]" if with_tests else "")
    print("Installing what swarm needs into .venv (minutes the first time, PyTorch is large) …", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "-c", str(ROOT / "constraints.txt")]
    if STAMP.exists():
        pip.append("--quiet")  # the first time takes minutes and shows what happens
    if subprocess.run([*pip, "-e", project], check=False).returncode != 0:
        fail("pip could not install the project; its message stands above")
    stamp = {"digest": _wanted_digest(), "with_tests": with_tests}
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_text(json.dumps(stamp))
    temporary.replace(STAMP)
