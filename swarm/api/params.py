"""Turns a body's sampling fields into what a node takes.

The defaults are the specification's, the wording is OpenAI's. Pure: the seed of a request that names none is
an argument. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swarm.api.schemas import GenerationFields, SwarmOptions
from swarm.engine.params import SamplingParams
from swarm.errors import RequestError
from swarm.node.front import Preference

PREFERENCES: dict[str, Preference] = {"latency": "latency", "throughput": "throughput"}
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_TIMEOUT_SECONDS = 86400.0
_MAX_TOKEN_ID = 2**31 - 1
_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """When an answer ends."""

    max_tokens: int
    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]
    ignore_eos: bool
    deadline_seconds: float


def sampling_of(
    body: GenerationFields, *, random_seed: int, top_logprobs: int | None = None
) -> SamplingParams:
    """Raises RequestError for a value out of range. ``banned_until`` is for ``with_min_tokens`` to fill."""
    temperature = decimal("temperature", body.temperature, 1.0, 0.0, 2.0)
    return SamplingParams(
        temperature=temperature,
        top_p=decimal("top_p", body.top_p, 1.0, 0.0, 1.0),
        # vLLM's clients send -1 for "no limit".
        top_k=max(0, integer("top_k", body.top_k, 0, -1, _MAX_TOKEN_ID)),
        min_p=decimal("min_p", body.min_p, 0.0, 0.0, 1.0),
        presence_penalty=decimal("presence_penalty", body.presence_penalty, 0.0, -2.0, 2.0),
        frequency_penalty=decimal("frequency_penalty", body.frequency_penalty, 0.0, -2.0, 2.0),
        repetition_penalty=decimal("repetition_penalty", body.repetition_penalty, 1.0, 0.01, 10.0),
        logit_bias=_logit_bias(body.logit_bias or {}),
        seed=(random_seed if body.seed is None else body.seed) % _SEEDS,
        top_logprobs=top_logprobs,
    )


def limits_of(
    body: GenerationFields,
    *,
    default_max_tokens: int,
    context_tokens: int,
    deadline_seconds: float,
    fewest: int = 1,
) -> Limits:
    """Raises RequestError. Of the three names for the token limit the specification's later one wins."""
    max_tokens = default_max_tokens
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        max_tokens = integer(name, getattr(body, name), max_tokens, fewest)
    timeout = body.swarm.timeout if body.swarm and body.swarm.timeout is not None else body.timeout
    return Limits(
        max_tokens=min(max_tokens, context_tokens),
        stop=_stops(body.stop),
        stop_token_ids=frozenset(
            integer(f"stop_token_ids[{at}]", token, 0, 0, _MAX_TOKEN_ID)
            for at, token in enumerate(body.stop_token_ids or ())
        ),
        ignore_eos=bool(body.ignore_eos),
        deadline_seconds=decimal("timeout", timeout, deadline_seconds, 0.001, MAX_TIMEOUT_SECONDS),
    )


@dataclass(frozen=True, slots=True)
class PathWishes:
    """What a request says of the path that computes it."""

    trust: frozenset[str] | None = None
    max_hops: int | None = None
    prefer: Preference = "latency"
    tells_route: bool = False


def path_wishes_of(given: SwarmOptions | None) -> PathWishes:
    """Read the ``swarm`` object of a body. Raises RequestError."""
    if given is None:
        return PathWishes()
    prefer = given.prefer or "latency"
    if prefer not in PREFERENCES:
        raise RequestError(
            f"Invalid value: {prefer[:50]!r}. Supported values are: 'latency' and 'throughput'.",
            param="swarm.prefer",
            code="invalid_value",
        )
    return PathWishes(
        trust=None if given.trust is None else frozenset(given.trust),
        max_hops=None if given.max_hops is None else integer("swarm.max_hops", given.max_hops, 1, 1),
        prefer=PREFERENCES[prefer],
        tells_route=bool(given.route),
    )


def min_tokens_bans(body: GenerationFields, max_tokens: int, stop_ids: frozenset[int]) -> Mapping[int, int]:
    """Return, for each id that ends an answer, how many tokens must come before it."""
    least = integer("min_tokens", body.min_tokens, 0, 0)
    if least > max_tokens:
        raise RequestError(
            f"Invalid 'min_tokens': {least} is more than the {max_tokens} tokens this request may generate.",
            param="min_tokens",
            code="invalid_value",
        )
    return dict.fromkeys(stop_ids, least) if least else {}


def top_logprobs_of(logprobs: bool | None, top_logprobs: int | None) -> int | None:
    """Return what the sampler takes: None for no logprobs at all."""
    count = integer("top_logprobs", top_logprobs, 0, 0, MAX_TOP_LOGPROBS)
    if logprobs:
        return count
    if top_logprobs is not None and count:
        raise RequestError(
            "Invalid value for 'top_logprobs': 'logprobs' must be true to ask for them.",
            param="top_logprobs",
            code="invalid_value",
        )
    return None


def choices_of(n: int | None) -> int:
    return integer("n", n, 1, 1, MAX_CHOICES)


def integer(name: str, value: int | None, default: int, low: int, high: int | None = None) -> int:
    """Return the value, or the default when absent. Raises RequestError outside low..high."""
    if value is None:
        return default
    _check("integer", name, value, low, high)
    return value


def decimal(name: str, value: float | None, default: float, low: float, high: float) -> float:
    if value is None:
        return default
    _check("decimal", name, value, low, high)
    return value


def _check(kind: str, name: str, value: float, low: float, high: float | None) -> None:
    if value < low:
        problem, bound, code = "below minimum", f">= {low:g}", f"{kind}_below_min_value"
    elif high is not None and value > high:
        problem, bound, code = "above maximum", f"<= {high:g}", f"{kind}_above_max_value"
    else:
        return
    raise RequestError(
        f"Invalid '{name}': {kind} {problem} value. Expected a value {bound}, but got {value} instead.",
        param=name,
        code=code,
    )


def _logit_bias(given: Mapping[str, float]) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in given.items():
        if not (key.isascii() and key.isdecimal() and int(key) <= _MAX_TOKEN_ID):
            raise RequestError(
                f"Invalid key in 'logit_bias': {key[:50]!r} is not a token id.",
                param="logit_bias",
                code="invalid_value",
            )
        bias[int(key)] = decimal(f"logit_bias.{key}", value, 0.0, -100.0, 100.0)
    return bias


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS:
        raise RequestError(
            f"Invalid 'stop': array too long. Expected an array with maximum length {MAX_STOPS}, "
            f"but got an array with length {len(stops)} instead.",
            param="stop",
            code="array_above_max_length",
        )
    for text in stops:
        if not 0 < len(text) <= MAX_STOP_CHARACTERS:
            raise RequestError(
                f"Invalid 'stop': each must have 1 to {MAX_STOP_CHARACTERS} characters.",
                param="stop",
                code="invalid_value",
            )
    return stops
