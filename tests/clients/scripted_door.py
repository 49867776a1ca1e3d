"""A front door with a scripted node, for clients whose checks need answers that are known; prints its URL.

A request whose prompt holds a tool's result gets a sentence, one that offers ``get_weather`` gets a call of it,
every other one a greeting. Agents with a shell that are asked to count get a command to run, then its output told back.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence

from swarm.node.front import GenerationRequest, ServedModel
from tests.support.front_door import MODEL, FakeFrontDoor, Step, serving

# A token a character: agents' instructions are long.
WIDE = ServedModel(name=MODEL, digest="0" * 64, layers=8, context_tokens=1_000_000, created=1_700_000_000)

COUNT = "Count in the shell"
SHELL_CALL = json.dumps(
    {"name": "exec_command", "arguments": {"cmd": "echo the sum is $((40 + 2))", "login": False}}
)


def answer(request: GenerationRequest) -> Sequence[Step]:
    prompt = "".join(map(chr, request.prompt))
    if COUNT in prompt:
        # Only the shell knows the sum: the command does not hold it.
        said = re.search(r"the sum is \d+", prompt)
        return [f"It says: {said[0]}."] if said else list(SHELL_CALL)
    if "Result of the function call" in prompt:
        return ["It is ", "21 degrees ", "in Paris."]
    if "get_weather" in prompt:
        return ['{"name": "get_weather", ', '"arguments": {"city": "Paris"}}']
    return ["Hello", ",", " world", "!"]


async def main() -> None:
    async with serving(FakeFrontDoor(script=answer, served=(WIDE,)), unsupported_tools="ignore") as served:
        print(served.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
