"""``swarm join`` runs a node, ``swarm config`` shows the settings it would run with. Decides nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm import __version__
from swarm.cli import options
from swarm.cli.console import announce, progress, warn, working
from swarm.cli.invite import accept_invite, read_invite, refuse_to_found_beside_others
from swarm.cli.logs import set_up_logging
from swarm.cli.watchdog import stop_when_stdin_ends
from swarm.config import ApiSettings, Config, NodeSettings
from swarm.config.reference import as_values, effective

if TYPE_CHECKING:
    from swarm.api.server import ApiServer
    from swarm.node.front import FrontDoor
    from swarm.node.keystore import NodeIdentity
    from swarm.protocol.invite import Invite
    from swarm.types import Address


def join(
    ctx: typer.Context,
    invite: options.Invite = None,
    bootstrap: options.Bootstrap = None,
    discover: options.Discover = None,
    listen: options.Listen = None,
    model: options.Model = None,
    layers: options.Layers = None,
    serve: options.Serve = None,
    share_weights: options.ShareWeights = None,
    api: options.Api = None,
    api_key_file: options.ApiKeyFile = None,
    api_key: options.ApiKey = None,
    api_open: options.ApiOpen = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    device: options.Device = None,
    memory: options.Memory = None,
    threads: options.Threads = None,
    private_layers: options.PrivateLayers = None,
    name: options.Name = None,
    label: options.Label = None,
    state: options.State = None,
    swarm_key_file: options.SwarmKeyFile = None,
    advertise: options.Advertise = None,
    allow: options.Allow = None,
    ban: options.Ban = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    config: options.ConfigFile = None,
    exit_with_stdin: options.ExitWithStdin = False,
) -> None:
    """Run a node: start a swarm, or join the one that INVITE or --bootstrap leads to. Ctrl-C stops it.

    Examples: `swarm join --model Qwen/Qwen3-0.6B --api 8000`, `swarm join -`,
    `swarm join --bootstrap 192.168.1.20:7410 --memory 8GiB`
    """
    # The options are read from ctx.params, as `swarm config` reads them.
    settings, origins = options.read_settings(ctx.params)
    if origins["api.keys"] == "--api-key":
        warn("--api-key shows the key to other users of this machine; use --api-key-file or SWARM_API_KEYS")
    set_up_logging(settings.node.log_level, settings.node.log_format)
    if exit_with_stdin:
        stop_when_stdin_ends()
    settings = replace(settings, node=replace(settings.node, name=settings.node.name or _host_name()))
    _run(settings, read_invite(invite, os.environ, sys.stdin))


def config(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show the settings that `join` would use with the same options, and where each comes from.

    Examples: `swarm config --config swarm.toml`, `swarm config --memory 8GiB --api 8000 --json`
    """
    parser = typer.main.get_command(_parser())
    read = options.read_settings(parser.make_context("swarm config", list(ctx.args)).params)
    typer.echo(json.dumps(as_values(*read), indent=2) if as_json else effective(*read))


def _parser() -> typer.Typer:
    parser = typer.Typer(add_completion=False)
    parser.command()(join)
    return parser


def _run(settings: Config, invite: Invite | None) -> None:
    from swarm.node.keystore import Keystore

    node = settings.node
    with Keystore(Path(node.state) if node.state else None) as keystore:
        if invite is not None:
            # Before what takes long to import: who hands over an invite that is no good learns it at once.
            node = replace(node, bootstrap=(*node.bootstrap, *invite.addresses))
            settings = replace(settings, node=node)
            accept_invite(invite, keystore, settings)
        may_found = not node.bootstrap
        if may_found and node.discover and not (node.swarm_key_file or os.environ.get("SWARM_KEY")):
            refuse_to_found_beside_others(keystore)
        # Imported here: PyTorch and the web server take seconds, and `--help` should not.
        with working("Starting …"), _nothing_is_garbage():
            from swarm.api.server import check_settings
            from swarm.engine.device import resolve_device
            from swarm.node.main import run_node

        # Before a secret is made: what is said wrongly leaves nothing behind.
        resolve_device(settings.model.device)
        check_settings(settings.api)
        identity = keystore.open(
            create_secret=may_found,
            swarm_key_file=node.swarm_key_file,
            environ_key=os.environ.get("SWARM_KEY"),
        )

        def on_listening(bound: Address) -> None:
            if not node.bootstrap:
                _tell_how_to_join(node, identity, bound)

        asyncio.run(
            run_node(
                settings,
                keystore,
                identity,
                announce,
                open_front_door=_open_front_door,
                progress=progress(),
                on_listening=on_listening,
            )
        )


@contextlib.contextmanager
def _nothing_is_garbage() -> Iterator[None]:
    """Keep the collector from what is made within, now and later.

    It would look through what imports make dozens of times (a sixth of a node's start) and find nothing.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def _open_front_door(front: FrontDoor, settings: ApiSettings) -> ApiServer:
    from swarm.api.server import ApiServer
    from swarm.node.advertising import own_addresses

    server = ApiServer(front, settings, version=__version__)
    bound = await server.start()
    address = own_addresses(bound)[0]
    announce(f"API: http://{address}/v1\nIn a browser: http://{address}/")
    return server


def _tell_how_to_join(settings: NodeSettings, identity: NodeIdentity, bound: Address) -> None:
    """Print what a second node needs: the key file's path, never what is in it."""
    from swarm.api.guards import is_loopback
    from swarm.node.advertising import own_addresses

    address = (settings.advertise or own_addresses(bound))[0]
    only_here = is_loopback(address.host)
    join = f"{_python()} -m swarm join --bootstrap {address}"
    here = " --listen 127.0.0.1:0 --state FOLDER" if only_here else ""
    if identity.created_secret:
        announce(
            f"A new swarm: its secret is in {identity.secret_path}; who has it can join, so keep it private."
        )
    what = (
        f"To add a node on this machine (others can't reach {address})" if only_here else "To add a machine"
    )
    if identity.secret_path is None:
        announce(f"{what}, set SWARM_KEY there too and run:\n  {join}{here}")
    elif only_here:
        announce(f"{what}:\n  {join} --swarm-key-file {identity.secret_path}{here}")
    else:
        state = f" --state {settings.state}" if settings.state else ""
        announce(
            f"{what}, make an invite here, in another terminal, and hand it to `join` there:\n"
            f"  {_python()} -m swarm invite{state}\n"
            f"  {_python()} -m swarm join -"
        )


def _python() -> str:
    """Return how this Python is called; one in a clone's .venv, from inside any clone."""
    python = Path(sys.executable)
    parts = python.parts
    return str(Path(*parts[parts.index(".venv") :])) if ".venv" in parts else str(python)


def _host_name() -> str:
    return platform.node().partition(".")[0] or "node"
