"""Models from the Hugging Face hub: only the files that hold what a node needs. Knows no peers.

HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured as in every program that uses huggingface_hub.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
from filelock import FileLock, Timeout
from huggingface_hub import constants, errors
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # public by name, not by its typing

from swarm.errors import ModelError
from swarm.models.atomic import write_atomically
from swarm.models.folder import (
    INDEX_NAME,
    MANIFEST_NAME,
    SINGLE_NAME,
    HashCache,
    read_json,
    refuse_other_formats,
    stored_files,
)
from swarm.models.manifest import (
    CONFIG_NAME,
    FileEntry,
    check_name,
    decode_files,
    encode_files,
    is_companion,
    parse_index,
    wanted,
)
from swarm.models.spec import ModelSpec
from swarm.types import LayerSpan

if TYPE_CHECKING:
    from swarm.models.progress import Progress
    from swarm.models.store import Wanted

_HTTPError: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
"""The root of httpx's errors, or of its successor's: whichever this release of huggingface_hub uses."""
_LOCK_SECONDS = 6 * 3600.0
_MAX_SMALL_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Listed:
    """A file as the hub lists it; ``sha256`` is known without a download for files in large-file storage."""

    name: str
    size: int
    sha256: str | None


def download(
    name: str, folder: Path, cache: HashCache, *, span: Wanted, ends: bool, progress: Progress
) -> None:
    """Bring what ``span`` and ``ends`` need of the model ``name`` into ``folder``; what is there stays.

    Every weight file is checked against the hub's SHA-256, and the listing of all of them is stored beside
    them. Raises ModelError: offline, unknown, gated, no safetensors, disk full, wrong bytes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=_LOCK_SECONDS)
    try:
        with lock, _explained(name, folder):
            _Download(name, folder, cache, progress).run(span, ends)
    except Timeout as exc:
        raise ModelError(f"another process has been downloading {name} for {_LOCK_SECONDS:.0f} s") from exc


class _Download:
    """One model's files out of one revision of its repository."""

    def __init__(self, name: str, folder: Path, cache: HashCache, progress: Progress) -> None:
        self._name = name
        self._folder = folder
        self._cache = cache
        self._progress = progress
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        self._listed, self._revision = self._listing()

    def run(self, span: Wanted, ends: bool) -> None:
        if CONFIG_NAME not in self._listed:
            refuse_other_formats(self._name, self._listed)
            raise ModelError(f"{self._name} has no config.json on the hub")
        self._check_same_weights()
        self._fetch(CONFIG_NAME)
        spec = ModelSpec.from_config(read_json(self._folder, CONFIG_NAME))
        for listed in self._listed.values():
            if _is_always_taken(listed):
                self._fetch(listed.name)
        layers = LayerSpan(0, spec.layers) if span == "all" else span
        weights, needed = self._weights(layers, ends)
        # A weight file outside of large-file storage has no SHA-256 in the listing: only its bytes tell.
        needed |= {weight.name for weight in weights if weight.sha256 is None}
        self._check_room([weight for weight in weights if weight.name in needed])
        entries = [
            self._entry(weight, weight.name in needed) for weight in sorted(weights, key=lambda w: w.name)
        ]
        config = self._folder / CONFIG_NAME
        entries.append(FileEntry(CONFIG_NAME, config.stat().st_size, self._cache.sha256(config)))
        write_atomically(self._folder / MANIFEST_NAME, encode_files(entries, revision=self._revision))

    def _check_same_weights(self) -> None:
        """Raise ModelError when what is in the folder, from members perhaps, is not what the hub has."""
        for entry in stored_files(self._folder).values():
            listed = self._listed.get(entry.name)
            if listed is None or listed.sha256 not in (None, entry.sha256):
                raise ModelError(
                    f"{self._folder} holds other weights of {self._name} than the hub ({entry.name} differs); "
                    f"to replace them: python -m swarm models remove {self._name}"
                )

    def _listing(self) -> tuple[dict[str, _Listed], str]:
        """Ask for the repository's files, at the revision of what is on disk already."""
        stored = self._folder / MANIFEST_NAME
        pinned = decode_files(stored.read_bytes())[1] if stored.is_file() else None
        info = huggingface_hub.HfApi(endpoint=self._endpoint).model_info(
            self._name, revision=pinned or "main", files_metadata=True
        )
        files = [
            _Listed(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None) for s in info.siblings or ()
        ]
        return {listed.name: listed for listed in files}, info.sha or "main"

    def _weights(self, span: LayerSpan | None, ends: bool) -> tuple[frozenset[_Listed], frozenset[str]]:
        """Return all weight files of the model, and the names of those that are needed."""
        if INDEX_NAME in self._listed:
            weight_map = parse_index((self._folder / INDEX_NAME).read_bytes())
            needed = {file for tensor, file in weight_map.items() if wanted(tensor, span, ends=ends)}
            return frozenset(self._listed_weight(file) for file in weight_map.values()), frozenset(needed)
        if SINGLE_NAME in self._listed:
            return frozenset([self._listed[SINGLE_NAME]]), frozenset([SINGLE_NAME])
        refuse_other_formats(self._name, self._listed)
        raise ModelError(f"{self._name} has no {SINGLE_NAME} on the hub")

    def _listed_weight(self, file: str) -> _Listed:
        if file not in self._listed:
            raise ModelError(f"{self._name}: {INDEX_NAME} names {file}, which the hub does not have")
        return self._listed[file]

    def _entry(self, weight: _Listed, needed: bool) -> FileEntry:
        path = self._folder / weight.name
        if not needed and weight.sha256 is not None:
            return FileEntry(weight.name, weight.size, weight.sha256)
        self._fetch(weight.name)
        found = FileEntry(weight.name, path.stat().st_size, self._cache.sha256(path, self._progress))
        if weight.sha256 is not None and found.sha256 != weight.sha256:
            path.unlink()
            raise ModelError(
                f"{self._name}: the hub sent {weight.name} with SHA-256 {found.sha256}, "
                f"but lists {weight.sha256}; it was deleted"
            )
        return found

    def _check_room(self, weights: list[_Listed]) -> None:
        absent = sum(weight.size for weight in weights if not (self._folder / weight.name).is_file())
        free = shutil.disk_usage(self._folder).free
        if absent > free:
            raise ModelError(
                f"{self._name} needs {absent / 1e9:.1f} GB in {self._folder}, {free / 1e9:.1f} GB are free"
            )

    def _fetch(self, file: str) -> None:
        huggingface_hub.hf_hub_download(
            self._name,
            check_name(file),
            revision=self._revision,
            local_dir=self._folder,
            endpoint=self._endpoint,
            tqdm_class=_bar(f"Downloading {file}", self._progress),
        )


def _is_always_taken(listed: _Listed) -> bool:
    wanted_name = listed.name == CONFIG_NAME or is_companion(listed.name)
    return listed.size <= _MAX_SMALL_BYTES and wanted_name


def _bar(what: str, progress: Progress) -> type[tqdm]:
    """Return a bar for huggingface_hub that draws nothing and tells ``progress`` instead."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self._done = int(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            progress(what, self._done, int(self.total or 0))

    return Bar


@contextmanager
def _explained(name: str, folder: Path) -> Iterator[None]:
    """Turn what goes wrong between this machine and the hub into one sentence that says what to do."""
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as exc:
        raise ModelError(
            f"{name} is gated: accept its terms at {endpoint}/{name}, then set HF_TOKEN to a token of yours"
        ) from exc
    except errors.RepositoryNotFoundError as exc:
        raise ModelError(
            f"{endpoint} has no model {name}, or it is private: check the id, or set HF_TOKEN"
        ) from exc
    except errors.OfflineModeIsEnabled as exc:
        raise ModelError(f"{name} is not on this disk, and HF_HUB_OFFLINE forbids to download it") from exc
    except errors.HfHubHTTPError as exc:
        raise ModelError(
            f"{endpoint} answered {exc.response.status_code} for {name}: {exc.server_message}"
        ) from exc
    except errors.HFValidationError as exc:
        raise ModelError(f"{name!r} is not a model on this disk, nor an id that a hub could have") from exc
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"the disk is full: {name} does not fit in {folder}") from exc
        raise ModelError(f"{name} could not be downloaded from {endpoint}: {exc}") from exc
    except _HTTPError as exc:
        raise ModelError(f"{endpoint} can't be reached, and {name} is not on this disk: {exc}") from exc
