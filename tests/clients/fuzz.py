"""A fuzzer driven by the OpenAPI document of a running door; run by scripts/test_clients as python_clients.py is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
ENDLESS = "/swarm/events"


def test_schemathesis_finds_no_fault_and_no_undocumented_answer(tmp_path: Path) -> None:
    found = subprocess.run(
        [
            sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run",
            os.environ["SWARM_SCRIPTED"] + "/openapi.json", "--checks", CHECKS, "--exclude-path", ENDLESS,
            "--max-examples", "25", "--seed", "1", "--phases", "examples,coverage,fuzzing",
            "--suppress-health-check", "all",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
