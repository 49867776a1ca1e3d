"""The tensors of a model folder by name: which file holds each, read in part or mapped. Knows no model."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from swarm.errors import ModelError
from swarm.models.partial import present

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_MAX_HEADER_BYTES = 100 * 1024 * 1024
_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.", "")
_DAMAGED = "damaged or cut short; obtain it again"
_STORED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensor names of one folder and the file of each; ``name`` is for messages."""

    name: str
    files: dict[str, Path]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """List the tensors in ``folder``. Raises ModelError when there are no safetensors."""
        index = folder / INDEX_NAME
        try:
            if index.is_file():
                listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                paths = {file: present(folder / Path(file).name) for file in set(listed.values())}
                return cls(folder.name, {key: paths[file] for key, file in listed.items()})
            single = present(folder / SINGLE_NAME)
            with safe_open(single, framework="pt") as file:
                return cls(folder.name, dict.fromkeys(file.keys(), single))
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as exc:
            raise ModelError(f"{folder.name}: no readable safetensors files: {exc}") from exc

    @property
    def keys(self) -> Iterable[str]:
        return self.files.keys()

    @property
    def prefix(self) -> str:
        """What stands before ``layers.0.`` in the language model's tensor names; multimodal models nest it."""
        for prefix in _PREFIXES:
            start = f"{prefix}layers."
            if any(key.startswith(start) for key in self.files):
                return prefix
        raise ModelError(f"{self.name}: no tensor is named like a decoder layer's ({_PREFIXES[0]}layers.0.…)")

    def base_key(self, name: str) -> str:
        """Return the key of a tensor of the base model. Raises ModelError when it is not stored."""
        return self.first_of(self.prefix + name)

    def first_of(self, *keys: str) -> str:
        """Return the first of ``keys`` that is stored. Raises ModelError when none is."""
        for key in keys:
            if key in self.files:
                return key
        raise ModelError(f"{self.name}: tensors missing: {keys[0]}")

    @contextmanager
    def reading(self, keys: Iterable[str]) -> Iterator[Callable[[str], Any]]:
        """Give a function from a key to a lazy slice of its tensor; the files stay open meanwhile."""
        with ExitStack() as stack:
            opened = {
                path: stack.enter_context(self._open(path)) for path in {self.files[key] for key in keys}
            }
            try:
                yield lambda key: opened[self.files[key]].get_slice(key)
            except (OSError, SafetensorError) as exc:
                names = ", ".join(sorted(path.name for path in opened))
                raise ModelError(f"{self.name}: {names} can't be read: {exc}") from exc

    def _open(self, path: Path) -> Any:
        """Open one file, whose header must fit its size. Raises ModelError that names it."""
        try:
            return safe_open(path, framework="pt")
        except FileNotFoundError as exc:
            raise ModelError(f"{self.name}: {path.name} is not there") from exc
        except (OSError, SafetensorError) as exc:
            raise ModelError(f"{self.name}: {path.name} is {_DAMAGED} ({exc})") from exc

    def mapped(self, key: str) -> torch.Tensor:
        """Return the tensor as a view of the file's pages: memory is used only for what is touched."""
        path = self.files[key]
        try:
            with path.open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                if header_bytes > _MAX_HEADER_BYTES:
                    raise ModelError(f"{self.name}: {path.name} has no safetensors header")
                entry = json.loads(file.read(header_bytes))[key]
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            dtype = _STORED.get(entry["dtype"])
            if dtype is None:
                raise ModelError(f"{self.name}: {key} is stored as {entry['dtype']}, which is not supported")
            start, end = entry["data_offsets"]
            flat = torch.frombuffer(
                pages, dtype=torch.uint8, offset=8 + header_bytes + start, count=end - start
            )
            return flat.view(dtype).view(entry["shape"])
        except (OSError, ValueError, KeyError, RuntimeError) as exc:
            raise ModelError(f"{self.name}: {path.name} is {_DAMAGED}: no {key} in it ({exc})") from exc
