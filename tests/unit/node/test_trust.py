"""Which nodes a request trusts, by id, name or label."""

from __future__ import annotations

import pytest

from swarm.node.trust import trusted_nodes
from swarm.types import NodeId

ANNA, BEN, EVE = NodeId("a" * 32), NodeId("b" * 32), NodeId("e" * 32)
NODES = {ANNA: ("anna", "home", "gpu"), BEN: ("ben", "home"), EVE: (BEN, "office")}


@pytest.mark.parametrize(
    ("trust", "found"),
    [
        ([ANNA], {ANNA}),
        (["ben"], {BEN}),
        (["home"], {ANNA, BEN}),
        (["gpu", "office"], {ANNA, EVE}),
        ([], set()),
        (["nobody"], set()),
    ],
)
def test_an_entry_means_nodes_by_id_name_or_label(trust: list[str], found: set[NodeId]) -> None:
    assert trusted_nodes(trust, NODES) == found


def test_a_node_that_takes_anothers_id_for_its_name_is_not_trusted_for_it() -> None:
    assert trusted_nodes([BEN], NODES) == {BEN}
