"""Invite strings, and the tickets behind them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.protocol.identity import NodeKey
from swarm.protocol.invite import MAX_CHUNK_ROOTS, MAX_TICKETS, PREFIX, Invite, Tickets
from swarm.types import Address

INVITE = Invite(
    (Address("192.168.1.20", 7410), Address("2001:db8::1", 7410)),
    NodeKey.from_seed(b"S" * 32).node_id,
    b"i" * 16,
    b"ticket-1",
    b"k" * 32,
)


def test_an_invite_survives_its_string_and_line_breaks_in_it() -> None:
    text = INVITE.encode()
    assert Invite.parse(text) == INVITE
    assert Invite.parse(f"  {text[:40]}\n{text[40:]}\n") == INVITE
    assert len(text) < 300


def test_it_brings_what_proves_models_chunks_and_older_ones_bring_nothing() -> None:
    roots = {f"{at:064x}": f"{at + 10:064x}" for at in range(MAX_CHUNK_ROOTS + 1)}
    proving = replace(INVITE, chunk_roots=roots)
    assert Invite.parse(proving.encode()).chunk_roots == dict(sorted(roots.items())[:MAX_CHUNK_ROOTS])
    body = msgspec.msgpack.decode(base64.urlsafe_b64decode(INVITE.encode()[len(PREFIX) :] + "==")[4:])
    older = msgspec.msgpack.encode(body[:-1])
    text = PREFIX + base64.urlsafe_b64encode(hashlib.sha256(older).digest()[:4] + older).decode().rstrip("=")
    assert Invite.parse(text) == INVITE
    body[-1] = [[b"d" * 31, b"r" * 32]]
    odd = msgspec.msgpack.encode(body)
    text = PREFIX + base64.urlsafe_b64encode(hashlib.sha256(odd).digest()[:4] + odd).decode().rstrip("=")
    with pytest.raises(ValueError, match="another version"):
        Invite.parse(text)


def test_it_does_not_show_its_key_by_accident() -> None:
    assert "kkkk" not in repr(INVITE)


@given(
    st.integers(0, len(INVITE.encode()) - 1), st.characters(codec="ascii", exclude_categories=["Zs", "Cc"])
)
def test_one_changed_character_is_noticed(at: int, letter: str) -> None:
    text = INVITE.encode()
    changed = text[:at] + letter + text[at + 1 :]
    if changed == text:
        return
    if at == len(text) - 1 and (letter.isalnum() or letter in "-_") and _bytes_of(changed) == _bytes_of(text):
        return  # the last character carries bits that mean nothing
    with pytest.raises(ValueError, match=r"invite|copy it|version"):
        Invite.parse(changed)


def _bytes_of(text: str) -> bytes:
    encoded = text.removeprefix(PREFIX)
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


@given(st.integers(0, len(INVITE.encode()) - 1))
def test_a_part_of_an_invite_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"copy it again|begins with"):
        Invite.parse(INVITE.encode()[:length])


@given(st.text(max_size=300))
def test_any_other_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"invite|copy it|version"):
        Invite.parse(PREFIX + text)


def test_a_ticket_lets_one_in_and_is_gone() -> None:
    tickets = Tickets()
    tickets.issue(b"a", b"key", now=0.0, seconds=60)
    assert tickets.key_of(b"a", 59.0) == b"key"
    assert tickets.claim(b"a", 59.0)
    tickets.burn(b"a")
    assert tickets.key_of(b"a", 59.0) is None
    assert not tickets.claim(b"a", 59.0)


def test_a_ticket_expires_also_while_someone_uses_it() -> None:
    tickets = Tickets()
    tickets.issue(b"a", b"key", now=0.0, seconds=60)
    assert tickets.claim(b"a", 30.0)
    assert tickets.key_of(b"a", 60.0) is None
    tickets.release(b"a")
    assert tickets.key_of(b"a", 60.0) is None


def test_two_newcomers_can_not_use_a_ticket_at_once_but_one_that_failed_may_try_again() -> None:
    tickets = Tickets()
    tickets.issue(b"a", b"key", now=0.0, seconds=60)
    assert tickets.claim(b"a", 1.0)
    assert not tickets.claim(b"a", 1.0)
    assert tickets.key_of(b"a", 1.0) is None
    tickets.release(b"a")
    assert tickets.claim(b"a", 2.0)


def test_open_tickets_are_bounded_and_expired_ones_make_room() -> None:
    tickets = Tickets()
    for number in range(MAX_TICKETS):
        tickets.issue(number.to_bytes(8, "big"), b"key", now=0.0, seconds=60)
    with pytest.raises(ValueError, match="open already"):
        tickets.issue(b"one more", b"key", now=59.0, seconds=60)
    tickets.issue(b"one more", b"key", now=60.0, seconds=60)
