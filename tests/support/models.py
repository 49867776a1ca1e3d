"""Models whose answers are known from transformers, and engines that hold their spans."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import set_verbosity_error

from swarm.config import EngineSettings
from swarm.engine.ends import Ends
from swarm.engine.worker import Engine
from swarm.models.ends import load_ends
from swarm.models.store import LocalModel, ModelStore
from swarm.types import LayerSpan
from tests.support.answers import Driver
from tests.support.families import settings

set_verbosity_error()


@dataclass(frozen=True)
class Reference:
    """A model on disk and in transformers."""

    local: LocalModel
    whole: Any
    _known: dict[tuple[int, ...], tuple[list[int], torch.Tensor]] = field(default_factory=dict)

    def greedy(self, prompt: Sequence[int], tokens: int) -> tuple[list[int], torch.Tensor]:
        """Return the tokens that `generate` chooses and the logits they are chosen by, [tokens, vocabulary]."""
        known = self._known.get(tuple(prompt))
        if known is None or len(known[0]) < tokens:
            known = self._known[tuple(prompt)] = self._generate(prompt, tokens)
        return known[0][:tokens], known[1][:tokens]

    def _generate(self, prompt: Sequence[int], tokens: int) -> tuple[list[int], torch.Tensor]:
        ids = torch.tensor([list(prompt)])
        out = self.whole.generate(
            ids,
            attention_mask=torch.ones_like(ids),  # else generate takes tokens of the padding's id for padding
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=-1,
            return_dict_in_generate=True,
            output_logits=True,
        )
        return out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits).float()

    def logits_of(self, outputs: Sequence[bytes]) -> torch.Tensor:
        """Return what swarm's own ends make of float32 rows behind the last layer, [rows, vocabulary]."""
        rows = torch.frombuffer(bytearray(b"".join(outputs)), dtype=torch.float32).view(len(outputs), -1)
        ends = Ends(load_ends(self.local.folder, "float32"), torch.float32, "cpu")
        return ends.logits(rows)


def disturb_norms(model: torch.nn.Module) -> None:
    """Fresh norms are all ones or zeros and would hide a lost weight."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def random_model(family: str, changes: dict[str, Any], folder: Path) -> Reference:
    """Save a small random model of ``family`` in ``folder``."""
    torch.manual_seed(len(family))
    config = AutoConfig.for_model(family.partition(".")[0], **{**settings(family), **changes})
    config.dtype = "float32"
    model = AutoModelForCausalLM.from_config(config)
    disturb_norms(model)
    model.save_pretrained(folder)
    local = ModelStore(folder.parent / "home").find(str(folder))
    if local is None:
        raise RuntimeError(f"{folder} was not found")
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Reference(local, whole)


@asynccontextmanager
async def running(local: LocalModel, spans: Sequence[LayerSpan], dtype: str) -> AsyncIterator[Driver]:
    """An engine that holds ``spans`` of a model, and its ends."""
    engine = Engine(EngineSettings(threads=1, kv_bytes=1 << 28), checks=local.folder.parent / "checks")
    engine.start()
    try:
        for span in spans:
            await engine.load_span(local, span, dtype)
        await engine.load_ends(local, dtype)
        yield Driver(engine, local.id)
    finally:
        await engine.aclose()
