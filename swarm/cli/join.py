"""``swarm join`` runs a node, ``swarm config`` shows the settings it would run with. Decides nothing itself."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm import __version__
from swarm.cli import options
from swarm.cli.console import announce, progress, warn
from swarm.cli.watchdog import stop_when_stdin_ends
from swarm.config import ApiSettings, Config
from swarm.config.reference import effective, page

if TYPE_CHECKING:
    from swarm.api.server import ApiServer
    from swarm.node.front import FrontDoor
    from swarm.node.keystore import NodeIdentity

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def join(
    ctx: typer.Context,
    bootstrap: options.Bootstrap = None,
    listen: options.Listen = None,
    model: options.Model = None,
    layers: options.Layers = None,
    api: options.Api = None,
    api_key_file: options.ApiKeyFile = None,
    api_key: options.ApiKey = None,
    api_open: options.ApiOpen = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    private_layers: options.PrivateLayers = None,
    name: options.Name = None,
    state: options.State = None,
    swarm_key_file: options.SwarmKeyFile = None,
    advertise: options.Advertise = None,
    allow: options.Allow = None,
    ban: options.Ban = None,
    log_level: options.LogLevel = None,
    config: options.ConfigFile = None,
    exit_with_stdin: options.ExitWithStdin = False,
) -> None:
    """Run a node: start a swarm, or join the one that --bootstrap names. Ctrl-C stops it."""
    # The options are read from ctx.params, as `swarm config` reads them.
    settings, origins = options.read_settings(ctx.params)
    if origins["api.keys"] == "--api-key":
        warn("--api-key shows the key to other users of this machine; use --api-key-file or SWARM_API_KEYS")
    logging.basicConfig(level=settings.node.log_level.upper(), format=LOG_FORMAT)
    if exit_with_stdin:
        stop_when_stdin_ends()
    _run(replace(settings, node=replace(settings.node, name=settings.node.name or _host_name())))


def config(
    ctx: typer.Context,
    reference: Annotated[
        bool, typer.Option("--reference", hidden=True, help="Print docs/configuration.md.")
    ] = False,
) -> None:
    """Show the settings that `join` would use with the same options, and where each comes from."""
    if reference:
        typer.echo(page(), nl=False)
        return
    parser = typer.main.get_command(_parser())
    typer.echo(effective(*options.read_settings(parser.make_context("swarm config", list(ctx.args)).params)))


def _parser() -> typer.Typer:
    parser = typer.Typer(add_completion=False)
    parser.command()(join)
    return parser


def _run(settings: Config) -> None:
    # Imported here: PyTorch and the web server take seconds, and `--help` should not.
    from swarm.node.keystore import Keystore
    from swarm.node.main import run_node

    node = settings.node
    with Keystore(Path(node.state) if node.state else None) as keystore:
        identity = keystore.open(
            create_secret=not node.bootstrap,
            swarm_key_file=node.swarm_key_file,
            environ_key=os.environ.get("SWARM_KEY"),
        )
        if not node.bootstrap:
            _tell_how_to_join(settings, identity)
        asyncio.run(
            run_node(
                settings, keystore, identity, announce, open_front_door=_open_front_door, progress=progress()
            )
        )


async def _open_front_door(front: FrontDoor, settings: ApiSettings) -> ApiServer:
    from swarm.api.server import ApiServer

    server = ApiServer(front, settings, version=__version__)
    address = await server.start()
    announce(f"API: http://{address}/v1")
    return server


def _tell_how_to_join(settings: Config, identity: NodeIdentity) -> None:
    """Print what a second machine needs: the key file's path, never what is in it."""
    from swarm.node.node import own_addresses

    node = settings.node
    addresses = node.advertise or own_addresses(node.listen)
    command = f"python -m swarm join --bootstrap {addresses[0] if node.listen.port else 'HOST:PORT'}"
    if identity.created_secret:
        announce(
            f"A new swarm: its secret is in {identity.secret_path}; who has it can join, so keep it private."
        )
    if identity.secret_path is None:
        announce(f"To add a machine, set SWARM_KEY there too and run:\n  {command}")
        return
    announce(
        "To add a machine, copy the secret to it and join:\n"
        f"  scp {addresses[0].host}:{identity.secret_path} swarm.key\n"
        f"  {command} --swarm-key-file swarm.key"
    )


def _host_name() -> str:
    return platform.node().partition(".")[0] or "node"
