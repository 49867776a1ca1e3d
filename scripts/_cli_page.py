"""docs/cli.md, written from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from swarm.cli.app import app

_HEAD = f"""\
# Command line

Generated from the commands by `scripts/make_docs`; a test keeps it true. `swarm` and `python -m swarm` are the same
command, and `--help` behind any of them prints what stands here.

{app.info.epilog}

What goes wrong is one line on standard error; a wrong option comes with the usage. Colours and progress bars appear on
a terminal only. With `swarm --install-completion` your shell (bash, zsh, fish, PowerShell) completes commands and
options.

| command | does |
|---|---|
"""


def page() -> str:
    """Return docs/cli.md."""
    commands = list(_commands(typer.main.get_command(app), ("swarm",)))
    listing = [
        f"| [`{name}`](#{name.replace(' ', '-')}) | {_sentence(command)} |" for name, command in commands
    ]
    sections = ["\n".join(_section(name, command)) for name, command in commands]
    return "\n\n".join([_HEAD + "\n".join(listing), *sections]) + "\n"


# Typer brings a Click of its own in newer versions: what is read here is what both have.
def _commands(group: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in getattr(group, "commands", {}).items():
        if not command.hidden:
            yield " ".join((*names, name)), command
            yield from _commands(command, (*names, name))


def _section(name: str, command: Any) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    yield f"## {name}"
    yield ""
    yield f"`{' '.join((name, *command.collect_usage_pieces(context)))}`"
    yield ""
    yield inspect.cleandoc(command.help or "")
    if command.epilog:
        yield ""
        yield command.epilog
    rows = [_row(parameter) for parameter in command.params if not parameter.hidden]
    if rows:
        yield ""
        yield "| option | value | default | meaning |"
        yield "|---|---|---|---|"
        yield from rows


def _row(parameter: Any) -> str:
    about = parameter.help or ""
    if parameter.param_type_name == "argument":
        names, value, required = [parameter.metavar or parameter.name.upper()], "", parameter.required
    else:
        names, value, required = [*parameter.opts, *parameter.secondary_opts], _value(parameter), False
    about = f"{about} Required." if required else about
    named = ", ".join(f"`{name}`" for name in names)
    return f"| {named} | {value} | {_default(parameter)} | {_cell(about)} |"


def _value(parameter: Any) -> str:
    return "" if parameter.is_flag else f"`{_cell(parameter.metavar or 'TEXT')}`"


def _default(parameter: Any) -> str:
    default = parameter.default
    if isinstance(default, bool):
        return ("on" if default else "off") if parameter.secondary_opts else ""
    if default is None or default in ((), [], "") or callable(default):
        return ""
    return f"`{default}`"


def _sentence(command: Any) -> str:
    return _cell(inspect.cleandoc(command.help or "").split("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
