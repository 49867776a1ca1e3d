"""A model folder on disk: its files checked, hashed once, and described as a Manifest. Knows no network.

Nothing is written into the folder: hashes are kept in swarm's own cache, by path, size and time of change.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from swarm.errors import ModelError
from swarm.models.atomic import write_atomically
from swarm.models.chunks import CHUNK_BYTES, DIGEST_BYTES, chunk_count
from swarm.models.manifest import (
    CONFIG_NAME,
    MAX_HEADER_BYTES,
    FileEntry,
    Manifest,
    TensorInfo,
    check_name,
    decode_files,
    parse_header,
    parse_index,
)
from swarm.models.partial import PartialFile, data_path, present
from swarm.models.progress import Progress, silent
from swarm.models.spec import ModelSpec
from swarm.types import DTYPES

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MANIFEST_NAME = "swarm-manifest.json"

_MAX_JSON_BYTES = 64 * 1024 * 1024
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_CONFIG_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


class IncompleteError(ModelError):
    """The folder lacks files, and nothing on this disk says what is in them."""


class Hashed(msgspec.Struct, frozen=True):
    """A file as it was when it was hashed. ``table`` holds the digests of its chunks, 32 bytes each."""

    size: int
    mtime_ns: int
    sha256: str
    table: bytes = b""


class HashCache:
    """Digests of files, computed once for each (path, size, time of change) and kept under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sha256(self, path: Path, progress: Progress = silent) -> str:
        """Return the file's SHA-256 in hex. Raises ModelError when it changes meanwhile, or OSError."""
        return self.hashed(path, progress).sha256

    def hashed(self, path: Path, progress: Progress = silent) -> Hashed:
        """Return the file's digests, its chunks' too. Raises ModelError when it changes meanwhile, or OSError."""
        real = path.resolve()
        before = real.stat()
        known = self.known(real)
        if known is not None and (known.size, known.mtime_ns) == (before.st_size, before.st_mtime_ns):
            return known
        digest, table = hash_chunks(real, f"Hashing {path.name}", progress)
        after = real.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise ModelError(f"{path} changed while it was read")
        return self.remember(real, digest, table)

    def remember(self, path: Path, sha256: str, table: bytes) -> Hashed:
        """Note the digests of a file that was just written or read, as it is now. Raises OSError."""
        real = path.resolve()
        found = real.stat()
        entry = Hashed(found.st_size, found.st_mtime_ns, sha256, table)
        write_atomically(self._entry(real), msgspec.json.encode(entry))
        return entry

    def known(self, path: Path) -> Hashed | None:
        """Return what a file was when it was last hashed."""
        try:
            found = msgspec.json.decode(self._entry(path.resolve()).read_bytes(), type=Hashed)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None  # never hashed, or a damaged entry: hash again
        return found if len(found.table) == DIGEST_BYTES * chunk_count(found.size) else None

    def _entry(self, real: Path) -> Path:
        return self.folder / f"{hashlib.sha256(os.fsencode(real)).hexdigest()}.json"


def hash_file(path: Path, what: str, progress: Progress) -> str:
    """Return the SHA-256 in hex of a file that is read in blocks."""
    return hash_chunks(path, what, progress)[0]


def hash_chunks(path: Path, what: str, progress: Progress) -> tuple[str, bytes]:
    """Return the SHA-256 in hex of a file that is read once, and those of its chunks one after another."""
    digest = hashlib.sha256()
    table = bytearray()
    size, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
            table += hashlib.sha256(block).digest()
            done += len(block)
            progress(what, done, size)
    return digest.hexdigest(), bytes(table)


def read_json(folder: Path, name: str) -> Mapping[str, Any]:
    """Return a JSON object out of the folder. Raises ModelError; IncompleteError when it is absent."""
    try:
        data = json.loads(_read_small(folder, name))
    except (ValueError, RecursionError) as exc:
        raise ModelError(f"{folder / name} is damaged: {exc}") from exc
    if not isinstance(data, dict):
        raise ModelError(f"{folder / name} does not hold a JSON object")
    return data


def open_folder(folder: Path, cache: HashCache, progress: Progress = silent) -> tuple[ModelSpec, Manifest]:
    """Read what a model folder holds. Raises ModelError, IncompleteError where a download could help."""
    try:
        config = read_json(folder, CONFIG_NAME)
        ModelSpec.from_config(config)  # what can't be used is refused before gigabytes are hashed
        manifest = _manifest(folder, cache, progress)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"the disk is full: the digests of {folder} can't be kept in {cache.folder}; make room and start again"
            ) from exc
        raise ModelError(f"{exc.filename or folder} can't be read: {exc.strerror or exc}") from exc
    return _spec(config, manifest), manifest


def _spec(config: Mapping[str, Any], manifest: Manifest) -> ModelSpec:
    """Read the spec, with what config.json may leave out taken from the weights."""
    stored = [tensor.dtype for tensor in manifest.tensors.values() if tensor.dtype in _CONFIG_DTYPES]
    commonest = _CONFIG_DTYPES[max(set(stored), key=stored.count)] if stored else DTYPES[-1]
    has_head = any(name.endswith("lm_head.weight") for name in manifest.weight_map)
    return ModelSpec.from_config(config, default_dtype=commonest, default_tied=not has_head)


def _manifest(folder: Path, cache: HashCache, progress: Progress) -> Manifest:
    weight_map, names = _weight_files(folder)
    known = stored_files(folder)
    files = [_hashed_entry(folder, CONFIG_NAME, known, cache, silent)]
    tensors: dict[str, TensorInfo] = {}
    described: dict[str, TensorInfo] = {}
    for name in names:
        path = inside(folder, name)
        if path.is_file():
            tensors.update(_read_header(path, name))
            files.append(_hashed_entry(folder, name, known, cache, progress))
            continue
        if name not in known:
            raise IncompleteError(f"{folder} lacks {name}")
        files.append(known[name])
        here, absent = _partial_tensors(path, known[name])
        tensors.update(here)
        described.update(absent)
    for tensor, info in (tensors | described).items():
        if weight_map.setdefault(tensor, info.file) != info.file:
            raise ModelError(f"{folder}: {INDEX_NAME} places {tensor[:80]} in another file than {info.file}")
    found = tensors.keys() | described.keys()
    present = {entry.file for entry in (*tensors.values(), *described.values())}
    if lost := next((t for t, file in weight_map.items() if file in present and t not in found), None):
        raise ModelError(f"{folder}: {weight_map[lost]} lacks {lost[:80]}, which {INDEX_NAME} places there")
    return Manifest(
        tuple(sorted(files)),
        MappingProxyType(weight_map),
        MappingProxyType(tensors),
        MappingProxyType(described),
    )


def _hashed_entry(
    folder: Path, name: str, known: Mapping[str, FileEntry], cache: HashCache, progress: Progress
) -> FileEntry:
    path = inside(folder, name)
    entry = FileEntry(name, path.stat().st_size, cache.sha256(path, progress))
    if known.get(name, entry) != entry:
        raise ModelError(f"{path} is damaged or was changed: it differs from {MANIFEST_NAME}; delete it")
    return entry


def _partial_tensors(
    path: Path, entry: FileEntry
) -> tuple[Mapping[str, TensorInfo], Mapping[str, TensorInfo]]:
    """Return the tensors of a partial file whose bytes are here, and those of which only the place is known."""
    partial = PartialFile.open(path, entry)
    if partial is None or not partial.holds(0, 1):
        return {}, {}
    length = header_bytes(path, data_path(path), entry.size)
    if not partial.holds(0, 8 + length):
        return {}, {}
    found = _read_header(data_path(path), entry.name)
    here = {name: info for name, info in found.items() if partial.holds(info.start, info.end)}
    return here, {name: info for name, info in found.items() if name not in here}


def read_weight_map(folder: Path) -> dict[str, str]:
    """Return which file holds which tensor by the folder's index; empty without one. Raises ModelError."""
    return parse_index(_read_small(folder, INDEX_NAME)) if inside(folder, INDEX_NAME).is_file() else {}


def _weight_files(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the index's weight map (empty without one) and the names of the weight files."""
    weight_map = read_weight_map(folder)
    if weight_map:
        return weight_map, sorted(set(weight_map.values()))
    if present(inside(folder, SINGLE_NAME)).is_file():
        return {}, [SINGLE_NAME]
    refuse_other_formats(folder.name, (path.name for path in folder.iterdir()))
    raise IncompleteError(f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}")


def refuse_other_formats(model: str, names: Iterable[str]) -> None:
    """Raise ModelError when the only weights among ``names`` are in a format that swarm does not load."""
    found = [Path(name) for name in names]
    if any(path.match(pattern) for path in found for pattern in _PICKLES):
        raise ModelError(
            f"{model} has weights in pickle files only, which can run code when they are read; "
            "swarm loads safetensors: look for a converted copy of this model"
        )
    if any(path.match("*.gguf") for path in found):
        raise ModelError(
            f"{model} has weights as GGUF only; convert a file of them first: "
            "python -m swarm models import FILE.gguf --name ORG/NAME"
        )


def stored_files(folder: Path) -> dict[str, FileEntry]:
    """Return the listing stored beside the weights by a download, by file name; empty when there is none."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return {}
    return {entry.name: entry for entry in decode_files(path.read_bytes())[0]}


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of the folder. Raises ModelError when links lead it elsewhere.

    Links of the Hugging Face cache, from a snapshot to its repository's blobs, are what they should be.
    """
    path = folder / check_name(name)
    real, root = path.resolve(), folder.resolve()
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else root
    if not real.is_relative_to(root) and not real.is_relative_to(blobs):
        raise ModelError(f"{path} is a link out of the model's folder; put the file itself there")
    return path


def _read_small(folder: Path, name: str) -> bytes:
    path = inside(folder, name)
    if not path.is_file():
        raise IncompleteError(f"{folder} has no {name}")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ModelError(f"{path} is larger than {_MAX_JSON_BYTES} bytes")
    return path.read_bytes()


def _read_header(path: Path, name: str) -> dict[str, TensorInfo]:
    size = path.stat().st_size
    length = header_bytes(path, path, size)
    with path.open("rb") as file:
        file.seek(8)
        return parse_header(name, file.read(length), size)


def header_bytes(path: Path, data: Path, size: int) -> int:
    """Return the length of a safetensors header, the 8 bytes before it not counted. Raises ModelError."""
    with data.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise ModelError(f"{path} is not a safetensors file, or it is cut short")
    return length
