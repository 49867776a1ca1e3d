"""The events of a streamed response, in their order, as a state machine over pieces. Knows no tasks and no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import UNSET

from swarm.api.answers import TokenLogprobEntry
from swarm.api.pieces import Piece
from swarm.api.responses.objects import (
    FunctionCallItem,
    IncompleteDetails,
    Item,
    ItemStatus,
    MessageItem,
    OutputText,
    ReasoningItem,
    ResponseError,
    ResponseObject,
    ResponseUsage,
    SummaryText,
    joined_output,
)
from swarm.api.tools.calls import Call


class Event(NamedTuple):
    """``data`` carries its type and sequence number too."""

    name: str
    data: dict[str, Any]


class ResponseBuilder:
    """Fills ``response`` from pieces and tells each step as events; whole answers just ignore those.

    ``new_id`` makes an id from a prefix. Events are valid until the next call: encode them at once.
    """

    def __init__(
        self,
        response: ResponseObject,
        new_id: Callable[[str], str],
        namespaces: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        """``namespaces``: of functions that stand in one, its name and theirs, by the name the model uses."""
        self.response = response
        self._namespaces = namespaces or {}
        self._new_id = new_id
        self._sequence = 0
        self._open: _OpenText | None = None

    def start(self) -> list[Event]:
        return [self._of_response("response.created"), self._of_response("response.in_progress")]

    def add(self, piece: Piece) -> list[Event]:
        """Take the next piece of the answer."""
        if piece.call is not None:
            return [*self._close("completed"), *self._call(piece.call)]
        events: list[Event] = []
        if self._open is None or self._open.kind != piece.kind:
            if piece.kind == "content" and not piece.text.strip() and self.response.output:
                # Space between reasoning or a call and what follows is no message.
                return []
            events = [*self._close("completed"), *self._begin(piece.kind)]
        return [*events, *self._delta(piece)]

    def finish(self, usage: ResponseUsage, *, spent: bool, now: int) -> list[Event]:
        """End the answer; ``spent``: the budget of tokens ended it and not the model."""
        status: ItemStatus = "incomplete" if spent else "completed"
        events = self._close(status)
        if not self.response.output:
            events += [*self._begin("content"), *self._close(status)]
        self.response.usage = usage
        self.response.output_text = joined_output(self.response.output)
        self.response.status = status
        if spent:
            self.response.incomplete_details = IncompleteDetails()
        else:
            self.response.completed_at = now
        return [*events, self._of_response(f"response.{status}")]

    def fail(self, code: str, message: str) -> list[Event]:
        """End an answer that can't be continued; what was shown of it stays."""
        self.response.status = "failed"
        self.response.error = ResponseError(code, message)
        return [self._of_response("response.failed")]

    # --- items ---

    def _begin(self, kind: str) -> list[Event]:
        place = len(self.response.output)
        if kind == "reasoning":
            self._open = _OpenText("reasoning", self._new_id("rs"), place)
            added: Item = ReasoningItem(self._open.id, [], "in_progress")
            part = self._event("response.reasoning_summary_part.added", summary_index=0, part=SummaryText(""))
        else:
            self._open = _OpenText("content", self._new_id("msg"), place)
            added = MessageItem(self._open.id, "in_progress", [])
            part = self._event("response.content_part.added", content_index=0, part=OutputText("", []))
        item = Event("response.output_item.added", {"output_index": place, "item": added})
        return [self._numbered(item), self._numbered(part)]

    def _delta(self, piece: Piece) -> list[Event]:
        opened = self._open
        if opened is None or not (piece.text or piece.logprobs):
            return []
        opened.texts.append(piece.text)
        opened.logprobs += piece.logprobs
        if opened.kind == "reasoning":
            event = self._event("response.reasoning_summary_text.delta", summary_index=0, delta=piece.text)
        else:
            event = self._event(
                "response.output_text.delta", content_index=0, delta=piece.text, logprobs=piece.logprobs
            )
        return [self._numbered(event)]

    def _close(self, status: ItemStatus) -> list[Event]:
        opened = self._open
        if opened is None:
            return []
        text = "".join(opened.texts)
        if opened.kind == "reasoning":
            summary = SummaryText(text)
            done: Item = ReasoningItem(opened.id, [summary], status)
            events = [
                self._event("response.reasoning_summary_text.done", summary_index=0, text=text),
                self._event("response.reasoning_summary_part.done", summary_index=0, part=summary),
            ]
        else:
            part = OutputText(text, opened.logprobs)
            done = MessageItem(opened.id, status, [part])
            events = [
                self._event(
                    "response.output_text.done", content_index=0, text=text, logprobs=opened.logprobs
                ),
                self._event("response.content_part.done", content_index=0, part=part),
            ]
        events.append(Event("response.output_item.done", {"output_index": opened.place, "item": done}))
        self._open = None
        self.response.output.append(done)
        return [self._numbered(event) for event in events]

    def _call(self, call: Call) -> list[Event]:
        place = len(self.response.output)
        namespace, name = self._namespaces.get(call.name, (UNSET, call.name))
        ids = self._new_id("fc"), self._new_id("call")
        added = FunctionCallItem(*ids, name, "", "in_progress", namespace)
        done = FunctionCallItem(*ids, name, call.arguments, "completed", namespace)
        self.response.output.append(done)
        at = {"item_id": added.id, "output_index": place}
        return [
            self._numbered(event)
            for event in (
                Event("response.output_item.added", {"output_index": place, "item": added}),
                Event("response.function_call_arguments.delta", {**at, "delta": call.arguments}),
                Event(
                    "response.function_call_arguments.done",
                    {**at, "name": name, "arguments": call.arguments},
                ),
                Event("response.output_item.done", {"output_index": place, "item": done}),
            )
        ]

    # --- events ---

    def _event(self, name: str, **fields: Any) -> Event:
        opened = self._open
        where = {} if opened is None else {"item_id": opened.id, "output_index": opened.place}
        return Event(name, {**where, **fields})

    def _of_response(self, name: str) -> Event:
        return self._numbered(Event(name, {"response": self.response}))

    def _numbered(self, event: Event) -> Event:
        number = self._sequence
        self._sequence += 1
        return Event(event.name, {"type": event.name, "sequence_number": number, **event.data})


class _OpenText:
    """The message or reasoning item that is being written."""

    def __init__(self, kind: str, item_id: str, place: int) -> None:
        self.kind = kind
        self.id = item_id
        self.place = place
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprobEntry] = []
