"""GET /metrics: what Prometheus reads after answers and refusals."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from swarm.api import metrics
from swarm.api.metrics import route_of
from swarm.errors import PeerError
from swarm.node import meters
from swarm.types import NodeId
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


GEN_AI = ("chat", "swarm", MODEL)


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
    assert found["gen_ai_server_time_to_first_token_seconds_count", GEN_AI] == 2
    assert found["gen_ai_server_time_per_output_token_seconds_count", GEN_AI] == 2
    assert found["gen_ai_server_time_per_output_token_seconds_sum", GEN_AI] >= 0.02
    assert found["gen_ai_server_request_duration_seconds_count", ("", *GEN_AI)] == 2
    assert found["swarm_inter_token_seconds_count", ()] == 4
    assert found["swarm_inter_token_seconds_sum", ()] >= 0.04
    assert found["swarm_reserve_seconds_count", ()] == 2
    assert found["swarm_running_answers", ()] == 0
    assert found["swarm_build_info", ("1.2.3",)] == 1
    assert "none" not in {value for _, labels in found for value in labels}


async def test_what_fails_is_counted_by_its_error() -> None:
    failure = PeerError(NodeId("c" * 32), "vanished")
    front = FakeFrontDoor(script=lambda request: ["a", failure])
    async with serving(front) as served, httpx.AsyncClient() as client:
        for path, stream in (("chat/completions", True), ("completions", False)):
            body = {"model": MODEL, "messages": MESSAGES, "prompt": "Hi", "stream": stream}
            await client.post(f"{served.url}/v1/{path}", json=body)
        found = await samples(served)
    duration = "gen_ai_server_request_duration_seconds_count"
    assert found[duration, ("node_failed", *GEN_AI)] == 1
    assert found[duration, ("node_failed", "text_completion", "swarm", MODEL)] == 1


async def test_the_nodes_own_metrics_come_with_the_doors() -> None:
    async with serving() as served:
        found = await samples(served)
    assert found["swarm_kv_used_bytes", ()] == 1024
    assert found["swarm_queued_jobs", ()] == 0
    assert found["swarm_engine_rows_total", ()] == 8
    assert found["swarm_model_servable", (MODEL,)] == 1
    assert found["swarm_loop_lag_seconds", ("0.99",)] == 0.001


async def test_every_metric_of_the_page_is_read_and_no_other() -> None:
    async with serving() as served, httpx.AsyncClient() as client:
        await client.post(served.url + "/v1/completions", json={"model": MODEL, "prompt": "Hi"})
        text = (await client.get(served.url + "/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    listed = {spec.name: spec for spec in (*metrics.SPECS, *meters.SPECS)}
    counted_by_the_node = {"step", "hop_compute", "hop_queue", "failovers"}
    for name, spec in listed.items():
        if not name.removeprefix("swarm_").startswith(tuple(counted_by_the_node)):
            assert (families[name].type, families[name].documentation) == (spec.kind, spec.about)
    assert {name for name in families if not name.startswith("process_")} <= listed.keys()


async def test_metrics_need_the_key_where_one_is_set() -> None:
    async with serving(keys=("k",)) as served, httpx.AsyncClient() as client:
        assert (await client.get(served.url + "/metrics")).status_code == 400


def test_ids_and_unknown_paths_make_no_labels_of_their_own() -> None:
    assert route_of("/v1/responses/resp_1") == route_of("/responses/resp_2") == "/responses/{response_id}"
    assert route_of("/v1/models/org/name") == "/models/{model}"
    assert route_of("/wp-admin") == route_of("/v1/secret") == "other"
