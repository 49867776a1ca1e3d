"""Invites and the control socket, between real processes: a machine gets in once, by one string."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.swarm_process import free_port, wait_for

pytestmark = pytest.mark.processes


def swarm_command(
    *arguments: str, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swarm", *arguments],
        input=stdin, capture_output=True, text=True, timeout=60, env=os.environ | environment, check=False,
    )  # fmt: skip


class Member:
    """A node without a model, in a state folder of its own."""

    def __init__(self, folder: Path, *arguments: str, stdin: str | None = None, **environment: str) -> None:
        self.state = folder / "state"
        self.log = folder / "log"
        folder.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "swarm", "join", *arguments, "--listen", f"127.0.0.1:{free_port()}",
             "--state", str(self.state), "--name", folder.name],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=self.log.open("w"), stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )  # fmt: skip
        if self.process.stdin is not None and stdin is not None:
            self.process.stdin.write(stdin.encode())
            self.process.stdin.close()

    def says(self, text: str) -> bool:
        return text in self.log.read_text()

    def members(self) -> int:
        """How many live members this node sees."""
        from swarm.errors import SwarmError
        from swarm.node.control import GetState, ask

        try:
            state = ask(self.state, GetState())
        except SwarmError:
            return 0
        return sum(member["health"] == "alive" for member in state["members"])

    def invite(self, *options: str) -> str:
        made = swarm_command("invite", "--state", str(self.state), *options)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    member = Member(tmp_path_factory.mktemp("first") / "node")
    try:
        wait_for("the first node", lambda: member.members() == 1)
        yield member
    finally:
        member.process.terminate()
        member.process.wait(20)


def test_a_second_machine_joins_by_one_string_and_its_restart_needs_no_other(
    first: Member, tmp_path: Path
) -> None:
    invite = first.invite()
    second = Member(tmp_path / "second", "-", stdin=invite + "\n")
    try:
        wait_for("the second node in the swarm", lambda: second.members() == 2)
        secret = (first.state / "swarm.key").read_text()
        assert (second.state / "swarm.key").read_text() == secret
        assert stat.S_IMODE((second.state / "swarm.key").stat().st_mode) == 0o600
        for log in (first.log, second.log):
            assert secret.strip() not in log.read_text()
            assert invite not in log.read_text()
    finally:
        second.process.terminate()
        second.process.wait(20)
    again = Member(tmp_path / "again", SWARM_INVITE=invite)
    try:
        assert again.process.wait(30) != 0
        assert again.says("used up or expired")
        assert not (again.state / "swarm.key").exists()
    finally:
        again.process.kill()
    (tmp_path / "restarted").mkdir()
    second.state.rename(tmp_path / "kept")
    restarted = subprocess.Popen(
        [sys.executable, "-m", "swarm", "join", invite, "--listen", "127.0.0.1:0", "--state", str(tmp_path / "kept")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        second.state = tmp_path / "kept"
        wait_for("the restarted node in the swarm", lambda: second.members() == 2)
    finally:
        restarted.terminate()
        restarted.wait(20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-5], "copy it again"),
        (lambda text: "swarm2:" + text, "begins with"),
        (lambda text: "", "no invite"),
    ],
    ids=["cut", "other", "nothing"],
)
def test_a_broken_invite_is_refused_with_what_to_do(
    first: Member, tmp_path: Path, change: Any, message: str
) -> None:
    refused = swarm_command(
        "join", "-", "--state", str(tmp_path / "state"), stdin=change(first.invite()) + "\n"
    )
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_node_that_is_gone_is_named_with_its_addresses(first: Member, tmp_path: Path) -> None:
    from swarm.protocol.invite import Invite
    from swarm.types import Address

    known = Invite.parse(first.invite())
    gone = Invite((Address("127.0.0.1", free_port()),), known.issuer, known.swarm_id, known.ticket, known.key)
    refused = swarm_command("join", "-", "--state", str(tmp_path / "state"), stdin=gone.encode())
    assert refused.returncode == 1
    assert "can't be reached" in refused.stderr
    impostor = Invite(known.addresses, "a" * 32, known.swarm_id, known.ticket, known.key)
    refused = swarm_command("join", "-", "--state", str(tmp_path / "other"), stdin=impostor.encode())
    assert refused.returncode == 1
    assert "was expected" in refused.stderr


def test_the_control_socket_is_its_users_own_and_says_when_no_node_runs(
    first: Member, tmp_path: Path
) -> None:
    from swarm.node.control import socket_path

    assert stat.S_IMODE(Path(socket_path(first.state)).stat().st_mode) == 0o600
    refused = swarm_command("invite", "--state", str(tmp_path))
    assert refused.returncode == 2
    assert "no node runs" in refused.stderr
    made = json.loads(first.invite("--json", "--minutes", "2"))
    assert made["minutes"] == 2
    refused = swarm_command("invite", "--state", str(first.state), "--minutes", "100000")
    assert refused.returncode == 1
    assert "minutes" in refused.stderr


def test_the_door_opens_moves_and_closes_while_the_node_runs(first: Member) -> None:
    import urllib.error
    import urllib.request

    from swarm.errors import SwarmError
    from swarm.node.control import CloseDoor, GetState, OpenDoor, ask

    def status(address: str, key: str = "") -> int:
        request = urllib.request.Request(
            f"http://{address}/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            return exc.code
        except OSError:
            return 0

    assert ask(first.state, GetState())["api"] is None
    address = ask(first.state, OpenDoor("127.0.0.1:0"))["listen"]
    assert status(address) == 200
    with pytest.raises(SwarmError, match="keys"):
        ask(first.state, OpenDoor("0.0.0.0:0"))
    assert status(address) == 200
    moved = ask(first.state, OpenDoor(f"127.0.0.1:{free_port()}", keys=("a-key",)))["listen"]
    assert (status(address), status(moved), status(moved, "a-key")) == (0, 400, 200)
    changed = ask(first.state, OpenDoor(moved, keys=("other-key",)))["listen"]
    assert changed == moved
    assert (status(moved, "a-key"), status(moved, "other-key")) == (401, 200)
    ask(first.state, CloseDoor())
    assert status(moved, "other-key") == 0
    assert ask(first.state, GetState())["api"] is None


def test_nodes_that_may_be_found_find_each_other_without_an_address(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "other").write_text("cd" * 32)
    options = ("--discover", "--swarm-key-file")
    nodes = [
        Member(tmp_path / "one", *options, str(tmp_path / "key")),
        Member(tmp_path / "two", *options, str(tmp_path / "key")),
        Member(tmp_path / "stranger", *options, str(tmp_path / "other")),
    ]
    try:
        wait_for("both to know each other", lambda: nodes[0].members() == nodes[1].members() == 2)
        wait_for("the stranger to run", lambda: nodes[2].members() >= 1)
        assert nodes[2].members() == 1
    finally:
        for node in nodes:
            node.process.terminate()
        for node in nodes:
            node.process.wait(20)
