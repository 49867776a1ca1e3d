"""Python clients against running doors; tests/integration/test_api_python_clients.py runs this in their environment.

``SWARM_REAL`` is a front door of real nodes with the default model, ``SWARM_SCRIPTED`` that of scripted_door.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import litellm
import openai
import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

REAL = os.environ["SWARM_REAL"] + "/v1"
REAL_MODEL = os.environ["SWARM_REAL_MODEL"]
SCRIPTED = os.environ["SWARM_SCRIPTED"] + "/v1"
SCRIPTED_MODEL = os.environ["SWARM_SCRIPTED_MODEL"]
PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]


class City(BaseModel):
    name: str
    inhabitants: int


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"21 degrees in {city}"


def test_openai_python_with_strict_validation_on_real_nodes() -> None:
    client = openai.OpenAI(base_url=REAL, api_key="k", max_retries=0, _strict_response_validation=True)
    assert REAL_MODEL in [model.id for model in client.models.list()]
    chat = client.chat.completions.create(model=REAL_MODEL, messages=QUESTION, max_tokens=8, temperature=0)
    stream = client.chat.completions.create(
        model=REAL_MODEL, messages=QUESTION, max_tokens=8, temperature=0, stream=True
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    response = client.responses.create(
        model=REAL_MODEL, input=QUESTION[0]["content"], max_output_tokens=8, temperature=0
    )
    assert "Paris" in streamed
    assert chat.choices[0].message.content == streamed == response.output_text


@pytest.mark.parametrize("stream", [False, True])
def test_litellm_on_real_nodes(stream: bool) -> None:
    answer = litellm.completion(
        model=f"openai/{REAL_MODEL}", messages=QUESTION, api_base=REAL, api_key="k", max_tokens=8,
        temperature=0, stream=stream,
    )  # fmt: skip
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        text = answer.choices[0].message.content
        assert answer.usage.completion_tokens > 0
    assert "Paris" in text


def test_litellm_carries_tools() -> None:
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    answer = litellm.completion(
        model=f"openai/{SCRIPTED_MODEL}", messages=WEATHER, api_base=SCRIPTED, api_key="k", tools=tools
    )
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output_on_real_nodes(method: Any) -> None:
    model = ChatOpenAI(
        model=REAL_MODEL, base_url=REAL, api_key="k", temperature=0, max_tokens=100, max_retries=0
    )
    answer = model.with_structured_output(City, method=method).invoke("Name a city and its inhabitants.")
    assert isinstance(answer, City)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_documentation_runs_on_real_nodes(
    example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = example.replace("http://127.0.0.1:8000", os.environ["SWARM_REAL"])
    exec(compile(code, "docs/clients.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("responses", [False, True])
def test_langchain_calls_a_tool_and_takes_its_result(responses: bool) -> None:
    model = ChatOpenAI(
        model=SCRIPTED_MODEL, base_url=SCRIPTED, api_key="k", max_retries=0, use_responses_api=responses
    ).bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    called = model.invoke([question])
    (call,) = called.tool_calls
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    answer = model.invoke([question, called, result])
    assert answer.text == "It is 21 degrees in Paris."
    chunks = list(model.stream([question, called, result]))
    assert "".join(chunk.text for chunk in chunks) == answer.text


@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
@pytest.mark.parametrize("streamed", [False, True])
def test_openai_agents_runs_its_loop(kind: Any, streamed: bool) -> None:
    set_tracing_disabled(True)

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=SCRIPTED, api_key="k", max_retries=0) as client:
            weather = function_tool(lambda city: f"21 degrees in {city}", name_override="get_weather")
            agent = Agent(name="a", model=kind(SCRIPTED_MODEL, client), tools=[weather])
            if not streamed:
                return str((await Runner.run(agent, "What is the weather in Paris?")).final_output)
            result = Runner.run_streamed(agent, "What is the weather in Paris?")
            async for _ in result.stream_events():
                pass
            return str(result.final_output)

    import asyncio

    assert asyncio.run(run()) == "It is 21 degrees in Paris."


def test_curl_gets_an_answer_and_a_stream() -> None:
    for stream in (False, True):
        body = {"model": SCRIPTED_MODEL, "messages": QUESTION, "stream": stream}
        command = [
            "curl",
            "-sSN",
            "--fail",
            SCRIPTED + "/chat/completions",
            "-H",
            "Content-Type: application/json",
        ]
        found = subprocess.run(
            [*command, "-d", json.dumps(body)], capture_output=True, text=True, timeout=60, check=True
        )
        if stream:
            assert found.stdout.endswith("data: [DONE]\n\n")
        else:
            assert json.loads(found.stdout)["choices"][0]["message"]["content"] == "Hello, world!"
