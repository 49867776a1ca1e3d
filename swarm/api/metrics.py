"""What the front door counts, as Prometheus reads it. Knows no framework; clocks are arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from swarm.api.admission import Admission
from swarm.node.front import GenerationStats

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROUTES = frozenset(
    {
        "/chat/completions",
        "/completions",
        "/responses",
        "/responses/compact",
        "/models",
        "/health",
        "/metrics",
        "/version",
        "/openapi.json",
        "/swarm/state",
    }
)
_ENGINE = {
    "queued_jobs": "Jobs that wait for this node's compute thread.",
    "kv_used_bytes": "KV cache in use on this node.",
    "kv_budget_bytes": "KV cache this node may use.",
}


class Metrics:
    """Counters of one front door, in a registry of their own; ``state`` is the node's, read when asked."""

    def __init__(self, state: Callable[[], Mapping[str, Any]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Engine(state))
        self.requests = Counter(
            "swarm_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.running = Gauge("swarm_running_answers", "Answers under way.", registry=self.registry)
        self.tokens = Counter("swarm_tokens", "Tokens of ended answers.", ["kind"], registry=self.registry)
        self.first_token = Histogram(
            "swarm_first_token_seconds",
            "From a request to its first token.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.between_tokens = Histogram(
            "swarm_between_tokens_seconds",
            "Between tokens of one answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def watch(self, admission: Admission) -> None:
        """Tell how many requests wait for room, too."""
        waiting = Gauge("swarm_waiting_requests", "Requests that wait for room.", registry=self.registry)
        waiting.set_function(lambda: admission.waiting)

    def answered(self, path: str, status: int) -> None:
        self.requests.labels(route_of(path), str(status)).inc()

    def begin(self, stats: GenerationStats, asked_at: float) -> Meter:
        """Count an answer that begins; ``asked_at`` is when it was asked for, in seconds."""
        return Meter(self, stats, asked_at)

    def exposed(self) -> bytes:
        return generate_latest(self.registry)


class Meter:
    """Times one answer's tokens; ``end`` may be called twice."""

    def __init__(self, metrics: Metrics, stats: GenerationStats, asked_at: float) -> None:
        self._metrics = metrics
        self._stats = stats
        self._last = asked_at
        self._begun = False
        self._ended = False
        metrics.running.inc()

    def token(self, now: float) -> None:
        waited = self._metrics.between_tokens if self._begun else self._metrics.first_token
        waited.observe(now - self._last)
        self._last, self._begun = now, True

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._metrics.running.dec()
        for kind in ("prompt", "cached", "completion"):
            self._metrics.tokens.labels(kind).inc(getattr(self._stats, f"{kind}_tokens"))


class _Engine(Collector):
    def __init__(self, state: Callable[[], Mapping[str, Any]]) -> None:
        self._state = state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        engine = self._state()["engine"]
        for name, meaning in _ENGINE.items():
            yield GaugeMetricFamily(f"swarm_{name}", meaning, engine[name])


def route_of(path: str) -> str:
    """Return a path's pattern: ids and unknown paths would make endless labels."""
    route = path.removeprefix("/v1")
    if route in _ROUTES:
        return route
    if route.startswith("/models/"):
        return "/models/{model}"
    return "/responses/{response_id}" if route.startswith("/responses/") else "other"
