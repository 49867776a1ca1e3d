"""A network of its own for each node, with a forwarder between them that delays and drops packets. Linux, root.

``tc netem`` is missing from many kernels; a TUN device in each network namespace is not. Connections are the kernel's
own: what loss and delay do to them is real.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import random
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

TUNSETIFF = 0x400454CA
TUN_WITHOUT_HEADER = 0x0001 | 0x1000
CLONE_NEWNET = 0x40000000
MTU = 1500
Result = TypeVar("Result")


class LossyNet:
    """``nodes`` namespaces, 10.77.0.1 and on; packets between two take ``one_way_seconds``, or are lost by chance."""

    def __init__(self, nodes: int, *, one_way_seconds: float, loss: float, seed: int = 1) -> None:
        self._delay = one_way_seconds
        self._loss = loss
        self._random = random.Random(seed)
        self.names = [f"swarm-{os.getpid()}-{number}" for number in range(1, nodes + 1)]
        self.sent = self.lost = 0
        self._devices: list[int] = []
        self._waiting: deque[tuple[float, int, bytes]] = deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        try:
            for number, name in enumerate(self.names, 1):
                self._devices.append(_device(name, number))
        except BaseException:
            self._remove()
            raise
        self._thread.start()
        self._loop.call_soon_threadsafe(self._listen)

    @staticmethod
    def address(node: int) -> str:
        """The address of the node of that index, from 0 on."""
        return f"10.77.0.{node + 1}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._remove()

    def _remove(self) -> None:
        for device in self._devices:
            os.close(device)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _listen(self) -> None:
        for device in self._devices:
            self._loop.add_reader(device, self._arrived, device)

    def _arrived(self, device: int) -> None:
        try:
            packet = os.read(device, 2 * MTU)
        except BlockingIOError:
            return
        to = packet[19] - 1
        if packet[0] >> 4 != 4 or packet[16:19] != bytes((10, 77, 0)) or not 0 <= to < len(self._devices):
            return
        self.sent += 1
        if self._random.random() < self._loss:
            self.lost += 1
            return
        self._waiting.append((self._loop.time() + self._delay, to, packet))
        if len(self._waiting) == 1:
            self._loop.call_later(self._delay, self._deliver)

    def _deliver(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            _, to, packet = self._waiting.popleft()
            try:
                os.write(self._devices[to], packet)
            except OSError:  # its queue is full: one more loss
                self.lost += 1
        if self._waiting:
            self._loop.call_at(self._waiting[0][0], self._deliver)


def _device(namespace: str, number: int) -> int:
    """Make a namespace with one TUN device, and return the device's other end."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"swt{os.getpid() % 100000}x{number}"
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), TUN_WITHOUT_HEADER))
    for command in (
        f"netns add {namespace}",
        f"link set {name} netns {namespace}",
        f"-n {namespace} addr add 10.77.0.{number}/24 dev {name}",
        f"-n {namespace} link set {name} mtu {MTU} up",
        f"-n {namespace} link set lo up",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    return device


def inside(namespace: str, action: Callable[[], Result]) -> Result:
    """Run ``action`` in a thread whose sockets belong to a namespace; return what it returns."""
    with ThreadPoolExecutor(1, initializer=_enter, initargs=(namespace,)) as thread:
        return thread.submit(action).result()


def _enter(namespace: str) -> None:
    with Path("/var/run/netns", namespace).open() as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"no way into {namespace}")
