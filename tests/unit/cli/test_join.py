"""`swarm join` up to the node: identity, what it prints first, and that nothing outlives it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarm.cli.app import main
from swarm.config import Config
from swarm.errors import ConfigError
from swarm.node.keystore import Keystore, NodeIdentity
from swarm.types import Address

Join = Callable[..., tuple[Config, NodeIdentity, str]]


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Join:
    """Run `swarm join` with a node that ends at once; return what the node was given, and all that was printed."""
    monkeypatch.delenv("SWARM_KEY", raising=False)
    monkeypatch.delenv("SWARM_API_KEYS", raising=False)
    given: list[tuple[Config, NodeIdentity]] = []

    async def run_node(
        config: Config,
        keystore: Keystore,
        identity: NodeIdentity,
        *_: Any,
        on_listening: Callable[[Address], None],
        **__: Any,
    ) -> None:
        with pytest.raises(ConfigError, match="in use"):
            Keystore(keystore.folder).open(create_secret=True, swarm_key_file="", environ_key=None)
        given.append((config, identity))
        on_listening(Address(config.node.listen.host, config.node.listen.port or 7411))

    monkeypatch.setattr("swarm.node.main.run_node", run_node)

    def run(*arguments: str) -> tuple[Config, NodeIdentity, str]:
        monkeypatch.setattr(sys, "argv", ["swarm", "join", "--state", str(tmp_path / "state"), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        assert (ended.value.code or 0) == 0, printed.err
        return *given[-1], printed.out + printed.err

    return run


def test_the_first_node_prints_the_command_for_a_second_machine_and_not_the_secret(
    join: Join, tmp_path: Path
) -> None:
    _, identity, printed = join("--advertise", "192.0.2.7:7000")
    key = tmp_path / "state" / "swarm.key"
    assert identity.secret_path == key
    assert f"-m swarm invite --state {tmp_path / 'state'}\n" in printed
    assert "-m swarm join -\n" in printed
    assert key.read_text().strip() not in printed


def test_a_node_on_loopback_invites_nodes_of_its_own_machine_only_to_the_port_it_got(
    join: Join, tmp_path: Path
) -> None:
    _, _, printed = join("--listen", "127.0.0.1:0")
    assert "others can't reach 127.0.0.1:7411" in printed
    key = tmp_path / "state" / "swarm.key"
    wanted = f"--bootstrap 127.0.0.1:7411 --swarm-key-file {key} --listen 127.0.0.1:0 --state FOLDER"
    assert wanted in printed
    assert "swarm invite" not in printed


@pytest.mark.parametrize(
    "wrong",
    [("--device", "toaster"), ("--api", "0.0.0.0:8000"), ("--api", "8000", "--api-key-file", "absent")],
)
def test_a_wrong_device_or_front_door_is_refused_before_a_secret_is_made(
    wrong: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SWARM_API_KEYS", raising=False)
    monkeypatch.setattr(sys, "argv", ["swarm", "join", "--state", str(tmp_path / "state"), *wrong])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert not (tmp_path / "state").exists()


def test_a_node_that_joins_prints_no_such_command(join: Join, tmp_path: Path) -> None:
    key = tmp_path / "copied.key"
    key.write_text("0b" * 32)
    key.chmod(0o600)
    config, identity, printed = join("--bootstrap", "192.0.2.7:7000", "--swarm-key-file", str(key))
    assert str(config.node.bootstrap[0]) == "192.0.2.7:7000"
    assert identity.keyring.preferred.hex() == "0b" * 32
    assert printed == ""


def test_a_secret_of_the_environment_is_neither_printed_nor_written(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_KEY", "0c" * 32)
    _, identity, printed = join()
    assert identity.keyring.preferred.hex() == "0c" * 32
    assert "SWARM_KEY" in printed
    assert "0c" * 32 not in printed
    assert not (tmp_path / "state" / "swarm.key").exists()


def test_a_node_without_a_name_is_called_as_its_host(join: Join) -> None:
    config, _, _ = join()
    assert config.node.name != ""


def test_an_api_key_as_an_option_is_warned_of_and_not_repeated(join: Join) -> None:
    config, _, printed = join("--api-key", "hunter2", "--api", "8000")
    assert config.api.keys == ("hunter2",)
    assert "warning: --api-key" in printed
    assert "hunter2" not in printed


def test_the_state_folder_is_free_again_when_the_node_has_ended(join: Join) -> None:
    _, first, _ = join()
    _, second, _ = join()
    assert first.key.node_id == second.key.node_id


def test_a_process_told_to_ends_when_its_standard_input_does() -> None:
    code = (
        "import os, signal, time; from swarm.cli.watchdog import stop_when_stdin_ends\n"
        # A parent that runs in the background of a shell hands down that SIGINT is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    stop_when_stdin_ends()\n    while True: time.sleep(0.01)\n"
        "except KeyboardInterrupt: print('stopped', flush=True)\n"
        "os._exit(0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate(input="noise is no end\n", timeout=30)
    assert out == "stopped\n"
    assert process.returncode == 0


def test_an_interrupt_that_an_import_swallows_is_sent_again() -> None:
    code = (
        "import os, signal, time; from swarm.cli.watchdog import stop_when_stdin_ends\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "for number in range(2):\n"
        "    try:\n"
        "        if number == 0: stop_when_stdin_ends()\n"
        "        while True: time.sleep(0.01)\n"
        "    except KeyboardInterrupt: print('interrupted', flush=True)\n"
        "os._exit(0)"
    )
    run = subprocess.run([sys.executable, "-c", code], input="", capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["interrupted"] * 2
