"""What a client is told when something is wrong: one object, one shape, every status. Knows no framework."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import msgspec

from swarm.errors import ModelError, RequestError, SwarmError

_INTERNAL = (
    "The server had an error while processing your request. Quote the x-request-id when you report it."
)


class MissingKeyError(RequestError):
    api_code = "missing_api_key"

    def __init__(self) -> None:
        super().__init__(
            "You didn't provide an API key. Send it in a header: Authorization: Bearer YOUR_KEY."
        )


class WrongKeyError(RequestError):
    http_status = 401
    api_code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("Incorrect API key provided.")


class ForeignOriginError(RequestError):
    """A web page of another origin asks."""

    http_status = 403
    api_code = "origin_not_allowed"


class ContentTypeError(RequestError):
    http_status = 415
    api_code = "unsupported_media_type"


class UnknownResponseError(RequestError):
    http_status = 404
    api_code = "response_not_found"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response with id '{response_id[:100]}' not found.", param="response_id")


class BodyTimeoutError(RequestError):
    http_status = 408
    api_code = "request_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request body did not arrive within {seconds:g} s.")


class BodyTooLargeError(RequestError):
    http_status = 413
    api_code = "request_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than this server's limit of {limit_bytes} bytes.")


class MisdirectedError(RequestError):
    """The Host header names a host that this door does not answer for."""

    http_status = 421
    api_code = "misdirected_request"


class TooManyRequestsError(RequestError):
    http_status = 429
    api_type = "rate_limit_error"
    api_code = "rate_limit_exceeded"

    def __init__(self, limit: int, retry_after_seconds: int) -> None:
        super().__init__(
            f"This API key has {limit} requests under way, which is its limit. Try again when one ends."
        )
        self.retry_after_seconds = retry_after_seconds


class RateLimitError(TooManyRequestsError):
    def __init__(self, requests_per_minute: int, wait_seconds: float) -> None:
        RequestError.__init__(
            self, f"This API key may send {requests_per_minute} requests a minute. Try again later."
        )
        self.retry_after_seconds = math.ceil(wait_seconds)


class TooManyConnectionsError(SwarmError):
    http_status = 503
    api_code = "too_many_connections"
    retry_after_seconds = 1

    def __init__(self) -> None:
        super().__init__("This server has too many open connections. Try again, or ask another node.")


class ShuttingDownError(SwarmError):
    http_status = 503
    api_code = "shutting_down"
    retry_after_seconds = 1

    def __init__(self) -> None:
        super().__init__("This server is shutting down. Ask again, or ask another node of the swarm.")


class ModelUnavailableError(SwarmError):
    """The model exists in the swarm, but this door can't serve it: ``problem`` says why."""

    http_status = 503
    api_code = "model_not_servable"
    retry_after_seconds = 5

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(f"This front door can't serve {model}: {problem}")
        self.model = model


def described(error: SwarmError) -> dict[str, Any]:
    """Return the ``error`` object a client gets for this error."""
    internal = error.http_status == HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, ModelError)
    return error_object(
        _INTERNAL if internal else str(error), error.api_type, param=error.param, code=error.api_code
    )


def error_object(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def internal_error() -> dict[str, Any]:
    return error_object(_INTERNAL, SwarmError.api_type, code=SwarmError.api_code)


def http_error(status: int, method: str, path: str) -> dict[str, Any]:
    """Return the object for an error of HTTP itself, such as a path that does not exist."""
    if status == HTTPStatus.NOT_FOUND:
        message, code = f"Invalid URL ({method} {path[:200]}).", "unknown_url"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        message, code = (
            f"Not allowed to {method} on {path[:200]}. Use a different HTTP method.",
            "method_not_supported",
        )
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return internal_error()
    else:
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Bad request"
        message, code = f"{phrase}.", phrase.lower().replace(" ", "_")
    return error_object(message, RequestError.api_type, code=code)


def error_headers(error: SwarmError) -> dict[str, str]:
    """Say when to come again; or, in the words of OpenAI's clients, that a 503 is not to be tried again."""
    if not error.worth_retrying:
        return {"x-should-retry": "false"}
    return {} if error.retry_after_seconds is None else {"retry-after": str(error.retry_after_seconds)}


def encoded(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body)
