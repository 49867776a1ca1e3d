"""TCP proxies between nodes: links as they are between towns, or with holes. They run in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

Way = tuple[int, int]
"""Who sends and who receives, each by the port that the node listens on."""


class SlowLinks:
    """Proxies on loopback; each adds ``one_way_seconds`` in both directions and keeps the order of bytes."""

    def __init__(self, one_way_seconds: float) -> None:
        self._delay = one_way_seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def to(self, port: int) -> int:
        """Open a proxy to a port of loopback; returns the proxy's own port."""
        return int(self._run(self._listen(port)))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self, port: int) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            dialler = self._dialler(writer)
            try:
                other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(
                self._pump(reader, other_writer, (dialler, port)),
                self._pump(other_reader, writer, (port, dialler)),
            )

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    def _dialler(self, writer: asyncio.StreamWriter) -> int:
        return 0

    async def _passed(self, way: Way) -> None:
        """Wait until bytes get through that way."""

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Write each chunk a fixed time after it came; later chunks don't wait for earlier ones' delays."""
        loop = asyncio.get_running_loop()

        def write(data: bytes) -> None:
            if not writer.is_closing():
                writer.write(data)

        try:
            while data := await reader.read(1 << 16):
                await self._passed(way)
                if self._delay:
                    loop.call_later(self._delay, write, data)
                else:
                    write(data)
            await self._passed(way)
        except ConnectionError:
            pass
        finally:
            loop.call_later(self._delay, writer.close)


class HoledLinks(SlowLinks):
    """Links that can become black holes, one way or both: nothing arrives, neither bytes nor the end of a connection.

    What was sent meanwhile comes when the hole is closed, as TCP sends it again. Connections are still taken, but
    nothing said on them arrives.
    """

    def __init__(self, port_of: Callable[[int], int]) -> None:
        """``port_of`` says which node, by its listening port, owns a connection, by the connection's source port."""
        super().__init__(0.0)
        self._port_of = port_of
        self._holes: set[Way] = set()
        self._healed = asyncio.Event()

    def swallow(self, ways: Iterable[Way]) -> None:
        async def begin() -> None:
            self._holes |= set(ways)

        self._run(begin())

    def heal(self) -> None:
        async def end() -> None:
            self._holes.clear()
            self._healed.set()
            self._healed = asyncio.Event()

        self._run(end())

    def _dialler(self, writer: asyncio.StreamWriter) -> int:
        return self._port_of(int(writer.get_extra_info("peername")[1]))

    async def _passed(self, way: Way) -> None:
        while way in self._holes:
            await self._healed.wait()
