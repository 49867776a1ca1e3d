import asyncio
import mmap
import sys
from pathlib import Path

import pytest

from swarm.engine import memory

MIB = 1 << 20

SMAPS = """\
00400000-00b00000 r-xp 00000000 fe:00 12345                              /usr/bin/python3
Rss:                7168 kB
20000000-24100000 rw-p 00000000 00:00 0                                  [heap]
Size:              66560 kB
Rss:               66000 kB
AnonHugePages:         0 kB
VmFlags: rd wr mr mw me ac
7f0000100000-7f0001000000 rw-p 00000000 00:00 0
Rss:               15360 kB
7f1000000000-7f1008000000 rw-p 00000000 00:00 0
Rss:                4096 kB
7f2000000000-7f2008000000 rw-s 00000000 00:01 77                         /dev/shm/shared
Rss:              131072 kB
7f3000000000-7f3008000000 rw-p 00000000 fe:00 99                         /models/model.safetensors
Rss:              131072 kB
7f4000000000-7f4000180000 rw-p 00000000 00:00 0
Rss:                1536 kB
7ffc00000000-7ffc00800000 rw-p 00000000 00:00 0                          [stack]
Rss:                8192 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Rss:                   0 kB
"""


def test_only_resident_private_memory_without_a_file_is_moved_and_only_whole_huge_pages_of_it() -> None:
    assert list(memory.large_private_mappings(SMAPS.splitlines())) == [
        (0x20000000, 0x24000000),
        (0x7F0000200000, 0x7F0001000000),
    ]


def test_nothing_is_moved_where_huge_pages_are_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = tmp_path / "enabled"
    switch.write_text("always madvise [never]\n")
    monkeypatch.setattr(memory, "_SWITCH", switch)
    assert memory.use_huge_pages() == 0


def test_nothing_is_moved_where_the_system_knows_no_such_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_SWITCH", tmp_path / "missing")
    assert memory.use_huge_pages() == 0


def test_moving_ends_when_it_is_no_longer_wanted() -> None:
    asked = []

    def go_on() -> bool:
        asked.append(True)
        return False

    assert memory.use_huge_pages(go_on) == 0
    assert asked or not _can_collapse()


async def test_what_is_moved_keeps_its_content() -> None:
    block = mmap.mmap(-1, 16 * MIB, **_private())
    block[:] = content = bytes(range(256)) * (16 * MIB // 256)
    moved = await asyncio.to_thread(memory.use_huge_pages)
    assert block[:] == content
    if _can_collapse():
        assert moved >= 14 * MIB  # the block, less what lies outside whole huge pages
    else:
        assert moved == 0
    block.close()


def _private() -> dict[str, int]:
    return {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if sys.platform != "win32" else {}


def _can_collapse() -> bool:
    """Whether this kernel makes huge pages on demand (Linux 6.1, not switched off)."""
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not switch.exists() or "[never]" in switch.read_text():
        return False
    release = Path("/proc/sys/kernel/osrelease").read_text().split(".")
    return (int(release[0]), int(release[1])) >= (6, 1)
