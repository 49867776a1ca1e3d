"""What described machines and a running swarm would do, by arithmetic."""

from __future__ import annotations

import pytest

from swarm.models.footprint import Footprint
from swarm.models.memory import Memory
from swarm.routing.cost import HOP_SECONDS, PathHop
from swarm.routing.plan import Described, Running, plan, plan_running
from swarm.routing.predict import predict
from swarm.routing.view import SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId

MB = 1_000_000
MODEL = ModelId("tiny", "0" * 64)
SIZES = Footprint(
    layer_bytes=(50 * MB,) * 20,
    kv_bytes=(1000,) * 20,
    windows=(None,) * 20,
    ends_bytes=100 * MB,
    context_tokens=8192,
    dtype="bfloat16",
)
A, B = NodeId("a" * 32), NodeId("b" * 32)
BOOT = BootId(b"bootboot")


def machine(name: str, memory_mb: int, speed: float = 1.0, *, door: bool = False) -> Described:
    return Described(name, Memory(memory_mb * MB, door=door, overhead_bytes=550 * MB), 1e-10 / speed)


def test_machines_share_the_model_in_the_order_they_join():
    found = plan(MODEL, SIZES, [machine("a", 1250, door=True), machine("b", 1250)], link_seconds=0.001)
    assert [str(one.span) for one in found.holdings] == ["0:11", "11:20"]
    assert found.missing == ()
    assert found.prediction is not None
    assert [stage.span for stage in found.prediction.stages] == [LayerSpan(0, 11), LayerSpan(11, 20)]


def test_layers_that_fit_nowhere_are_missing_and_more_memory_helps():
    found = plan(MODEL, SIZES, [machine("a", 1250, door=True)], link_seconds=0.001)
    assert found.missing == (LayerSpan(11, 20),)
    assert found.tokens_per_second == 0
    assert found.helps is not None
    assert "twice the memory on a" in found.helps.change or "one more machine like a" in found.helps.change


def test_the_slowest_machine_is_the_bottleneck_and_replacing_it_helps_most():
    machines = [machine("quick", 1250, door=True), machine("slow", 1250, 0.3)]
    found = plan(MODEL, SIZES, machines, link_seconds=0.0001)
    assert found.prediction is not None
    assert found.prediction.bottleneck is not None
    assert found.prediction.bottleneck.span == found.holdings[1].span
    assert found.helps is not None
    assert found.helps.tokens_per_second > found.tokens_per_second


def test_a_harmfully_slow_machine_holds_nothing_and_the_plan_says_why():
    found = plan(MODEL, SIZES, [machine("a", 4000, door=True), machine("b", 4000, 0.05)], link_seconds=0.001)
    assert found.holdings[1].span is None
    assert "slower" in found.holdings[1].reason


def test_faster_links_and_machines_never_make_a_plan_slower():
    machines = [machine("a", 1250, door=True), machine("b", 1250)]
    rates = [plan(MODEL, SIZES, machines, link_seconds=link).tokens_per_second for link in (0.1, 0.01, 0.001)]
    assert rates == sorted(rates)


def span(node: NodeId, start: int, end: int, seconds: float = 0.01) -> SpanView:
    return SpanView(node, BOOT, MODEL, LayerSpan(start, end), "bfloat16", seconds)


def view(*spans: SpanView, link: float = 0.002) -> SwarmView:
    return SwarmView(spans, {(A, B): link, (B, A): link}, layers={MODEL: 20}, doors={A: 0.003})


def test_a_token_costs_links_layers_hops_and_the_head():
    found = predict(
        view(span(A, 0, 10), span(B, 10, 20)),
        MODEL,
        A,
        [PathHop(A, BOOT, LayerSpan(0, 10), "bfloat16"), PathHop(B, BOOT, LayerSpan(10, 20), "bfloat16")],
        head_seconds=0.003,
        chunk_tokens=256,
    )
    assert found.token_seconds == pytest.approx(0.2 + 0.004 + 2 * HOP_SECONDS + 0.003)


def test_a_long_prompt_is_worked_on_by_all_hops_at_once():
    hops = [PathHop(A, BOOT, LayerSpan(0, 10), "bfloat16"), PathHop(B, BOOT, LayerSpan(10, 20), "bfloat16")]
    two = predict(view(span(A, 0, 10), span(B, 10, 20)), MODEL, A, hops, head_seconds=0.0, chunk_tokens=256)
    whole = [PathHop(A, BOOT, LayerSpan(0, 20), "bfloat16")]
    one = predict(view(span(A, 0, 20)), MODEL, A, whole, head_seconds=0.0, chunk_tokens=256)
    assert two.first_token_seconds(4096) < 0.6 * one.first_token_seconds(4096)
    assert two.first_token_seconds(10) > one.first_token_seconds(10)
    for tokens in (1, 10, 256, 257, 1000):
        assert two.first_token_seconds(tokens + 1) >= two.first_token_seconds(tokens)


def test_a_running_swarm_is_planned_as_it_is():
    running = Running(
        MODEL, view(span(A, 0, 10), span(B, 10, 20, 0.05)), A, {A: "anna", B: "ben"}, {A: 2000 * MB, B: 0}
    )
    found = plan_running(running, SIZES)
    assert [(one.name, str(one.span)) for one in found.holdings] == [("anna", "0:10"), ("ben", "10:20")]
    assert found.prediction is not None
    assert found.tokens_per_second == pytest.approx(1 / (0.6 + 0.004 + 2 * HOP_SECONDS + 0.003))
    assert found.helps is not None
    assert "ben" in found.helps.change or "one more machine" in found.helps.change


def test_a_running_swarm_that_lacks_layers_is_told_so():
    found = plan_running(Running(MODEL, view(span(A, 0, 10)), A, {}, {}), None)
    assert found.missing == (LayerSpan(10, 20),)
    assert found.prediction is None
