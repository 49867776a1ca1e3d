"""The OpenAPI document says what the door really does."""

from __future__ import annotations

import re
from typing import Any, cast

import httpx

from swarm.api.app import create_app
from swarm.api.schemas import ChatBody
from swarm.config import ApiSettings
from tests.support.front_door import MODEL, FakeFrontDoor, in_this_process, serving


async def document() -> dict[str, Any]:
    async with serving() as served, httpx.AsyncClient() as client:
        response = await client.get(served.url + "/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


async def test_every_reference_leads_somewhere() -> None:
    found = await document()
    assert found["openapi"].startswith("3.1")
    for reference in references(found):
        place: Any = found
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


async def test_every_field_of_a_body_is_described() -> None:
    properties = (await document())["components"]["schemas"]["ChatBody"]["properties"]
    assert set(properties) == set(ChatBody.__struct_fields__)


async def test_every_route_of_the_door_is_described() -> None:
    found = await document()
    door = create_app(FakeFrontDoor(), ApiSettings(), version="1", render=in_this_process)
    rules = list(cast(Any, door)._app.url_map.iter_rules())
    assert len(rules) > 30
    for rule in rules:
        # A WebSocket's path is that of the POST that takes the same messages.
        methods = (
            {"post"} if rule.websocket else {name.lower() for name in rule.methods - {"HEAD", "OPTIONS"}}
        )
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        path = re.sub(r"^/page/.+", "/page/{file}", path)
        names = {path, "/v1" + path, path.removeprefix("/v1")} & found["paths"].keys()
        described = {method for name in names for method in found["paths"][name]}
        assert methods <= described, (methods, path)


async def test_every_described_path_exists_and_answers_only_with_described_statuses() -> None:
    found = await document()
    async with serving() as served, httpx.AsyncClient() as client:
        for path, operations in found["paths"].items():
            url = served.url + re.sub(r"\{\w+\}", MODEL if "models" in path else "resp_x", path)
            for method, operation in operations.items():
                url = url.replace("/page/resp_x", "/page/main.js")
                body = {} if method == "post" else None
                # Closed once the headers are there: /swarm/events has no end.
                async with client.stream(method, url, json=body) as response:
                    if "text/event-stream" not in response.headers["content-type"]:
                        await response.aread()
                assert str(response.status_code) in operation["responses"], (method, path)
                assert response.status_code not in (405, 500)
                if response.status_code == 404:
                    assert response.json()["error"]["code"] == "response_not_found"
