"""``swarm invite`` prints what a second machine needs, once; how ``join`` reads and uses it. Prints no secret."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from swarm.cli import options
from swarm.cli.console import announce, working
from swarm.errors import ConfigError

if TYPE_CHECKING:
    from swarm.config import Config
    from swarm.node.keystore import Keystore
    from swarm.protocol.invite import Invite

VARIABLE = "SWARM_INVITE"
STDIN = "-"
LOOK_SECONDS = 3.0


def invite(
    state: options.State = None,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="N", help="How long it is good for, if nobody uses it.")
    ] = 15.0,
    qr: Annotated[
        bool | None, typer.Option("--qr/--no-qr", help="Draw it as a QR code too; default: on a terminal.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Print an invite, good for one machine, from the node that runs on this one.

    Examples: `swarm invite`, `swarm invite --minutes 60 | ssh other-machine python -m swarm join -`
    """
    from swarm.node.control import MakeInvite, ask

    made = ask(options.state_folder(state), MakeInvite(minutes))
    if as_json:
        typer.echo(json.dumps(made, indent=2))
        return
    typer.echo(made["invite"])
    told = sys.stderr
    if qr or (qr is None and sys.stdout.isatty()):
        _draw(made["invite"], sys.stdout)
    addresses = ", ".join(made["addresses"])
    print(
        f"Good for one machine and {made['minutes']:g} minutes. It leads to {addresses}. There, run:\n"
        "  python -m swarm join -        and paste it, or set SWARM_INVITE",
        file=told,
    )


def _draw(text: str, out: TextIO) -> None:
    import segno

    segno.make(text, error="l", micro=False).terminal(out=out, border=2, compact=True)


def read_invite(given: str | None, environ: Mapping[str, str], stdin: TextIO) -> Invite | None:
    """Return the invite that ``join`` was handed, or None. Raises ConfigError for one that can't be read."""
    from swarm.protocol.invite import Invite

    source = "the invite" if given else VARIABLE
    if given == STDIN:
        source = "the invite on standard input"
        if stdin.isatty():
            announce("Paste the invite and press Enter:")
        given = stdin.readline()
        if not given.strip():
            raise ConfigError("there is no invite on standard input")
    text = given or environ.get(VARIABLE, "")
    if not text.strip():
        return None
    try:
        return Invite.parse(text)
    except ValueError as exc:
        raise ConfigError(f"{source} can't be used: {exc}") from None


def accept_invite(invite: Invite, keystore: Keystore, settings: Config) -> None:
    """Fetch the swarm's secret into the state folder, unless it is there from an earlier time.

    Raises SwarmError when the invite leads nowhere or is refused.
    """
    from swarm.net.redeem import redeem

    known = keystore.own_keyring()
    if known is not None and known.find(invite.swarm_id) is not None:
        keystore.save_chunk_roots(invite.chunk_roots)
        return
    key = keystore.claim()
    try:
        with working("Asking the node that made the invite …"):
            keyring = asyncio.run(redeem(invite, key, settings.net))
        keystore.save_keyring(keyring)
        keystore.save_chunk_roots(invite.chunk_roots)
    finally:
        keystore.close()
    announce(f"The invite was good: this machine belongs to the swarm now ({keystore.folder}).")


def refuse_to_found_beside_others(keystore: Keystore) -> None:
    """Raise ConfigError when this machine has no secret but a swarm is announced on its network.

    Who says --discover there wants to join it, not to start another swarm beside it.
    """
    from swarm.net.discovery import look

    if keystore.own_keyring() is not None:
        return
    try:
        with working("Looking for a swarm on this network …"):
            found = asyncio.run(look(LOOK_SECONDS))
    except OSError as exc:
        raise ConfigError(f"--discover: this machine can't use mDNS ({exc.strerror or exc})") from None
    if found:
        raise ConfigError(
            f"there is a swarm on this network ({len(found)} nodes announced), but this machine has no secret of it: "
            "make an invite on one of its machines (`python -m swarm invite`) and run `python -m swarm join - "
            "--discover`"
        )
