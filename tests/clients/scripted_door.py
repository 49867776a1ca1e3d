"""A front door with a scripted node, for clients whose checks need answers that are known; prints its URL.

A request whose prompt holds a tool's result gets a sentence, one that offers ``get_weather`` gets a call of it,
every other one a greeting.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from swarm.node.front import GenerationRequest, ServedModel
from tests.support.front_door import MODEL, FakeFrontDoor, Step, serving

# A token a character: agents' instructions are long.
WIDE = ServedModel(name=MODEL, digest="0" * 64, layers=8, context_tokens=1_000_000, created=1_700_000_000)


def answer(request: GenerationRequest) -> Sequence[Step]:
    prompt = "".join(map(chr, request.prompt))
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
