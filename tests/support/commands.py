"""Command lines as text, held against the commands and scripts that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from swarm.cli.app import app
from swarm.cli.options import read_settings
from tests.support.pages import ROOT

_PYTHON = re.compile(r"(?:.*/)?python[\d.]*(?:\.exe)?")
_PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]*[A-Z]\b|…")
_ENTRY: Any = typer.main.get_command(app)


def check(words: Sequence[str], *, whole: bool = True) -> None:
    """Raise when a command is none of ours that exists; other programs are not looked at."""
    for ours in our_commands(list(words)):
        if ours[0].startswith("scripts/"):
            check_script(ours[0], ours[1:])
        else:
            check_swarm(ours[1:], whole=whole)


def our_commands(words: list[str]) -> Iterator[list[str]]:
    """Yield the part of a command, or of what it runs elsewhere (ssh, sudo), that is ours."""
    for at, word in enumerate(words):
        behind = words[at + 1 :]
        if _PYTHON.fullmatch(word) and behind[:2] == ["-m", "swarm"]:
            yield ["swarm", *behind[2:]]
            return
        if word.removeprefix("./").startswith("scripts/"):
            yield [word.removeprefix("./"), *behind]
            return
        if word == "swarm" or word.endswith(("/bin/swarm", "Scripts/swarm")):
            # `docker run … swarm OPTIONS` runs the image's entry point; `-u swarm` names a user.
            if (at and words[at - 1] in ("-u", "--user", "-t", "--name")) or words[0] in (
                "systemctl",
                "docker",
            ):
                continue
            yield ["swarm", *behind]
            return


def check_script(name: str, arguments: Sequence[str]) -> None:
    path = ROOT / name
    assert path.is_file(), f"there is no {name}"
    source = path.read_text(encoding="utf-8")
    # What scripts/test does not know goes to pytest.
    known = () if name == "scripts/test" else (word.partition("=")[0] for word in arguments)
    for option in known:
        if option.startswith("--"):
            assert f'"{option}"' in source, f"{name} has no {option}"


def check_swarm(arguments: Sequence[str], *, whole: bool = True) -> None:
    """Raise when no such command or option exists; of a ``whole`` command line also when ``join`` would refuse it."""
    command: Any = _ENTRY
    name, rest = "swarm", list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name, *rest = rest
        assert name in command.commands, f"there is no command {name} in: {' '.join(arguments)}"
        command = command.commands[name]
    known = {"--help", "--version", "--install-completion", "-"}
    if name == "config":
        name, command, rest = "join", _ENTRY.commands["join"], [word for word in rest if word != "--json"]
    known.update(option for each in command.params for option in (*each.opts, *each.secondary_opts))
    asked = [word.partition("=")[0] for word in rest if word.startswith("-")]
    assert set(asked) <= known, f"{name} has no {set(asked) - known}"
    if whole and "--help" not in rest and not hasattr(command, "commands"):
        context = command.make_context(name, rest)
        if name == "join" and not _PLACEHOLDER.search(" ".join(rest)):
            read_settings(context.params | {"config": None})
