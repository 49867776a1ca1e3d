"""Files that are here in part: what counts, what survives a crash, what is noticed when hands change the file."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ModelError
from swarm.models.chunks import CHUNK_BYTES, Chunks, chunk_count, numbers_of, ranges_of, table_root
from swarm.models.folder import HashCache, hash_chunks
from swarm.models.manifest import FileEntry, is_companion, is_weight_file
from swarm.models.partial import PartialFile, data_path, present
from swarm.models.progress import silent
from swarm.models.receiving import Receiving

CHUNKS = 4
SIZE = (CHUNKS - 1) * CHUNK_BYTES + 1000
DATA = random.Random(7).randbytes(SIZE)
ENTRY = FileEntry("model.safetensors", SIZE, hashlib.sha256(DATA).hexdigest())
TABLE = b"".join(
    hashlib.sha256(DATA[start : start + CHUNK_BYTES]).digest() for start in range(0, SIZE, CHUNK_BYTES)
)


def chunk(number: int) -> bytes:
    return DATA[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ENTRY.name


def test_chunks_count_once_they_are_committed(path: Path) -> None:
    partial = PartialFile.create(path, ENTRY, TABLE)
    assert partial.write(1, chunk(1))
    partial.commit()
    again = PartialFile.open(path, ENTRY)
    assert again is not None
    assert again.held == [1]
    assert again.holds(CHUNK_BYTES, 2 * CHUNK_BYTES)
    assert not again.holds(CHUNK_BYTES - 1, 2 * CHUNK_BYTES)
    assert not path.exists()
    assert present(path) == data_path(path)


def test_wrong_bytes_are_not_kept(path: Path) -> None:
    partial = PartialFile.create(path, ENTRY, TABLE)
    assert not partial.write(0, chunk(1))
    assert not partial.write(CHUNKS - 1, chunk(CHUNKS - 1) + b"more")
    partial.commit()
    assert partial.held == []


def test_what_a_killed_process_wrote_counts_if_it_is_right(path: Path) -> None:
    partial = PartialFile.create(path, ENTRY, TABLE)
    partial.write(2, chunk(2))
    # No commit: the process died. The bytes are there, but nothing says so.
    again = PartialFile.open(path, ENTRY)
    assert again is not None
    assert again.held == [2]


def test_who_gives_chunks_to_others_believes_what_is_written(path: Path) -> None:
    partial = PartialFile.create(path, ENTRY, TABLE)
    partial.write(2, chunk(2))
    found = PartialFile.open(path, ENTRY, check=False)
    assert found is not None
    assert found.held == []


def test_a_chunk_that_was_changed_counts_no_more(path: Path) -> None:
    partial = PartialFile.create(path, ENTRY, TABLE)
    for number in (0, 3):
        partial.write(number, chunk(number))
    partial.commit()
    with data_path(path).open("r+b") as file:
        file.seek(3 * CHUNK_BYTES + 17)
        file.write(b"?")
    again = PartialFile.open(path, ENTRY)
    assert again is not None
    assert again.held == [0]


@pytest.mark.parametrize("harm", ["cut", "state", "gone"])
def test_a_file_that_was_cut_or_lost_its_state_is_as_good_as_absent(path: Path, harm: str) -> None:
    partial = PartialFile.create(path, ENTRY, TABLE)
    partial.write(0, chunk(0))
    partial.commit()
    if harm == "cut":
        os.truncate(data_path(path), SIZE - 1)
    elif harm == "state":
        path.with_name(path.name + ".held").write_bytes(b"\xc1 no state")
    else:
        data_path(path).unlink()
    assert PartialFile.open(path, ENTRY) is None
    anew = PartialFile.create(path, ENTRY, TABLE)
    assert anew.held == []


def test_a_whole_file_gets_its_name_when_its_digest_is_right(path: Path) -> None:
    partial = PartialFile.create(path, ENTRY, TABLE)
    for number in range(CHUNKS):
        partial.write(number, chunk(number))
    assert partial.complete
    assert partial.finish()
    assert path.read_bytes() == DATA
    assert list(path.parent.iterdir()) == [path]


def test_chunks_of_a_false_table_never_become_a_file(path: Path) -> None:
    other = bytes(SIZE)
    table = b"".join(
        hashlib.sha256(other[start : start + CHUNK_BYTES]).digest() for start in range(0, SIZE, CHUNK_BYTES)
    )
    partial = PartialFile.create(path, ENTRY, table)
    for number in range(CHUNKS):
        assert partial.write(number, other[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES])
    assert not partial.finish()
    assert list(path.parent.iterdir()) == []


def test_another_table_begins_anew(path: Path) -> None:
    first = PartialFile.create(path, ENTRY, TABLE)
    first.write(0, chunk(0))
    first.commit()
    assert PartialFile.create(path, ENTRY, TABLE[::-1]).held == []


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiving = Receiving(tmp_path, Chunks([ENTRY]), HashCache(tmp_path / "cache"))
    receiving.begin(0, TABLE)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("swarm.models.partial.os.write", full)
    with pytest.raises(ModelError, match="disk is full"):
        receiving.write(0, chunk(0))
    monkeypatch.undo()
    assert receiving.held([0]) == set()
    assert receiving.write(0, chunk(0))


def test_a_table_is_made_of_the_digests_of_the_chunks(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    assert hash_chunks(file, "", silent) == (ENTRY.sha256, TABLE)
    assert table_root(TABLE) != table_root(TABLE[:-32])


@given(st.sets(st.integers(0, 60)))
def test_ranges_say_the_same_as_their_numbers(numbers: set[int]) -> None:
    ranges = ranges_of(numbers)
    assert numbers_of(ranges) == numbers
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


@given(st.lists(st.integers(0, 3 * CHUNK_BYTES), min_size=1, max_size=5))
def test_every_byte_of_every_file_is_in_exactly_one_chunk(sizes: list[int]) -> None:
    chunks = Chunks(FileEntry(f"{at}.safetensors", size, "a" * 64) for at, size in enumerate(sizes))
    assert chunks.total == sum(map(chunk_count, sizes))
    seen = [0] * len(sizes)
    for index in range(chunks.total):
        place = chunks.place(index)
        assert place.start == seen[place.file]
        assert 0 < place.octets <= CHUNK_BYTES
        seen[place.file] += place.octets
        assert index in chunks.of_file(place.file)
    assert seen == sizes
    with pytest.raises(IndexError):
        chunks.place(chunks.total)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model-00001-of-00002.safetensors"])
def test_config_and_weights_belong_to_the_digest(name: str) -> None:
    assert is_weight_file(name)
    assert not is_companion(name)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja", "LICENSE", "NOTICE.txt",
     "additional_chat_templates/tool_use.jinja", "model.safetensors.index.json", "generation_config.json"],
)  # fmt: skip
def test_what_goes_with_the_weights_is_known_by_its_name(name: str) -> None:
    assert is_companion(name)


@pytest.mark.parametrize(
    "name",
    ["README.md", "modeling_evil.py", "tokenizer.py", "tokenizer_fast.pkl", "pytorch_model.bin", "../tokenizer.json",
     "a/b/tokenizer.json", "tokenizer.exe", ".ssh/id_rsa", "con.json", "/etc/passwd"],
)  # fmt: skip
def test_nothing_else_ever_travels(name: str) -> None:
    assert not is_companion(name)
    assert not is_weight_file(name)
