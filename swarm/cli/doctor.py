"""``swarm doctor``: what is wrong with this machine, its node and its swarm, and what to do about each."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import platform
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from swarm.cli import options
from swarm.cli.checks import machine, port, state_folder, versions
from swarm.cli.console import coloured, printable, working, wrapped
from swarm.cli.door import NODE_SECONDS, STATE, Api, ApiKeyFile, Door
from swarm.cli.findings import Finding, of_state, redacted
from swarm.errors import ConfigError, DialError, SwarmError
from swarm.types import Address

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
        seen, runs = _state_of(folder, door)
        swarm_state = seen if isinstance(seen, dict) else None
        findings = [
            *versions(),
            *machine(),
            *state_folder(folder, node_runs=runs),
            *port(listen, node_runs=runs),
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
        mark, line = _MARKS[finding.level], wrapped(f"      {finding.about}: {printable(text)}", 6)
        mark = typer.style(mark, fg=_COLOURS[finding.level]) if coloured(sys.stdout) else mark
        typer.echo(f"{mark}  {line.lstrip()}")
        if remedy:
            typer.echo(wrapped(f"      -> {printable(remedy)}", 9))


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


def _state_of(folder: Path, door: Door) -> tuple[dict[str, Any] | Finding, bool]:
    """Return the swarm as this machine's own node sees it, else as the front door does, else why neither answers.

    And whether it is the node's own word.
    """
    from swarm.node.control import GetState, ask

    try:
        return ask(folder, GetState(), NODE_SECONDS), True
    except SwarmError as own:
        try:
            state: dict[str, Any] = door.get(STATE)
            return state, False
        except SwarmError as exc:
            found = Finding(
                "swarm",
                "warn",
                f"no view of the swarm: {own}; {exc}",
                "start a node here, or name a front door with --api",
            )
            return found, False
