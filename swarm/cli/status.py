"""``swarm status``: the swarm as the node here or a front door sees it."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from swarm.cli import options
from swarm.cli.console import printable, table_console
from swarm.cli.door import Api, ApiKeyFile, Look, viewpoint
from swarm.errors import SwarmError

WATCH_SECONDS = 1.0
ROOM = {"dtype": 110, "RTT ms": 70, "sessions": 70, "rows/s": 110, "RSS MiB": 110}
"""From how many columns on a terminal has room for what is measured."""
FRAMED_COLUMNS = 60


def status(
    api: Api = "",
    api_key_file: ApiKeyFile = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep the table up to date until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state as JSON.")] = False,
    state: options.State = None,
) -> None:
    """Show members, what they hold, and which models can be served.

    Without --api the node that runs on this machine is asked, which needs no front door for it.

    Examples: `swarm status`, `swarm status --watch`, `swarm status --api 192.168.1.20:8000 --json`
    """
    look = viewpoint(api, api_key_file, state)
    if as_json:
        typer.echo(json.dumps(look(), indent=2))
    elif watch:
        with contextlib.suppress(KeyboardInterrupt):  # that is how it ends
            _watch(look)
    else:
        table_console().print(_shown(look(), table_console().width))


def _watch(look: Look) -> None:
    """Redraw every second; a door that stops answering is said, and asked again."""
    from rich.live import Live

    console = table_console()
    # On a terminal the table replaces itself; elsewhere each change would only fill a file.
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            try:
                live.update(_shown(look(), console.width), refresh=True)
            except SwarmError as exc:
                live.update(Text(printable(str(exc))), refresh=True)
            time.sleep(WATCH_SECONDS)


def _shown(state: dict[str, Any], width: int) -> Group:
    verdicts = [Text(printable(_servable(model))) for model in state["models"]]
    return Group(_members(state, width), *verdicts)


def _members(state: dict[str, Any], width: int) -> Table:
    table = Table() if width >= FRAMED_COLUMNS else Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("node", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("state", overflow="fold")
    table.add_column("layers", overflow="fold", min_width=len("10:20 of 30"))
    rest = [name for name, columns in ROOM.items() if width >= columns]
    for name in rest:
        table.add_column(name, no_wrap=True)
    with_model = len(state["models"]) > 1
    for member in state["members"]:
        load = member.get("load", {})
        measured = {
            "dtype": ", ".join(sorted({_precision(span) for span in member["spans"]})),
            "RTT ms": str(member.get("rtt_ms") or ""),
            "sessions": str(load.get("sessions", "")),
            "rows/s": str(load.get("rows_per_second", "")),
            "RSS MiB": f"{load['rss_bytes'] / 2**20:.0f}" if "rss_bytes" in load else "",
        }
        cells = (
            member["node"][:8] + ("*" if member["node"] == state["node"] else ""),
            member["name"],
            _condition(member),
            ", ".join(_held(span, with_model) for span in member["spans"]) or "none",
            *(measured[name] for name in rest),
        )
        # Names come from other machines: as Text their brackets are not markup.
        table.add_row(*(Text(printable(cell)) for cell in cells))
    table.caption = "* the node that answers"
    return table


def _condition(member: dict[str, Any]) -> str:
    if member["health"] != "alive":
        return str(member["health"])
    return member["state"] if member["routable"] else f"{member['state']}, not used"


def _held(span: dict[str, Any], with_model: bool) -> str:
    held = f"{span['layers']} of {span['of']}"
    return f"{held} {span['model']}" if with_model else held


def _precision(span: dict[str, Any]) -> str:
    bits = span.get("quantize", "none")
    return str(span["dtype"] if bits == "none" else f"{span['dtype']} in {bits}")


def _servable(model: dict[str, Any]) -> str:
    if model["servable"]:
        return f"{model['name']}: can be served ({model['layers']} layers)"
    return f"{model['name']}: can't be served: {model['problem'] or 'no node holds ' + ', '.join(model['missing'])}"
