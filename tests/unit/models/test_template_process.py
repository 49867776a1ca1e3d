"""Chat templates in a process of their own: what it renders, and that nothing a template does lasts or spreads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from swarm.errors import RequestError
from swarm.models.template import TemplateInput, render_template
from swarm.models.template_frames import framed
from swarm.models.template_process import TemplateLimitError, TemplateProcess, environment_of
from tests.support.front_door import eventually

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GREETING = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{{ eos }}"


def filled(template: str, content: str = "Hi 🎉", **variables: Any) -> TemplateInput:
    return TemplateInput(template, [{"role": "user", "content": content}], None, True, False, variables)


@pytest.fixture
async def process() -> AsyncIterator[TemplateProcess]:
    started = TemplateProcess(seconds=1.0)
    yield started
    await started.aclose()


async def test_it_renders_what_this_process_would_and_quotes_refusals(process: TemplateProcess) -> None:
    given = filled(GREETING, eos="<end>")
    assert await process.render(given) == render_template(given) == "[user] Hi 🎉<end>"
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        await process.render(filled("{{ raise_exception('roles must alternate') }}"))
    assert caught.value.param == "messages"
    assert len(await process.render(filled(GREETING, "x" * 4_000_000))) == 4_000_007


@pytest.mark.parametrize("template", [ENDLESS, "{{ 10 ** (10 ** 8) }}"], ids=["a loop", "one operation"])
async def test_a_template_without_an_end_is_ended_and_the_next_request_served(
    process: TemplateProcess, template: str
) -> None:
    with pytest.raises(TemplateLimitError, match="1 seconds"):
        await process.render(filled(template))
    assert await process.render(filled(GREETING)) == "[user] Hi 🎉"


async def test_a_process_that_was_killed_meanwhile_is_replaced(process: TemplateProcess) -> None:
    await process.start()
    (child,) = [
        each for each in psutil.Process().children() if "swarm.models.template_child" in each.cmdline()
    ]
    child.kill()
    await eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    await asyncio.sleep(0.05)  # a turn of the event loop, to see the end of its output
    assert await process.render(filled(GREETING)) == "[user] Hi 🎉"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit of memory")
async def test_a_template_can_not_take_all_memory(process: TemplateProcess) -> None:
    with pytest.raises(RequestError, match="memory"):
        await process.render(filled("{{ 'a' * 10 ** 10 }}"))
    assert await process.render(filled(GREETING)) == "[user] Hi 🎉"


@pytest.mark.parametrize("ended", [False, True], ids=["it waits", "it renders without an end"])
def test_the_process_does_not_outlive_its_parent(ended: bool) -> None:
    """A parent that was killed has closed its end of the pipe, and nobody else ends the process."""
    child = subprocess.Popen(
        [sys.executable, "-m", "swarm.models.template_child", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    child.communicate(framed(filled(ENDLESS)) if ended else b"", timeout=60)
    assert child.returncode is not None


def test_the_process_sees_no_key() -> None:
    own = {"PATH": "/bin", "SWARM_KEY": "s", "SWARM_API_KEYS": "k", "HF_TOKEN": "t", "OPENAI_API_KEY": "o"}
    assert environment_of(own).keys() == {"PATH", "HF_HUB_OFFLINE", "OPENBLAS_NUM_THREADS"}
    assert not any(name.startswith("SWARM") for name in environment_of(os.environ))
