"""A chat template and what it is filled with, rendered in transformers' sandbox. Knows no tokenizer and no process."""

from __future__ import annotations

from typing import Any

import jinja2
import msgspec

from swarm.errors import RequestError

MAX_RENDERED_CHARACTERS = 16 * 1024 * 1024


class TemplateInput(msgspec.Struct, frozen=True, array_like=True):
    """JSON values throughout: it travels to the process that renders."""

    template: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    add_generation_prompt: bool
    continue_final_message: bool
    variables: dict[str, Any]
    """The special tokens and what a request says in ``chat_template_kwargs``."""


def render_template(given: TemplateInput) -> str:
    """Return the prompt's text; takes as long as the template likes, ``TemplateProcess`` bounds that.

    Raises RequestError with the template's own words when it refuses the messages.
    """
    # Imported here: transformers takes long, and importing this module must not.
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        if not given.messages:
            raise ValueError("there is no message")
        (text,), _ = render_jinja_template(
            conversations=[given.messages],
            tools=given.tools,
            chat_template=given.template,
            continue_final_message=given.continue_final_message,
            add_generation_prompt=given.add_generation_prompt,
            **given.variables,
        )
    # Beside its own refusals, a template fails in Python's ways on messages of a shape it did not expect.
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
        MemoryError,
    ) as exc:
        why = "too much memory is needed" if isinstance(exc, MemoryError) else str(exc)
        raise RequestError(
            f"The model's chat template refuses these messages: {why}", param="messages"
        ) from exc
    if len(text) > MAX_RENDERED_CHARACTERS:
        raise RequestError(
            f"The prompt has {len(text)} characters, more than {MAX_RENDERED_CHARACTERS}.", param="messages"
        )
    return str(text)
