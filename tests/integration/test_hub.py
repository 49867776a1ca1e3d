"""The huggingface_hub path against a hub on loopback: what is fetched, what is checked, and how it fails."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from swarm.errors import ModelError
from swarm.models import hub as hub_module
from swarm.models.folder import MANIFEST_NAME
from swarm.models.manifest import encode_files
from swarm.models.store import ModelStore
from swarm.types import LayerSpan
from tests.support.hub_server import COMMIT, Hub, serving_hub
from tests.support.model_folders import FIRST, LAST, LAYERS, MIDDLE, write_config, write_sharded, write_single

NAME = "org/model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield served


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


@pytest.fixture
def source(hub: Hub, tmp_path: Path) -> Path:
    """Serve a model of three weight files as org/model."""
    folder = write_sharded(tmp_path / "served")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("free")
    (folder / "README.md").write_text("not needed")
    (folder / "pytorch_model.bin").write_bytes(b"never")
    hub.repositories[NAME] = folder
    return folder


def test_a_whole_model_is_fetched_without_what_nobody_needs(
    hub: Hub, store: ModelStore, source: Path
) -> None:
    model = store.obtain(NAME, span="all", ends=True)
    assert (model.id.name, model.folder, model.spec.layers) == (NAME, store.folder(NAME), LAYERS)
    assert model.lacks("all", ends=True) == ()
    assert {path.name for path in model.folder.iterdir() if not path.name.startswith(".")} == {
        FIRST, MIDDLE, LAST, "model.safetensors.index.json", "config.json", "tokenizer.json", "LICENSE", MANIFEST_NAME,
    }  # fmt: skip
    assert store.find(NAME) == model


def test_only_the_files_of_the_span_travel(hub: Hub, store: ModelStore, source: Path) -> None:
    model = store.obtain(NAME, span=LayerSpan(1, 3), ends=False)
    assert hub.sent_weights() == {MIDDLE}
    assert hub.sent[MIDDLE] == (source / MIDDLE).stat().st_size
    assert not (model.folder / FIRST).exists()


def test_the_ends_alone_leave_the_middle_where_it_is(hub: Hub, store: ModelStore, source: Path) -> None:
    store.obtain(NAME, span=None, ends=True)
    assert hub.sent_weights() == {FIRST, LAST}


def test_part_of_a_model_has_the_digest_of_the_whole(
    hub: Hub, store: ModelStore, source: Path, tmp_path: Path
) -> None:
    part = store.obtain(NAME, span=LayerSpan(1, 2), ends=False)
    whole = ModelStore(tmp_path / "elsewhere").obtain(NAME, span="all", ends=True)
    adopted = store.find(str(source), name=NAME)
    assert part.id == whole.id
    assert adopted is not None
    assert adopted.id == whole.id


def test_more_layers_later_fetch_only_what_is_missing(hub: Hub, store: ModelStore, source: Path) -> None:
    store.obtain(NAME, span=LayerSpan(1, 3), ends=False)
    before = store.obtain(NAME, span=LayerSpan(0, 2), ends=False).id
    hub.sent.clear()
    after = store.obtain(NAME, span="all", ends=True)
    assert hub.sent_weights() == {LAST}
    assert after.id == before


def test_what_is_on_disk_needs_no_hub(hub: Hub, store: ModelStore, source: Path) -> None:
    first = store.obtain(NAME, span="all", ends=True)
    hub.status = 500
    assert store.obtain(NAME, span="all", ends=True) == first


def test_a_transfer_that_breaks_is_resumed_where_it_broke(
    hub: Hub, store: ModelStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    hub.cut_after[MIDDLE] = 300
    store.obtain(NAME, span=LayerSpan(1, 3), ends=False)
    assert hub.sent[MIDDLE] == (source / MIDDLE).stat().st_size
    assert (store.folder(NAME) / MIDDLE).read_bytes() == (source / MIDDLE).read_bytes()


def test_progress_is_told_in_bytes(hub: Hub, store: ModelStore, source: Path) -> None:
    told: list[tuple[str, int, int]] = []
    store.obtain(NAME, span=LayerSpan(1, 3), ends=False, progress=lambda *seen: told.append(seen))
    size = (source / MIDDLE).stat().st_size
    assert (f"Downloading {MIDDLE}", size, size) in told
    assert (f"Hashing {MIDDLE}", size, size) in told


def test_wrong_bytes_are_refused_by_name_and_do_not_stay(hub: Hub, store: ModelStore, source: Path) -> None:
    hub.forged.add(MIDDLE)
    with pytest.raises(ModelError, match=MIDDLE):
        store.obtain(NAME, span=LayerSpan(1, 3), ends=False)
    assert not (store.folder(NAME) / MIDDLE).exists()
    hub.forged.clear()
    assert store.obtain(NAME, span=LayerSpan(1, 3), ends=False).lacks(LayerSpan(1, 3), ends=False) == ()


def test_a_model_of_one_file_and_no_index(hub: Hub, store: ModelStore, tmp_path: Path) -> None:
    hub.repositories["org/single"] = write_single(tmp_path / "single")
    model = store.obtain("org/single", span=LayerSpan(0, 1), ends=False)
    assert model.lacks("all", ends=True) == ()


def test_weights_that_the_hub_lists_without_a_hash_are_all_fetched(
    hub: Hub, store: ModelStore, source: Path
) -> None:
    hub.outside_lfs = True
    model = store.obtain(NAME, span=LayerSpan(1, 2), ends=False)
    adopted = store.find(str(source), name=NAME)
    assert adopted is not None
    assert model.id == adopted.id
    assert hub.sent_weights() == {FIRST, MIDDLE, LAST}


def test_a_token_opens_a_gated_model_and_its_lack_is_explained(
    hub: Hub, store: ModelStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(NAME)
    with pytest.raises(ModelError, match="gated") as caught:
        store.obtain(NAME, span="all", ends=True)
    assert "HF_TOKEN" in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_example")
    assert store.obtain(NAME, span="all", ends=True).id.name == NAME
    assert hub.tokens == {"Bearer hf_example"}


def test_an_unknown_model_is_named(hub: Hub, store: ModelStore) -> None:
    with pytest.raises(ModelError, match="has no model org/absent"):
        store.obtain("org/absent", span="all", ends=True)


def test_a_hub_that_fails_says_with_what(hub: Hub, store: ModelStore, source: Path) -> None:
    hub.status = 403
    with pytest.raises(ModelError, match="403"):
        store.obtain(NAME, span="all", ends=True)


def test_a_hub_that_cannot_be_reached_is_named(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_hub() as gone:
        url = gone.url
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(ModelError, match="can't be reached") as caught:
        store.obtain(NAME, span="all", ends=True)
    assert url in str(caught.value)


def test_offline_asks_nobody(
    hub: Hub, store: ModelStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        store.obtain(NAME, span="all", ends=True)
    assert not hub.sent


@pytest.mark.parametrize("files", [["pytorch_model.bin"], ["config.json", "pytorch_model.bin"]])
def test_pickles_are_never_fetched(hub: Hub, store: ModelStore, tmp_path: Path, files: list[str]) -> None:
    folder = tmp_path / "pickled"
    write_config(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    for path in list(folder.iterdir()):
        if path.name not in files:
            path.unlink()
    hub.repositories["org/pickled"] = folder
    with pytest.raises(ModelError, match="pickle"):
        store.obtain("org/pickled", span="all", ends=True)
    assert "pytorch_model.bin" not in hub.sent


def test_a_model_that_brings_code_is_refused_before_its_weights_travel(
    hub: Hub, store: ModelStore, source: Path
) -> None:
    write_config(source, auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    with pytest.raises(ModelError, match="auto_map"):
        store.obtain(NAME, span="all", ends=True)
    assert hub.sent_weights() == set()


def test_an_index_that_names_what_the_hub_lacks_is_refused(hub: Hub, store: ModelStore, source: Path) -> None:
    (source / LAST).unlink()
    with pytest.raises(ModelError, match=LAST):
        store.obtain(NAME, span="all", ends=True)


def test_a_disk_without_room_is_noticed_before_the_weights_travel(
    hub: Hub, store: ModelStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100))
    with pytest.raises(ModelError, match="GB are free"):
        store.obtain(NAME, span="all", ends=True)
    assert hub.sent_weights() == set()


def test_a_disk_that_fills_up_is_said_to_be_full(
    hub: Hub, store: ModelStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub_module.huggingface_hub, "hf_hub_download", full)
    with pytest.raises(ModelError, match="disk is full"):
        store.obtain(NAME, span="all", ends=True)


def test_what_an_interrupted_download_left_is_not_a_model_until_it_is_whole(
    hub: Hub, store: ModelStore, source: Path
) -> None:
    folder = store.folder(NAME)
    folder.mkdir(parents=True)
    for file in ("config.json", "model.safetensors.index.json", FIRST):
        shutil.copy(source / file, folder / file)
    assert store.find(NAME) is None
    assert store.obtain(NAME, span="all", ends=True).lacks("all", ends=True) == ()


def test_later_files_come_from_the_revision_of_the_first(hub: Hub, store: ModelStore, source: Path) -> None:
    store.obtain(NAME, span=LayerSpan(1, 3), ends=False)
    assert COMMIT in (store.folder(NAME) / MANIFEST_NAME).read_text()


def test_weights_of_members_are_not_mixed_with_others_of_the_hub(
    hub: Hub, store: ModelStore, source: Path, tmp_path: Path
) -> None:
    other = store.find(str(write_sharded(tmp_path / "other", seed=5)), name=NAME)
    assert other is not None
    folder = store.folder(NAME)
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_bytes(encode_files(other.manifest.files))
    with pytest.raises(ModelError, match="models remove"):
        store.obtain(NAME, span=LayerSpan(1, 2), ends=False)
    assert hub.sent_weights() == set()
