"""LiteLLM, LangChain, openai-agents and openai-python as people install them, in an environment of their own.

What they do is in tests/clients/python_clients.py; each of its tests is one here.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.clients import FOLDER, PYTHON, environment, run_by_pytest, scripted_door
from tests.support.swarm_process import SwarmProcesses

pytestmark = [pytest.mark.processes, pytest.mark.real_model, pytest.mark.timeout(240)]

FILE = "python_clients.py"
NAMES = re.findall(r"^def (test_\w+)", (FOLDER / FILE).read_text(encoding="utf-8"), re.MULTILINE)
Outcomes = dict[str, list[str]]
"""By a test's name: what went wrong in each of its cases, empty for one that passed."""


@pytest.fixture(scope="module")
def outcomes(three_nodes: SwarmProcesses, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    if not PYTHON.exists():
        pytest.fail("the clients are not installed; `scripts/test api` installs them into .venv-clients")
    report = tmp_path_factory.mktemp("clients") / "report.xml"
    with scripted_door() as scripted:
        told = environment(three_nodes.nodes[0].url, scripted)
        done = subprocess.run(
            run_by_pytest(FILE, f"--junitxml={report}"), cwd=FOLDER, env=told, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
        )  # fmt: skip
    assert report.exists(), done.stdout[-5000:]
    return _read(report)


def _read(report: Path) -> Outcomes:
    outcomes: Outcomes = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = [
            f"{found.tag}: {found.get('message')}\n{found.text}"
            for found in case
            if found.tag != "properties"
        ]
        outcomes[str(case.get("name")).partition("[")[0]].append("\n".join(wrong))
    return outcomes


@pytest.mark.parametrize("name", NAMES)
def test_client(outcomes: Outcomes, name: str) -> None:
    assert name in outcomes, f"it did not run: {dict(outcomes)}"
    if wrong := "\n".join(outcomes[name]).strip():
        pytest.fail(wrong)
