"""Asks a front door one question and shows the answer, its route and its speed. Standard library only."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from _nodes import DIRECT, DemoError

MAX_TOKENS = 64
TIMEOUT_SECONDS = 120.0


def ask(url: str, model: str, question: str) -> None:
    """Print the answer while it streams, then route and speed. Raises DemoError when there is none."""
    print(f"\n> {question}", flush=True)
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT_SECONDS)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun = time.perf_counter()
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        if answer.status != 200:
            raise DemoError(f"the API answered {answer.status}: {answer.read().decode(errors='replace')}")
        first, last, tokens = _print_stream(answer)
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise DemoError(f"the API broke off: {exc!r}") from exc
    finally:
        connection.close()
    if first is None or last is None:
        raise DemoError("the answer is empty")
    print(f"\n\nRoute: {_route(url, answer.headers['x-swarm-route'] or '')}")
    print(f"Time to first token: {first - begun:.2f} s")
    if tokens > 1 and last > first:
        print(f"Tokens per second: {(tokens - 1) / (last - first):.1f} ({tokens} tokens)", flush=True)


def print_lines_to_paste(url: str, model: str, question: str) -> None:
    """Print how to talk to the front door from a browser, a shell and Python.

    Temperature 0, because at 1 a model of the demo's size talks nonsense.
    """
    messages = [{"role": "user", "content": question}]
    request = json.dumps({"model": model, "messages": messages, "temperature": 0, "stream": True})
    print(
        f"""
Serving until Ctrl-C. In a browser, the swarm as a picture and a chat:

  {url}/

To paste into a shell:

  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{request}'

or into Python (pip install openai):

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="none")
  answer = client.chat.completions.create(
      model="{model}", temperature=0,
      messages={json.dumps(messages)})
  print(answer.choices[0].message.content)
""",
        flush=True,
    )


def _print_stream(answer: http.client.HTTPResponse) -> tuple[float | None, float | None, int]:
    """Return when the first and the last text came, and how many tokens the answer has."""
    first = last = None
    tokens = 0
    for chunk in _events(answer):
        if "error" in chunk:
            raise DemoError(f"the answer broke off: {chunk['error'].get('message')}")
        tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        for choice in chunk["choices"]:
            text = choice["delta"].get("content")
            if text:
                last = time.perf_counter()
                first = first or last
                print(text, end="", flush=True)
    return first, last, tokens


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in answer:
        data = line.decode().strip().removeprefix("data:").strip() if line.startswith(b"data:") else ""
        if data == "[DONE]":
            return
        if data:
            yield json.loads(data)
    raise DemoError("the answer ended without [DONE]")


def _route(url: str, header: str) -> str:
    """Return the route in words: which node computed which layers."""
    try:
        with DIRECT.open(f"{url}/swarm/state", timeout=TIMEOUT_SECONDS) as answer:
            names = {member["node"][:8]: member["name"] for member in json.load(answer)["members"]}
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise DemoError(f"the API broke off: {exc!r}") from exc
    hops = []
    for hop in header.partition(";")[0].split(","):
        node, _, span = hop.strip().partition("=")
        hops.append(f"{names.get(node, node)} layers {span}" if span else hop.strip())
    return " -> ".join(hops)
