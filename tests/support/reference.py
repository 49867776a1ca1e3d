"""What transformers itself answers: the text that every path through a swarm must give in float32."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swarm.models.store import ModelStore
from tests.support.swarm_process import MODEL


@cache
def _model() -> tuple[Any, Any]:
    local = ModelStore().find(MODEL)
    if local is None:
        raise RuntimeError(f"{MODEL} is not on disk; scripts/test obtains it")
    tokenizer = AutoTokenizer.from_pretrained(local.folder)
    return tokenizer, AutoModelForCausalLM.from_pretrained(local.folder, dtype=torch.float32)


@cache
def reference(question: str, tokens: int, *, ignore_eos: bool = False) -> str:
    """The greedy answer to one question, at most ``tokens`` tokens."""
    tokenizer, model = _model()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    # Without a mask, generate takes the template's end-of-turn tokens for padding once they aren't stop tokens.
    more = {"eos_token_id": -1} if ignore_eos else {}
    answer = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False, **more
    )[0, prompt.shape[1] :]
    return str(tokenizer.decode(answer, skip_special_tokens=True))


@cache
def prompt_logprobs(text: str) -> list[float]:
    """The log-probability of each token of ``text`` but the first, in float32."""
    tokenizer, model = _model()
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        said = torch.log_softmax(model(ids).logits[0].float(), dim=-1)
    return [float(said[at, token]) for at, token in enumerate(ids[0, 1:].tolist())]
