"""Chat text to token ids and back, for one model folder. Knows no request and no sequence.

Templates come with the model, never with a request, and run in transformers' sandbox.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.errors import ModelError, RequestError
from swarm.models.detokenizer import Detokenizer
from swarm.models.spec import token_ids
from swarm.models.template import TemplateInput, render_template

if TYPE_CHECKING:
    import tokenizers

__all__ = ["ChatTokenizer", "Detokenizer"]

_STOP_NAMES = ("eos_token", "eot_token", "eom_token", "end_of_turn_token")
"""Names under which a tokenizer's settings keep tokens that end a turn."""
_OWN_ARGUMENTS = frozenset(
    {"conversation", "conversations", "chat_template", "tokenize", "return_dict", "documents"}
    | {"return_assistant_tokens_mask"}
)
_USES_TOOLS = re.compile(r"\{[%{][^}]*\btools\b")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"


class ChatTokenizer:
    """A model's tokenizer and chat template. Safe to share between tasks; nothing changes after load."""

    def __init__(self, fast: Any, stop_ids: frozenset[int]) -> None:
        """Wrap a transformers fast tokenizer; use ``load``."""
        self._fast = fast
        self.tokenizer: tokenizers.Tokenizer = fast.backend_tokenizer
        self.stop_ids = stop_ids
        """Ids that end an answer: those of generation_config, config and tokenizer together."""
        self.vocab_size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self.eos_token_id: int | None = fast.eos_token_id
        self._added: dict[int, str] = {
            i: token.content for i, token in self.tokenizer.get_added_tokens_decoder().items()
        }
        self._byte_of = _byte_alphabet() if self._is_byte_level() else None

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """Read tokenizer, template and stop ids of a model folder. Raises ModelError when one is missing."""
        # Imported here: transformers takes seconds, and importing this module must not.
        import transformers

        if not (folder / "tokenizer_config.json").is_file() and not (folder / "tokenizer.json").is_file():
            raise ModelError(f"{folder} has no tokenizer.json")
        try:
            fast = transformers.AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
        except Exception as exc:  # parsers of a foreign file; tokenizers raises nothing narrower
            raise ModelError(f"the tokenizer in {folder} can't be loaded: {exc}") from exc
        if not getattr(fast, "is_fast", False):
            raise ModelError(
                f"{folder} has no tokenizer.json; a tokenizer of the tokenizers library is needed"
            )
        # Settings that were saved for training would cut or pad prompts.
        fast.backend_tokenizer.no_truncation()
        fast.backend_tokenizer.no_padding()
        return cls(fast, _stop_ids(folder, fast))

    @property
    def chat_template(self) -> str | None:
        """The template for messages without tools, or None."""
        found = self._fast.chat_template
        if isinstance(found, dict):
            found = found.get("default")
        return found or None

    @property
    def takes_tools(self) -> bool:
        """Whether the template does something with ``tools``."""
        found = self._fast.chat_template
        if isinstance(found, dict):
            return "tool_use" in found
        return bool(found and _USES_TOOLS.search(found))

    def filled(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> TemplateInput:
        """Return this model's template with what it is to be filled with; encode its text with ``special=False``.

        Raises RequestError for variables that are not a request's to set, ModelError when the model has no template.
        """
        found = self._fast.chat_template
        if found is None:
            raise ModelError("this model has no chat template; use /v1/completions")
        if refused := _OWN_ARGUMENTS & variables.keys():
            raise RequestError(
                f"{min(refused)} can't be set for a chat template", param="chat_template_kwargs"
            )
        try:
            template = self._fast.get_chat_template(None, tools or None)
        except ValueError as exc:
            raise ModelError(str(exc)) from exc
        return TemplateInput(
            template=template,
            # Many templates write an absent content as the word None, and leave out what is not there.
            messages=[{k: v for k, v in message.items() if v is not None} for message in messages],
            tools=[dict(tool) for tool in tools] if tools else None,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self._fast.special_tokens_map, **variables},
        )

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """Return the text of ``filled``, rendered in this process without a bound of time."""
        return render_template(self.filled(messages, **options))

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the ids of ``text``; ``special`` adds what the tokenizer puts around a plain text (BOS)."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids`` without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def detokenizer(self, prompt_ids: Sequence[int]) -> Detokenizer:
        """Return a decoder for an answer that follows ``prompt_ids``."""
        return Detokenizer(self.tokenizer, prompt_ids)

    def token_text(self, token: int) -> str:
        """Return one token's text; bytes that are no whole character become replacement characters."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """Return exactly the bytes that a token stands for; empty for an id outside of the vocabulary."""
        if token in self._added:
            return self._added[token].encode()
        piece = self.tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_of is not None:
            return b"".join(self._byte_of.get(char, char.encode()) for char in piece)
        if match := _BYTE_TOKEN.match(piece):
            return bytes([int(match[1], 16)])
        return piece.replace(_SPACE_MARK, " ").encode()

    def _is_byte_level(self) -> bool:
        mark = self.tokenizer.token_to_id("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}")
        return mark is not None and self.tokenizer.decode([mark]) == " "


def _byte_alphabet() -> dict[str, bytes]:
    """Return the byte each character of a byte-level BPE vocabulary stands for (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + place): bytes([byte]) for place, byte in enumerate(others)}


def _stop_ids(folder: Path, fast: Any) -> frozenset[int]:
    found = token_ids(fast.eos_token_id)
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            found |= _eos_of(folder / name)
    named = fast.special_tokens_map
    turn_ends = [named[name] for name in _STOP_NAMES if isinstance(named.get(name), str)]
    return found | {
        token for text in turn_ends if (token := fast.backend_tokenizer.token_to_id(text)) is not None
    }


def _eos_of(path: Path) -> frozenset[int]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path} can't be read: {exc}") from exc
    if not isinstance(data, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    text = data.get("text_config")
    nested = text.get("eos_token_id") if isinstance(text, dict) else None
    return token_ids(data.get("eos_token_id")) | token_ids(nested)
