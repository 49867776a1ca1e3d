"""``swarm status``: the swarm as one of its front doors sees it."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from swarm.cli.console import printable, table_console
from swarm.errors import ConfigError, SwarmError
from swarm.types import Address

DEFAULT_API = "127.0.0.1:8000"
DEFAULT_HOST = "127.0.0.1"
TIMEOUT_SECONDS = 10.0
NARROW_COLUMNS = 110
DETAILS = ("dtype", "rows/s", "RSS MiB")
"""What a narrow terminal has no room for."""


def status(
    api: Annotated[
        str, typer.Option("--api", metavar="[HOST:]PORT", help="A front door of the swarm; or its URL.")
    ] = DEFAULT_API,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="File with the API key; else SWARM_API_KEYS."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print /swarm/state as it is.")] = False,
) -> None:
    """Show members, what they hold, and which models can be served."""
    state = _fetch(f"{_base_url(api)}/swarm/state", _api_key(api_key_file))
    if as_json:
        typer.echo(json.dumps(state, indent=2))
        return
    console = table_console()
    console.print(_members(state, wide=console.width >= NARROW_COLUMNS))
    for model in state["models"]:
        console.print(Text(printable(_servable(model))))


def _base_url(api: str) -> str:
    api = api.rstrip("/").removesuffix("/v1")
    if api.startswith(("http://", "https://")):
        return api
    try:
        return f"http://{Address.parse(api, DEFAULT_HOST)}"
    except ValueError as exc:
        raise ConfigError(f"--api: {exc}") from None


def _api_key(file: Path | None) -> str:
    if file is None:
        return os.environ.get("SWARM_API_KEYS", "").partition(",")[0].strip()
    try:
        lines = file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"can't read the API key in {file}: {exc}") from None
    return next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")


def _fetch(url: str, key: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    # A proxy of the environment is for the internet; a front door is near.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as exc:
        raise SwarmError(f"{url} answered {exc.code} {exc.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise SwarmError(f"no front door answers at {url}: {getattr(exc, 'reason', exc)}") from None


def _members(state: dict[str, Any], *, wide: bool) -> Table:
    table = Table()
    table.add_column("node", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("state", overflow="fold")
    table.add_column("layers", overflow="fold", min_width=len("10:20 of 30"))
    rest = [
        name for name in ("dtype", "RTT ms", "sessions", "rows/s", "RSS MiB") if wide or name not in DETAILS
    ]
    for name in rest:
        table.add_column(name, no_wrap=True)
    with_model = len(state["models"]) > 1
    for member in state["members"]:
        load = member.get("load", {})
        measured = {
            "dtype": ", ".join(sorted({span["dtype"] for span in member["spans"]})),
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


def _servable(model: dict[str, Any]) -> str:
    if model["servable"]:
        return f"{model['name']}: can be served ({model['layers']} layers)"
    return f"{model['name']}: can't be served: {model['problem'] or 'no node holds ' + ', '.join(model['missing'])}"
