"""What the front door refuses, over real HTTP: bad bodies, wrong keys, other people's web pages."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from typing import Any

import httpx
import pytest

from swarm.api.server import ApiServer
from swarm.config import ApiKey, ApiSettings
from swarm.errors import ConfigError
from swarm.node.front import GenerationRequest, ServedModel
from swarm.types import Address, LayerSpan
from tests.support.front_door import LOOPBACK, MODEL, FakeFrontDoor, Served, eventually, serving

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, Any] = {"model": MODEL, "messages": HELLO}


async def ask(served: Served, method: str, path: str, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.request(method, served.url + path, timeout=30, **options)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, after checking that it has OpenAI's shape and that the answer has an id."""
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": 1}, "model", "invalid_type"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        (
            {"messages": [*HELLO, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[1].content[0].type",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "messages[0].content[0].text",
            "invalid_type",
        ),
        ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "integer_below_min_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
        ({"top_p": 1.1}, "top_p", "decimal_above_max_value"),
        ({"min_p": -1}, "min_p", "decimal_below_min_value"),
        ({"top_k": -2}, "top_k", "integer_below_min_value"),
        ({"presence_penalty": 3}, "presence_penalty", "decimal_above_max_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 1000}, "n", "integer_above_max_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "decimal_above_max_value"),
        ({"stop": ["a", 1]}, "stop[1]", "invalid_type"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["a"] * 17}, "stop", "array_above_max_length"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "invalid_value"),
        ({"timeout": 0}, "timeout", "decimal_below_min_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages", "context_length_exceeded"),
    ],
)
async def test_a_bad_field_is_400_and_named(change: dict[str, Any], param: str, code: str) -> None:
    async with serving() as served:
        response = await ask(served, "POST", CHAT, json={**GOOD, **change})
    error = error_of(response)
    assert response.status_code == 400
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert served.front.generations == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model": ' + b"[" * 100_000, b"[" * 100_000],
)
async def test_what_is_no_json_object_is_400(content: bytes) -> None:
    async with serving() as served:
        response = await ask(
            served, "POST", CHAT, content=content, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 400
    error_of(response)


async def test_explicit_nulls_and_unknown_fields_are_as_if_absent() -> None:
    optional = (
        "stream stream_options max_tokens max_completion_tokens max_output_tokens min_tokens ignore_eos temperature "
        "top_p top_k min_p presence_penalty frequency_penalty repetition_penalty logit_bias seed stop "
        "stop_token_ids timeout swarm n logprobs top_logprobs chat_template_kwargs user store metadata"
    )
    async with serving() as served:
        plain = await ask(served, "POST", CHAT, json={**GOOD, "seed": 1})
        nulls = await ask(
            served, "POST", CHAT, json={**dict.fromkeys(optional.split()), **GOOD, "seed": 1, "zz": {"a": []}}
        )
    assert (plain.status_code, nulls.status_code) == (200, 200)
    first, second = (generation.request for generation in served.front.generations)
    assert (first.sampling, first.max_tokens) == (second.sampling, second.max_tokens)


async def test_an_unknown_model_is_404() -> None:
    async with serving() as served:
        asked = await ask(served, "POST", CHAT, json={**GOOD, "model": "no/such"})
        listed = await ask(served, "GET", "/v1/models/no/such")
    for response in (asked, listed):
        assert response.status_code == 404
        assert error_of(response)["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1//models", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
    ],
)
async def test_errors_of_http_have_the_same_shape(method: str, path: str, status: int) -> None:
    async with serving() as served:
        response = await ask(served, method, path)
    assert response.status_code == status
    error_of(response)


async def test_a_body_over_the_limit_is_413_with_and_without_its_length_said() -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 1000

    headers = {"Content-Type": "application/json"}
    async with serving(max_body_bytes=20_000) as served:
        said = await ask(served, "POST", CHAT, content=b" " * 30_000, headers=headers)
        unsaid = await ask(served, "POST", CHAT, content=chunks(), headers=headers)
    for response in (said, unsaid):
        assert response.status_code == 413
        error_of(response)


async def test_a_bug_is_500_in_the_same_shape_and_tells_nothing() -> None:
    def script(request: GenerationRequest) -> list[Any]:
        return ["a", RuntimeError("secret detail")]

    async with serving(FakeFrontDoor(script=script)) as served:
        response = await ask(served, "POST", CHAT, json=GOOD)
        streamed = await ask(served, "POST", CHAT, json={**GOOD, "stream": True})
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "secret detail" not in response.text
    assert "[DONE]" not in streamed.text
    assert "secret detail" not in streamed.text
    assert '"code":"internal_error"' in streamed.text
    assert all(generation.closed for generation in served.front.generations)


async def test_a_missing_key_is_400_and_a_wrong_one_401() -> None:
    async with serving(keys=("alpha", "b\u00eata")) as served:
        for path in ("/v1/models", "/swarm/state", "/version", "/nothing"):
            missing = await ask(served, "GET", path)
            wrong = await ask(served, "GET", path, headers={"Authorization": "Bearer alphaa"})
            basic = await ask(served, "GET", path, headers={"Authorization": "Basic alpha"})
            assert (missing.status_code, wrong.status_code, basic.status_code) == (400, 401, 401)
            for response in (missing, wrong, basic):
                error_of(response)
        right = await ask(served, "GET", "/v1/models", headers={"Authorization": "Bearer alpha"})
        health = await ask(served, "GET", "/health")
    assert (right.status_code, health.status_code) == (200, 200)


async def test_keys_share_no_scope_and_no_request_shows_its_key() -> None:
    async with serving(keys=("alpha", "beta")) as served:
        for key in ("alpha", "beta", "alpha"):
            await ask(served, "POST", CHAT, json=GOOD, headers={"Authorization": f"Bearer {key}"})
    scopes = [generation.request.scope for generation in served.front.generations]
    assert scopes[0] == scopes[2] != scopes[1]
    assert "alpha" not in scopes[0]


async def test_a_foreign_host_is_421() -> None:
    async with serving(hosts=("door.example",)) as served:
        foreign = await ask(served, "GET", "/v1/models", headers={"Host": "evil.example"})
        named = await ask(served, "GET", "/v1/models", headers={"Host": "door.example:99"})
    assert (foreign.status_code, named.status_code) == (421, 200)
    error_of(foreign)


async def test_a_web_page_of_another_origin_is_403_even_for_health() -> None:
    async with serving() as served:
        for path in ("/v1/models", "/health"):
            foreign = await ask(served, "GET", path, headers={"Origin": "http://evil.example"})
            assert foreign.status_code == 403
            error_of(foreign)
        own = await ask(served, "GET", "/v1/models", headers={"Origin": served.url})
        other_port = await ask(served, "GET", "/v1/models", headers={"Origin": "http://127.0.0.1:1"})
        opaque = await ask(served, "GET", "/v1/models", headers={"Origin": "null"})
    assert (own.status_code, other_port.status_code, opaque.status_code) == (200, 403, 403)


async def test_websockets_pass_the_same_guards() -> None:
    async def upgrade(served: Served, *headers: str, path: str = "/v1/responses") -> int:
        reader, writer = await asyncio.open_connection(served.address.host, served.address.port)
        lines = [
            f"GET {path} HTTP/1.1",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *headers,
            "\r\n",
        ]
        writer.write("\r\n".join(lines).encode())
        status = int((await reader.readline()).split()[1])
        assert b"x-request-id" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return status

    async with serving(keys=("k",)) as served:
        own, key = "Host: localhost", "Authorization: Bearer k"
        assert await upgrade(served, own, key, "Origin: http://evil.example") == 403
        assert await upgrade(served, "Host: evil.example", key) == 421
        assert await upgrade(served, own) == 400
        assert await upgrade(served, own, key, path="/v1/chat/completions") == 404
        assert await upgrade(served, own, key) == 101


async def test_a_form_post_is_415() -> None:
    async with serving() as served:
        form = await ask(served, "POST", CHAT, data={"model": MODEL})
        text = await ask(
            served, "POST", CHAT, content=json.dumps(GOOD), headers={"Content-Type": "text/plain"}
        )
        none = await ask(served, "POST", CHAT, content=json.dumps(GOOD))
    for response in (form, text, none):
        assert response.status_code == 415
        error_of(response)


async def test_a_configured_origin_is_answered_with_cors_and_others_are_not() -> None:
    async with serving(origins=("https://app.example",), keys=("k",)) as served:
        preflight = await ask(
            served,
            "OPTIONS",
            CHAT,
            headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"},
        )
        answer = await ask(
            served,
            "POST",
            CHAT,
            json=GOOD,
            headers={"Origin": "https://app.example", "Authorization": "Bearer k"},
        )
        foreign = await ask(
            served,
            "OPTIONS",
            CHAT,
            headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
        )
    assert preflight.status_code == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert foreign.status_code == 403
    assert "access-control-allow-origin" not in foreign.headers


async def test_one_key_can_not_take_the_whole_door() -> None:
    go_on = asyncio.Event()
    front = FakeFrontDoor(script=lambda request: [go_on, "done"])
    async with serving(front, keys=("a", "b"), max_concurrent_per_key=2) as served:

        def call(key: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(
                ask(served, "POST", CHAT, json=GOOD, headers={"Authorization": f"Bearer {key}"})
            )

        running = [call("a"), call("a")]
        await eventually(lambda: len(front.generations) == 2)
        third = await call("a")
        other = call("b")
        await eventually(lambda: len(front.generations) == 3)
        go_on.set()
        answers = await asyncio.gather(*running, other)
        again = await call("a")
    assert third.status_code == 429
    assert error_of(third)["type"] == "rate_limit_error"
    assert int(third.headers["retry-after"]) > 0
    assert [answer.status_code for answer in (*answers, again)] == [200] * 4


async def test_a_key_has_its_own_limits() -> None:
    go_on = asyncio.Event()
    front = FakeFrontDoor(script=lambda request: [go_on, "done"])
    one = ApiKey("one", sha256(b"a").digest(), max_concurrent=1)
    slow = ApiKey("slow", sha256(b"b").digest(), requests_per_minute=1)
    async with serving(front, keys=(one, slow)) as served:

        async def call(key: str) -> httpx.Response:
            return await ask(served, "POST", CHAT, json=GOOD, headers={"Authorization": f"Bearer {key}"})

        running = asyncio.create_task(call("a"))
        await eventually(lambda: len(front.generations) == 1)
        second = await call("a")
        go_on.set()
        answers = [await running, await call("a"), await call("b")]
        too_often = await call("b")
    assert second.status_code == too_often.status_code == 429
    assert [answer.status_code for answer in answers] == [200] * 3
    assert error_of(too_often)["type"] == "rate_limit_error"
    assert 1 <= int(too_often.headers["retry-after"]) <= 60


async def test_keys_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    right, wrong = "the-right-key-9f", "a-wrong-key-4e"
    front = FakeFrontDoor(script=lambda request: [ValueError("boom")])
    async with serving(front, keys=(right,)) as served:
        for key in (right, wrong):
            response = await ask(served, "POST", CHAT, json=GOOD, headers={"Authorization": f"Bearer {key}"})
            assert right not in response.text + str(response.headers)
            assert wrong not in response.text + str(response.headers)
    assert "boom" in caplog.text
    for secret in (right, wrong, sha256(right.encode()).hexdigest()):
        assert secret not in caplog.text


async def test_health_says_what_is_missing() -> None:
    whole = ServedModel(MODEL, "0" * 64, 8, 4096, 0)
    broken = ServedModel("org/other", "1" * 64, 8, 4096, 0, missing=(LayerSpan(2, 5),))
    for served_models, status, word in (
        ((whole,), 200, "ok"),
        ((whole, broken), 200, "degraded"),
        ((broken,), 503, "unavailable"),
        ((), 503, "unavailable"),
    ):
        async with serving(FakeFrontDoor(served=served_models)) as served:
            response = await ask(served, "GET", "/health")
        assert (response.status_code, response.json()["status"]) == (status, word)
    async with serving(FakeFrontDoor(served=(broken,))) as served:
        assert (await ask(served, "GET", "/health")).json()["models"] == [
            {"id": "org/other", "servable": False, "missing": ["2:5"], "problem": ""}
        ]


async def test_models_are_listed_with_and_without_v1() -> None:
    async with serving() as served:
        listed = (await ask(served, "GET", "/models")).json()
        one = (await ask(served, "GET", f"/v1/models/{MODEL}")).json()
        version = (await ask(served, "GET", "/version")).json()
        state = (await ask(served, "GET", "/swarm/state")).json()
    assert listed["data"] == [one]
    assert (one["id"], one["object"], one["owned_by"]) == (MODEL, "model", "swarm")
    assert version["version"] == "1.2.3"
    assert state["detail"] is True


async def test_a_door_to_the_network_needs_a_key_or_a_word() -> None:
    anywhere = Address("0.0.0.0", 0)
    with pytest.raises(ConfigError, match="key"):
        await ApiServer(FakeFrontDoor(), ApiSettings(listen=anywhere), version="1").start()
    for settings in (ApiSettings(listen=anywhere, keys=("k",)), ApiSettings(listen=anywhere, open=True)):
        server = ApiServer(FakeFrontDoor(), settings, version="1")
        await server.start()
        await server.aclose()


async def test_a_taken_port_is_a_config_error_that_says_so() -> None:
    async with serving() as served:
        second = ApiServer(FakeFrontDoor(), ApiSettings(listen=served.address), version="1")
        with pytest.raises(ConfigError, match=str(served.address.port)):
            await second.start()


async def test_keys_come_from_a_file_too(tmp_path: Any) -> None:
    (tmp_path / "keys").write_text("# people\nalpha\n\n  beta\n")
    async with serving(key_file=str(tmp_path / "keys")) as served:
        right = await ask(served, "GET", "/v1/models", headers={"Authorization": "Bearer beta"})
        wrong = await ask(served, "GET", "/v1/models", headers={"Authorization": "Bearer gamma"})
    assert (right.status_code, wrong.status_code) == (200, 401)
    with pytest.raises(ConfigError, match="absent"):
        ApiServer(
            FakeFrontDoor(), ApiSettings(listen=LOOPBACK, key_file=str(tmp_path / "absent")), version="1"
        )


async def test_closing_lets_a_running_answer_end_and_cuts_what_does_not() -> None:
    front = FakeFrontDoor(script=lambda request: ["a", 0.2, "b"] if request.max_tokens == 5 else ["a", 600.0])
    async with serving(front) as served:
        short = asyncio.create_task(ask(served, "POST", CHAT, json={**GOOD, "max_tokens": 5}))
        long = asyncio.create_task(ask(served, "POST", CHAT, json=GOOD))
        await eventually(lambda: len(front.generations) == 2)
    ended, cut = await asyncio.gather(short, long, return_exceptions=True)
    assert isinstance(ended, httpx.Response)
    assert ended.json()["choices"][0]["message"]["content"] == "ab"
    assert isinstance(cut, httpx.Response)
    assert (cut.status_code, error_of(cut)["code"]) == (503, "shutting_down")
    assert all(generation.closed for generation in front.generations)
