"""The models on this machine: swarm's own folder, folders adopted in place, and the Hugging Face cache.

Knows nothing of layers being computed or of peers.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs
from filelock import FileLock, Timeout

from swarm.errors import ModelError
from swarm.models.catalog import DEFAULT_MODEL
from swarm.models.folder import HashCache, IncompleteError, open_folder, stored_files
from swarm.models.manifest import Manifest, check_name, digest_of, is_name, wanted
from swarm.models.progress import Progress, silent
from swarm.models.spec import ModelSpec
from swarm.types import LayerSpan, ModelId

__all__ = ["DEFAULT_MODEL", "LocalModel", "ModelStore", "default_home"]

log = logging.getLogger(__name__)

Wanted = LayerSpan | Literal["all"] | None
"""Which layers' weights are wanted: a span, all of them, or none."""

_SNAPSHOT = re.compile(r"models--(.+)\Z")
_OTHER = "@"
"""Stands between the name and the digest of a folder of other weights under a name that is taken."""
_OTHER_DIGITS = 12


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this disk, or the part of its weight files that is."""

    id: ModelId
    folder: Path
    spec: ModelSpec
    manifest: Manifest

    def lacks(self, span: Wanted, *, ends: bool) -> tuple[str, ...]:
        """Return the weight files that are needed for the span and the ends but are not on this disk."""
        layers = LayerSpan(0, self.spec.layers) if span == "all" else span
        manifest = self.manifest
        absent = manifest.weight_map.keys() - manifest.tensors.keys()
        needed = (tensor for tensor in absent if wanted(tensor, layers, ends=ends))
        return tuple(sorted({manifest.weight_map[tensor] for tensor in needed}))


class ModelStore:
    """Finds models by Hugging Face id or folder, and obtains what is missing. All methods block."""

    def __init__(self, home: Path | None = None) -> None:
        """Keep models in ``home``/models and hashes in ``home``/cache; default: default_home()."""
        self.home = home if home is not None else default_home()
        self.cache = HashCache(self.home / "cache" / "sha256")

    def folder(self, name: str) -> Path:
        """Return where the model called ``name`` lives in this store. Raises ModelError for a bad name."""
        return self.home.joinpath("models", *check_name(name).split("/"))

    def folder_for(self, model: ModelId) -> Path:
        """Return where the files of exactly this model go: its name's folder, unless other weights lie there."""
        folder = self.folder(model.name)
        if not folder.exists() or _digest_in(folder) == model.digest:
            return folder
        return folder.with_name(f"{folder.name}{_OTHER}{model.digest[:_OTHER_DIGITS]}")

    def find_exactly(self, model: ModelId, progress: Progress = silent) -> LocalModel | None:
        """Return what is on this disk of a model with just these weights; None when nothing usable is."""
        found = self._whole(self.folder_for(model), model.name, progress)
        if found is None or found.id != model:
            found = self.find(model.name, progress)
        return found if found is not None and found.id == model else None

    def find(
        self, name_or_folder: str, progress: Progress = silent, *, name: str | None = None
    ) -> LocalModel | None:
        """Return a model that is on this disk, hashing its weights the first time; None when it is not.

        A folder is adopted in place under its own name, or ``name``. Raises ModelError for one that is
        damaged, in a format that swarm does not load, or of a family that needs code of its own.
        """
        if is_name(name_or_folder):
            own = self._whole(self.folder(name_or_folder), name or name_or_folder, progress)
            if own is not None:
                return own
        path = Path(name_or_folder).expanduser()
        with readable(path):
            is_folder = path.is_dir()
        if is_folder:
            return self._open(path.absolute(), name or self._public_name(path), progress)
        if not is_name(name_or_folder):
            return None
        cached = _hub_snapshot(name_or_folder)
        return self._whole(cached, name or name_or_folder, progress) if cached is not None else None

    def obtain(
        self, name_or_folder: str, *, span: Wanted, ends: bool, progress: Progress | None = None
    ) -> LocalModel:
        """Return a model with the weights of ``span`` and, with ``ends``, of embedding, norm and head.

        What is missing comes from the Hugging Face hub: only the files that hold it. Raises ModelError.
        """
        tell = progress or silent
        found = self.find(name_or_folder, tell)
        if found is not None and not (lacking := found.lacks(span, ends=ends)):
            return found
        if not is_name(name_or_folder) or Path(name_or_folder).expanduser().is_dir():
            problem = f"lacks {', '.join(lacking)}" if found is not None else "does not exist"
            raise ModelError(f"the model folder {name_or_folder} {problem}")
        from swarm.models import hub  # imported here: most starts need no network

        folder = self.folder(name_or_folder)
        hub.download(name_or_folder, folder, self.cache, span=span, ends=ends, progress=tell)
        return self._open(folder, name_or_folder, tell)

    def folders(self, name: str) -> list[Path]:
        """Return the folders of this store that hold weights called ``name``, or ``NAME@`` a digest's beginning."""
        plain, _, digest = name.partition(_OTHER)
        folder = self.folder(plain)
        with readable(folder):
            found = [folder, *folder.parent.glob(f"{folder.name}{_OTHER}*")]
            return [
                one
                for one in found
                if one.is_dir() and (not digest or (_digest_in(one) or "").startswith(digest))
            ]

    def remove(self, name: str) -> None:
        """Delete what ``folders`` finds. Raises ModelError while another process writes there, or when it can't."""
        for folder in self.folders(name):
            try:
                with FileLock(folder.parent / f".{folder.name}.lock", timeout=0):
                    shutil.rmtree(folder)
            except Timeout as exc:
                raise ModelError(f"{folder} is being written by another process; try again later") from exc
            except OSError as exc:
                raise ModelError(f"{exc.filename or folder} can't be deleted: {exc.strerror or exc}") from exc
            (folder.parent / f".{folder.name}.lock").unlink(missing_ok=True)

    def list(self, progress: Progress = silent) -> tuple[LocalModel, ...]:
        """Return the models of swarm's own folder; one that can't be used is logged and left out.

        Raises ModelError when the folder can't be read.
        """
        root = self.home / "models"
        with readable(root):
            folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
        found: list[LocalModel] = []
        for folder in sorted(
            path
            for path in [*folders, *root.glob("[!.]*/[!.]*")]
            if not path.name.startswith(".") and path.is_dir()
        ):
            try:
                model = self._whole(folder, _name_of(folder, root), progress)
            except ModelError as exc:
                log.warning("%s is left out: %s", folder, exc)
                continue
            if model is not None:
                found.append(model)
        return tuple(found)

    def _whole(self, folder: Path, name: str, progress: Progress) -> LocalModel | None:
        """Open a folder that a download may have left half-way; None when there is not enough to go by."""
        with readable(folder):
            if not (folder / "config.json").is_file():
                return None
        try:
            return self._open(folder, name, progress)
        except IncompleteError:
            return None

    def _open(self, folder: Path, name: str, progress: Progress) -> LocalModel:
        spec, manifest = open_folder(folder, self.cache, progress)
        try:
            model_id = ModelId(name, manifest.digest)
        except ValueError as exc:
            raise ModelError(f"{folder}: {exc}; give the model a name") from exc
        return LocalModel(model_id, folder, spec, manifest)

    def _public_name(self, folder: Path) -> str:
        """Return what a folder given by path is called: its id in a store or cache, else its base name."""
        real = folder.resolve()
        root = (self.home / "models").resolve()
        if real.is_relative_to(root) and real != root:
            return _name_of(real, root)
        if real.parent.name == "snapshots" and (match := _SNAPSHOT.match(real.parents[1].name)):
            return match[1].replace("--", "/", 1)
        return real.name


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn a folder that may not be looked into into one sentence."""
    try:
        yield
    except OSError as exc:
        raise ModelError(f"{exc.filename or path} can't be read: {exc.strerror or exc}") from exc


def _name_of(folder: Path, root: Path) -> str:
    return folder.relative_to(root).as_posix().partition(_OTHER)[0]


def _digest_in(folder: Path) -> str | None:
    """Return the digest of the listing that a download left in a folder; None when there is none."""
    try:
        return digest_of(stored_files(folder).values())
    except (OSError, ModelError):
        return None


def default_home() -> Path:
    """Return $SWARM_HOME, or the platform's folder for a user's data."""
    home = os.environ.get("SWARM_HOME")
    return Path(home).expanduser() if home else platformdirs.user_data_path("swarm", appauthor=False)


def _hub_snapshot(name: str) -> Path | None:
    """Return the newest snapshot of a model in the Hugging Face cache, whole or in part."""
    import huggingface_hub  # imported here: a quarter of a second, and its cache is the last place to look

    try:
        config = huggingface_hub.try_to_load_from_cache(name, "config.json")
    except ValueError:
        return None  # a name that the hub could not have
    return Path(config).parent if isinstance(config, str) else None
