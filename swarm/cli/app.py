"""The command line: commands, exit codes, errors as one line. What the commands need is imported when they run.

Exit codes: 0 done, 1 failed while running, 2 wrong option, setting or state folder, 130 interrupted before it was
done. What runs until it is stopped (`join`, `status --watch`, a conversation) is done then.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from swarm import __version__
from swarm.cli.bench import bench
from swarm.cli.chat import chat
from swarm.cli.doctor import doctor
from swarm.cli.doors import app as door
from swarm.cli.invite import invite
from swarm.cli.join import config, join
from swarm.cli.layers import EXIT_CODES, layers
from swarm.cli.models import app as models
from swarm.cli.plan import plan
from swarm.cli.secret import init
from swarm.cli.status import status
from swarm.cli.top.command import top
from swarm.errors import ConfigError, SwarmError

EXIT_FAILED = 1
EXIT_USAGE = 2

app = typer.Typer(
    name="swarm",
    help="Several machines, one language model, one OpenAI-compatible API.",
    epilog="Begin with: swarm join --model ID --api 8000, then swarm chat; swarm invite lets another machine in. "
    "Exit codes: 0 done (a node, a table or a conversation: stopped), 1 failed while running, 2 wrong option, "
    "setting or state folder, 130 interrupted by Ctrl-C.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(join)
app.command()(init)
app.command()(invite)
app.command()(status)
app.command()(top)
app.command()(plan)
app.command()(chat)
app.command()(doctor)
app.command()(bench)
app.command(epilog=EXIT_CODES)(layers)
app.add_typer(door, name="door")
app.add_typer(models, name="models")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(config)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"swarm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Several machines, one language model, one OpenAI-compatible API."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        app()
    except SwarmError as exc:
        print(f"swarm: {exc}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE if isinstance(exc, ConfigError) else EXIT_FAILED) from None
