"""The OpenAPI document says what the door really does."""

from __future__ import annotations

import re
from typing import Any

import httpx

from swarm.api.schemas import ChatBody
from tests.support.front_door import MODEL, serving


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


async def test_every_described_path_exists_and_answers_only_with_described_statuses() -> None:
    found = await document()
    async with serving() as served, httpx.AsyncClient() as client:
        for path, operations in found["paths"].items():
            url = served.url + re.sub(r"\{\w+\}", MODEL if "models" in path else "resp_x", path)
            for method, operation in operations.items():
                response = await client.request(method, url, json={} if method == "post" else None)
                assert str(response.status_code) in operation["responses"], (method, path)
                assert response.status_code not in (405, 500)
                if response.status_code == 404:
                    assert response.json()["error"]["code"] == "response_not_found"
