"""Weights between members on real links: what travels, what counts, and what happens when somebody lies or leaves."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from swarm.errors import ModelError
from swarm.models.chunks import CHUNK_BYTES, Chunks
from swarm.models.partial import PartialFile
from swarm.node.listing import NoSourceError
from swarm.types import LayerSpan
from tests.support.links import eventually
from tests.support.model_folders import FIRST, LARGE_LAYER_BYTES, LAST, LAYERS, write_large
from tests.support.weight_peers import weight_peers

NAME = "org/large"
ONE_LAYER = LayerSpan(1, 2)


@pytest.fixture(params=[1, 2], ids=["one weight file", "two weight files"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_large(tmp_path / "source", files=request.param)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return write_large(tmp_path / "source", files=1)


async def test_a_span_arrives_and_nothing_that_it_does_not_need(tmp_path: Path, source: Path) -> None:
    async with weight_peers(tmp_path, 2) as (giver, taker):
        model = giver.adopt(source, NAME)
        found = await taker.obtain(model, [giver], span=ONE_LAYER)
        assert found.id == model
        assert found.lacks(ONE_LAYER, ends=False) == ()
        assert found.lacks("all", ends=False) != ()
        assert found.folder == taker.store.folder(NAME)
        # The layer touches 4 or 5 chunks, each file's header one; config, tokenizer, licence and index are small.
        assert taker.traffic.bytes_received < LARGE_LAYER_BYTES + 5 * CHUNK_BYTES
        assert {path.name for path in found.folder.iterdir()} & {"README.md"} == set()
        assert (found.folder / "LICENSE").read_text() == "free"
        assert taker.store.find(NAME) == found
        assert taker.traffic.wrong_chunks == 0


async def test_the_ends_are_enough_for_a_front_door(tmp_path: Path, source: Path) -> None:
    async with weight_peers(tmp_path, 2) as (giver, taker):
        model = giver.adopt(source, NAME)
        found = await taker.obtain(model, [giver], ends=True)
        assert found.lacks(None, ends=True) == ()
        assert (found.folder / "tokenizer.json").is_file()
        assert taker.traffic.bytes_received < LAYERS * LARGE_LAYER_BYTES


async def test_what_describes_a_model_says_how_large_its_layers_are(tmp_path: Path, source: Path) -> None:
    async with weight_peers(tmp_path, 2) as (giver, taker):
        model = giver.adopt(source, NAME)
        found = await taker.obtain(model, [giver])
        assert [found.manifest.layer_bytes(layer) for layer in range(LAYERS)] == [LARGE_LAYER_BYTES] * LAYERS
        assert found.manifest.end_bytes() > 0
        assert taker.traffic.bytes_received < 3 * CHUNK_BYTES


async def test_several_members_give_at_once_and_a_whole_model_is_what_it_was(
    tmp_path: Path, source: Path
) -> None:
    async with weight_peers(tmp_path, 4) as (*givers, taker):
        (model,) = {giver.adopt(source, NAME) for giver in givers}
        found = await taker.obtain(model, givers, span="all", ends=True)
        assert all(giver.chunks_asked() for giver in givers)
        names = {entry.name for entry in found.manifest.files}
        assert all((found.folder / name).read_bytes() == (source / name).read_bytes() for name in names)
        assert not list(found.folder.glob("*.partial"))


async def test_more_layers_later_ask_only_for_what_is_missing(tmp_path: Path, source: Path) -> None:
    async with weight_peers(tmp_path, 2) as (giver, taker):
        model = giver.adopt(source, NAME)
        await taker.obtain(model, [giver], span=ONE_LAYER)
        before = taker.traffic.bytes_received
        giver.asked_for.clear()
        await taker.obtain(model, [giver], span=ONE_LAYER)
        assert giver.asked_for == []
        found = await taker.obtain(model, [giver], span="all", ends=True)
        total = sum(entry.size for entry in found.manifest.files)
        small = sum((source / name).stat().st_size for name in ("tokenizer.json", "LICENSE"))
        index = source / "model.safetensors.index.json"
        small += index.stat().st_size if index.exists() else 0
        assert taker.traffic.bytes_received == total + small
        assert before > 0


async def test_who_has_a_part_gives_that_part(tmp_path: Path, single: Path) -> None:
    async with weight_peers(tmp_path, 3) as (giver, middle, taker):
        model = giver.adopt(single, NAME)
        await middle.obtain(model, [giver], span=ONE_LAYER)
        found = await taker.obtain(model, [middle], span=ONE_LAYER)
        assert found.lacks(ONE_LAYER, ends=False) == ()
        with pytest.raises(ModelError, match="no member that can be reached"):
            await taker.obtain(model, [middle], span=LayerSpan(3, 4))


async def test_a_member_that_sends_wrong_bytes_is_named_and_another_asked(
    tmp_path: Path, single: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with weight_peers(tmp_path, 3) as (liar, honest, taker):
        model = liar.adopt(single, NAME)
        honest.adopt(single, NAME)
        read = liar.sharing._read

        def spoiled(want):
            data = read(want)
            return bytes([data[0] ^ 1]) + data[1:] if want.kind == "chunk" and want.index > 2 else data

        monkeypatch.setattr(liar.sharing, "_read", spoiled)
        with caplog.at_level(logging.WARNING):
            found = await taker.obtain(model, [liar, honest], span="all", ends=True)
        assert found.id == model
        assert taker.traffic.wrong_chunks >= 1
        assert any(liar.node[:8] in line and "wrong bytes" in line for line in caplog.messages)
        assert not any(honest.node[:8] in line for line in caplog.messages)
        assert (found.folder / "model.safetensors").read_bytes() == (
            single / "model.safetensors"
        ).read_bytes()


def give_another_file(liar, model, single: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the liar give another file altogether, with tables and chunks that fit it, under the digest of ``single``."""
    forged = write_large(folder, files=1, seed=1)
    assert liar.store.find(str(forged), name=NAME) is not None
    listing = liar.sharing._listing(model.digest)
    assert listing is not None
    listing.folder = forged
    hashed = liar.store.cache.hashed

    def as_if(path, *rest):
        real, false = hashed(single / path.name), hashed(path)
        return type(false)(real.size, false.mtime_ns, real.sha256, false.table)

    monkeypatch.setattr(liar.store.cache, "hashed", as_if)


@pytest.mark.parametrize("honest_members", [1, 2])
async def test_where_members_differ_about_a_file_its_own_digest_decides_and_the_liar_is_named(
    tmp_path: Path,
    single: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    honest_members: int,
) -> None:
    async with weight_peers(tmp_path, 2 + honest_members) as (liar, *honest, taker):
        model = liar.adopt(single, NAME)
        for member in honest:
            member.adopt(single, NAME)
        give_another_file(liar, model, single, tmp_path / "forged", monkeypatch)
        with caplog.at_level(logging.WARNING):
            got = await taker.obtain(model, [liar, *honest], span=ONE_LAYER)
        assert got.lacks("all", ends=True) == ()
        assert (got.folder / "model.safetensors").read_bytes() == (single / "model.safetensors").read_bytes()
        accused = [line for line in caplog.messages if "false" in line]
        assert len(accused) == 1
        assert liar.node[:8] in accused[0]
        assert not any(member.node[:8] in accused[0] for member in honest)


async def test_where_only_a_liar_gives_a_file_whole_files_show_it(
    tmp_path: Path, single: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with weight_peers(tmp_path, 2, whole_files=True) as (liar, taker):
        model = liar.adopt(single, NAME)
        give_another_file(liar, model, single, tmp_path / "forged", monkeypatch)
        with caplog.at_level(logging.WARNING), pytest.raises(ModelError, match="digests of the chunks"):
            await taker.obtain(model, [liar], span=ONE_LAYER)
        assert any("were false" in line and liar.node[:8] in line for line in caplog.messages)
        assert not list(taker.store.folder_for(model).glob("*.safetensors*.*"))


async def test_a_chunk_root_proves_every_chunk_of_a_part_whatever_members_say(
    tmp_path: Path, single: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with weight_peers(tmp_path, 3) as (liar, honest, taker):
        model = liar.adopt(single, NAME)
        honest.adopt(single, NAME)
        taker.chunk_roots = honest.sharing.chunk_roots()
        assert set(taker.chunk_roots) == {model.digest}
        give_another_file(liar, model, single, tmp_path / "forged", monkeypatch)
        with caplog.at_level(logging.WARNING):
            found = await taker.obtain(model, [liar, honest], span=ONE_LAYER)
        assert found.lacks(ONE_LAYER, ends=False) == ()
        assert (
            taker.traffic.bytes_received < LARGE_LAYER_BYTES + 5 * CHUNK_BYTES
        )  # a part: not the whole file
        assert any("chunk root shows it" in line and liar.node[:8] in line for line in caplog.messages)
        assert not any(honest.node[:8] in line for line in caplog.messages)


async def test_who_took_a_part_by_a_chunk_root_hands_on_the_proof(tmp_path: Path, source: Path) -> None:
    async with weight_peers(tmp_path, 3) as (giver, middle, taker):
        model = giver.adopt(source, NAME)
        middle.chunk_roots = taker.chunk_roots = giver.sharing.chunk_roots()
        await middle.obtain(model, [giver], span=ONE_LAYER)
        assert middle.sharing.chunk_roots() == giver.sharing.chunk_roots()
        found = await taker.obtain(model, [middle], span=ONE_LAYER)
        assert found.lacks(ONE_LAYER, ends=False) == ()
        assert taker.traffic.bytes_received < LARGE_LAYER_BYTES + 5 * CHUNK_BYTES


async def test_who_took_a_part_on_members_word_vouches_for_nothing(tmp_path: Path, single: Path) -> None:
    async with weight_peers(tmp_path, 2) as (giver, taker):
        model = giver.adopt(single, NAME)
        await taker.obtain(model, [giver], span=ONE_LAYER)
        assert taker.sharing.chunk_roots() == {}


async def test_where_no_member_fits_the_chunk_root_only_whole_files_count(
    tmp_path: Path, single: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with weight_peers(tmp_path, 3) as (liar, honest, taker):
        model = liar.adopt(single, NAME)
        honest.adopt(single, NAME)
        taker.chunk_roots = honest.sharing.chunk_roots()
        give_another_file(liar, model, single, tmp_path / "forged", monkeypatch)
        with caplog.at_level(logging.WARNING), pytest.raises(ModelError, match="digests of the chunks"):
            await taker.obtain(model, [liar], span=ONE_LAYER)
        assert any("only whole files are taken" in line for line in caplog.messages)
        assert not list(taker.store.folder_for(model).glob("*.safetensors*.*"))
        found = await taker.obtain(model, [honest], span=ONE_LAYER)
        assert found.lacks(ONE_LAYER, ends=False) == ()


async def test_what_came_on_a_false_word_is_not_kept_when_a_chunk_root_is_known(
    tmp_path: Path, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with weight_peers(tmp_path, 3) as (liar, honest, taker):
        model = liar.adopt(single, NAME)
        honest.adopt(single, NAME)
        roots = honest.sharing.chunk_roots()
        give_another_file(liar, model, single, tmp_path / "forged", monkeypatch)
        await taker.obtain(model, [liar], ends=True)
        taker.chunk_roots = roots
        found = await taker.obtain(model, [honest], span=ONE_LAYER, ends=True)
        whole = (single / "model.safetensors").read_bytes()
        part = (found.folder / "model.safetensors.partial").read_bytes()
        for tensor in found.manifest.tensors.values():
            assert part[tensor.start : tensor.end] == whole[tensor.start : tensor.end]


async def test_a_fetch_that_is_broken_off_goes_on_where_it_was(tmp_path: Path, single: Path) -> None:
    total = (single / "model.safetensors").stat().st_size
    async with weight_peers(tmp_path, 2, rate_bytes=8 * CHUNK_BYTES) as (giver, taker):
        model = giver.adopt(single, NAME)
        fetching = asyncio.create_task(taker.obtain(model, [giver], span="all", ends=True))
        await eventually(lambda: taker.traffic.bytes_received > 6 * CHUNK_BYTES, "some chunks")
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)
        assert taker.store.find(NAME) is None or taker.store.find(NAME).lacks("all", ends=True)
    async with weight_peers(tmp_path, 2) as (giver, again):
        giver.adopt(single, NAME)
        again.store = taker.store
        again.transfer.store = taker.store
        found = await again.obtain(model, [giver], span="all", ends=True)
        assert again.traffic.bytes_received < total - 3 * CHUNK_BYTES
        assert (found.folder / "model.safetensors").read_bytes() == (
            single / "model.safetensors"
        ).read_bytes()


async def test_a_member_that_leaves_in_the_middle_is_made_up_for(tmp_path: Path, single: Path) -> None:
    async with weight_peers(tmp_path, 3, rate_bytes=8 * CHUNK_BYTES) as (leaver, stayer, taker):
        model = leaver.adopt(single, NAME)
        stayer.adopt(single, NAME)
        fetching = asyncio.create_task(taker.obtain(model, [leaver, stayer], span="all", ends=True))
        await eventually(lambda: taker.traffic.bytes_received > 3 * CHUNK_BYTES, "some chunks")
        await leaver.network.aclose()
        found = await fetching
        assert found.lacks("all", ends=True) == ()


async def test_who_does_not_share_is_said_not_to(tmp_path: Path, single: Path) -> None:
    async with weight_peers(tmp_path, 2, share=False) as (giver, taker):
        model = giver.adopt(single, NAME)
        with pytest.raises(NoSourceError, match="not_shared"):
            await taker.obtain(model, [giver], span="all", ends=True)


async def test_other_weights_under_one_name_lie_beside_each_other(tmp_path: Path, single: Path) -> None:
    other = write_large(tmp_path / "other", files=1, seed=7)
    async with weight_peers(tmp_path, 3) as (first, second, taker):
        one, two = first.adopt(single, NAME), second.adopt(other, NAME)
        assert one != two
        found = await taker.obtain(one, [first, second], span="all", ends=True)
        beside = await taker.obtain(two, [first, second], span="all", ends=True)
        assert found.id == one
        assert beside.id == two
        assert found.folder != beside.folder
        assert {model.id for model in taker.store.list()} == {one, two}


async def test_a_disk_without_room_is_said_before_anything_is_asked_for(
    tmp_path: Path, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with weight_peers(tmp_path, 2) as (giver, taker):
        model = giver.adopt(single, NAME)
        monkeypatch.setattr(
            "swarm.models.receiving.shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1000})
        )
        with pytest.raises(ModelError, match="GB are free"):
            await taker.obtain(model, [giver], span="all", ends=True)
        assert taker.traffic.bytes_received < CHUNK_BYTES


async def test_what_was_not_asked_for_closes_the_link(tmp_path: Path, single: Path) -> None:
    from swarm.protocol.messages import Weights

    async with weight_peers(tmp_path, 2) as (pusher, victim):
        await pusher.connect(victim.node)
        await eventually(lambda: victim.network.linked(pusher.node))
        pusher.network.send(victim.node, Weights("d" * 64, "chunk", 0, 5), b"bytes")
        await eventually(lambda: victim.downs)
        assert not victim.network.linked(pusher.node)


async def test_chunks_that_were_changed_on_the_disk_are_fetched_again(tmp_path: Path, single: Path) -> None:
    async with weight_peers(tmp_path, 2) as (giver, taker):
        model = giver.adopt(single, NAME)
        found = await taker.obtain(model, [giver], span=ONE_LAYER)
        entry = next(entry for entry in found.manifest.files if entry.name == "model.safetensors")
        partial = PartialFile.open(found.folder / entry.name, entry)
        assert partial is not None
        place = found.manifest.tensors["model.layers.1.mlp.weight"]
        with (found.folder / "model.safetensors.partial").open("r+b") as file:
            file.seek(place.start + 100)
            file.write(b"tampered")
        assert taker.store.find_exactly(model).lacks(ONE_LAYER, ends=False) == ("model.safetensors",)
        before = taker.traffic.bytes_received
        again = await taker.obtain(model, [giver], span=ONE_LAYER)
        assert again.lacks(ONE_LAYER, ends=False) == ()
        assert taker.traffic.bytes_received - before == CHUNK_BYTES


def test_chunks_are_counted_through_the_files_in_the_order_of_their_names(single: Path) -> None:
    from swarm.models.manifest import FileEntry

    chunks = Chunks([FileEntry(LAST, CHUNK_BYTES + 1, "b" * 64), FileEntry(FIRST, 1, "a" * 64)])
    assert [chunks.place(index).file for index in range(chunks.total)] == [0, 1, 1]
    assert chunks.place(2).octets == 1
    assert list(chunks.of_bytes(1, CHUNK_BYTES - 1, CHUNK_BYTES + 1)) == [1, 2]
