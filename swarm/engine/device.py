"""Which device computes here, and in which dtypes it does so natively. Loads no model."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from swarm.errors import ConfigError

MARGIN = 0.1
"""Part of the available memory that a node leaves alone when nobody said what it may use."""


def resolve_device(name: str) -> str:
    """Return the torch device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. Raises ConfigError."""
    kind, _, index = name.partition(":")
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if devices == 0:
            raise ConfigError(
                "device cuda: this torch finds no CUDA GPU; use --device cpu or install a CUDA build"
            )
        if index and not (index.isdecimal() and int(index) < devices):
            raise ConfigError(f"device {name}: this machine has cuda:0 to cuda:{devices - 1}")
        return name
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps: Metal is not available here; use --device cpu")
    if kind not in ("cpu", "mps") or index:
        raise ConfigError(f"device {name!r} is none of auto, cpu, cuda, cuda:N, mps")
    return kind


def computes_natively(device: str, dtype: str) -> bool:
    """Whether matrix products in ``dtype`` run in it on ``device`` instead of being emulated."""
    if dtype == "float32":
        return True
    if device.startswith("cuda"):
        return dtype == "float16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps":
        return dtype == "float16"
    supported = (
        torch.ops.mkldnn._is_mkldnn_bf16_supported
        if dtype == "bfloat16"
        else torch.ops.mkldnn._is_mkldnn_fp16_supported
    )
    return bool(torch.backends.mkldnn.is_available() and supported())


def compute_dtype(asked: str, checkpoint: str, device: str) -> str:
    """Return the dtype that is computed in: auto is the checkpoint's where it is native, else float32."""
    if asked != "auto":
        return asked
    return checkpoint if computes_natively(device, checkpoint) else "float32"


def available_bytes(device: str) -> int:
    """Return what this process may use in all on ``device``, by what is free now, less a margin.

    On a CUDA device that is its own memory, else the machine's or, within a container, the control group's.
    """
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * (1 - MARGIN))
    free = int(psutil.virtual_memory().available)
    limit = _group_free_bytes()
    if limit is not None:
        free = min(free, limit)
    return int(free * (1 - MARGIN)) + int(psutil.Process().memory_info().rss)


def _group_free_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what a container's limit leaves; None without one. File pages can be given up, and so count as free."""
    try:
        most = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
        pages = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return None if most == "max" else max(0, int(most) - used + int(pages.get("inactive_file", 0)))
