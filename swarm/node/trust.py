"""Which nodes a request trusts. Pure; knows no members and no paths."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from swarm.types import NodeId

_NODE_ID = re.compile(r"[a-z2-7]{32}\Z")


def trusted_nodes(trust: Collection[str], described: Mapping[NodeId, Collection[str]]) -> frozenset[NodeId]:
    """Return the nodes that an entry of ``trust`` means: by id, or by a name or label of ``described``.

    Names and labels are what nodes say of themselves: one that calls itself by another's id is not meant by it.
    """
    words = {entry for entry in trust if not _NODE_ID.match(entry)}
    return frozenset(
        node for node, names in described.items() if node in trust or not words.isdisjoint(names)
    )
