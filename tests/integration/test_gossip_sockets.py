"""Membership over real sockets: many nodes in one process, links of a large swarm, identities used twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from swarm.config import GossipSettings
from swarm.gossip.member import Health
from swarm.gossip.overlay import FEWEST, MOST
from tests.support.gossip_node import GossipNode, gossiping, loopback
from tests.support.links import eventually

pytestmark = pytest.mark.timeout(120)
SMALL_MESH = GossipSettings(mesh_members=8)


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., GossipNode]]:
    nodes: list[GossipNode] = []

    def make(*arguments: object, **options: object) -> GossipNode:
        nodes.append(GossipNode(*arguments, **options))  # type: ignore[arg-type]
        return nodes[-1]

    yield make
    await asyncio.gather(*(node.aclose() for node in nodes))


async def test_thirty_nodes_that_join_at_once_all_know_each_other_and_keep_few_links(made):
    nodes = await gossiping(30, lambda number: made(settings=SMALL_MESH, host=loopback(number)))
    await eventually(
        lambda: all(node.alive_count() == 30 for node in nodes), "everybody to know everybody", 60
    )
    await eventually(
        lambda: max(len(n.network.links()) for n in nodes) <= MOST, "the surplus to be closed", 60
    )
    assert min(len(node.network.links()) for node in nodes) >= FEWEST - 1
    healths = {member.health for node in nodes for member in node.membership.members()}
    assert healths == {Health.ALIVE}


async def test_a_node_given_its_own_address_as_bootstrap_ignores_it_and_joins_by_the_other(made):
    first, second = made(), made()
    other = await first.start()
    own = await second.start()
    second.loop.change(lambda m, now: m.bootstrap((own, other), now))
    await eventually(lambda: len(first.alive()) == len(second.alive()) == 2, "both to know both")
    assert second.network.links() == (first.node,)
    assert not second.duplicate


async def test_a_newcomer_with_a_live_members_key_is_told_that_it_is_the_copy_and_the_first_stays(made):
    first, original, copy = made(), made(b"k" * 32), made(b"k" * 32)
    address = await first.start()
    await original.start([address])
    await eventually(lambda: first.routable(original.node), "the original to be known")
    await copy.start([address])
    await eventually(lambda: copy.duplicate, "the copy to notice")
    assert "another process with this node's key" in copy.duplicate[0]
    assert first.routable(original.node)
    assert not original.duplicate


async def test_the_same_key_restarted_with_its_incarnation_lost_is_routable_again(made):
    first, second, before = made(), made(), made(b"k" * 32)
    address = await first.start()
    await second.start([address])
    await before.start([address])
    await eventually(lambda: first.routable(before.node) and second.routable(before.node), "it to be known")
    await before.aclose()
    after = made(b"k" * 32)
    await after.start([address])

    def is_back(node: GossipNode) -> bool:
        member = node.membership.member(after.node)
        return member is not None and member.routable and member.record.boot == after.boot

    await eventually(lambda: is_back(first) and is_back(second), "its new process to be routable")
    assert not after.duplicate
