"""How `scripts/test` shares the tests that start nodes between two runners of pytest-xdist.

The tests of one file stay together and in order: many share a swarm, or build on each other. So do all files that ask
the same swarm of a whole session, so that it is started once.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

ROOT = Path(__file__).resolve().parents[2]
SHARED_SWARMS = ("three_nodes",)
"""The fixtures of a session that start processes, by name."""

LONGEST_FIRST = (
    "three_nodes",
    "tests/integration/test_faults.py",
    "tests/integration/test_pressure.py",
    "tests/integration/test_placement.py",
    "tests/integration/test_secret_rotation.py",
    "tests/integration/test_drain.py",
    "tests/integration/test_demo.py",
    "tests/integration/test_weights_from_peers.py",
    "tests/integration/test_faults_inside.py",
)
"""What is begun with, so that neither runner is left with something long when the other has nothing more to do."""


@cache
def lane_of(file: str) -> str:
    """Return what a file of tests, relative to the repository, is kept together with: a swarm's fixture, or itself."""
    source = (ROOT / file).read_text(encoding="utf-8")
    return next((fixture for fixture in SHARED_SWARMS if fixture in source), file)


class Lanes(LoadScopeScheduling):
    """Hands whole lanes to runners, the longest first."""

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid.partition("::")[0])

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=_rank), last=False)
        super()._assign_work_unit(node)


def _rank(lane: str) -> int:
    return LONGEST_FIRST.index(lane) if lane in LONGEST_FIRST else len(LONGEST_FIRST)
