"""Stored responses: a small LRU in memory, each entry seen only by the key that made it. Knows no HTTP."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from swarm.api.prompt import TemplateMessage
from swarm.api.responses.objects import ResponseObject
from swarm.errors import RequestError

MAX_ENTRIES = 1000
MAX_BYTES = 64 * 1024 * 1024


class PreviousResponseError(RequestError):
    api_code = "previous_response_not_found"

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"Previous response with id '{response_id[:100]}' not found.", param="previous_response_id"
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    response: bytes
    messages: tuple[TemplateMessage, ...]
    size_bytes: int


class ResponseStore:
    """The least recently used entries go first, when there are too many or they are too large together."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._bytes = 0

    def put(self, scope: str, response: ResponseObject, messages: Sequence[TemplateMessage]) -> None:
        """Keep a response and the conversation up to its end, without instructions."""
        encoded = msgspec.json.encode(response)
        size = len(encoded) + len(msgspec.json.encode(messages))
        self.delete(scope, response.id)
        self._entries[scope, response.id] = _Entry(encoded, tuple(messages), size)
        self._bytes += size
        while self._entries and (len(self._entries) > self._max_entries or self._bytes > self._max_bytes):
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.size_bytes

    def conversation(self, scope: str, response_id: str) -> tuple[TemplateMessage, ...]:
        """Raises PreviousResponseError for an id that this scope has not stored."""
        entry = self._entries.get((scope, response_id))
        if entry is None:
            raise PreviousResponseError(response_id)
        self._entries.move_to_end((scope, response_id))
        return entry.messages

    def response(self, scope: str, response_id: str) -> bytes | None:
        """Return the encoded Response object, or None."""
        entry = self._entries.get((scope, response_id))
        return entry.response if entry else None

    def delete(self, scope: str, response_id: str) -> bool:
        entry = self._entries.pop((scope, response_id), None)
        if entry is not None:
            self._bytes -= entry.size_bytes
        return entry is not None
