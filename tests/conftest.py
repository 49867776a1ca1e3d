"""How the tests are run, whatever they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.lanes import Lanes


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes | None:
    """Let `--dist=loadfile` keep together also the files that share a swarm."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.support.lanes import Lanes

    return Lanes(config, log)
