"""What ``swarm doctor`` looks at on this machine: versions, TLS, memory, disk, the state folder, the port."""

from __future__ import annotations

import os
import platform
import shutil
import ssl
from importlib import metadata
from pathlib import Path

import psutil

from swarm import __version__
from swarm.cli.findings import Finding
from swarm.errors import ConfigError
from swarm.types import Address

PACKAGES = (
    "torch",
    "transformers",
    "safetensors",
    "tokenizers",
    "websockets",
    "quart",
    "hypercorn",
    "cryptography",
)
LOW_MEMORY_BYTES = 1 << 30
LOW_DISK_BYTES = 2 << 30


def versions() -> list[Finding]:
    found = {name: _version(name) for name in PACKAGES}
    absent = [name for name, version in found.items() if not version]
    packages = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    findings = [
        Finding("versions", "ok", f"swarm {__version__}, Python {platform.python_version()} on {platform.platform()}"),
        Finding("versions", "ok", packages),
    ]  # fmt: skip
    if absent:
        findings.append(
            Finding(
                "versions",
                "fail",
                f"not installed: {', '.join(absent)}",
                "install swarm again: pip install -c constraints.txt . in its clone",
            )
        )
    if not ssl.HAS_TLSv1_3:
        findings.append(
            Finding(
                "tls",
                "fail",
                f"{ssl.OPENSSL_VERSION} has no TLS 1.3",
                "use a Python with OpenSSL 1.1.1 or newer",
            )
        )
    else:
        findings.append(Finding("tls", "ok", f"{ssl.OPENSSL_VERSION}, TLS 1.3"))
    return findings


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def machine() -> list[Finding]:
    from swarm.models.store import default_home

    memory = psutil.virtual_memory()
    findings = [
        Finding(
            "memory",
            "ok" if memory.available >= LOW_MEMORY_BYTES else "warn",
            f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free, "
            f"{psutil.cpu_count(logical=False)} cores",
            ""
            if memory.available >= LOW_MEMORY_BYTES
            else "close other programs, or hold fewer layers (--layers A:B)",
        )
    ]
    home = default_home()
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    findings.append(
        Finding(
            "disk",
            "ok" if free >= LOW_DISK_BYTES else "warn",
            f"{free / 2**30:.1f} GiB free for models in {home}",
            "" if free >= LOW_DISK_BYTES else "make room, or keep models elsewhere: SWARM_HOME=FOLDER",
        )
    )
    if not os.access(there, os.W_OK):
        findings.append(
            Finding("disk", "fail", f"{there} can't be written to", "set SWARM_HOME to a folder of yours")
        )
    return findings


def state_folder(folder: Path, *, node_runs: bool) -> list[Finding]:
    from swarm.node.keystore import SECRET_FILE, Keystore

    if not folder.exists():
        return [
            Finding(
                "state folder",
                "warn",
                f"{folder} does not exist: no node ran here yet",
                "start a swarm with `python -m swarm join --model ID`, or join one with an invite",
            )
        ]
    if os.name != "nt" and folder.stat().st_mode & 0o077:
        return [
            Finding("state folder", "fail", f"{folder} is open to other users", f"run: chmod 700 {folder}")
        ]
    try:
        keyring = Keystore(folder).own_keyring()
    except ConfigError as exc:
        return [Finding("state folder", "fail", str(exc), f"copy {SECRET_FILE} from a member again")]
    if keyring is None and node_runs:
        return [Finding("state folder", "ok", f"a node runs with {folder}; its swarm secret lies elsewhere")]
    if keyring is None:
        return [
            Finding(
                "state folder",
                "warn",
                f"there is no swarm secret in {folder}",
                "join with an invite, or name a copy of a member's swarm.key with --swarm-key-file",
            )
        ]
    count = len(keyring.secrets)
    rotation = f"; {count} secrets: a rotation is under way" if count > 1 else ""
    return [Finding("state folder", "ok", f"{folder} holds a swarm secret{rotation}")]


def port(listen: str | None, *, node_runs: bool) -> list[Finding]:
    if node_runs:
        return []
    from swarm.config import NodeSettings
    from swarm.net.sockets import open_listener

    address = NodeSettings().listen
    try:
        if listen is not None:
            address = Address.parse(listen, address.host)
        open_listener(address).close()
    except ValueError as exc:
        raise ConfigError(f"--listen: {exc}") from None
    except OSError as exc:
        return [
            Finding(
                "port",
                "fail",
                f"can't listen on {address}: {exc.strerror}",
                "choose another with --listen, or end what has it",
            )
        ]
    return [Finding("port", "ok", f"{address} is free for a node")]
