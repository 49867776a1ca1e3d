"""What a node counts as it happens, and what can be read off it, as Prometheus' metrics. Knows no HTTP."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from swarm.types import NodeId, short

if TYPE_CHECKING:
    from swarm.engine.jobs import EngineStats
    from swarm.gossip.member import Member
    from swarm.net.traffic import Traffic
    from swarm.node.front import ServedModel
    from swarm.node.sharing import WeightTraffic
    from swarm.protocol.messages import HopTime


# A second series for every counter, with the moment it was made: nobody reads it, and it doubles the page.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric, as docs/metrics.md lists it. A counter's name has ``_total`` behind it when it is read."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def read_as(self) -> str:
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def counter(self, registry: CollectorRegistry) -> prometheus_client.Counter:
        return prometheus_client.Counter(self.name, self.about, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(self.name, self.about, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            self.name, self.about, self.labels, buckets=self.buckets, registry=registry
        )

    def read(self, values: Mapping[tuple[str, ...], float]) -> Metric:
        """Return what it is now, by its labels' values."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(self.name, self.about, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family


STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

STEP_ROWS = Spec(
    "swarm_step_rows", "histogram", "Batch size: rows of the pass that a step of this node was part of.",
    buckets=_ROWS,
)  # fmt: skip
STEP_COMPUTE = Spec(
    "swarm_step_compute_seconds", "histogram", "Computing of a step on this node, its whole batch.",
    buckets=STEP_SECONDS,
)  # fmt: skip
STEP_QUEUE = Spec(
    "swarm_step_queue_seconds", "histogram", "Waiting of a step for this node's compute thread.",
    buckets=STEP_SECONDS,
)  # fmt: skip
HOP_COMPUTE = Spec(
    "swarm_hop_compute_seconds", "histogram", "Computing of a step of this door's answers, by hop.",
    ("node",), STEP_SECONDS,
)  # fmt: skip
HOP_QUEUE = Spec(
    "swarm_hop_queue_seconds", "histogram", "Waiting of a step of this door's answers, by hop.",
    ("node",), STEP_SECONDS,
)  # fmt: skip
FAILOVERS = Spec("swarm_failovers", "counter", "Answers of this door that went on over another path.")
QUEUED_JOBS = Spec("swarm_queued_jobs", "gauge", "Jobs that wait for this node's compute thread.")
SEQUENCES = Spec("swarm_sequences", "gauge", "Sequences with KV cache on this node.")
HOP_SESSIONS = Spec("swarm_hop_sessions", "gauge", "Sessions that this node computes a part of.")
KV_USED = Spec("swarm_kv_used_bytes", "gauge", "KV cache in use on this node, kept prefixes included.")
KV_KEPT = Spec("swarm_kv_kept_bytes", "gauge", "KV cache that ended answers left for later ones.")
KV_BUDGET = Spec("swarm_kv_budget_bytes", "gauge", "KV cache this node may use.")
WEIGHTS = Spec("swarm_weight_bytes", "gauge", "Weights loaded on this node.")
PASSES = Spec("swarm_engine_passes", "counter", "Forward passes of this node.")
ROWS = Spec("swarm_engine_rows", "counter", "Rows in them: rows by passes is the mean batch.")
BUSY = Spec("swarm_engine_busy_seconds", "counter", "Time this node's compute thread computed.")
MEMBERS = Spec("swarm_members", "gauge", "Members of the swarm as this node sees them.", ("health",))
MISSING = Spec("swarm_missing_layers", "gauge", "Layers that no live node holds.", ("model",))
SERVABLE = Spec("swarm_model_servable", "gauge", "1 when this node's door can serve the model.", ("model",))
RTT = Spec("swarm_link_rtt_seconds", "gauge", "Round trip to a linked node.", ("node",))
SENT = Spec(
    "swarm_link_sent_bytes",
    "counter",
    "Sent to other nodes: gossip, steps, sessions, weights, link.",
    ("purpose",),
)
RECEIVED = Spec("swarm_link_received_bytes", "counter", "Received from other nodes.")
WEIGHTS_SENT = Spec("swarm_weights_sent_bytes", "counter", "Weights given to other members.")
WEIGHTS_RECEIVED = Spec("swarm_weights_received_bytes", "counter", "Weights that came from other members.")
WEIGHTS_WRONG = Spec(
    "swarm_weights_wrong_chunks", "counter", "Chunks of weights that were not what they should be."
)
TASKS = Spec(
    "swarm_tasks", "gauge", "Tasks of this node's event loop: the same number at rest, or something leaks."
)
LAG = Spec("swarm_loop_lag_seconds", "gauge", "How late the event loop ran, last minute.", ("quantile",))

SPECS = (
    STEP_ROWS, STEP_COMPUTE, STEP_QUEUE, HOP_COMPUTE, HOP_QUEUE, FAILOVERS, QUEUED_JOBS, SEQUENCES, HOP_SESSIONS,
    KV_USED, KV_KEPT, KV_BUDGET, WEIGHTS, PASSES, ROWS, BUSY, MEMBERS, MISSING, SERVABLE, RTT, SENT, RECEIVED,
    WEIGHTS_SENT, WEIGHTS_RECEIVED, WEIGHTS_WRONG, TASKS, LAG,
)  # fmt: skip
_PURPOSES = ("gossip", "steps", "sessions", "weights", "link")


class Meters:
    """Counted as it happens; one a node. Safe from any thread, as prometheus_client's own are."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._step_rows = STEP_ROWS.histogram(self.registry)
        self._step_compute = STEP_COMPUTE.histogram(self.registry)
        self._step_queue = STEP_QUEUE.histogram(self.registry)
        self._hop_compute = HOP_COMPUTE.histogram(self.registry)
        self._hop_queue = HOP_QUEUE.histogram(self.registry)
        self._failovers = FAILOVERS.counter(self.registry)

    def stepped(self, *, queue_seconds: float, compute_seconds: float, rows: int) -> None:
        """Count a step that this node computed."""
        self._step_rows.observe(rows)
        self._step_compute.observe(compute_seconds)
        self._step_queue.observe(queue_seconds)

    def answered(self, nodes: Sequence[NodeId], times: Sequence[HopTime]) -> None:
        """Count what each hop of a path says it spent on a step."""
        for node, time in zip(nodes, times, strict=False):
            label = short(node)
            self._hop_compute.labels(label).observe(time.compute_microseconds / 1e6)
            self._hop_queue.labels(label).observe(time.queue_microseconds / 1e6)

    def failed_over(self) -> None:
        self._failovers.inc()


def readings(
    engine: EngineStats,
    members: Iterable[Member],
    models: Iterable[ServedModel],
    traffic: Traffic,
    weights: WeightTraffic,
    *,
    hop_sessions: int,
    tasks: int,
    loop_lag: Mapping[str, Any],
) -> Iterator[Metric]:
    """Yield what is read off a node when it is asked; ``loop_lag`` is in milliseconds."""
    members, models = list(members), list(models)
    values: dict[Spec, float] = {
        QUEUED_JOBS: engine.queued_jobs,
        SEQUENCES: engine.sequences,
        HOP_SESSIONS: hop_sessions,
        KV_USED: engine.kv_used_bytes,
        KV_KEPT: engine.kv_kept_bytes,
        KV_BUDGET: engine.kv_budget_bytes,
        WEIGHTS: engine.weight_bytes,
        PASSES: engine.steps,
        ROWS: engine.rows,
        BUSY: engine.busy_seconds,
        RECEIVED: traffic.received_bytes,
        WEIGHTS_SENT: weights.bytes_sent,
        WEIGHTS_RECEIVED: weights.bytes_received,
        WEIGHTS_WRONG: weights.wrong_chunks,
        TASKS: tasks,
    }
    yield from (spec.read({(): value}) for spec, value in values.items())
    health = Tally(member.health.name.lower() for member in members)
    yield MEMBERS.read({(name,): count for name, count in health.items()})
    yield MISSING.read({(model.name,): sum(len(span) for span in model.missing) for model in models})
    yield SERVABLE.read({(model.name,): float(model.servable) for model in models})
    yield RTT.read(
        {(short(member.node),): member.rtt_seconds for member in members if member.rtt_seconds is not None}
    )
    yield SENT.read({(purpose,): traffic.sent_bytes[purpose] for purpose in _PURPOSES})
    lag = {"0.5": loop_lag["p50"], "0.99": loop_lag["p99"], "1": loop_lag["max"]}
    yield LAG.read({(quantile,): milliseconds / 1e3 for quantile, milliseconds in lag.items()})
