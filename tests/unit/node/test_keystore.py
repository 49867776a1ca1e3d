"""The state folder: what is kept, for whom, by one process at a time, and what is said when it can't be."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.errors import ConfigError
from swarm.node.keystore import Keystore

SECRET = "5ec2e7" + "0" * 58
OTHER = "0ddba11" + "0" * 57


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Keystore]:
    with Keystore(tmp_path / "state") as keystore:
        yield keystore


def test_the_node_key_and_the_secret_are_made_once_and_kept(store: Keystore) -> None:
    first = store.open(create_secret=True, swarm_key_file="", environ_key=None)
    store.close()
    again = store.open(create_secret=True, swarm_key_file="", environ_key=None)
    assert first.created_secret
    assert not again.created_secret
    assert again.key.node_id == first.key.node_id
    assert again.keyring == first.keyring
    assert again.secret_path == first.secret_path == store.folder / "swarm.key"


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps others out by the profile folder's access list")
def test_files_and_folder_are_for_their_owner_only(store: Keystore) -> None:
    store.open(create_secret=True, swarm_key_file="", environ_key=None)
    store.save_incarnation(3)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()}
    assert {modes[name] for name in ("node.key", "swarm.key", "incarnation")} == {0o600}


def test_without_a_secret_the_error_says_where_to_put_one(store: Keystore) -> None:
    with pytest.raises(ConfigError) as caught:
        store.open(create_secret=False, swarm_key_file="", environ_key=None)
    assert str(store.folder / "swarm.key") in str(caught.value)
    assert "--swarm-key-file" in str(caught.value)
    assert not (store.folder / "swarm.key").exists()


def test_a_named_file_wins_over_the_environment_and_that_over_the_folder(
    store: Keystore, tmp_path: Path
) -> None:
    own = store.open(create_secret=True, swarm_key_file="", environ_key=None)
    given = tmp_path / "given.key"
    given.write_text(f"# rotation: the new one first\n{SECRET}\n{OTHER}\n")
    from_file = store.open(create_secret=True, swarm_key_file=str(given), environ_key=OTHER)
    from_environment = store.open(create_secret=True, swarm_key_file="", environ_key=OTHER)
    assert [secret.hex() for secret in from_file.keyring.secrets] == [SECRET, OTHER]
    assert from_file.secret_path == given
    assert from_environment.keyring.preferred.hex() == OTHER
    assert from_environment.secret_path is None
    assert own.keyring.preferred.hex() not in (SECRET, OTHER)


def test_the_incarnation_is_zero_at_first_and_then_what_was_saved(store: Keystore) -> None:
    store.open(create_secret=True, swarm_key_file="", environ_key=None)
    assert store.load_incarnation() == 0
    store.save_incarnation(41)
    store.save_incarnation(42)
    assert store.load_incarnation() == 42
    assert [path.name for path in store.folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("node.key", b"short", "node.key is not a node key"),
        ("swarm.key", b"hunter2\n", "swarm.key: line 1"),
        ("swarm.key", b"\xff\xfe", "swarm.key: not text"),
        ("swarm.key", b"\n", "swarm.key: "),
    ],
)
def test_a_malformed_file_is_named_and_not_quoted(
    store: Keystore, file: str, content: bytes, words: str
) -> None:
    store.folder.mkdir()
    (store.folder / file).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        store.open(create_secret=True, swarm_key_file="", environ_key=None)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_malformed_secret_of_the_environment_is_named_and_not_quoted(store: Keystore) -> None:
    with pytest.raises(ConfigError, match="SWARM_KEY") as caught:
        store.open(create_secret=True, swarm_key_file="", environ_key="hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_malformed_incarnation_is_an_error(store: Keystore) -> None:
    store.folder.mkdir()
    (store.folder / "incarnation").write_text("many")
    with pytest.raises(ConfigError, match="incarnation"):
        store.load_incarnation()


def test_a_missing_key_file_is_an_error(store: Keystore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no swarm key file .*nowhere\.key"):
        store.open(create_secret=True, swarm_key_file=str(tmp_path / "nowhere.key"), environ_key=None)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no mode bits")
def test_a_secret_that_others_can_read_is_warned_of(
    store: Keystore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loose = tmp_path / "loose.key"
    loose.write_text(SECRET)
    loose.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        store.open(create_secret=True, swarm_key_file=str(loose), environ_key=None)
    assert f"chmod 600 {loose}" in caplog.text
    assert SECRET not in caplog.text


def test_a_second_process_is_told_who_uses_the_folder(store: Keystore) -> None:
    with _process_that_holds(store.folder) as other:
        with pytest.raises(ConfigError, match=rf"in use by process {other.pid}; .*--state FOLDER"):
            store.open(create_secret=True, swarm_key_file="", environ_key=None)
        other.kill()
        other.wait()
    store.open(create_secret=True, swarm_key_file="", environ_key=None)


def test_a_locked_default_folder_advises_a_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.node.keystore.default_state_folder", lambda: tmp_path)
    with (
        _process_that_holds(tmp_path),
        Keystore() as store,
        pytest.raises(
            ConfigError, match="start a second node on this machine with a state folder of its own"
        ),
    ):
        store.open(create_secret=True, swarm_key_file="", environ_key=None)


def _process_that_holds(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that opens the folder, and return once it has."""
    code = (
        "import sys; from pathlib import Path; from swarm.node.keystore import Keystore\n"
        "store = Keystore(Path(sys.argv[1])); store.open(True, '', None)\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    if process.stdout is None or process.stdout.readline().strip() != b"open":
        raise RuntimeError("the other process did not open the state folder")
    return process
