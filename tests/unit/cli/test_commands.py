"""The commands as a person meets them: what they print, how they end, what they never show."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from swarm.cli.app import app, main
from swarm.cli.door import Door
from swarm.config.loading import ALIASES, flat_names


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Swarm = Callable[..., Ended]


@pytest.fixture
def swarm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Swarm:
    """Run the command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["swarm", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(ended.value.code or 0, captured.out, captured.err)  # type: ignore[arg-type]

    return run


def test_help_and_version_import_no_tensor_library_and_no_web_server() -> None:
    code = (
        "import sys\nfrom swarm.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'quart', 'hypercorn'} & set(sys.modules)))"
    )
    for option in ("--help", "--version"):
        run = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
        assert run.stdout.splitlines()[-1] == "[]"


def test_every_setting_with_a_flag_is_an_option_of_join() -> None:
    join = typer.main.get_command(app).commands["join"]  # type: ignore[attr-defined]
    options = {name for parameter in join.params for name in parameter.opts}
    names_of_files = {"job_port", "oai_port", "api_keys", "models"}
    wanted = {"--" + name.replace("_", "-") for name in flat_names().keys() - names_of_files}
    assert wanted - options == set()
    assert names_of_files <= ALIASES.keys()


def test_config_shows_what_join_would_use_and_where_it_comes_from(swarm: Swarm, tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text('name = "from-file"\nthreads = 3\n')
    ended = swarm(
        "config", "--config", str(file), "--threads", "5", "--openai-port", "9000", "--bootstrap", "a:1"
    )
    assert ended.code == 0
    assert f'name = "from-file"  # {file}' in ended.out
    assert "threads = 5  # --threads" in ended.out
    assert 'listen = "127.0.0.1:9000"  # --api' in ended.out
    assert 'bootstrap = ["a:1"]  # --bootstrap' in ended.out


def test_config_shows_no_secret(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_API_KEYS", "hunter2")
    ended = swarm("config")
    assert ended.code == 0
    assert "1 set, not shown" in ended.out
    assert "hunter2" not in ended.out + ended.err


def test_config_as_json_says_the_same_and_no_secret(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_API_KEYS", "hunter2")
    ended = swarm("config", "--json", "--threads", "5", "--bootstrap", "a:1")
    found = json.loads(ended.out)
    assert found["engine"]["threads"] == {"value": 5, "from": "--threads"}
    assert found["node"]["bootstrap"] == {"value": ["a:1"], "from": "--bootstrap"}
    assert found["api"]["keys"]["value"] == "1 set, not shown"
    assert "hunter2" not in ended.out


@pytest.mark.parametrize("command", ["join", "config"])
def test_a_wrong_setting_ends_with_one_line_and_exit_code_2(swarm: Swarm, command: str) -> None:
    ended = swarm(command, "--layers", "fifteen")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "swarm: --layers: 'fifteen' is not a span of layers; write it as A:B, for example 0:15 for the first 15"
    ]


def test_an_unknown_key_or_a_missing_file_ends_with_exit_code_2(swarm: Swarm, tmp_path: Path) -> None:
    file = tmp_path / "swarm.toml"
    file.write_text("bootstraps = []")
    unknown = swarm("join", "--config", str(file))
    missing = swarm("join", "--config", str(tmp_path / "other.toml"))
    assert (unknown.code, missing.code) == (2, 2)
    assert "did you mean 'bootstrap'?" in unknown.err
    file.write_text("zzzqqq = 1")
    assert "did you mean" not in swarm("join", "--config", str(file)).err
    assert "other.toml" in missing.err


def test_init_makes_the_secret_once_and_prints_its_path_only(swarm: Swarm, tmp_path: Path) -> None:
    state = tmp_path / "state"
    made, kept = swarm("init", "--state", str(state)), swarm("init", "--state", str(state))
    secret = (state / "swarm.key").read_text().strip()
    assert (made.code, kept.code) == (0, 0)
    assert made.out.startswith(f"New swarm secret: {state / 'swarm.key'}")
    assert kept.out.startswith("There is a swarm secret already")
    assert len(secret) == 64
    assert secret not in made.out + made.err + kept.out + kept.err


def test_init_as_json_names_the_file_and_whether_it_is_new(swarm: Swarm, tmp_path: Path) -> None:
    told = [json.loads(swarm("init", "--state", str(tmp_path / "state"), "--json").out) for _ in range(2)]
    secret = str(tmp_path / "state" / "swarm.key")
    assert told == [{"secret": secret, "made": True}, {"secret": secret, "made": False}]


def test_models_says_where_it_looked_when_there_are_none(
    swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path))
    ended = swarm("models")
    assert ended.code == 0
    assert str(tmp_path / "models") in ended.out


def test_a_gguf_file_becomes_a_model_of_the_store_under_a_name_that_is_free(
    swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path))
    made = []

    def convert(file: Path, folder: Path, **_: Any) -> Path:
        folder.mkdir(parents=True)
        made.append((file, folder))
        return folder

    monkeypatch.setattr("swarm.models.gguf.convert", convert)
    file = tmp_path / "some.gguf"
    first, second = (swarm("models", "import", str(file), "--name", "org/some") for _ in range(2))
    assert made == [(file, tmp_path / "models" / "org" / "some")]
    assert (first.code, second.code) == (0, 1)
    assert "Model org/some is in" in first.out
    assert "there is a model org/some already" in second.err


STATE: dict[str, Any] = {
    "node": "a" * 32,
    "members": [
        {
            "node": "a" * 32,
            "name": "desk",
            "state": "ready",
            "health": "alive",
            "routable": True,
            "spans": [
                {
                    "model": "org/m",
                    "digest": "0" * 64,
                    "layers": "0:4",
                    "of": 8,
                    "dtype": "float32",
                    "quantize": "int8",
                }
            ],
            "load": {"sessions": 2, "rows_per_second": 7.5, "rss_bytes": 3 * 2**20},
        },
        {
            "node": "b" * 32,
            "name": "[red]loft",
            "state": "ready",
            "health": "dead",
            "routable": False,
            "spans": [],
        },
    ],
    "models": [{"name": "org/m", "layers": 8, "servable": False, "missing": ["4:8"], "problem": ""}],
}


@pytest.fixture
def door() -> Iterator[str]:
    """A front door that answers every GET with STATE, if the key is right."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.headers["Authorization"] == "Bearer hunter2" and self.path == "/swarm/state"
            self.send_response(200 if right else 401)
            self.end_headers()
            self.wfile.write(json.dumps(STATE).encode())

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_status_shows_members_and_what_is_missing(
    swarm: Swarm, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_API_KEYS", "hunter2,other")
    ended = swarm("status", "--api", f"{door}/v1")
    assert ended.code == 0
    desk = next(line for line in ended.out.splitlines() if "desk" in line)
    loft = next(line for line in ended.out.splitlines() if "loft" in line)
    assert "aaaaaaaa*" in desk
    assert "0:4 of 8" in desk
    assert "int8" in desk
    assert "[red]loft" in loft
    assert "dead" in loft
    assert "org/m: can't be served: no node holds 4:8" in ended.out


@pytest.mark.parametrize("columns", [80, 60, 44])
def test_status_on_a_narrow_terminal_shows_every_layer_and_no_letter_that_steers_it(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    spans = [{"model": "org/m", "digest": "0" * 64, "layers": "10:20", "of": 30, "dtype": "bfloat16"}]
    load = {"sessions": 12, "rows_per_second": 1234.5, "rss_bytes": 1200 * 2**20}
    member = {
        "node": "a" * 32,
        "name": "living-room-\x1b[2Jmac",
        "state": "joining",
        "health": "alive",
        "routable": False,
        "spans": spans,
        "rtt_ms": 123.4,
        "load": load,
    }
    state = {"node": "a" * 32, "members": [member], "models": []}
    monkeypatch.setattr("swarm.cli.door.Door.get", lambda _door, _path: state)
    monkeypatch.setenv("COLUMNS", str(columns))
    ended = swarm("status")
    assert max(map(len, ended.out.splitlines())) <= columns
    assert "10:20 of 30" in ended.out
    assert "\x1b" not in ended.out
    monkeypatch.delenv("COLUMNS")
    piped = swarm("status").out
    assert all(value in piped for value in ("10:20 of 30", "bfloat16", "1234.5", "1200"))


def test_status_takes_an_address_as_join_does(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get(door: Door, path: str) -> dict[str, Any]:
        asked.append(door.url + path)
        return STATE

    monkeypatch.setattr("swarm.cli.door.Door.get", get)
    for given in ("8161", "127.0.0.1:8161", "http://127.0.0.1:8161/v1"):
        assert swarm("status", "--api", given).code == 0
    assert asked == ["http://127.0.0.1:8161/swarm/state"] * 3
    wrong = swarm("status", "--api", "here")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)


def test_status_as_json_is_the_state_itself(swarm: Swarm, door: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# mine\nhunter2\n")
    ended = swarm("status", "--api", door, "--api-key-file", str(keys), "--json")
    assert json.loads(ended.out) == STATE


def test_status_ends_with_exit_code_1_when_refused_or_unreachable(swarm: Swarm, door: str) -> None:
    refused, nobody = swarm("status", "--api", door), swarm("status", "--api", "http://127.0.0.1:1")
    assert (refused.code, nobody.code) == (1, 1)
    assert "answered 401" in refused.err
    assert "no front door answers at http://127.0.0.1:1" in nobody.err
