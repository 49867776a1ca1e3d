"""GET /metrics: what Prometheus reads after answers and refusals."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from swarm.api.metrics import route_of
from tests.support.front_door import MODEL, FakeFrontDoor, Served, serving

MESSAGES = [{"role": "user", "content": "Hi"}]


async def samples(served: Served) -> dict[tuple[str, tuple[str, ...]], float]:
    async with httpx.AsyncClient() as client:
        response = await client.get(served.url + "/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_answers_refusals_and_times_are_counted() -> None:
    front = FakeFrontDoor(script=lambda request: ["a", 0.02, "b", "c"])
    async with serving(front) as served, httpx.AsyncClient() as client:
        url = served.url + "/v1/chat/completions"
        for stream in (False, True):
            body = {"model": MODEL, "messages": MESSAGES, "stream": stream}
            assert (await client.post(url, json=body)).status_code == 200
        await client.post(url, json={"model": "none", "messages": MESSAGES})
        await client.get(served.url + "/v1/models/a/b/c")
        found = await samples(served)
    assert found["swarm_requests_total", ("/chat/completions", "200")] == 2
    assert found["swarm_requests_total", ("/chat/completions", "404")] == 1
    assert found["swarm_requests_total", ("/models/{model}", "404")] == 1
    assert found["swarm_first_token_seconds_count", ()] == 2
    assert found["swarm_between_tokens_seconds_count", ()] == 4
    assert found["swarm_between_tokens_seconds_sum", ()] >= 0.04
    assert found["swarm_running_answers", ()] == 0
    assert found["swarm_kv_used_bytes", ()] == 1024
    assert found["swarm_queued_jobs", ()] == 0


async def test_metrics_need_the_key_where_one_is_set() -> None:
    async with serving(keys=("k",)) as served, httpx.AsyncClient() as client:
        assert (await client.get(served.url + "/metrics")).status_code == 400


def test_ids_and_unknown_paths_make_no_labels_of_their_own() -> None:
    assert route_of("/v1/responses/resp_1") == route_of("/responses/resp_2") == "/responses/{response_id}"
    assert route_of("/v1/models/org/name") == "/models/{model}"
    assert route_of("/wp-admin") == route_of("/v1/secret") == "other"
