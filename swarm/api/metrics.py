"""What the front door counts, as Prometheus reads it, beside the node's own. Knows no framework; clocks are arguments.

Where OpenTelemetry's conventions for generative AI have a metric of a server, it has that name, labels and buckets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from swarm.api.account import Account
from swarm.api.admission import Admission
from swarm.node.front import GenerationStats
from swarm.node.meters import Spec

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PROVIDER = "swarm"
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
        "/swarm/events",
        "/",
    }
)
_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_WHOLE = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)

DURATION = Spec(
    "gen_ai_server_request_duration_seconds", "histogram", "From a request to the end of its answer.",
    (*_GEN_AI, "error_type"), _WHOLE,
)  # fmt: skip
FIRST_TOKEN = Spec(
    "gen_ai_server_time_to_first_token_seconds",
    "histogram",
    "From a request to its first token.",
    _GEN_AI,
    _FIRST,
)
EACH_TOKEN = Spec(
    "gen_ai_server_time_per_output_token_seconds", "histogram",
    "Mean time between the tokens of an answer, one value an answer.", _GEN_AI, _EACH,
)  # fmt: skip
BETWEEN_TOKENS = Spec(
    "swarm_inter_token_seconds", "histogram", "Between two tokens of an answer, one value a token.",
    buckets=(0.001, 0.0025, 0.005, *_EACH),
)  # fmt: skip
RESERVE = Spec(
    "swarm_reserve_seconds", "histogram", "From asking for a path to its reservation, the wait for room included.",
    buckets=_FIRST,
)  # fmt: skip
PREDICTION = Spec(
    "swarm_prediction_ratio", "histogram",
    "What an answer took over what its path was predicted to take, for answers that changed no path: "
    "token (mean between tokens) and first_token (prompt tokens not cached).",
    ("what",), (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0),
)  # fmt: skip
TOKENS = Spec(
    "swarm_tokens", "counter", "Tokens of ended answers: prompt, cached (a part of prompt), completion.",
    ("kind", "gen_ai_request_model"),
)  # fmt: skip
REQUESTS = Spec("swarm_requests", "counter", "Requests answered; 499: the client left.", ("route", "status"))
RUNNING = Spec("swarm_running_answers", "gauge", "Answers under way.")
WAITING = Spec("swarm_waiting_requests", "gauge", "Requests that wait for room.")
BUILD = Spec("swarm_build_info", "gauge", "1; the version is its label.", ("version",))

SPECS = (
    DURATION,
    FIRST_TOKEN,
    EACH_TOKEN,
    BETWEEN_TOKENS,
    RESERVE,
    PREDICTION,
    TOKENS,
    REQUESTS,
    RUNNING,
    WAITING,
    BUILD,
)


class Metrics:
    """Counters of one front door, in a registry of their own; ``node`` yields the node's, read when asked."""

    def __init__(self, node: Callable[[], Iterable[Metric]], version: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Node(node))
        ProcessCollector(registry=self.registry)
        self.requests = REQUESTS.counter(self.registry)
        self.running = RUNNING.gauge(self.registry)
        self.tokens = TOKENS.counter(self.registry)
        self.duration = DURATION.histogram(self.registry)
        self.first_token = FIRST_TOKEN.histogram(self.registry)
        self.each_token = EACH_TOKEN.histogram(self.registry)
        self.between_tokens = BETWEEN_TOKENS.histogram(self.registry)
        self.reserve = RESERVE.histogram(self.registry)
        self.prediction = PREDICTION.histogram(self.registry)
        BUILD.gauge(self.registry).labels(version).set(1)

    def watch(self, admission: Admission) -> None:
        """Tell how many requests wait for room, too."""
        WAITING.gauge(self.registry).set_function(lambda: admission.waiting)

    def answered(self, path: str, status: int, account: Account, now: float) -> None:
        """Count a request at its end."""
        self.requests.labels(route_of(path), str(status)).inc()
        if account.operation:
            error = account.error or (str(status) if status >= 400 else "")
            self.duration.labels(*_labels(account), error).observe(now - account.began)

    def begin(self, account: Account, stats: GenerationStats) -> Meter:
        """Count one choice of an answer; its path is reserved."""
        if account.asked_at is not None and account.opened_at is not None:
            self.reserve.observe(account.opened_at - account.asked_at)
        return Meter(self, account, stats)

    def exposed(self) -> bytes:
        return generate_latest(self.registry)


class Meter:
    """Times one choice's tokens; ``end`` may be called twice."""

    def __init__(self, metrics: Metrics, account: Account, stats: GenerationStats) -> None:
        self._metrics = metrics
        self._account = account
        self._stats = stats
        self._first: float | None = None
        self._last = 0.0
        self._tokens = 0
        self._ended = False
        metrics.running.inc()

    def token(self, now: float) -> None:
        if self._first is None:
            self._first = now
        else:
            self._metrics.between_tokens.observe(now - self._last)
        if self._account.first_token_at is None:
            self._account.first_token_at = now
            self._metrics.first_token.labels(*_labels(self._account)).observe(now - self._account.began)
        self._last = now
        self._tokens += 1

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._metrics.running.dec()
        if self._first is not None and self._tokens > 1:
            mean = (self._last - self._first) / (self._tokens - 1)
            self._metrics.each_token.labels(*_labels(self._account)).observe(mean)
            self._compare(mean)
        for kind in ("prompt", "cached", "completion"):
            count = getattr(self._stats, f"{kind}_tokens")
            self._metrics.tokens.labels(kind, self._account.model).inc(count)

    def _compare(self, mean: float) -> None:
        """Hold what happened against what was predicted."""
        stats = self._stats
        if stats.predicted is None or stats.recoveries or not math.isfinite(stats.predicted.token_seconds):
            return
        first = stats.predicted.first_token_seconds(stats.prompt_tokens - stats.cached_tokens)
        self._metrics.prediction.labels("token").observe(mean / stats.predicted.token_seconds)
        self._metrics.prediction.labels("first_token").observe(stats.first_token_seconds / first)


class _Node(Collector):
    def __init__(self, node: Callable[[], Iterable[Metric]]) -> None:
        self._node = node

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering reads no node that does not run yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._node()


def _labels(account: Account) -> tuple[str, str, str]:
    return account.operation, PROVIDER, account.model


def route_of(path: str) -> str:
    """Return a path's pattern: ids and unknown paths would make endless labels."""
    route = path.removeprefix("/v1")
    if route in _ROUTES:
        return route
    if route.startswith("/models/"):
        return "/models/{model}"
    return "/responses/{response_id}" if route.startswith("/responses/") else "other"
