"""The front door's Quart application: which path is answered by what, and every error in one shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import cast

import msgspec
from quart import Quart, Response, request, websocket
from werkzeug.exceptions import HTTPException

from swarm.api import catalog, chat, completions, exchange, metrics, openapi, sse
from swarm.api.account import Account
from swarm.api.admission import Admission
from swarm.api.answers import Version
from swarm.api.asking import Asking, Render
from swarm.api.edge import SOCKET_PATHS, AsgiApp, Edge
from swarm.api.errors import UnknownResponseError, described, error_headers, http_error, internal_error
from swarm.api.exchange import Exchange
from swarm.api.feed import StateFeed
from swarm.api.metrics import Metrics
from swarm.api.page import HEADERS as PAGE_HEADERS
from swarm.api.page import page_files
from swarm.api.params import MAX_TIMEOUT_SECONDS, decimal
from swarm.api.requestlog import log_request
from swarm.api.responses import handler as responses
from swarm.api.responses import socket
from swarm.api.responses.schemas import ResponsesBody
from swarm.api.responses.store import ResponseStore
from swarm.api.schemas import ChatBody, CompletionBody, parse
from swarm.config import ApiSettings
from swarm.errors import RequestError, SwarmError
from swarm.node.front import FrontDoor

_log = logging.getLogger(__name__)
_TIMEOUT_HEADER = "x-swarm-timeout"


def create_app(front: FrontDoor, settings: ApiSettings, *, version: str, render: Render) -> Edge:
    """Return the whole front door as an ASGI application: routes inside, guards outside."""
    app = Quart("swarm.api", static_folder=None)
    # The edge has limited the body by then.
    app.config["MAX_CONTENT_LENGTH"] = None
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    counted = Metrics(front.metrics, version)
    admission = Admission(
        queue_seconds=settings.queue_seconds, max_waiting=settings.max_waiting, starving=front.starving
    )
    counted.watch(admission)
    Routes(front, settings, version, counted, render=render, admission=admission).register(app)
    app.register_error_handler(SwarmError, _on_swarm_error)
    app.register_error_handler(HTTPException, _on_http_error)
    return Edge(cast(AsgiApp, app), settings, counted, admission)


class Routes:
    """The handlers of one front door. Each path is served with and without /v1."""

    def __init__(
        self,
        front: FrontDoor,
        settings: ApiSettings,
        version: str,
        metrics: Metrics,
        *,
        render: Render,
        admission: Admission,
    ) -> None:
        self._front = front
        self._settings = settings
        self._version = version
        self._metrics = metrics
        self._render = render
        self._admission = admission
        self._stored = ResponseStore()
        self._feed = StateFeed(lambda detail: front.state(detail=detail))

    def register(self, app: Quart) -> None:
        routes: list[tuple[str, str, Callable[..., Awaitable[Response]]]] = [
            ("POST", "/chat/completions", self.chat_completions),
            ("POST", "/completions", self.completions),
            ("POST", "/responses", self.responses),
            ("POST", "/responses/compact", self.compact),
            ("GET", "/responses/<response_id>", self.stored_response),
            ("DELETE", "/responses/<response_id>", self.delete_response),
            ("GET", "/models", self.models),
            ("GET", "/models/<path:model>", self.model),
            ("GET", "/health", self.health),
            ("GET", "/metrics", self.metrics),
            ("GET", "/version", self.version),
            ("GET", "/openapi.json", self.openapi),
        ]
        for method, path, handler in routes:
            for prefix in ("", "/v1"):
                app.add_url_rule(prefix + path, f"{method} {prefix}{path}", handler, methods=[method])
        for path in sorted(SOCKET_PATHS):
            app.add_websocket(path, f"WS {path}", self.responses_socket)
        app.add_url_rule("/swarm/state", "state", self.state, methods=["GET"])
        app.add_url_rule("/swarm/events", "events", self.events, methods=["GET"])
        for path in page_files():
            app.add_url_rule(path, f"page {path}", self.page, methods=["GET"])

    async def chat_completions(self) -> Response:
        body = parse(await _body(), ChatBody)
        answer = await chat.create(self._asking(), body)
        if body.stream:
            return _stream(answer.events(), answer.route)
        completion = await answer.whole()
        return _json(completion, headers={"x-swarm-route": answer.route})

    async def completions(self) -> Response:
        body = parse(await _body(), CompletionBody)
        answer = await completions.create(self._asking(), body)
        if body.stream:
            return _stream(answer.events(), answer.route)
        return _json(await answer.whole(), headers={"x-swarm-route": answer.route})

    async def responses(self) -> Response:
        body = parse(await _body(), ResponsesBody)
        running = await responses.create(self._asking(), body, self._stored)
        if body.stream:
            return _stream(running.events(), running.route)
        return _json(await running.whole(), headers={"x-swarm-route": running.route})

    async def compact(self) -> Response:
        body = parse(await _body(), ResponsesBody)
        return _json(await responses.compact(self._asking(), body, self._stored))

    async def responses_socket(self) -> None:
        """Answer one message after the other until the client leaves; each is a request of its own."""
        await websocket.accept()
        clock = asyncio.get_running_loop().time
        connected = exchange.current()
        while True:
            message = await websocket.receive()
            asked = replace(
                connected,
                request_id=exchange.new_request_id(),
                cleanup=AsyncExitStack(),
                account=Account(began=clock()),
            )
            status = 200

            async def create(body: ResponsesBody, asked: Exchange = asked) -> responses.RunningResponse:
                nonlocal status
                try:
                    asked.charge()
                    asking = Asking(
                        self._front, self._settings, asked, self._metrics, self._render, self._admission
                    )
                    return await responses.create(asking, body, self._stored)
                except SwarmError as exc:
                    status = exc.http_status
                    raise

            try:
                async with asked.cleanup, aclosing(socket.answered(message, create)) as answers:
                    async for answer in answers:
                        await websocket.send(answer)
            finally:
                self._metrics.answered(websocket.path, status, asked.account, clock())
                log_request(asked, "WS", websocket.path, status, clock())

    async def stored_response(self, response_id: str) -> Response:
        found = self._stored.response(exchange.current().caller.scope, response_id)
        if found is None:
            raise UnknownResponseError(response_id)
        return Response(found, content_type="application/json")

    async def delete_response(self, response_id: str) -> Response:
        if not self._stored.delete(exchange.current().caller.scope, response_id):
            raise UnknownResponseError(response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    async def models(self) -> Response:
        return _json(catalog.listed(self._front.models()))

    async def model(self, model: str) -> Response:
        return _json(catalog.described_model(self._front.models(), model))

    async def health(self) -> Response:
        health = catalog.health_of(self._front.models())
        return _json(health, 503 if health.status == "unavailable" else 200)

    async def metrics(self) -> Response:
        return Response(self._metrics.exposed(), content_type=metrics.CONTENT_TYPE)

    async def version(self) -> Response:
        return _json(Version(self._version))

    async def openapi(self) -> Response:
        models = tuple(sorted(model.name for model in self._front.models()))
        return _json(openapi.document(self._version, models))

    async def state(self) -> Response:
        return _json(self._front.state(detail=_may_see_details()))

    async def events(self) -> Response:
        return _events(self._feed.events(detail=_may_see_details()))

    async def page(self) -> Response:
        file = page_files()[request.path]
        headers = {**PAGE_HEADERS, "etag": file.etag}
        if request.headers.get("if-none-match") == file.etag:
            return Response(b"", 304, headers)
        return Response(file.body, 200, headers, content_type=file.content_type)

    def _asking(self) -> Asking:
        current = exchange.current()
        if (named := request.headers.get(_TIMEOUT_HEADER)) is not None:
            current.timeout_seconds = _seconds(named)
        return Asking(self._front, self._settings, current, self._metrics, self._render, self._admission)


async def _body() -> bytes:
    return await request.get_data(cache=False, as_text=False, parse_form_data=False)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise RequestError(f"Invalid header '{_TIMEOUT_HEADER}': {text[:50]!r} is not a number.") from None
    return decimal(_TIMEOUT_HEADER, seconds, seconds, 0.001, MAX_TIMEOUT_SECONDS)


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, content_type="application/json")


def _may_see_details() -> bool:
    current = exchange.current()
    return current.caller.has_key or current.from_loopback


def _stream(events: AsyncIterator[bytes], route: str) -> Response:
    return _events(events, {"x-swarm-route": route})


def _events(events: AsyncIterator[bytes], headers: dict[str, str] | None = None) -> Response:
    response = Response(events, 200, {**sse.HEADERS, **(headers or {})}, content_type=sse.CONTENT_TYPE)
    # Quart's own limit would cut long answers; the request's deadline is what ends them.
    response.timeout = None
    return response


async def _on_swarm_error(error: SwarmError) -> Response:
    if error.http_status >= 500:
        _log.warning("%s: %s", exchange.current().request_id, error)
    return _json(described(error), error.http_status, error_headers(error))


async def _on_http_error(error: HTTPException) -> Response:
    """An exception that nobody expected arrives here too, as a 500; Quart has logged it."""
    status = error.code or 500
    body = internal_error() if status >= 500 else http_error(status, request.method, request.path)
    headers = {name: value for name, value in error.get_headers() if name.lower() == "allow"}
    return _json(body, status, headers)
