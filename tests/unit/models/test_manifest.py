"""Manifests: what their digest names, what they accept as a file, and which file holds which layer."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ModelError
from swarm.models.manifest import (
    FileEntry,
    Manifest,
    check_name,
    decode_files,
    digest_of,
    encode_files,
    layer_of,
    parse_header,
    parse_index,
)
from swarm.types import LayerSpan

A, B = FileEntry("a.safetensors", 10, "a" * 64), FileEntry("b.safetensors", 20, "b" * 64)


def _header(**tensors: object) -> bytes:
    return json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()


def _entry(shape: list[int], start: int, end: int, dtype: str = "BF16") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_the_digest_does_not_depend_on_the_order_of_files() -> None:
    assert digest_of([A, B]) == digest_of([B, A])
    assert len(digest_of([A, B])) == 64


@pytest.mark.parametrize(
    "other",
    [
        FileEntry("c.safetensors", 20, "b" * 64),
        FileEntry("b.safetensors", 21, "b" * 64),
        FileEntry("b.safetensors", 20, "c" * 64),
    ],
)
def test_the_digest_changes_with_every_name_size_and_hash(other: FileEntry) -> None:
    assert digest_of([A, other]) != digest_of([A, B])


def test_a_stored_listing_comes_back_as_it_was() -> None:
    assert decode_files(encode_files([B, A], revision="main")) == ((A, B), "main")


def test_a_listing_beyond_the_limit_is_neither_written_nor_read() -> None:
    many = [FileEntry(f"model-{number:05}.safetensors", 1, "0" * 64) for number in range(40_000)]
    with pytest.raises(ModelError, match="larger than the limit of 4194304"):
        encode_files(many)
    with pytest.raises(ModelError, match="larger than the limit of 4194304"):
        decode_files(b" " * (4 * 1024 * 1024 + 1))


@given(st.binary(max_size=300))
def test_a_damaged_listing_is_refused_with_a_model_error(text: bytes) -> None:
    with pytest.raises(ModelError):
        decode_files(text)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "a/b.safetensors", "model-00001-of-00002.safetensors", "0_x"]
)
def test_plain_names_are_accepted(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "/x", "a/b/c", "a//b", ".hidden", "a/.b", "a\\b", "C:x", "a\n", "é", "con", "NUL.txt",
     "a/COM1.safetensors", "lpt9", "x.", "a" * 201],
)  # fmt: skip
def test_names_that_lead_elsewhere_on_some_platform_are_refused(name: str) -> None:
    with pytest.raises(ModelError):
        check_name(name)


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("model.layers.12.self_attn.q_proj.weight", 12),
        ("model.language_model.layers.3.mlp.experts.7.up_proj.weight", 3),
        ("transformer.h.5.attn.c_attn.weight", 5),
        ("model.embed_tokens.weight", None),
        ("model.norm.weight", None),
        ("lm_head.weight", None),
        ("model.vision_tower.encoder.layers.4.mlp.weight", None),
        ("visual.blocks.4.mlp.weight", None),
        ("mtp.layers.0.mlp.weight", None),
    ],
)
def test_a_tensor_belongs_to_the_decoder_layer_in_its_name(tensor: str, layer: int | None) -> None:
    assert layer_of(tensor) == layer


def test_only_the_files_of_the_wanted_layers_and_ends_are_needed() -> None:
    weight_map = {
        "model.embed_tokens.weight": "1",
        "model.layers.0.w": "1",
        "model.layers.1.w": "2",
        "model.layers.2.w": "3",
        "lm_head.weight": "3",
        "vision_tower.layers.0.w": "4",
    }
    manifest = Manifest((A, B), weight_map)
    assert manifest.files_for(LayerSpan(1, 2), ends=False) == {"2"}
    assert manifest.files_for(LayerSpan(1, 2), ends=True) == {"1", "2", "3"}
    assert manifest.files_for(None, ends=True) == {"1", "3"}
    assert manifest.files_for(None, ends=False) == set()


def test_layer_bytes_count_the_tensors_of_a_layer() -> None:
    header = _header(**{"model.layers.0.a": _entry([2, 3], 0, 12), "model.layers.0.b": _entry([4], 12, 20),
                        "model.norm.weight": _entry([1], 20, 22)})  # fmt: skip
    tensors = parse_header("x.safetensors", header, 8 + len(header) + 22)
    manifest = Manifest((), dict.fromkeys(tensors, "x.safetensors"), tensors)
    assert manifest.layer_bytes(0) == 20
    assert manifest.end_bytes() == 2


def test_the_bytes_of_a_layer_whose_file_is_absent_are_not_guessed() -> None:
    with pytest.raises(ModelError, match=r"2\.safetensors"):
        Manifest((), {"model.layers.0.a": "2.safetensors"}).layer_bytes(0)


def test_byte_ranges_count_from_the_beginning_of_the_file() -> None:
    header = _header(w=_entry([2, 2], 0, 8), scale=_entry([3], 8, 9, "BOOL") | {"shape": [1]})
    tensors = parse_header("x", header, 8 + len(header) + 9)
    assert (tensors["w"].start, tensors["w"].end) == (8 + len(header), 16 + len(header))
    assert tensors["w"].shape == (2, 2)


@pytest.mark.parametrize(
    ("header", "data_bytes"),
    [
        (_header(w=_entry([2, 2], 0, 8)), 7),
        (_header(w=_entry([2, 2], 0, 8)), 9),
        (_header(w=_entry([2, 2], 0, 6)), 6),
        (_header(w=_entry([2, 2], 8, 0)), 8),
        (_header(w=_entry([-2, -2], 0, 8)), 8),
        (_header(w=_entry([2, 2], 0, 8), v=_entry([2, 2], 4, 12)), 12),
        (_header(w=_entry([2, 2], 0, 8), v=_entry([2, 2], 10, 18)), 18),
        (_header(w=_entry([2], 0, 4, "PICKLE")), 4),
        (_header(w=_entry([2], 0, 4) | {"data_offsets": [0]}), 4),
        (_header(w=[1, 2]), 0),
        (b"[]", 0),
        (b"{", 0),
        (b"\xff\xff", 0),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(header: bytes, data_bytes: int) -> None:
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        parse_header("x.safetensors", header, 8 + len(header) + data_bytes)


@given(st.data())
def test_any_layout_without_holes_is_read_back(data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6))
    entries, offset = {}, 0
    for number, shape in enumerate(shapes):
        size = 2
        for extent in shape:
            size *= extent
        entries[f"t{number}"] = _entry(shape, offset, offset + size)
        offset += size
    names = list(entries)
    random.Random(len(names)).shuffle(names)
    header = _header(**{name: entries[name] for name in names})
    tensors = parse_header("x", header, 8 + len(header) + offset)
    assert {name: list(info.shape) for name, info in tensors.items()} == {
        f"t{number}": shape for number, shape in enumerate(shapes)
    }
    assert sum(info.octets for info in tensors.values()) == offset


@pytest.mark.parametrize(
    "index",
    [
        b"{}",
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": "../../etc/passwd"}}',
        b'{"weight_map": {"a": "pytorch_model.bin"}}',
        b"nonsense",
    ],
)
def test_an_index_that_names_no_safetensors_files_is_refused(index: bytes) -> None:
    with pytest.raises(ModelError):
        parse_index(index)
