"""chat, status and doctor against a front door over real HTTP, as processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from swarm.errors import ModelError, ModelOnItsWayError
from swarm.node.front import ServedModel
from tests.support.front_door import MODEL, FakeFrontDoor, Served, serving, state_of

MEMBER = {
    "node": "a" * 32, "name": "one", "state": "ready", "health": "alive", "routable": True, "spans": [],
    "addresses": ["127.0.0.1:7410"], "links": [],
}  # fmt: skip


class Seen(FakeFrontDoor):
    """A front door whose state has the shape of a real one."""

    def state(self, *, detail: bool) -> dict[str, object]:
        return state_of(MEMBER)


async def swarm(
    served: Served | None, *arguments: str, stdin: str = "", **environment: str
) -> tuple[int, str, str]:
    door = ["--api", str(served.address)] if served else []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "swarm", *arguments, *door,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def test_chat_prints_one_answer_and_nothing_else_for_a_pipe() -> None:
    async with serving(Seen()) as served:
        assert await swarm(served, "chat", "Hello?") == (0, "Hello, world!\n", "")
        code, out, _ = await swarm(served, "chat", "--system", "Be brief.", stdin="from a pipe\n")
        assert (code, out) == (0, "Hello, world!\n")
        rendered = served.front.chat_tokenizer.rendered[-1]["messages"]
        await swarm(served, "chat", "Review this:", stdin="a diff\n")
    assert [(m["role"], m["content"]) for m in rendered] == [("system", "Be brief."), ("user", "from a pipe")]
    assert served.front.chat_tokenizer.rendered[-1]["messages"][-1]["content"] == "Review this:\n\na diff"


async def test_chat_escapes_what_would_steer_the_terminal() -> None:
    async with serving(Seen(script=lambda request: ["a\x1b[2Jb", "\n", "c"])) as served:
        _, out, _ = await swarm(served, "chat", "x")
    assert out == "a\\x1b[2Jb\nc\n"


async def test_chat_waits_for_a_model_that_the_door_still_fetches() -> None:
    class Fetching(Seen):
        asked = 0

        async def ready(self, model: str) -> ServedModel:
            self.asked += 1
            if self.asked == 1:
                raise ModelOnItsWayError("not yet here")
            return await super().ready(model)

    async with serving(Fetching()) as served:
        code, out, err = await swarm(served, "chat", "x")
    assert (code, out) == (0, "Hello, world!\n")
    assert err == f"{MODEL} is being fetched for this front door …\n"


async def test_a_door_with_keys_is_told_the_key_by_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("# mine\nsecret-key\n")
    async with serving(Seen(), keys=("secret-key",)) as served:
        code, _, err = await swarm(served, "chat", "x")
        assert code == 1
        assert "--api-key-file" in err
        assert (await swarm(served, "chat", "x", "--api-key-file", str(tmp_path / "key")))[0] == 0
        assert (await swarm(served, "status", SWARM_API_KEYS="secret-key"))[0] == 0


async def test_without_a_door_each_command_says_so_in_one_line() -> None:
    for command in (["chat", "x"], ["status"], ["bench"]):
        code, out, err = await swarm(None, *command, "--api", "127.0.0.1:9")
        assert (code, out) == (1, "")
        assert "no front door answers at http://127.0.0.1:9" in err
        assert len(err.splitlines()) == 1


async def test_doctor_reports_and_its_exit_code_says_whether_something_is_broken(tmp_path: Path) -> None:
    async with serving(Seen()) as served:
        code, out, _ = await swarm(
            served, "doctor", "--json", "--state", str(tmp_path), "--listen", "127.0.0.1:0"
        )
        found = json.loads(out)
        assert code == 0
        assert {
            "about": "model",
            "level": "ok",
            "text": f"{MODEL} can be served (8 layers)",
            "remedy": "",
        } in found
        port = served.address.port
        code, out, _ = await swarm(
            served,
            "doctor",
            "--state",
            str(tmp_path),
            "--listen",
            "127.0.0.1:0",
            "--bootstrap",
            f"127.0.0.1:{port}",
        )
        assert code == 1
        assert "no swarm node" in out or "hangs up" in out
        assert "-> check that the node runs there" in out


async def test_a_redacted_report_names_no_machine_person_address_or_folder(tmp_path: Path) -> None:
    secrets = {
        "member": "annas-desk", "host": "annas-server.example", "folder": "annas-folder", "home": "annas-home",
        "password": "annas-password", "address": "203.0.113.77", "path": "annas-path",
    }  # fmt: skip
    folder, home = tmp_path / secrets["folder"], tmp_path / secrets["home"]
    folder.mkdir(mode=0o700)
    member = {
        **MEMBER,
        "name": secrets["member"],
        "health": "suspect",
        "addresses": [f"{secrets['address']}:7410"],
    }
    state = state_of(member)
    state["models"][0] |= {"servable": False, "missing": ["0:8"]}

    class Broken(FakeFrontDoor):
        def state(self, *, detail: bool) -> dict[str, object]:
            return state

    async def report(api: str, *options: str) -> str:
        asked = ["--state", str(folder), "--bootstrap", f"{secrets['host']}:1", "--api", api]
        _, out, err = await swarm(None, "doctor", *asked, *options, SWARM_HOME=str(home))
        assert err == ""
        return out

    async with serving(Broken()) as served:
        plain = await report(str(served.address))
        safe = await report(str(served.address), "--redact")
    silent = f"http://anna:{secrets['password']}@127.0.0.1:9/{secrets['path']}"
    plain += await report(silent)
    safe += await report(silent, "--redact", "--json")
    assert [name for name, secret in secrets.items() if secret not in plain] == []
    assert [name for name, secret in secrets.items() if secret in safe] == []
    assert "127.0.0.1" not in safe
    assert str(tmp_path) not in safe
    assert "can't be served" in safe


async def test_bench_measures_answers_as_their_client_sees_them() -> None:
    paced = Seen(script=lambda request: ["a", *([0.02, "b"] * 100)], finish="length")
    asked = ["--streams", "1", "--streams", "3", "--tokens", "6"]
    async with serving(paced, keys=("secret-key",)) as served:
        code, out, err = await swarm(served, "bench", *asked, "--json", SWARM_API_KEYS="secret-key")
        requests = [generation.request for generation in paced.generations]
        _, table, _ = await swarm(served, "bench", *asked, SWARM_API_KEYS="secret-key")
        _, narrow, _ = await swarm(served, "bench", *asked, SWARM_API_KEYS="secret-key", COLUMNS="60")
    assert code == 0, err
    found = json.loads(out)
    assert (found["model"], [measured["streams"] for measured in found["rounds"]]) == (MODEL, [1, 3])
    for measured in found["rounds"]:
        assert (measured["answers"], measured["errors"]) == (measured["streams"], [])
        assert measured["tokens"] == 6 * measured["streams"]
        assert measured["inter_token_ms"]["p99"] >= measured["inter_token_ms"]["p50"] >= 10
        rates = measured["tokens_per_second"]
        assert 0 < rates["slowest_stream"] <= rates["a_stream"] <= 1 / 0.02 + 1
    # One that warms up, then 1 + 3, no two with the same prompt.
    assert len({request.prompt for request in requests}) == len(requests) == 5
    for shown, columns in ((table, 200), (narrow, 60)):
        assert "TTFT p50 / p99 ms" in shown
        assert max(map(len, shown.splitlines()[1:])) <= columns
    assert "\x1b" not in table


async def test_bench_counts_what_failed_and_is_no_success_then() -> None:
    answers = iter([["warm"], ["a", "b"], ["a", ModelError("the only node that had it left")]])
    async with serving(Seen(script=lambda request: next(answers))) as served:
        code, out, err = await swarm(served, "bench", "--streams", "2", "--json")
        assert code == 1
        (measured,) = json.loads(out)["rounds"]
        assert (measured["answers"], len(measured["errors"])) == (1, 1)
        assert "the only node that had it left" in measured["errors"][0]
        assert "warning: 1 x an answer broke off" in err
        code, out, err = await swarm(served, "bench", "--model", "org/other")
        assert (code, out) == (1, "")
        assert "org/other" in err
        assert (await swarm(served, "bench", "--streams", "0"))[0] == 2
