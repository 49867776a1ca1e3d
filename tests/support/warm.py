"""Imports what every node imports, and has Numba's kernels compiled: for the fork server of preloaded.py only.

In a fresh clone each node of a swarm would else compile the same kernels at the same time.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import torch

import swarm.api.server
import swarm.cli.app
import swarm.node.main  # noqa: F401
from swarm.engine.attention import ATTENTION
from swarm.engine.stage import Stage
from swarm.models.loader import load_span
from swarm.types import LayerSpan
from tests.support.models import random_model

with tempfile.TemporaryDirectory() as name, torch.inference_mode():
    folder = random_model("llama", {}, Path(name) / "model").local.folder
    span = LayerSpan(0, 2)
    Stage(
        load_span(folder, span, "float32", attention=ATTENTION),
        span,
        torch.float32,
        "cpu",
        second_copy_bytes=1 << 30,
    )

gc.collect()
gc.freeze()
gc.enable()
