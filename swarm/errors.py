"""Every error that crosses a border of the program: one tree, facts as attributes, the remedy in the text.

``wire_code`` is what peers are told (a refusal code of docs/protocol.md); ``http_status``, ``api_type`` and
``api_code`` are what an OpenAI client is told. Knows nothing of HTTP frameworks or sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.types import short

if TYPE_CHECKING:
    from swarm.types import Address, LayerSpan, NodeId


class SwarmError(Exception):
    """Root of all errors that swarm raises on purpose."""

    wire_code = "failed"
    http_status = 500
    api_type = "server_error"
    api_code: str | None = "internal_error"
    retry_after_seconds: int | None = None
    worth_retrying = True
    """False: clients that try a 503 again by themselves should not try this one."""
    param: str | None = None


class ConfigError(SwarmError):
    """A setting that can't be used; the text names it and what it should be."""


class ModelError(SwarmError):
    """A model folder, file or family that can't be used."""

    wire_code = "no_model"


class DoesNotFitError(ModelError):
    """Layers that need more memory than this node may use."""

    def __init__(
        self,
        *,
        what: str,
        model: str,
        dtype: str,
        needed_bytes: int,
        available_bytes: int,
        would_fit: LayerSpan | None,
        most_layers: int,
    ) -> None:
        """``what`` names the layers; empty: it is only about the ends, which a front door needs."""
        fits = f"{most_layers} layers of it would fit" if most_layers else "no layer of it would fit"
        if would_fit is not None:
            fits = f"{would_fit.described()} would fit (--layers {would_fit})"
        remedy = f"Here {fits}. Give it more with --memory, or fewer layers with --layers."
        super().__init__(
            f"{what or 'embedding, norm and head'} of {model} in {dtype} need {needed_bytes / 2**20:.0f} MiB with "
            f"their KV cache and overhead; for that this node may use {available_bytes / 2**20:.0f} MiB. "
            + (remedy if what else "Give it more with --memory, or ask another node's front door.")
        )
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes
        self.would_fit = would_fit
        self.most_layers = most_layers


class RequestError(SwarmError):
    """What an API client sent is wrong."""

    http_status = 400
    api_type = "invalid_request_error"
    api_code = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.api_code = code


class UnknownModelError(RequestError):
    http_status = 404
    api_code = "model_not_found"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        served = ", ".join(known) if known else "none"
        super().__init__(
            f"The model {name[:200]!r} does not exist in this swarm. Models served: {served}.", param="model"
        )
        self.name = name


class AmbiguousModelError(RequestError):
    """Several weights go by one name, and nothing says which are meant."""

    api_code = "model_ambiguous"

    def __init__(self, name: str, models: Sequence[object]) -> None:
        super().__init__(
            f"{name[:200]!r} names several models here: {', '.join(map(str, models))}. Ask for one of them by this "
            'longer name, or pin one in the settings: pins = ["NAME@DIGEST"].',
            param="model",
        )
        self.models = tuple(models)


class ModelOnItsWayError(SwarmError):
    """A model that this front door can serve as soon as the rest of its files has come."""

    http_status = 503
    api_code = "model_loading"
    retry_after_seconds = 5


class ContextLengthError(RequestError):
    api_code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_tokens: int, param: str = "messages") -> None:
        super().__init__(
            f"This model's maximum context length is {context_tokens} tokens, but the prompt has {prompt_tokens}. "
            "Shorten the prompt.",
            param=param,
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class NoPathError(SwarmError):
    """No chain of live nodes computes every layer."""

    wire_code = "no_path"
    http_status = 503
    api_code = "model_not_servable"
    retry_after_seconds = 5

    def __init__(self, model: str, missing: Sequence[LayerSpan], why: str = "no live node holds") -> None:
        holes = ", ".join(span.described() for span in missing)
        example = (
            f" Start one with: python -m swarm join --bootstrap HOST:PORT --model {model} --layers {missing[0]}"
            if missing
            else ""
        )
        super().__init__(f"{why} {holes or 'a full path'} of {model}.{example}")
        self.model = model
        self.missing = tuple(missing)


class OverloadedError(SwarmError):
    """Every path that could serve is full for now."""

    wire_code = "full"
    http_status = 429
    api_type = "rate_limit_error"
    api_code = "swarm_overloaded"

    def __init__(self, message: str, retry_after_seconds: int = 2) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DrainingError(SwarmError):
    """The node asked is leaving: it finishes what runs and takes nothing new."""

    wire_code = "draining"
    http_status = 503
    api_code = "node_draining"
    retry_after_seconds = 30

    def __init__(self) -> None:
        super().__init__("This node is leaving the swarm and takes no new requests. Ask another front door.")


class DeadlineError(SwarmError):
    """The request's own deadline passed: the same request would only compute the same again in vain."""

    wire_code = "deadline"
    http_status = 503
    api_type = "timeout_error"
    api_code = "deadline_exceeded"
    worth_retrying = False


class PeerError(SwarmError):
    """A peer failed, refused or vanished; ``node`` says which."""

    http_status = 503
    api_code = "node_failed"
    retry_after_seconds = 1

    def __init__(self, node: NodeId, message: str) -> None:
        super().__init__(f"node {short(node)}: {message}")
        self.node = node


class LinkDownError(PeerError):
    """There is no authenticated link to the peer, or it broke."""

    wire_code = "unreachable"


class RefusedError(PeerError):
    """A peer answered Refused; ``code`` is one of docs/protocol.md's."""

    def __init__(self, node: NodeId, code: str, retry_milliseconds: int = 0, detail: str = "") -> None:
        super().__init__(node, f"refused the session ({code}){': ' + detail if detail else ''}")
        self.code = code
        self.retry_milliseconds = retry_milliseconds
        self.detail = detail


class StepTimeoutError(PeerError):
    """A step got no answer before its deadline."""


class ProtocolError(SwarmError):
    """A peer sent what the protocol does not allow; the link closes with ``close_code``."""

    wire_code = "malformed"

    def __init__(self, message: str, close_code: int = 4400) -> None:
        super().__init__(message)
        self.close_code = close_code


class AuthenticationError(ProtocolError):
    """A peer could not prove that it belongs here, or that it is who it says."""

    def __init__(self, message: str, close_code: int = 4401) -> None:
        super().__init__(message, close_code)


class DialError(SwarmError):
    """An address could not be reached, or who answered was refused."""

    def __init__(
        self, address: Address, message: str, *, own: bool = False, overloaded: bool = False
    ) -> None:
        super().__init__(f"{address}: {message}")
        self.address = address
        self.own = own
        """The address is this very process."""
        self.overloaded = overloaded
        """Somebody listens there, but had no time or no room for a handshake."""


class KVFullError(SwarmError):
    """The KV budget of this node can't hold another reservation."""

    wire_code = "full"

    def __init__(self, wanted_bytes: int, free_bytes: int) -> None:
        super().__init__(f"KV cache is full: {wanted_bytes} bytes wanted, {free_bytes} free")
        self.wanted_bytes = wanted_bytes
        self.free_bytes = free_bytes


class EngineError(SwarmError):
    """A job of the compute thread failed; the sequence it was for is lost, the node goes on."""

    wire_code = "compute_failed"


class BadTensorError(EngineError):
    """Hidden states of a wrong size or dtype, or with NaN or Inf in them."""

    wire_code = "bad_tensor"

    def __init__(self, text: str, *, received: bool = False) -> None:
        """``received``: they were so when they came, and not made so here."""
        super().__init__(text)
        self.received = received
