"""The store: what it finds where, that it hashes once, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from swarm.errors import ModelError
from swarm.models.folder import MANIFEST_NAME
from swarm.models.manifest import encode_files
from swarm.models.store import DEFAULT_MODEL, ModelStore, default_home
from swarm.types import LayerSpan
from tests.support.model_folders import (
    CONFIG,
    FIRST,
    LAST,
    LAYERS,
    MIDDLE,
    TENSOR_BYTES,
    write_config,
    write_sharded,
    write_single,
)


class Recorder:
    """Keeps what a Progress is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.told.append((what, done, total))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return ModelStore(tmp_path / "home")


def _partial(store: ModelStore, *absent: str) -> Path:
    """Write a sharded model into the store, keep its listing, and remove some of its files."""
    folder = write_sharded(store.folder("org/model"))
    found = store.find("org/model")
    assert found is not None
    (folder / MANIFEST_NAME).write_bytes(encode_files(found.manifest.files))
    for file in absent:
        (folder / file).unlink()
    return folder


def test_a_model_of_the_store_is_found_by_its_name(store: ModelStore) -> None:
    folder = write_sharded(store.folder("org/model"))
    found = store.find("org/model")
    assert found is not None
    assert (found.id.name, found.folder, found.spec.layers) == ("org/model", folder, LAYERS)
    assert found.id.digest == found.manifest.digest
    assert found.lacks("all", ends=True) == ()
    assert found.manifest.layer_bytes(2) == TENSOR_BYTES
    assert found.manifest.end_bytes() == 3 * TENSOR_BYTES
    assert not found.spec.tied_embeddings


def test_what_is_not_on_disk_is_not_found(store: ModelStore) -> None:
    for name in ("org/absent", "absent", "./absent", "/absent/folder", "a/b/c"):
        assert store.find(name) is None


def test_a_folder_is_adopted_in_place_under_its_own_or_a_given_name(
    store: ModelStore, tmp_path: Path
) -> None:
    folder = write_single(tmp_path / "my-model")
    before = sorted(path.name for path in folder.iterdir())
    found, named = store.find(str(folder)), store.find(str(folder), name="me/mine")
    assert found is not None
    assert named is not None
    assert (found.id.name, named.id.name) == ("my-model", "me/mine")
    assert found.folder == folder
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_folder_of_the_store_given_by_path_keeps_its_public_name(store: ModelStore) -> None:
    found = store.find(str(write_single(store.folder("org/model"))))
    assert found is not None
    assert found.id.name == "org/model"


def test_a_folder_whose_name_cannot_be_public_asks_for_one(store: ModelStore, tmp_path: Path) -> None:
    folder = write_single(tmp_path / "my model")
    with pytest.raises(ModelError, match="give the model a name"):
        store.find(str(folder))


def test_the_same_weights_have_the_same_digest_in_every_place(store: ModelStore, tmp_path: Path) -> None:
    here, there = write_single(tmp_path / "here"), write_single(tmp_path / "there")
    other = write_single(tmp_path / "other", seed=1)
    digests = [model.id.digest for folder in (here, there, other) if (model := store.find(str(folder)))]
    assert digests[0] == digests[1] != digests[2]


def test_weights_are_hashed_once_with_progress(store: ModelStore) -> None:
    folder = write_single(store.folder("org/model"))
    first, second = Recorder(), Recorder()
    found = store.find("org/model", first)
    size = (folder / "model.safetensors").stat().st_size
    assert first.told == [("Hashing model.safetensors", size, size)]
    assert store.find("org/model", second) == found
    assert second.told == []


def test_a_damaged_cache_entry_is_hashed_again(store: ModelStore) -> None:
    write_single(store.folder("org/model"))
    found = store.find("org/model")
    for entry in (store.home / "cache" / "sha256").iterdir():
        entry.write_bytes(b'{"size":')
    assert store.find("org/model") == found


def test_a_file_that_changes_changes_the_digest(store: ModelStore) -> None:
    write_single(store.folder("org/model"))
    before = store.find("org/model")
    path = write_single(store.folder("org/model"), seed=1) / "model.safetensors"
    os.utime(path, ns=(1, 1))
    after = store.find("org/model")
    assert before is not None
    assert after is not None
    assert before.id != after.id


def test_a_node_with_some_of_the_files_names_the_model_as_one_with_all(store: ModelStore) -> None:
    folder = write_sharded(store.folder("org/model"))
    whole = store.find("org/model")
    shutil.rmtree(folder)
    _partial(store, FIRST, LAST)
    part = store.find("org/model")
    assert whole is not None
    assert part is not None
    assert part.id == whole.id
    assert part.lacks(LayerSpan(1, 3), ends=False) == ()
    assert part.lacks(LayerSpan(1, 3), ends=True) == (FIRST, LAST)
    assert part.lacks("all", ends=False) == (FIRST, LAST)
    assert part.lacks(None, ends=False) == ()


def test_a_file_that_differs_from_the_stored_listing_is_refused_by_name(store: ModelStore) -> None:
    folder = _partial(store)
    data = bytearray((folder / MIDDLE).read_bytes())
    data[-1] ^= 1
    (folder / MIDDLE).write_bytes(data)
    os.utime(folder / MIDDLE, ns=(1, 1))
    with pytest.raises(ModelError, match=MIDDLE):
        store.find("org/model")


def test_a_truncated_file_is_refused_by_name(store: ModelStore) -> None:
    path = write_single(store.folder("org/model")) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or cut short"):
        store.find("org/model")


def test_a_file_without_a_header_is_refused(store: ModelStore) -> None:
    folder = write_single(store.folder("org/model"))
    for data in (b"", b"x" * 7, b"\xff" * 100):
        (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(ModelError, match="not a safetensors file"):
            store.find("org/model")


def test_an_index_that_contradicts_the_files_is_refused(store: ModelStore) -> None:
    folder = write_sharded(store.folder("org/model"))
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for change in ({"model.norm.weight": FIRST}, {"model.extra.weight": FIRST}):
        path.write_text(json.dumps({"weight_map": index["weight_map"] | change}))
        with pytest.raises(ModelError, match="places"):
            store.find("org/model")


def test_links_out_of_the_folder_are_refused(store: ModelStore, tmp_path: Path) -> None:
    folder, elsewhere = write_single(tmp_path / "model"), tmp_path / "elsewhere.safetensors"
    (folder / "model.safetensors").rename(elsewhere)
    (folder / "model.safetensors").symlink_to(elsewhere)
    with pytest.raises(ModelError, match="link out of"):
        store.find(str(folder))


def test_a_config_linked_from_outside_is_refused(store: ModelStore, tmp_path: Path) -> None:
    folder = write_single(tmp_path / "model")
    (folder / "config.json").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(ModelError, match="link out of"):
        store.find(str(folder))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_weights_in_pickle_files_only_are_refused(store: ModelStore, tmp_path: Path, file: str) -> None:
    write_config(tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="pickle"):
        store.find(str(tmp_path / "model"))


def test_a_folder_of_gguf_only_says_that_it_must_be_converted(store: ModelStore, tmp_path: Path) -> None:
    write_config(tmp_path / "model")
    (tmp_path / "model" / "model.Q4_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="GGUF"):
        store.find(str(tmp_path / "model"))


def test_a_model_that_brings_code_is_refused_before_anything_is_hashed(
    store: ModelStore, tmp_path: Path
) -> None:
    folder = write_single(tmp_path / "model")
    write_config(folder, auto_map={"AutoModel": "x.Y"})
    recorder = Recorder()
    with pytest.raises(ModelError, match="auto_map"):
        store.find(str(folder), recorder)
    assert recorder.told == []


def test_a_folder_without_weights_or_config_says_what_is_missing(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        store.find(str(tmp_path / "empty"))
    write_config(tmp_path / "no-weights")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        store.find(str(tmp_path / "no-weights"))


def test_a_local_folder_that_lacks_files_is_never_downloaded(store: ModelStore, tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "model")
    (folder / LAST).unlink()
    with pytest.raises(ModelError, match=LAST):
        store.obtain(str(folder), span="all", ends=True)
    with pytest.raises(ModelError, match="does not exist"):
        store.obtain(str(tmp_path / "absent"), span="all", ends=True)


def test_obtain_uses_what_is_on_disk_without_a_network(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _partial(store, FIRST)
    found = store.obtain("org/model", span=LayerSpan(1, 4), ends=False)
    assert found.lacks(LayerSpan(1, 4), ends=False) == ()
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        store.obtain("org/model", span=LayerSpan(0, 4), ends=False)


def _hub_cache(tmp_path: Path, *absent: str) -> Path:
    """Write a repository as huggingface_hub caches it: blobs, and a snapshot of links to them."""
    repository = tmp_path / "hub" / "models--org--cached"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for number, path in enumerate(sorted(write_sharded(tmp_path / "source").iterdir())):
        if path.name not in absent:
            path.rename(repository / "blobs" / str(number))
            (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    return snapshot


def test_a_model_in_the_hugging_face_cache_is_used_where_it_lies(store: ModelStore, tmp_path: Path) -> None:
    snapshot = _hub_cache(tmp_path)
    found = store.find("org/cached")
    assert found is not None
    assert (found.id.name, found.folder.name) == ("org/cached", snapshot.name)
    by_path = store.find(str(snapshot))
    assert by_path is not None
    assert by_path.id == found.id


def test_half_a_model_in_the_hugging_face_cache_is_not_found(store: ModelStore, tmp_path: Path) -> None:
    _hub_cache(tmp_path, LAST)
    assert store.find("org/cached") is None


def test_the_list_leaves_out_what_cannot_be_used(store: ModelStore) -> None:
    write_single(store.folder("org/good"))
    write_single(store.folder("plain"))
    write_config(store.folder("org/unfinished"))
    (write_single(store.folder("org/damaged")) / "model.safetensors").write_bytes(b"x")
    (store.home / "models" / "org" / ".hidden.partial").mkdir()
    write_single(store.home / "models" / "org" / ".hidden.partial")
    assert [model.id.name for model in store.list()] == ["org/good", "plain"]


def test_a_folder_that_may_not_be_read_is_named(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = write_single(store.folder("org/locked"))
    write_single(store.folder("org/good"))
    is_file = Path.is_file

    def refused(path: Path) -> bool:
        if path.parent == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(ModelError, match=r"locked.config\.json can't be read: Permission denied"):
        store.find("org/locked")
    assert [model.id.name for model in store.list()] == ["org/good"]


def test_a_name_that_no_folder_can_have_is_an_error_and_no_crash(store: ModelStore) -> None:
    with pytest.raises(ModelError, match="can't be read"):
        store.find("./" + "x" * 300)


def test_a_disk_that_is_too_full_for_digests_is_said_to_be_full(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_single(store.folder("org/model"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("swarm.models.folder.write_atomically", full)
    with pytest.raises(ModelError, match=r"the disk is full: the digests of .*model can't be kept in"):
        store.find("org/model")


def test_the_home_is_swarm_home_or_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path))
    assert default_home() == tmp_path
    assert ModelStore().folder("org/model") == tmp_path / "models" / "org" / "model"
    monkeypatch.delenv("SWARM_HOME")
    assert default_home().name == "swarm"


def test_a_dtype_that_the_config_leaves_out_is_read_from_the_weights(store: ModelStore) -> None:
    folder = write_single(store.folder("org/model"))
    found = store.find("org/model")
    assert found is not None
    assert found.spec.dtype == "float32"
    assert "dtype" not in CONFIG
    (folder / "config.json").write_text(json.dumps(CONFIG | {"torch_dtype": "bfloat16"}))
    found = store.find("org/model")
    assert found is not None
    assert found.spec.dtype == "bfloat16"


def test_finding_models_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, swarm.models.store, swarm.models.tokenizer, swarm.models.gguf\n"
        "sys.exit(int('torch' in sys.modules or 'transformers' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.real_model
def test_the_default_model_is_on_disk_and_whole() -> None:
    found = ModelStore().find(DEFAULT_MODEL)
    assert found is not None
    assert found.spec.layers == 30
    assert found.lacks("all", ends=True) == ()
    octets = sum(found.manifest.layer_bytes(layer) for layer in range(30)) + found.manifest.end_bytes()
    assert octets == 2 * 134_515_008
