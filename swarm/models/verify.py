"""A model's files read again and compared with what they should be. Knows no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.errors import ModelError
from swarm.models.chunks import chunk_count
from swarm.models.folder import hash_file, inside, stored_files
from swarm.models.partial import PartialFile

if TYPE_CHECKING:
    from pathlib import Path

    from swarm.models.manifest import FileEntry
    from swarm.models.progress import Progress
    from swarm.models.store import ModelStore


@dataclass(frozen=True, slots=True)
class Checked:
    """One file: ``octets`` are those that are here."""

    name: str
    octets: int
    right: bool
    state: str


def verify(store: ModelStore, name: str, progress: Progress) -> list[Checked]:
    """Return how the files of the model are, read anew. Raises ModelError for one that is not on this disk.

    A file should be what the listing beside it says; without a listing, what it was when it was first hashed.
    """
    folders = store.folders(name)
    if not folders:
        local = store.find(name, progress)
        if local is None:
            raise ModelError(f"{name} is not on this disk; `swarm models` lists what is")
        folders = [local.folder]
    return [one for folder in folders for one in _verify_folder(store, folder, progress)]


def _verify_folder(store: ModelStore, folder: Path, progress: Progress) -> list[Checked]:
    listed = stored_files(folder)
    if listed:
        return [_verify_file(folder, entry, progress) for entry in listed.values()]
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".safetensors"))
    return [_verify_unlisted(store, folder, file, progress) for file in ("config.json", *names)]


def _verify_file(folder: Path, entry: FileEntry, progress: Progress) -> Checked:
    path = inside(folder, entry.name)
    if path.is_file():
        size = path.stat().st_size
        right = size == entry.size and hash_file(path, f"Verifying {entry.name}", progress) == entry.sha256
        return Checked(entry.name, size, right, "right" if right else "damaged")
    partial = PartialFile.open(path, entry, check=False)
    if partial is None:
        return Checked(entry.name, 0, True, "not here")
    lost = partial.verify()
    here, count = len(partial.held), chunk_count(entry.size)
    what = f"{here} of {count} chunks here"
    return Checked(
        entry.name,
        sum(min(1 << 20, entry.size - (chunk << 20)) for chunk in partial.held),
        not lost,
        f"{what}, {len(lost)} were damaged and are to be fetched again" if lost else f"{what}, all right",
    )


def _verify_unlisted(store: ModelStore, folder: Path, name: str, progress: Progress) -> Checked:
    path = inside(folder, name)
    known = store.cache.known(path)
    found = hash_file(path, f"Verifying {name}", progress)
    size = path.stat().st_size
    if known is None or (known.size, known.mtime_ns) != (size, path.stat().st_mtime_ns):
        return Checked(name, size, True, "hashed for the first time")
    right = known.sha256 == found
    return Checked(name, size, right, "right" if right else "damaged since it was first hashed")
