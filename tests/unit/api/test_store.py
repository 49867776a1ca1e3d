"""The store of responses forgets the least recently used, and keeps keys apart."""

from __future__ import annotations

import pytest

from swarm.api.responses.objects import ResponseObject
from swarm.api.responses.store import PreviousResponseError, ResponseStore


def response(name: str) -> ResponseObject:
    return ResponseObject(
        id=name,
        created_at=0,
        instructions=None,
        max_output_tokens=None,
        model="m",
        parallel_tool_calls=True,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        previous_response_id=None,
        reasoning={},
        store=True,
        temperature=1.0,
        text={},
        tool_choice="auto",
        tools=[],
        top_logprobs=0,
        top_p=1.0,
        user=None,
        metadata={},
    )


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_the_least_recently_used_goes_first() -> None:
    store = ResponseStore(max_entries=2)
    store.put("", response("a"), said("a"))
    store.put("", response("b"), said("b"))
    store.conversation("", "a")
    store.put("", response("c"), said("c"))
    assert store.conversation("", "a") == tuple(said("a"))
    with pytest.raises(PreviousResponseError):
        store.conversation("", "b")


def test_entries_that_are_too_large_together_go_too() -> None:
    store = ResponseStore(max_bytes=5000)
    for name in "abcdef":
        store.put("", response(name), said(name * 1000))
    kept = [name for name in "abcdef" if store.response("", name)]
    assert kept
    assert kept == list("abcdef")[-len(kept) :]
    assert len(kept) < 6
    store.put("", response("huge"), said("x" * 6000))
    assert store.response("", "huge") is None


def test_keys_are_kept_apart_and_deleting_is_for_good() -> None:
    store = ResponseStore()
    store.put("anna", response("a"), said("a"))
    with pytest.raises(PreviousResponseError):
        store.conversation("ben", "a")
    assert not store.delete("ben", "a")
    assert store.delete("anna", "a")
    assert store.response("anna", "a") is None
