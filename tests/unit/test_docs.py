"""The documentation says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer

from swarm.api import metrics, metrics_page
from swarm.api.openapi import document
from swarm.api.responses.schemas import ResponsesBody
from swarm.api.schemas import ChatBody, CompletionBody, SwarmOptions
from swarm.cli.app import app
from swarm.config.reference import page
from swarm.node import meters

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], key=str)

_FENCES = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:]+)\)")
_PATH = re.compile(r"`((?:swarm|tests|scripts|docs)/[\w/.-]+)`")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_TEST = re.compile(r"^\s*(?:async )?def (test_\w+)", re.MULTILINE)
_PARTS = ("bucket", "sum", "count")
_FLAGS_OF_OTHERS = {
    "--strict",  # mypy
    "--once", "--nodes", "--port",  # scripts/demo
    "--json",  # scripts/bench_*.py
}  # fmt: skip


def test_the_configuration_page_is_the_one_generated_from_the_settings() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m swarm config --reference > docs/configuration.md"


def test_the_metrics_page_is_the_one_generated_from_the_metrics() -> None:
    written = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert written == metrics_page.page(), "run: python -m swarm.api.metrics_page > docs/metrics.md"


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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_and_every_path_of_a_page_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [path.parent / link for link in _LINK.findall(_FENCES.sub("", text))]
    named = [ROOT / name for name in _PATH.findall(text)]
    assert [str(target) for target in (*links, *named) if not target.exists()] == []


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
    named = {path.removeprefix("/v1") for path in re.findall(r"/[\w/{}.]+", text)}
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
    named = set(re.findall(r"`(?:client:)?(test_\w+)`", text))
    sources = [*ROOT.glob("tests/**/test_*.py"), ROOT / "tests" / "clients" / "python_clients.py"]
    known = {name for path in sources for name in _TEST.findall(path.read_text(encoding="utf-8"))}
    assert named - known == set()
    assert len(named) > 80
