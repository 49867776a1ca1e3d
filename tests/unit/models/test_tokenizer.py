"""Chat templates and token ids of the default model, against transformers, and tokenizers that are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from swarm.errors import ModelError, RequestError
from swarm.models import template as template_module
from swarm.models.store import DEFAULT_MODEL, ModelStore
from swarm.models.tokenizer import ChatTokenizer

pytestmark = pytest.mark.real_model

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2024 + 17 = ?"}],
    [
        {"role": "user", "content": "你好 🎉"},
        {"role": "assistant", "content": "Hé!\n\n  def f(x):\n\treturn 42"},
        {"role": "user", "content": "<|im_end|> again   3.14159"},
    ],
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return ModelStore().folder(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def chat(folder: Path) -> ChatTokenizer:
    return ChatTokenizer.load(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Copy all but the weights, for tests that change files."""
    return Path(shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("prompt", [True, False])
def test_a_rendered_chat_encodes_to_the_ids_of_transformers(
    chat: ChatTokenizer, folder: Path, messages: list[dict[str, Any]], prompt: bool
) -> None:
    reference = AutoTokenizer.from_pretrained(folder)
    expected = reference.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    assert chat.encode(chat.render(messages, add_generation_prompt=prompt), special=False) == expected


@given(text=st.text())
@settings(max_examples=200)
def test_text_survives_encoding_and_streaming(chat: ChatTokenizer, text: str) -> None:
    ids = chat.encode(text, special=False)
    stream = chat.detokenizer([])
    assert "".join([*(stream.push(token) for token in ids), stream.flush()]) == chat.decode(ids)


@given(ids=st.lists(st.integers(0, 49151), max_size=60))
@settings(max_examples=200)
def test_any_tokens_stream_as_they_decode(chat: ChatTokenizer, ids: list[int]) -> None:
    prompt = chat.encode(chat.render(CHATS[0]), special=False)
    stream = chat.detokenizer(prompt)
    pieces = [*(stream.push(token) for token in ids), stream.flush()]
    assert chat.decode(prompt) + "".join(pieces) == chat.decode(prompt + ids)


@given(text=st.text())
@settings(max_examples=200)
def test_the_bytes_of_tokens_joined_are_the_text(chat: ChatTokenizer, text: str) -> None:
    ids = chat.encode(text, special=False)
    assert b"".join(map(chat.token_bytes, ids)).decode("utf-8", "replace") == chat.decode(ids)


def test_a_token_of_half_a_character_has_exact_bytes_and_replacement_text(chat: ChatTokenizer) -> None:
    tokens = chat.encode("🎉", special=False)
    assert len(tokens) > 1
    assert chat.token_text(tokens[0]).endswith("\N{REPLACEMENT CHARACTER}")
    assert b"".join(map(chat.token_bytes, tokens)).decode() == "🎉"


def test_special_tokens_have_their_own_text(chat: ChatTokenizer) -> None:
    assert chat.token_text(2) == "<|im_end|>"
    assert chat.token_bytes(10**6) == b""
    assert chat.decode([1, *chat.encode("hi", special=False), 2]) == "hi"


def test_each_digit_is_a_token_as_in_training(chat: ChatTokenizer) -> None:
    assert [chat.token_text(token) for token in chat.encode("a  12", special=False)] == ["a", "  ", "1", "2"]


def test_facts_of_the_default_model(chat: ChatTokenizer) -> None:
    assert (chat.vocab_size, chat.eos_token_id, chat.stop_ids, chat.takes_tools) == (
        49152,
        2,
        frozenset({2}),
        False,
    )
    assert chat.chat_template is not None


def test_stop_ids_are_those_of_all_three_files(copy: Path) -> None:
    _change(copy / "generation_config.json", eos_token_id=[2, 4])
    _change(copy / "config.json", eos_token_id=5, text_config={"eos_token_id": [6]})
    _change(
        copy / "tokenizer_config.json",
        eos_token="<gh_stars>",
        extra_special_tokens={"eot_token": "<issue_start>"},
    )
    assert ChatTokenizer.load(copy).stop_ids == {2, 4, 5, 6, 7, 8}


def test_a_missing_generation_config_is_no_error(copy: Path) -> None:
    (copy / "generation_config.json").unlink()
    assert ChatTokenizer.load(copy).stop_ids == {2}


def test_a_template_that_refuses_is_an_error_of_the_request_in_its_own_words(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        ChatTokenizer.load(copy).render(CHATS[0])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [1]}],
    ],
)
def test_messages_that_the_template_cannot_render_are_errors_of_the_request(
    chat: ChatTokenizer, messages: list[dict[str, Any]]
) -> None:
    with pytest.raises(RequestError):
        chat.render(messages)


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% for i in range(10**9) %}x{% endfor %}"],
)
def test_templates_run_in_a_sandbox(copy: Path, template: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(RequestError):
        ChatTokenizer.load(copy).render(CHATS[0])


def test_a_request_cannot_bring_a_template(chat: ChatTokenizer) -> None:
    with pytest.raises(RequestError, match="chat_template"):
        chat.render(CHATS[0], chat_template="{{ messages }}")


def test_other_settings_reach_the_template(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ 'thinking' if enable_thinking else 'quick' }}")
    chat = ChatTokenizer.load(copy)
    assert chat.render(CHATS[0], enable_thinking=True) == "thinking"
    assert chat.render(CHATS[0], enable_thinking=False) == "quick"


def test_the_rendered_text_has_a_limit(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "MAX_RENDERED_CHARACTERS", 10)
    with pytest.raises(RequestError, match="characters"):
        ChatTokenizer.load(copy).render(CHATS[0])


def test_a_model_without_a_template_says_so(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    chat = ChatTokenizer.load(copy)
    assert chat.chat_template is None
    assert not chat.takes_tools
    with pytest.raises(ModelError, match="no chat template"):
        chat.render(CHATS[0])


@pytest.mark.parametrize(
    ("template", "takes"),
    [
        ("{%- if tools %}{{ tools | tojson }}{% endif %}", True),
        ("{% for tool in tools %}{{ tool }}{% endfor %}", True),
        ("{{ messages[0].content }} You have no tools.", False),
    ],
)
def test_a_template_takes_tools_when_it_reads_them(copy: Path, template: str, takes: bool) -> None:
    (copy / "chat_template.jinja").write_text(template)
    chat = ChatTokenizer.load(copy)
    assert chat.takes_tools is takes
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    assert ("look_up" in chat.render(CHATS[0], tools=tools)) is takes


def test_settings_of_training_neither_cut_nor_pad_prompts(copy: Path) -> None:
    _change(
        copy / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    )
    assert len(ChatTokenizer.load(copy).encode("one two three four five", special=False)) == 5


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        ChatTokenizer.load(tmp_path)


@pytest.mark.parametrize("damage", ["", "{}", '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_refused(copy: Path, damage: str) -> None:
    (copy / "tokenizer.json").write_text(damage)
    with pytest.raises(ModelError):
        ChatTokenizer.load(copy)
