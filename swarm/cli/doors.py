"""``swarm door`` opens, moves and closes the front door of the node on this machine, and changes its API keys."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from swarm.cli import options
from swarm.cli.console import printable
from swarm.cli.layers import EXIT_CODES, asked
from swarm.errors import ConfigError

app = typer.Typer(
    help="Show and change the front door of the node on this machine, while it runs.",
    epilog=f"What is changed lasts until the node ends. {EXIT_CODES}",
    rich_markup_mode=None,
    no_args_is_help=True,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]


@app.command(epilog=EXIT_CODES)
def show(state: options.State = None, as_json: AsJson = False) -> None:
    """Show where the door is and which API keys it takes.

    Example: `swarm door show --json`
    """
    from swarm.node.control import GetState

    door = asked(state, GetState())["door"]
    _print(door, as_json, _described(door))


@app.command("open", epilog=EXIT_CODES)
def open_(
    listen: Annotated[
        str,
        typer.Argument(
            metavar="[[HOST:]PORT]",
            help="Default: where it was, or where the settings say, or 127.0.0.1:8000.",
            show_default=False,
        ),
    ] = "",
    state: options.State = None,
    as_json: AsJson = False,
) -> None:
    """Open the door, or move one that is open: answers that run at its old address may end there.

    Examples: `swarm door open`, `swarm door open 9000`, `swarm door open 0.0.0.0:8000`
    """
    from swarm.node.control import OpenDoor

    opened = asked(state, OpenDoor(listen))
    _print(opened, as_json, f"the API is at http://{opened['listen']}/v1")


@app.command(epilog=EXIT_CODES)
def close(state: options.State = None, as_json: AsJson = False) -> None:
    """Close the door; answers that run get a few seconds to end.

    Example: `swarm door close`
    """
    from swarm.node.control import CloseDoor

    _print(asked(state, CloseDoor()), as_json, "the API is closed")


@app.command(epilog=EXIT_CODES)
def add_key(
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="File with one key a line; default: asks, or reads its input."
        ),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Make a key and print it, this once.")] = False,
    state: options.State = None,
    as_json: AsJson = False,
) -> None:
    """Let clients in with one more API key, from now on.

    A key is never taken from the command line, where other users of this machine could see it.

    Examples: `swarm door add-key --new`, `swarm door add-key < key.txt`
    """
    from swarm.node.control import ChangeKeys

    keys = [new_key()] if new else _keys_from(file)
    changed = asked(state, ChangeKeys(add=tuple(keys)))
    if new:
        changed["new"] = keys[0]
    _print(changed, as_json, keys[0] if new else _listed(changed["keys"]))


@app.command(epilog=EXIT_CODES)
def remove_key(
    key_id: Annotated[str, typer.Argument(metavar="ID_OR_NAME", help="As `swarm door show` lists it.")],
    state: options.State = None,
    as_json: AsJson = False,
) -> None:
    """Let nobody in with this API key any more. Requests under way go on.

    Example: `swarm door remove-key laptop`
    """
    from swarm.node.control import ChangeKeys

    changed = asked(state, ChangeKeys(remove=(key_id,)))
    _print(changed, as_json, _listed(changed["keys"]))


def new_key() -> str:
    """Return a key that nobody can guess."""
    return f"sk-swarm-{secrets.token_urlsafe(24)}"


def _keys_from(file: Path | None) -> list[str]:
    if file is not None:
        from swarm.node.apikeys import keys_in

        return list(keys_in(str(file)))
    if sys.stdin.isatty():
        import getpass

        typed = getpass.getpass("API key: ").strip()
        if not typed:
            raise ConfigError("no API key was typed")
        return [typed]
    keys = [line.strip() for line in sys.stdin if line.strip()]
    if not keys:
        raise ConfigError("there is no API key on standard input")
    return keys


def _described(door: dict[str, Any]) -> str:
    where = f"the API is at http://{door['listen']}/v1" if door["listen"] else "the API is closed"
    return f"{where}\n{printable(door['problem']) or _listed(door['keys'])}"


def _listed(keys: list[dict[str, Any]]) -> str:
    if not keys:
        return "no API keys: every key is accepted"
    return "\n".join(f"key {key['id']}{' ' + printable(key['name']) if key['name'] else ''}" for key in keys)


def _print(answer: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(answer, indent=2) if as_json else text)
