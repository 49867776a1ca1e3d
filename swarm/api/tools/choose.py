"""Which parser reads a model's calls: told by its chat template. Knows nothing of tokens or HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from swarm.api.tools.bare_json import BareJsonParser
from swarm.api.tools.calls import ToolParser
from swarm.api.tools.definitions import FunctionTool
from swarm.api.tools.marked import hermes, mistral, qwen3_coder

Family = Literal["hermes", "qwen3_coder", "llama3_json", "mistral", "harmony", "json"]

MARKERS = frozenset(
    {
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "<|python_tag|>",
        "<|start|>",
        "<|channel|>",
        "<|constrain|>",
        "<|message|>",
        "<|end|>",
        "<|call|>",
    }
)
"""Tokens that calls are found by; some tokenizers hold them special and leave them out of the text."""


def family_of(template: str | None, *, takes_tools: bool) -> Family:
    """Return the format a template teaches; the specification's JSON block when it teaches none."""
    text = template or ""
    if "<|channel|>" in text:
        return "harmony"
    if not takes_tools:
        return "json"
    if "<function=" in text:
        return "qwen3_coder"
    if "<tool_call>" in text:
        return "hermes"
    if "[TOOL_CALLS]" in text:
        return "mistral"
    return "llama3_json" if "<|python_tag|>" in text else "json"


def parser_for(family: str, tools: Sequence[FunctionTool]) -> ToolParser:
    """Return a new parser. Harmony's calls are told apart before the text gets here."""
    if family == "hermes":
        return hermes()
    if family == "qwen3_coder":
        return qwen3_coder({tool.name: tool.parameters or {} for tool in tools})
    if family == "mistral":
        return mistral()
    return BareJsonParser({tool.name for tool in tools})
