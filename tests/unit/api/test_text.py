"""Stop strings, the reasoning splitter and the pieces of a choice, at every cut of the text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.api.pieces import ChoiceText
from swarm.api.reasoning import ReasoningSplitter, opens_reasoning
from swarm.api.stop import StopMatcher
from swarm.engine.jobs import TokenLogprob
from swarm.node.front import TokenEvent


def cuts(text: str, at: list[int]) -> list[str]:
    places = sorted({place % (len(text) + 1) for place in at} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


SHORT = st.text("abc<>", max_size=20)


@given(
    SHORT,
    st.lists(st.text("abc<>", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0), max_size=8),
)
def test_stopping_is_the_same_however_the_text_is_cut(text: str, stops: list[str], at: list[int]) -> None:
    matcher = StopMatcher(stops)
    shown = "".join(matcher.push(piece) for piece in cuts(text, at))
    ends = [text.index(stop) for stop in stops if stop in text]
    if ends:
        assert matcher.stopped
        # Of stops that overlap, the one that is whole first ends the text.
        first = min((text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text)
        assert shown in {text[: min(ends)], text[: first[1]]}
    else:
        assert not matcher.stopped
        assert shown + matcher.finish() == text


@given(SHORT, st.lists(st.text("abc<>", min_size=1, max_size=4), min_size=1, max_size=3))
def test_only_what_may_still_become_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown = "".join(map(matcher.push, text))
    if not matcher.stopped:
        held = matcher.finish()
        assert shown + held == text
        assert not held or any(stop.startswith(held) for stop in stops)


def test_nothing_is_shown_after_a_stop() -> None:
    matcher = StopMatcher(["x"])
    assert matcher.push("ax") == "a"
    assert matcher.push("more") == ""
    assert matcher.finish() == ""


def split(pieces: list[str], *, inside: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(inside=inside)
    parts = [part for piece in pieces for part in splitter.push(piece)] + splitter.finish()
    assert "".join(part.text for part in parts) == "".join(pieces)
    assert all(part.text for part in parts)
    return tuple("".join(p.text for p in parts if p.kind == kind) for kind in ("reasoning", "content"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "inside", "expected"),
    [
        ("<think>why</think>so", False, ("why", "so")),
        ("\n<think>\nwhy\n more \n</think>\n\nso \n", False, ("why\n more", "so \n")),
        ("why</think>\nso", True, ("why", "so")),
        ("<think>why</think>so", True, ("why", "so")),
        ("<think></think>so", False, ("", "so")),
        ("<think>never closed", False, ("never closed", "")),
        ("never closed", True, ("never closed", "")),
        ("<think>cut </thi", False, ("cut", "")),
        ("<think>", False, ("", "")),
        ("plain <think>no</think>", False, ("", "plain <think>no</think>")),
        ("<thinking about it", False, ("", "<thinking about it")),
        ("a < b", False, ("", "a < b")),
        ("<think>a </ b </think>c </think>", False, ("a </ b", "c </think>")),
        ("", False, ("", "")),
    ],
)
def test_a_block_is_split_the_same_at_every_cut(text: str, inside: bool, expected: tuple[str, str]) -> None:
    assert split([text], inside=inside) == expected
    assert split(list(text), inside=inside) == expected
    for first, second in itertools.combinations(range(len(text) + 1), 2):
        assert split([text[:first], text[first:second], text[second:]], inside=inside) == expected


@given(st.text("ab<>/think \n", max_size=30), st.text("ab<>/think \n", max_size=30), st.lists(st.integers(0)))
def test_no_part_of_a_tag_leaks(reasoning: str, answer: str, at: list[int]) -> None:
    if "</think>" in reasoning:
        return
    shown = split(cuts(f"<think>{reasoning}</think>{answer}", at))
    # A block of nothing but space begins where its text does.
    assert shown[0] == reasoning.strip()
    assert shown[1] == answer.lstrip()


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("<a><think>\n", True), ("<think>", True), ("<think></think>", False), ("x", False)],
)
def test_a_prompt_that_opens_the_block_is_seen(prompt: str, expected: bool) -> None:
    assert opens_reasoning(prompt) is expected


class Names:
    def token_text(self, token: int) -> str:
        return chr(token)

    def token_bytes(self, token: int) -> bytes:
        return chr(token).encode()


@given(
    st.lists(st.text("ab<>think/ \n", max_size=5), max_size=15),
    st.lists(st.sampled_from(["ab", "b\n", "think"]), max_size=2),
    st.booleans(),
)
def test_the_tokens_of_the_logprobs_join_to_the_content(
    texts: list[str], stops: list[str], inside: bool
) -> None:
    choice = ChoiceText(Names(), splitter=ReasoningSplitter(inside=inside), stops=stops, logprobs=True)
    pieces = []
    for at, text in enumerate(texts):
        pieces += choice.push(TokenEvent(at, text, TokenLogprob(at, -1.0)))
        if choice.stopped:
            break
    pieces += choice.finish()
    content = "".join(piece.text for piece in pieces if piece.kind == "content")
    tokens = "".join(entry.token for piece in pieces for entry in piece.logprobs)
    assert tokens == content


def test_the_tail_of_a_broken_character_belongs_to_the_last_token() -> None:
    choice = ChoiceText(Names(), logprobs=True)
    pieces = [
        *choice.push(TokenEvent(65, "A", TokenLogprob(65, -1.0))),
        *choice.push(TokenEvent(200, "", TokenLogprob(200, -1.0))),
        *choice.push(TokenEvent(-1, "\N{REPLACEMENT CHARACTER}")),
        *choice.finish(),
    ]
    assert choice.tokens == 2
    assert "".join(piece.text for piece in pieces) == "A\N{REPLACEMENT CHARACTER}"
    assert [entry.token for piece in pieces for entry in piece.logprobs] == ["A", "\N{REPLACEMENT CHARACTER}"]
