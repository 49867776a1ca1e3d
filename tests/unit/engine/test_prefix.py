"""Kept sequences are found by the names of their blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.engine.kv_pool import KVBudget, KVLayout, LayerKV
from swarm.engine.prefix import PrefixIndex
from swarm.engine.prefix_cache import PrefixCache
from swarm.errors import KVFullError
from swarm.protocol.limits import PREFIX_BLOCK_TOKENS as BLOCK_TOKENS
from swarm.protocol.limits import PREFIX_NAME_BYTES as NAME_BYTES
from swarm.sessions.prefix import PrefixNames


def names_of(tokens: list[int], *, secret: bytes = b"s" * 32, scope: str = "key") -> tuple[bytes, ...]:
    names = PrefixNames(secret, scope)
    names.extend(tokens)
    return names.covering(len(tokens))


def test_equal_beginnings_have_equal_names_and_others_have_none_in_common():
    shared = list(range(2 * BLOCK_TOKENS))
    one, two = names_of([*shared, *([1] * BLOCK_TOKENS)]), names_of([*shared, *([2] * BLOCK_TOKENS)])
    assert one[:2] == two[:2]
    assert one[2] != two[2]
    assert all(len(name) == NAME_BYTES for name in one)


def test_a_block_is_named_by_all_that_stands_before_it():
    block = [7] * BLOCK_TOKENS
    assert len(set(names_of(block * 4))) == 4


def test_other_scopes_and_other_front_doors_have_other_names():
    tokens = list(range(BLOCK_TOKENS))
    assert len({names_of(tokens), names_of(tokens, scope="other"), names_of(tokens, secret=b"t" * 32)}) == 3


def test_only_whole_blocks_within_the_given_tokens_are_named():
    names = PrefixNames(b"s", "")
    names.extend(range(3 * BLOCK_TOKENS + 5))
    assert [len(names.covering(tokens)) for tokens in (0, BLOCK_TOKENS - 1, BLOCK_TOKENS, 10_000)] == [
        0,
        0,
        1,
        3,
    ]


def test_a_longer_turn_takes_its_conversation_over():
    index = PrefixIndex(BLOCK_TOKENS)
    turn = list(range(4 * BLOCK_TOKENS))
    index.keep("turn 1", "scope", names_of(turn))
    hit = index.find("scope", names_of(turn + [5] * BLOCK_TOKENS))
    assert hit is not None
    assert (hit.key, hit.tokens, hit.take_over) == ("turn 1", 4 * BLOCK_TOKENS, True)


def test_a_short_shared_beginning_is_copied_and_leaves_the_entry_alone():
    index = PrefixIndex(BLOCK_TOKENS)
    index.keep("long", "scope", names_of(list(range(8 * BLOCK_TOKENS))))
    hit = index.find("scope", names_of([*range(BLOCK_TOKENS), *([9] * BLOCK_TOKENS)]))
    assert hit is not None
    assert (hit.tokens, hit.take_over) == (BLOCK_TOKENS, False)


def test_nothing_is_found_in_another_scope_or_after_being_dropped():
    index = PrefixIndex(BLOCK_TOKENS)
    names = names_of(list(range(BLOCK_TOKENS)))
    index.keep("a", "scope", names)
    assert index.find("another", names) is None
    index.pop("a")
    assert index.find("scope", names) is None
    assert len(index) == 0


def test_the_least_recently_used_entry_goes_first():
    index = PrefixIndex(BLOCK_TOKENS)
    first, second = names_of([1] * BLOCK_TOKENS), names_of([2] * BLOCK_TOKENS)
    index.keep("first", "s", first)
    index.keep("second", "s", second)
    index.find("s", first)
    assert index.oldest() == "second"


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=8), st.data())
def test_the_longest_common_beginning_is_found(kept, data):
    index = PrefixIndex(BLOCK_TOKENS)
    tokens = [[block for bit in bits for block in [bit] * BLOCK_TOKENS] for bits in kept]
    for number, ids in enumerate(tokens):
        index.keep(number, "s", names_of(ids))
    wanted = data.draw(st.lists(st.integers(0, 1), max_size=6))
    common = max(_common(wanted, bits) for bits in kept)
    hit = index.find("s", names_of([block for bit in wanted for block in [bit] * BLOCK_TOKENS]))
    assert (hit.tokens if hit else 0) == common * BLOCK_TOKENS


def _common(one: list[int], two: list[int]) -> int:
    length = 0
    while length < min(len(one), len(two)) and one[length] == two[length]:
        length += 1
    return length


LAYOUT = KVLayout((LayerKV(1, 1, None),), 1)
"""2 bytes a token."""


def cache_of(tokens: int, share: float = 1.0) -> tuple[PrefixCache, KVBudget]:
    budget = KVBudget(2 * tokens, 16)
    return PrefixCache(budget, share), budget


def ended(cache: PrefixCache, key: str, tokens: list[int]) -> None:
    cache.open(key, ("s",), LAYOUT, len(tokens), ())
    cache.keep(key, names_of(tokens))


def test_kept_sequences_make_room_for_running_ones_and_never_the_other_way_round():
    cache, budget = cache_of(256)
    ended(cache, "a", [1] * 128)
    opening = cache.open("b", ("s",), LAYOUT, 256, ())
    assert len(opening.evicted) == 1
    assert len(cache) == 0
    assert budget.used_bytes == 512
    with pytest.raises(KVFullError):
        cache.open("c", ("s",), LAYOUT, 16, ())


def test_a_sequence_that_cannot_be_opened_leaves_everything_as_it_was():
    cache, budget = cache_of(256)
    ended(cache, "a", [1] * 128)
    before = (budget.used_bytes, cache.kept_bytes, len(cache))
    with pytest.raises(KVFullError):
        cache.open("b", ("s",), LAYOUT, 512, names_of([1] * 128))
    assert (budget.used_bytes, cache.kept_bytes, len(cache)) == before
    assert cache.open("b", ("s",), LAYOUT, 160, names_of([1] * 128)).hit_tokens == 128


def test_kept_sequences_stay_within_their_share():
    cache, budget = cache_of(512, share=0.25)
    for number in range(4):
        ended(cache, str(number), [number] * 64)
    assert cache.kept_bytes <= 0.25 * budget.budget_bytes
    assert len(cache) == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["open", "keep", "release", "grow"]), st.integers(0, 5), st.integers(1, 300)
        ),
        max_size=60,
    )
)
def test_the_budget_is_never_exceeded_and_everything_is_accounted_for(actions):
    cache, budget = cache_of(512, share=0.5)
    running: dict[int, int] = {}
    for action, key, size in actions:
        tokens = [key % 2] * size
        try:
            if action == "open" and key not in running:
                opening = cache.open(key, ("s",), LAYOUT, size, names_of(tokens))
                assert opening.hit_tokens <= size
                running[key] = size
            elif action == "grow" and key in running:
                cache.reserve(key, LAYOUT, running[key] + size)
            elif action == "keep" and key in running:
                if cache.keep(key, names_of([key % 2] * running.pop(key)))[0] is None:
                    cache.release(key)
            elif action == "release" and key in running:
                running.pop(key)
                cache.release(key)
        except KVFullError:
            pass
        assert 0 <= cache.kept_bytes <= budget.used_bytes <= budget.budget_bytes
        assert len(budget) == len(running) + len(cache)
    for key in running:
        cache.release(key)
    assert budget.used_bytes == cache.kept_bytes
