"""What ``--help`` says: every command has an example, and every example would be taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from swarm.cli.app import app
from tests.support.commands import check
from tests.support.pages import commands as commands_in


def commands(group: Any, *names: str) -> Iterator[Any]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield pytest.param(command, id=" ".join((*names, name)))


@pytest.mark.parametrize("command", list(commands(typer.main.get_command(app))))
def test_the_help_of_a_command_has_examples_that_would_be_taken(command: Any) -> None:
    _, found, examples = (command.help or "").replace("Examples:", "Example:").partition("Example:")
    assert found, "write `Example: ...` at the end of its docstring"
    lines = re.findall(r"`([^`]+)`", examples)
    assert lines
    for line in lines:
        for words in commands_in(line):
            check(words)
