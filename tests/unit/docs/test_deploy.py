"""The files of deploy/ say what the command line and the settings take."""

from __future__ import annotations

import configparser
import plistlib
import re
import shlex

from swarm.cli.app import EXIT_USAGE
from swarm.config import SessionSettings
from tests.support.commands import check_swarm
from tests.support.pages import ROOT

DEPLOY = ROOT / "deploy"
LEAVING_SECONDS = 5
"""What a node takes beside its drain."""


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / "swarm.service").read_text(encoding="utf-8"))
    return parser


def test_the_unit_starts_a_command_that_exists() -> None:
    program, *arguments = shlex.split(unit()["Service"]["ExecStart"])
    assert program.endswith("/swarm")
    check_swarm(arguments)
    comment = (DEPLOY / "swarm.service").read_text(encoding="utf-8")
    (joining,) = re.findall(r"sudo -u swarm \S+/swarm (join [^#]+?)  ", comment)
    check_swarm(shlex.split(joining))


def test_the_unit_leaves_a_node_the_time_to_drain_and_does_not_repeat_wrong_settings() -> None:
    service = unit()["Service"]
    assert int(service["TimeoutStopSec"]) > SessionSettings().drain_seconds + LEAVING_SECONDS
    assert int(service["RestartPreventExitStatus"]) == EXIT_USAGE
    assert service["KillSignal"] == "SIGTERM"


def test_the_agent_of_launchd_is_a_property_list_that_starts_a_command_that_exists() -> None:
    agent = plistlib.loads((DEPLOY / "swarm.node.plist").read_bytes())
    program, *arguments = agent["ProgramArguments"]
    assert program.endswith("/swarm")
    check_swarm(arguments)
    assert agent["ExitTimeOut"] > SessionSettings().drain_seconds + LEAVING_SECONDS
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


def test_the_image_starts_a_command_that_exists_and_copies_what_exists() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    program, *arguments = re.findall(r'"([^"]*)"', entry)
    assert program == "swarm"
    check_swarm(arguments)
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
