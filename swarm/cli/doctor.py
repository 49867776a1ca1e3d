"""``swarm doctor``: what is wrong with this machine, its node and its swarm, and what to do about each."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import platform
import shutil
import ssl
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import psutil
import typer

from swarm import __version__
from swarm.cli import options
from swarm.cli.console import coloured, printable, working
from swarm.cli.door import STATE, Api, ApiKeyFile, Door
from swarm.cli.findings import Finding, of_state, redacted
from swarm.errors import ConfigError, DialError, SwarmError
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
CLOCK_SECONDS = 5.0
EXIT_FAILED = 1
_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
_COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(
    bootstrap: options.Bootstrap = None,
    listen: options.Listen = None,
    state: options.State = None,
    api: Api = "",
    api_key_file: ApiKeyFile = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Replace names, ids, addresses and paths: safe to paste.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as a JSON array.")] = False,
) -> None:
    """Check this machine, the node that runs on it, its swarm, and each --bootstrap address.

    Ends with 1 when something is broken. Example: `swarm doctor --bootstrap 192.168.1.20:7410`
    """
    from swarm.node.keystore import default_state_folder

    folder = Path(state).expanduser() if state else default_state_folder()
    door = Door(api, api_key_file)
    door.hint = ""  # the finding has a remedy of its own
    with working("Looking at this machine and its swarm …"):
        seen = _state_of(folder, door)
        swarm_state = seen if isinstance(seen, dict) else None
        findings = [
            *_versions(),
            *_machine(),
            *_folder(folder),
            *_port(listen, node_runs=swarm_state is not None),
            *_addresses(bootstrap or [], folder),
            *_clock(door),
            *(of_state(seen) if isinstance(seen, dict) else [seen]),
        ]
    secrets = [*_places(folder, door, bootstrap or [], listen), *_names(swarm_state)] if redact else None
    _print(findings, secrets, as_json=as_json)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def _print(findings: list[Finding], secrets: list[tuple[str, str]] | None, *, as_json: bool) -> None:
    texts = [finding.text for finding in findings] + [finding.remedy for finding in findings]
    if secrets is not None:
        texts = redacted(texts, secrets)
    shown, remedies = texts[: len(findings)], texts[len(findings) :]
    if as_json:
        rows = zip(findings, shown, remedies, strict=True)
        typer.echo(
            json.dumps(
                [{"about": f.about, "level": f.level, "text": t, "remedy": r} for f, t, r in rows], indent=2
            )
        )
        return
    for finding, text, remedy in zip(findings, shown, remedies, strict=True):
        mark = _MARKS[finding.level]
        mark = typer.style(mark, fg=_COLOURS[finding.level]) if coloured(sys.stdout) else mark
        typer.echo(f"{mark}  {finding.about}: {printable(text)}")
        if remedy:
            typer.echo(f"      -> {printable(remedy)}")


def _places(folder: Path, door: Door, bootstrap: list[str], listen: str | None) -> list[tuple[str, str]]:
    """Return what this machine is called, and what was typed: none of it is for strangers."""
    from swarm.models.store import default_home

    named = [("home", str(Path.home())), ("user", getpass.getuser()), ("host", platform.node())]
    named += [
        ("host", platform.node().partition(".")[0]),
        ("folder", str(folder)),
        ("folder", str(default_home())),
    ]
    url = urlsplit(door.url)
    named += [
        ("address", part) for part in (url.netloc, url.hostname or "", url.username or "", url.password or "")
    ]
    named += [("path", url.path.strip("/"))]
    for text in [*bootstrap, *([listen] if listen else [])]:
        with contextlib.suppress(ValueError):  # a port alone names nobody
            named.append(("address", Address.parse(text).host))
    return named


def _names(state: dict[str, Any] | None) -> list[tuple[str, str]]:
    names = []
    for member in (state or {}).get("members", ()):
        names += [("id", member["node"]), ("id", member["node"][:8]), ("name", member["name"])]
        names += [("address", Address.parse(address).host) for address in member.get("addresses", ())]
    return names


def _versions() -> list[Finding]:
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


def _machine() -> list[Finding]:
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


def _folder(folder: Path) -> list[Finding]:
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


def _port(listen: str | None, *, node_runs: bool) -> list[Finding]:
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


def _addresses(addresses: list[str], folder: Path) -> list[Finding]:
    if not addresses:
        return []
    from swarm.config import NetSettings
    from swarm.net.probe import probe
    from swarm.node.keystore import Keystore

    try:
        keyring = Keystore(folder).own_keyring()
    except ConfigError:
        keyring = None  # said by the check of the state folder
    findings = []
    for text in addresses:
        try:
            found = asyncio.run(probe(Address.parse(text), NetSettings()))
        except ValueError as exc:
            raise ConfigError(f"--bootstrap: {exc}") from None
        except DialError as exc:
            findings.append(
                Finding(
                    "bootstrap",
                    "fail",
                    str(exc),
                    "check that the node runs there, that its --listen is not loopback alone, and that no firewall "
                    "is between",
                )
            )
            continue
        ours = keyring is not None and any(keyring.find(swarm) for swarm in found.swarms)
        met = f"node {found.node[:8]} answers at {text} after {found.connect_seconds * 1e3:.0f} ms"
        if ours:
            findings.append(Finding("bootstrap", "ok", f"{met} and belongs to this machine's swarm"))
        else:
            why = "this machine has no swarm secret" if keyring is None else "it belongs to another swarm"
            findings.append(
                Finding(
                    "bootstrap",
                    "fail",
                    f"{met}, but {why}",
                    "ask one of its members for an invite: `swarm invite`",
                )
            )
    return findings


def _clock(door: Door) -> list[Finding]:
    """Compare with a front door elsewhere: nothing of swarm depends on it, but logs and TLS proxies do."""
    offset = door.clock_offset_seconds()
    if offset is None:
        return []
    if abs(offset) <= CLOCK_SECONDS:
        return [Finding("clock", "ok", f"within {CLOCK_SECONDS:g} s of the front door's")]
    return [
        Finding(
            "clock",
            "warn",
            f"the front door's clock is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}: logs won't line up",
            "set the time of both machines (NTP)",
        )
    ]


def _state_of(folder: Path, door: Door) -> dict[str, Any] | Finding:
    """Return the swarm as this machine's own node sees it, else as the front door does, else why neither answers."""
    from swarm.node.control import GetState, ask

    try:
        return ask(folder, GetState())
    except SwarmError as own:
        try:
            state: dict[str, Any] = door.get(STATE)
            return state
        except SwarmError as exc:
            return Finding(
                "swarm",
                "warn",
                f"no view of the swarm: {own}; {exc}",
                "start a node here, or name a front door with --api",
            )
