"""What the documentation shows as code: it parses, names what exists, and the examples for clients run."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import tomli
import yaml

from swarm.config import load_config
from swarm.node.front import ServedModel
from tests.support.commands import check
from tests.support.front_door import FakeFrontDoor, serving
from tests.support.pages import PAGES, ROOT, Block, blocks, commands, inline_code

LANGUAGES = {"sh", "console", "powershell", "toml", "python", "json", "yaml", "text"}
DOOR = "http://127.0.0.1:8000"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
CLIENTS_OF_THEIR_OWN = ("langchain_openai",)
"""Packages of the clients' own environment; tests/clients runs those examples."""
_TEXT_COMMAND = re.compile(r"(?:\S*python3? -m swarm|swarm|join|doctor) [a-z-]|scripts/\w[^*]*$")


def of(*languages: str) -> Any:
    return pytest.mark.parametrize("block", blocks(*languages), ids=lambda block: block.name)


@of()
def test_a_block_says_what_it_is_written_in(block: Block) -> None:
    assert block.language in LANGUAGES, f"write one of {', '.join(sorted(LANGUAGES))} behind the fence"


@of("sh", "console")
def test_a_shell_block_parses_and_names_commands_and_options_that_exist(block: Block) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    checked = subprocess.run([bash, "-n"], input=block.shell, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    for words in commands(block.shell):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_command_in_the_text_exists(page: Any) -> None:
    if page.name == "cli.md":  # usage as the commands themselves print it
        return
    for code in filter(_TEXT_COMMAND.match, inline_code(page)):
        said = f"swarm {code}" if code.startswith(("join ", "doctor ")) else code
        for words in commands(re.sub(r"…|[\[\]]", "", said)):
            check(words, whole=False)


@of("toml")
def test_a_toml_block_is_read_by_our_own_loader(block: Block) -> None:
    if block.title in ("", "swarm.toml"):
        load_config(block.text, {}, {})
    else:
        tomli.loads(block.text)


@of("json")
def test_a_json_block_parses(block: Block) -> None:
    json.loads(block.text)


@of("yaml")
def test_a_yaml_block_parses(block: Block) -> None:
    assert yaml.safe_load(block.text)


@of("python")
async def test_a_python_example_runs_against_a_front_door(block: Block) -> None:
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(block.text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    code = compile(block.text, block.name, "exec")
    if imported.intersection(CLIENTS_OF_THEIR_OWN):
        return
    async with serving(door()) as served:
        code = compile(block.text.replace(DOOR, served.url), block.name, "exec")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            await asyncio.to_thread(exec, code, {"__name__": "__main__"})
    assert "Hello, world!" in said.getvalue()


@of("sh", "console")
async def test_a_request_by_curl_is_answered(block: Block) -> None:
    asked = [words for words in commands(block.shell) if words[0] == "curl" and DOOR in " ".join(words)]
    if not asked:
        return
    async with serving(door()) as served:
        for words in asked:
            real = [word.replace(DOOR, served.url) for word in words]
            done = await asyncio.to_thread(
                subprocess.run, [*real, "--silent", "--fail-with-body"], capture_output=True, check=False
            )
            assert done.returncode == 0, done.stdout


def test_what_is_wrong_in_a_block_is_found() -> None:
    for wrong in (
        "swarm jion -",
        "python -m swarm join --laysers 0:3",
        "python -m swarm join --layers 0-3",
        "swarm models import",
        "scripts/demo --twice",
        "scripts/demmo",
    ):
        with pytest.raises(Exception, match=r".+"):
            check(wrong.split())


def door() -> FakeFrontDoor:
    model = ServedModel(name=MODEL, digest="0" * 64, layers=30, context_tokens=8192, created=1_700_000_000)
    return FakeFrontDoor(served=(model,))
