"""``swarm bench``: how fast a front door answers, seen by its client. Measures any server of OpenAI's chat API."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Annotated, Any

import typer

from swarm.cli.console import announce, printable, progress, table_console, waiting, warn
from swarm.cli.door import Api, ApiKeyFile, Door, ModelComingError
from swarm.errors import SwarmError

RETRY_SECONDS = 1.0
WARM_UP_TOKENS = 8
ROOMY_COLUMNS = 120


def bench(
    api: Api = "",
    api_key_file: ApiKeyFile = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Default: the first that is listed.")
    ] = "",
    streams: Annotated[
        list[int] | None,
        typer.Option(
            "--streams",
            metavar="N",
            min=1,
            max=1000,
            help="Answers at once. May be given several times: a row each.",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int,
        typer.Option(
            "--prompt-tokens", metavar="N", min=1, help="About so long are the prompts, each another."
        ),
    ] = 100,
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", min=2, help="Tokens of each answer.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a front door: time to first token, time between tokens, tokens a second.

    One short answer goes first and does not count. Answers are greedy. Exit code 1 if an answer fails.

    Examples: `swarm bench`, `swarm bench --streams 1 --streams 8 --json`, `swarm bench --api https://host:8443`
    """
    door = Door(api, api_key_file)
    chosen = model or _first_listed(door)
    _warm_up(door, chosen)
    rounds = []
    for number, count in enumerate(streams or [1], 1):
        rounds.append(_measured(door, chosen, count, prompt_tokens, tokens, number))
    if as_json:
        typer.echo(json.dumps({"url": door.url, "model": chosen, "rounds": rounds}, indent=2))
    else:
        _show(door, chosen, rounds)
    failed = Counter(error for measured in rounds for error in measured["errors"])
    for error, times in failed.items():
        warn(f"{times} x {error}")
    if failed:
        raise typer.Exit(1)


def _first_listed(door: Door) -> str:
    listed = door.get("/v1/models")["data"]
    if not listed:
        raise SwarmError(f"{door.url} serves no model yet; `swarm status` says what is missing")
    return str(listed[0]["id"])


def _warm_up(door: Door, model: str) -> None:
    """Let the door load what it loads at a first request, and fail here for what would fail every answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say something."}],
        "stream": True,
        "max_completion_tokens": WARM_UP_TOKENS,
    }
    sign = waiting("The first answer, which does not count …")
    sign.start()
    try:
        while True:
            try:
                with door.stream("/v1/chat/completions", body) as events:
                    for _ in events:
                        pass
            except ModelComingError:
                sign.update(f"{model} is being fetched for this front door …")
                time.sleep(RETRY_SECONDS)
            else:
                return
    finally:
        sign.stop()


def _measured(
    door: Door, model: str, streams: int, prompt_tokens: int, tokens: int, number: int
) -> dict[str, Any]:
    from swarm.cli.load import drive

    what = f"{streams} {'stream' if streams == 1 else 'streams'}"
    bar, total = progress(), streams * tokens
    arrived = 0

    def on_read() -> None:
        # A token is a read or two; drawing at each would take the time that is measured.
        nonlocal arrived
        arrived += 1

    async def run() -> dict[str, Any]:
        drawing = asyncio.create_task(draw())
        try:
            measured = await drive(
                door.url, model, streams=streams, prompt_tokens=prompt_tokens, tokens=tokens, salt=number,
                key=door.key, on_read=on_read,
            )  # fmt: skip
        finally:
            drawing.cancel()
        return measured.summary()

    async def draw() -> None:
        while True:
            bar(what, min(arrived, total - 1), total)
            await asyncio.sleep(0.25)

    try:
        return asyncio.run(run())
    finally:
        bar(what, total, total)


def _show(door: Door, model: str, rounds: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    announce(f"{model} at {door.url}")
    found = [_figures(measured) for measured in rounds]
    console = table_console()
    table = Table(show_header=console.width >= ROOMY_COLUMNS)
    if table.show_header:
        for name in found[0]:
            table.add_column(name, justify="right", overflow="fold")
        lines = [list(figures.values()) for figures in found]
    else:  # turned: a column for each round
        lines = [[name, *(figures[name] for figures in found)] for name in found[0]]
    for cells in lines:
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)


def _figures(measured: dict[str, Any]) -> dict[str, str]:
    """Return what a round is told by: names and figures."""
    rates = measured["tokens_per_second"]
    return {
        "streams": str(measured["streams"]),
        "prompt": str(measured["prompt_tokens"]),
        "tokens": str(measured["tokens"]),
        "TTFT p50 / p99 ms": " / ".join(f"{measured['ttft_ms'][name]:.0f}" for name in ("p50", "p99")),
        # Not the median gap: tokens that come together, as accepted guesses do, have almost none between them.
        "TPOT p50 ms": f"{measured['tpot_ms']['p50']:.1f}",
        "gap p99 ms": f"{measured['inter_token_ms']['p99']:.1f}",
        "tok/s a stream": f"{rates['a_stream']:.1f}",
        "tok/s in all": f"{rates['in_all']:.1f}",
        "errors": str(len(measured["errors"])),
    }
