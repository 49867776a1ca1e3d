"""What a node counts and what is read off it."""

from __future__ import annotations

from prometheus_client import generate_latest

from swarm.engine.jobs import EngineStats
from swarm.net.traffic import Traffic
from swarm.node.front import ServedModel
from swarm.node.meters import SPECS, Meters, readings
from swarm.node.sharing import WeightTraffic
from swarm.protocol.messages import CloseSession, Heartbeat, HopTime, WantWeights
from swarm.types import LayerSpan, NodeId, SessionId

ANNA, BEN = NodeId("a" * 32), NodeId("b" * 32)
ENGINE = EngineStats(
    kv_budget_bytes=100, kv_used_bytes=40, sequences=2, queued_jobs=3, steps=7, rows=21, busy_seconds=1.5
)


def test_each_hop_of_a_step_is_counted_under_its_node() -> None:
    meters = Meters()
    meters.answered([ANNA, BEN], [HopTime(1000, 2000, 4), HopTime(0, 3000, 4)])
    meters.answered([ANNA, BEN], [HopTime(0, 4000, 1)])
    text = generate_latest(meters.registry).decode()
    assert 'swarm_hop_compute_seconds_sum{node="aaaaaaaa"} 0.006' in text
    assert 'swarm_hop_compute_seconds_count{node="bbbbbbbb"} 1.0' in text
    assert 'swarm_hop_queue_seconds_sum{node="aaaaaaaa"} 0.001' in text


def test_steps_and_failovers_are_counted() -> None:
    meters = Meters()
    meters.stepped(queue_seconds=0.001, compute_seconds=0.02, rows=8)
    meters.failed_over()
    text = generate_latest(meters.registry).decode()
    assert 'swarm_step_rows_bucket{le="4.0"} 0.0' in text
    assert 'swarm_step_rows_bucket{le="8.0"} 1.0' in text
    assert "swarm_step_compute_seconds_sum 0.02" in text
    assert "swarm_failovers_total 1.0" in text


def test_bytes_are_told_by_what_they_were_for_and_layers_by_what_is_lacking() -> None:
    traffic = Traffic(received_bytes=9)
    traffic.sent(Heartbeat(1, 0, 0), 20)
    traffic.sent(CloseSession(ANNA, SessionId(b"s" * 16), 1), 30)
    holes = (LayerSpan(2, 5), LayerSpan(7, 8))
    model = ServedModel("m", "0" * 64, layers=8, context_tokens=9, created=0, missing=holes)
    lag = {"p50": 0.0, "p99": 2.0, "max": 3.0}
    weights = WeightTraffic(bytes_sent=3, bytes_received=5, wrong_chunks=1)
    traffic.sent(WantWeights("d" * 64, "offer"), 40)
    families = {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in readings(ENGINE, (), (model,), traffic, weights, hop_sessions=1, tasks=1, loop_lag=lag)
    }
    assert families["swarm_link_sent_bytes"] == {
        ("gossip",): 20, ("sessions",): 30, ("steps",): 0, ("weights",): 40, ("link",): 0,
    }  # fmt: skip
    assert families["swarm_link_received_bytes"] == {(): 9}
    assert families["swarm_weights_sent_bytes"] == {(): 3}
    assert families["swarm_weights_received_bytes"] == {(): 5}
    assert families["swarm_weights_wrong_chunks"] == {(): 1}
    assert families["swarm_missing_layers"] == {("m",): 4}
    assert families["swarm_model_servable"] == {("m",): 0}
    assert families["swarm_engine_rows"] == {(): 21}


def test_names_are_told_once() -> None:
    names = [spec.name for spec in SPECS]
    assert len(set(names)) == len(names)
