"""A whole small model, as people have them: random weights of some MB, a tokenizer, a chat template, a licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

LAYERS = 6
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_byte_model(folder: Path, *, seed: int = 0, hidden: int = 256, layers: int = LAYERS) -> Path:
    """Write a random llama (about 4 MB a layer in float32) that speaks bytes."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
        dtype="float32",
    )
    model: Any = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_text("free", "utf-8")
    return folder


def greedy(folder: Path, content: str, tokens: int) -> str:
    """Return what transformers alone answers to a user's message."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=-1
    )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level tokenizer without merges: the printable part of ASCII, so that every answer is text."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    plain = [
        letter
        for letter in alphabet
        if ord(letter) < 127 or letter == "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"
    ]
    vocabulary = {letter: at for at, letter in enumerate(plain)}
    fast = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=fast, chat_template=TEMPLATE)
