"""``swarm layers`` shows and changes which layers the node on this machine holds, while it runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.cli import options
from swarm.cli.console import printable, working

if TYPE_CHECKING:
    from swarm.node.control import AnyRequest

EXIT_CODES = "Exit codes: 0 done, 1 the node refused or failed, 2 wrong option, or no node runs here."


def layers(
    span: Annotated[
        str | None,
        typer.Argument(
            metavar="[A:B|auto|none]",
            help="What to hold from now on: layers A up to, not including, B; auto: what helps the swarm most; none: "
            "nothing. Default: show what is held.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="ID_OR_FOLDER", help="Which model; may be left out where there is one."
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also where layers are left to nobody: answers then wait or fail.")
    ] = False,
    state: options.State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show or change which layers of which models the node on this machine holds.

    What is new is loaded beside what is held; the old is left once its answers have moved. No answer fails by it.
    It lasts until the node ends.

    Examples: `swarm layers 0:15`, `swarm layers auto`, `swarm layers 0:4 --model org/other`
    """
    from swarm.node.control import GetState, SetLayers

    if span is None:
        held = asked(state, GetState())["holding"]
        if as_json:
            typer.echo(json.dumps(held, indent=2))
            return
        typer.echo("\n".join(printable(described(one)) for one in held) or "this node holds no layers")
        return
    with working("The node changes what it holds; that takes as long as loading does …"):
        done = asked(state, SetLayers(span, model, force))
    typer.echo(json.dumps(done, indent=2) if as_json else printable(described(done)))


def asked(state: str | None, request: AnyRequest) -> dict[str, Any]:
    """Return what the node of the state folder ``--state`` answers. Raises as swarm.node.control.ask does."""
    from swarm.node.control import ask

    return ask(options.state_folder(state), request)


def described(held: dict[str, Any]) -> str:
    """Return what a node is told and holds of a model, as a line."""
    told = {"auto": "chosen by itself", "none": "none wanted"}.get(held["told"], "as told")
    doing = f", {held['doing']}" if held["doing"] else ""
    return f"{held['model']}: {', '.join(held['layers']) or 'no layers'} of {held['of']} ({told}{doing})"
