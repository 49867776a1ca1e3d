"""docs/protocol.md names every message and every close code."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from swarm.protocol.limits import CloseCode
from swarm.protocol.messages import AnyMessage, Message

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("message", typing.get_args(AnyMessage), ids=lambda message: message.__name__)
def test_every_message_is_in_the_protocol_page(message: type[Message]) -> None:
    assert f"`{message.__struct_config__.tag}`" in PAGE
    assert message.__name__ in PAGE


@pytest.mark.parametrize("code", CloseCode)
def test_every_close_code_is_in_the_protocol_page(code: CloseCode) -> None:
    assert f"| {code.value} |" in PAGE
