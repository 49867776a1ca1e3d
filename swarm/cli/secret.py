"""``swarm init``: make the swarm secret before any node runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from swarm.cli import options
from swarm.cli.console import announce


def init(
    state: options.State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Make the swarm secret (and this node's key) and say where it is; an existing one is kept.

    Example: `swarm init --state /var/lib/swarm/state`
    """
    from swarm.node.keystore import Keystore

    with Keystore(Path(state) if state else None) as keystore:
        identity = keystore.open(create_secret=True, swarm_key_file="", environ_key=None)
    if as_json:
        typer.echo(
            json.dumps({"secret": str(identity.secret_path), "made": identity.created_secret}, indent=2)
        )
        return
    made = "New swarm secret" if identity.created_secret else "There is a swarm secret already"
    announce(f"{made}: {identity.secret_path}")
    announce("Copy the file to each machine and name it there with --swarm-key-file. Who has it can join.")
