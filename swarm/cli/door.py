"""A front door as the commands reach it: which one, a key, JSON and streams of events. Prints nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from swarm.cli import options
from swarm.errors import ConfigError, ModelOnItsWayError, SwarmError
from swarm.types import Address

if TYPE_CHECKING:
    import httpx

USUAL_API = "127.0.0.1:8000"
DEFAULT_HOST = "127.0.0.1"
STATE = "/swarm/state"
Look = Callable[[], dict[str, Any]]
"""Returns the swarm's state, anew at each call; raises SwarmError."""
NODE_SECONDS = 5.0
"""How long a node of this machine is waited for."""
TIMEOUT_SECONDS = 10.0
HEALTH = "/health"
SILENCE_SECONDS = 30.0
"""A stream that says nothing for that long is dead: doors send a comment every few seconds."""

Api = Annotated[
    str,
    typer.Option(
        "--api",
        metavar="[HOST:]PORT",
        help=f"A front door of the swarm; or its URL. Default: that of the node on this machine, else {USUAL_API}.",
        show_default=False,
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="File with the API key; else SWARM_API_KEYS."),
]


class ModelComingError(SwarmError):
    """The door has yet to get the model from other members; asked again, it waits some more."""


class Door:
    """One front door. Raises SwarmError for what it answers and for its silence."""

    def __init__(self, api: str, key_file: Path | None) -> None:
        """Without ``api`` it is the door of the node on this machine."""
        self.hint = ""
        """What to do when it does not answer, where nobody named it."""
        if not api:
            node = state_here()
            api = _door_of(node) or USUAL_API
            self.hint = (
                "; start a node that opens one (`join --api 8000`), or name another with --api"
                if node is None
                else "; the node here has no front door: `swarm door open` opens one, --api names another"
            )
        self.url = _base_url(api)
        self.key = _api_key(key_file)

    def get(self, path: str) -> Any:
        """Return the JSON at ``path``; of /health also when it is a 503."""
        import httpx

        try:
            with self._client() as client:
                answer = client.get(path)
                body = answer.json()
        except (httpx.HTTPError, ValueError) as exc:
            raise self._silent(exc) from None
        if answer.is_error and path != HEALTH:
            raise _refused(answer.status_code, body)
        return body

    def clock_offset_seconds(self) -> float | None:
        """Return how far the door's clock is ahead of ours (to a second), None when it does not say."""
        import httpx

        try:
            with self._client() as client:
                said = client.get(HEALTH).headers.get("date")
        except httpx.HTTPError:
            return None
        try:
            return None if said is None else parsedate_to_datetime(said).timestamp() - time.time()
        except ValueError:
            return None

    @contextmanager
    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """POST ``body``; yield an iterator over the data of its events, without ``[DONE]``."""
        import httpx

        try:
            with self._client(SILENCE_SECONDS) as client, client.stream("POST", path, json=body) as answer:
                if answer.is_error:
                    answer.read()
                    raise _refused(answer.status_code, answer.json())
                yield _events(answer)
        except (httpx.HTTPError, ValueError) as exc:
            raise self._silent(exc) from None

    def _client(self, seconds: float = TIMEOUT_SECONDS) -> httpx.Client:
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        # A proxy of the environment is for the internet; a front door is near.
        return httpx.Client(base_url=self.url, headers=headers, timeout=seconds, trust_env=False)

    def _silent(self, error: Exception) -> SwarmError:
        return SwarmError(f"no front door answers at {self.url}: {error or type(error).__name__}{self.hint}")


def viewpoint(api: str, key_file: Path | None, state: str | None = None) -> Look:
    """Return how to see the swarm: by the door that was named, else the node here, else the usual door."""
    if not api and (state is not None or state_here() is not None):
        return lambda: _node_state(options.state_folder(state))
    door = Door(api, key_file)
    return lambda: cast("dict[str, Any]", door.get(STATE))


def state_here() -> dict[str, Any] | None:
    """Return the swarm as the node with the usual state folder sees it, None where none answers."""
    try:
        return _node_state(options.state_folder(None))
    except SwarmError:
        return None


def _node_state(folder: Path) -> dict[str, Any]:
    from swarm.node.control import GetState, ask

    return ask(folder, GetState(), NODE_SECONDS)


def _door_of(node: dict[str, Any] | None) -> str:
    """Return where the door of this machine's own node is reached from here; empty without one."""
    if node is None or not node["door"]["listen"]:
        return ""
    address = Address.parse(node["door"]["listen"])
    loopback = {"0.0.0.0": DEFAULT_HOST, "::": "::1"}
    return str(Address(loopback.get(address.host, address.host), address.port))


def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data == "[DONE]":
            return
        if data:
            event: dict[str, Any] = json.loads(data)
            if event.get("error"):
                raise SwarmError(str(event["error"].get("message")))
            yield event


def _refused(status: int, body: Any) -> SwarmError:
    error = body.get("error") if isinstance(body, dict) else None
    message, code = (error.get("message"), str(error.get("code"))) if isinstance(error, dict) else (None, "")
    if message and code == ModelOnItsWayError.api_code:
        return ModelComingError(message)
    asks_for_key = status in (400, 401) and "api_key" in code
    hint = " Name the key's file with --api-key-file, or set SWARM_API_KEYS." if asks_for_key else ""
    return SwarmError(f"{message or f'it answered {status}'}{hint}")


def _base_url(api: str) -> str:
    api = api.rstrip("/").removesuffix("/v1")
    if api.startswith(("http://", "https://")):
        return api
    try:
        return f"http://{Address.parse(api, DEFAULT_HOST)}"
    except ValueError as exc:
        raise ConfigError(f"--api: {exc}") from None


def _api_key(file: Path | None) -> str:
    if file is None:
        return os.environ.get("SWARM_API_KEYS", "").partition(",")[0].strip()
    try:
        lines = file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"can't read the API key in {file}: {exc}") from None
    return next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")
