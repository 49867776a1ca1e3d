"""The documentation says what the code does."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator

import pytest
import typer

from scripts import _api_page, _cli_page, _control_page, _metrics_page
from swarm.api import metrics
from swarm.api.openapi import document
from swarm.api.responses.schemas import ResponsesBody
from swarm.api.schemas import ChatBody, CompletionBody, SwarmOptions
from swarm.cli.app import app
from swarm.config import reference
from swarm.node import meters
from tests.support.pages import ROOT

GENERATED: dict[str, Callable[[], str]] = {
    "cli.md": _cli_page.page,
    "control.md": _control_page.page,
    "configuration.md": reference.page,
    "http-api.md": _api_page.page,
    "metrics.md": _metrics_page.page,
}


_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_TEST = re.compile(r"^\s*(?:async )?def (test_\w+)", re.MULTILINE)
_PARTS = ("bucket", "sum", "count")
_FLAGS_OF_OTHERS = {
    "--strict",  # mypy
    "--once", "--nodes", "--port",  # scripts/demo
    "--json",  # scripts/bench_*.py
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_the_one_that_the_code_gives(name: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == GENERATED[name](), "run scripts/make_docs"


def test_every_metric_of_the_dashboard_exists() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "swarm.json").read_text(encoding="utf-8"))
    targets = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    targets += [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    assert len(targets) > 20
    specs = [*metrics.SPECS, *meters.SPECS]
    known = {spec.read_as for spec in specs if spec.kind != "histogram"}
    known |= {f"{spec.name}_{part}" for spec in specs if spec.kind == "histogram" for part in _PARTS}
    known |= {"process_resident_memory_bytes", "process_cpu_seconds_total"}
    named = {
        name for target in targets for name in re.findall(r"\b(?:swarm|gen_ai_server|process)_\w+", target)
    }
    assert named - known == set()
    labels = {label for spec in specs for label in spec.labels} | {"le", "instance", "job"}
    grouped = {
        label.strip()
        for target in targets
        for group in re.findall(r"\bby ?\(([^)]*)\)", target)
        for label in group.split(",")
    }
    assert grouped - labels == set()


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "docs/security.md", "docs/configuration.md"]
)
def test_every_flag_of_a_page_exists(name: str) -> None:
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    parameters = [parameter for command in commands for parameter in command.params]
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    named = set(_FLAG.findall((ROOT / name).read_text(encoding="utf-8")))
    assert named - known - {"--help"} - _FLAGS_OF_OTHERS == set()


def test_the_api_page_names_every_path_and_every_parameter() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    paths = {path.removeprefix("/v1") for path in document("0")["paths"]}
    named = {path.removeprefix("/v1") for path in re.findall(r"/[\w/{}.]*", text)}
    assert paths - named == set()
    said = set(re.findall(r"`(\w+)`", text))
    for body in (ChatBody, CompletionBody, ResponsesBody, SwarmOptions):
        assert set(body.__struct_fields__) - said == set()


def test_the_architecture_page_places_every_package() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    packages = {f"`swarm/{path.parent.name}`" for path in (ROOT / "swarm").glob("*/__init__.py")}
    assert {package for package in packages if package not in text} == set()


def test_every_test_that_the_conformance_page_names_exists() -> None:
    text = (ROOT / "docs" / "api-conformance.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("|---")]
    shown = [row.rsplit("|", 2)[1] for row in rows if "shown by" not in row]
    assert [row for row in shown if "`" not in row] == []
    named = set(re.findall(r"`(?:client:|more:)?(test_\w+)`", text))
    sources = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("tests/clients/*.py")]
    known = {name for path in sources for name in _TEST.findall(path.read_text(encoding="utf-8"))}
    assert named - known == set()
    assert len(named) > 80


def test_every_message_that_the_troubleshooting_page_explains_is_one_of_ours() -> None:
    rows = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    symptoms = [
        row.split("|")[1] for row in rows if row.startswith("| ") and not row.startswith("| what you see")
    ]
    quoted = [code for symptom in symptoms for code in re.findall(r"`([^`]+)`", symptom) if " " in code]
    assert len(quoted) > 5
    said = "\n".join(_texts())
    parts = [part.strip(" :") for code in quoted for part in code.split("…")]
    assert [part for part in parts if part not in said] == []


def _texts() -> Iterator[str]:
    """Yield the texts in our sources; what is filled in while running is a space."""
    for path in (ROOT / "swarm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else " " for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
