"""What fits into memory, by arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import DoesNotFitError
from swarm.models.footprint import Footprint, footprint_of
from swarm.models.manifest import FileEntry, Manifest, TensorInfo
from swarm.models.memory import (
    LEAST_KV_TOKENS,
    Held,
    Memory,
    Wish,
    check_fits,
    divide,
    needed_bytes,
    portions,
    reach,
    taken_bytes,
)
from swarm.models.spec import ModelSpec
from swarm.types import LayerSpan

MB = 1_000_000


def model(layers: int = 10, layer_mb: int = 50) -> Footprint:
    return Footprint(
        layer_bytes=(layer_mb * MB,) * layers,
        kv_bytes=(1000,) * layers,
        windows=(None,) * layers,
        ends_bytes=100 * MB,
        context_tokens=8192,
        dtype="bfloat16",
    )


def memory_of(total_bytes: int, **more: int | bool) -> Memory:
    return Memory(total_bytes, overhead_bytes=550 * MB, **more)


def spec(**changes: object) -> ModelSpec:
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "vocab_size": 10,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": True,
    }
    return ModelSpec.from_config(config | changes)


def manifest(tensors: dict[str, tuple[str, tuple[int, ...]]], *, known: bool = True) -> Manifest:
    found, start = {}, 100
    for name, (dtype, shape) in tensors.items():
        size = {"BF16": 2, "F32": 4}[dtype]
        for edge in shape:
            size *= edge
        found[name] = TensorInfo("model.safetensors", dtype, shape, start, start + size)
        start += size
    entry = FileEntry("model.safetensors", start, "0" * 64)
    return Manifest((entry,), dict.fromkeys(found, entry.name), found if known else {})


TENSORS = {
    "model.embed_tokens.weight": ("BF16", (10, 8)),
    "model.layers.0.mlp.up.weight": ("BF16", (20, 8)),
    "model.layers.1.mlp.up.weight": ("F32", (30, 8)),
    "model.norm.weight": ("BF16", (8,)),
}


def test_sizes_are_those_of_the_dtype_that_is_computed_in():
    in_half = footprint_of(spec(), manifest(TENSORS), "bfloat16")
    in_single = footprint_of(spec(), manifest(TENSORS), "float32")
    assert in_half.layer_bytes == (20 * 8 * 2, 30 * 8 * 2)
    assert in_single.layer_bytes == (20 * 8 * 4, 30 * 8 * 4)
    assert in_half.kv_bytes == (2 * 1 * 4 * 2,) * 2
    assert in_single.kv_bytes == (2 * 1 * 4 * 4,) * 2


def test_a_tied_head_counts_beside_the_embedding_it_is_tied_to():
    tied = footprint_of(spec(), manifest(TENSORS), "bfloat16")
    assert tied.ends_bytes == (10 * 8 + 8) * 2 + 10 * 8 * 2
    own = manifest(TENSORS | {"lm_head.weight": ("BF16", (10, 8))})
    assert footprint_of(spec(tie_word_embeddings=False), own, "bfloat16").ends_bytes == tied.ends_bytes


def test_layers_whose_files_are_elsewhere_are_estimated_from_the_files_sizes():
    elsewhere = footprint_of(spec(), manifest(TENSORS, known=False), "bfloat16")
    total = sum(tensor.octets for tensor in manifest(TENSORS).tensors.values())
    assert sum(elsewhere.layer_bytes) > 0
    assert sum(elsewhere.layer_bytes) + elsewhere.ends_bytes == pytest.approx(total + 10 * 8 * 2, rel=0.3)


def test_a_window_layer_needs_no_more_than_its_window_and_slack():
    window = replace(model(1), windows=(100,))
    assert window.kv(LayerSpan(0, 1), 8000) == 2 * (100 + 512) * 1000
    assert model(1).kv(LayerSpan(0, 1), 8000) == 8000 * 1000


def test_the_longest_span_is_the_one_that_still_fits():
    memory = memory_of(550 * MB + 4 * (50 * MB + LEAST_KV_TOKENS * 1000))
    assert reach(memory, model()) == (4, 5, 6, 7, 8, 9, 10, 10, 10, 10)
    assert reach(replace(memory, total_bytes=memory.total_bytes - 1), model())[0] == 3


def test_a_door_and_private_spans_leave_less_for_layers():
    memory = memory_of(1000 * MB)
    alone = reach(memory, model())[0]
    assert reach(replace(memory, door=True), model())[0] == alone - 2
    assert reach(memory, model(), beside=[LayerSpan(0, 2)])[0] == alone - 2


def test_quantised_layers_take_fewer_bytes_and_the_ends_do_not():
    whole, eight, four = (
        footprint_of(
            spec(), manifest(TENSORS | {"model.layers.0.wide.weight": ("BF16", (64, 64))}), "bfloat16", bits
        )
        for bits in ("none", "int8", "int4")
    )
    assert four.layer_bytes[0] < eight.layer_bytes[0] < whole.layer_bytes[0]
    assert four.ends_bytes == eight.ends_bytes == whole.ends_bytes


def test_what_does_not_fit_is_refused_with_the_numbers_and_the_remedy():
    memory = memory_of(800 * MB)
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(memory, model(), "org/model", [LayerSpan(2, 9)])
    error = caught.value
    assert error.needed_bytes == needed_bytes(memory, model(), [LayerSpan(2, 9)])
    assert error.available_bytes == memory.total_bytes
    assert error.would_fit == LayerSpan(2, 6)
    text = str(error)
    for part in ("layers 2:9", "org/model", "bfloat16", "--layers 2:6", "--memory", "763 MiB"):
        assert part in text
    check_fits(memory, model(), "org/model", [error.would_fit])


def test_a_machine_for_no_layer_is_told_so():
    with pytest.raises(DoesNotFitError, match="no layer of it would fit") as caught:
        check_fits(memory_of(560 * MB), model(), "m", [LayerSpan(0, 1)])
    assert caught.value.most_layers == 0


def test_the_kv_cache_gets_what_is_left_and_second_copies_only_what_leaves_it_comfortable():
    spans = [LayerSpan(0, 10)]
    plenty = divide(memory_of(4000 * MB, second_copy_bytes=10_000 * MB), [Held(model(), tuple(spans))])
    assert plenty.second_copy_bytes == 500 * MB
    assert plenty.kv_bytes == (4000 - 550 - 500 - 550) * MB
    tight = divide(memory_of(1100 * MB, second_copy_bytes=10_000 * MB), [Held(model(), tuple(spans))])
    assert tight.second_copy_bytes == 0
    assert tight.kv_bytes == 50 * MB
    asked = divide(memory_of(4000 * MB, kv_bytes=64 * MB), [Held(model(), tuple(spans))])
    assert asked.kv_bytes == 64 * MB


@settings(deadline=None)
@given(
    total=st.integers(600, 4000),
    door=st.booleans(),
    second=st.integers(0, 2000),
    spans=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10)), max_size=2),
)
def test_what_fits_is_divided_into_parts_that_add_up_to_no_more_than_the_whole(total, door, second, spans):
    memory = memory_of(total * MB, door=door, second_copy_bytes=second * MB)
    chosen = [LayerSpan(start, min(start + length, 10)) for start, length in spans]
    if needed_bytes(memory, model(), chosen) > memory.total_bytes:
        return
    parts = divide(memory, [Held(model(), tuple(chosen), memory.door)])
    copies = parts.second_copy_bytes * 110 // 100
    assert (
        parts.weights_bytes + parts.ends_bytes + parts.kv_bytes + parts.overhead_bytes + copies
        <= memory.total_bytes
    )
    assert parts.kv_bytes >= sum(model().kv(span, LEAST_KV_TOKENS) for span in chosen)


@settings(deadline=None)
@given(total=st.integers(500, 2000), start=st.integers(0, 9))
def test_every_reached_span_fits_and_one_layer_more_does_not(total, start):
    memory = memory_of(total * MB)
    end = reach(memory, model())[start]
    if end > start:
        check_fits(memory, model(), "m", [LayerSpan(start, end)])
    if end < 10:
        with pytest.raises(DoesNotFitError):
            check_fits(memory, model(), "m", [LayerSpan(start, end + 1)])


def test_what_other_models_take_is_not_there_and_the_refusal_says_what_is():
    memory = memory_of(1000 * MB, others_bytes=300 * MB)
    assert reach(memory, model()) == reach(memory_of(700 * MB), model())
    with pytest.raises(DoesNotFitError, match="embedding, norm and head of m") as caught:
        check_fits(memory_of(800 * MB, others_bytes=200 * MB, door=True), model(), "m", [], ends_only=True)
    assert caught.value.available_bytes == 600 * MB
    assert "--layers" not in str(caught.value)


def test_several_models_are_divided_with_one_program_and_one_cache():
    first, second = Held(model(), (LayerSpan(0, 4),), ends=True), Held(model(), (LayerSpan(2, 4),))
    parts = divide(memory_of(2000 * MB), [first, second])
    assert parts.weights_bytes == 6 * 50 * MB
    assert parts.ends_bytes == model().ends_bytes
    assert parts.kv_bytes == 2000 * MB - 550 * MB - parts.weights_bytes - parts.ends_bytes


def need(layers: int) -> int:
    return taken_bytes(Held(model(), (LayerSpan(0, layers),)))


def test_two_models_that_both_fit_get_what_they_need():
    wishes = [Wish(model(), False), Wish(model(4), False)]
    assert portions(memory_of(4000 * MB), wishes) == (need(10), need(4))


def test_what_does_not_suffice_is_divided_by_what_each_lacks():
    one, other = portions(memory_of(550 * MB + need(7)), [Wish(model(), False), Wish(model(4), False)])
    assert one + other <= need(7)
    # A layer each comes first; of what is left they get the same share of what they lack: 9 layers and 3.
    assert one == pytest.approx(need(1) + (need(7) - 2 * need(1)) * 3 / 4, rel=0.01)


def test_pinned_spans_and_layers_that_nobody_holds_come_before_the_rest():
    pinned = Wish(model(), False, pinned=(LayerSpan(0, 3),))
    wanting = Wish(model(), False, missing=(LayerSpan(6, 9),))
    content = Wish(model(), False)
    parts = portions(memory_of(550 * MB + need(3) + need(3) + need(1)), [content, wanting, pinned])
    assert parts[2] == need(3)
    assert parts[1] == pytest.approx(need(3), rel=0.01)
    assert parts[0] == pytest.approx(need(1), rel=0.01)


def test_who_comes_last_gets_nothing_where_not_one_layer_more_fits():
    assert portions(memory_of(550 * MB + need(1)), [Wish(model(), False)] * 2) == (need(1), 0)


@settings(deadline=None)
@given(
    total=st.integers(300, 3000),
    wishes=st.lists(
        st.tuples(st.integers(1, 10), st.booleans(), st.booleans(), st.integers(0, 9)), min_size=1, max_size=4
    ),
)
def test_portions_never_add_up_to_more_than_there_is(total, wishes):
    memory = memory_of(total * MB)
    asked = [
        Wish(
            model(layers),
            ends,
            (LayerSpan(0, layers),) if pinned else None,
            (LayerSpan(min(hole, layers - 1), layers),),
        )
        for layers, ends, pinned, hole in wishes
    ]
    parts = portions(memory, asked)
    assert sum(parts) <= max(0, memory.total_bytes - memory.overhead_bytes)
    for part, wish in zip(parts, asked, strict=True):
        assert part == 0 or wish.least() <= part <= wish.whole()
