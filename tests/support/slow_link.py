"""A TCP proxy that delays every byte, for links as they are between towns. Runs in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


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
            try:
                other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(self._pump(reader, other_writer), self._pump(other_reader, writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write each chunk a fixed time after it came; later chunks don't wait for earlier ones' delays."""
        loop = asyncio.get_running_loop()

        def write(data: bytes) -> None:
            if not writer.is_closing():
                writer.write(data)

        try:
            while data := await reader.read(1 << 16):
                loop.call_later(self._delay, write, data)
        except ConnectionError:
            pass
        finally:
            loop.call_later(self._delay, writer.close)
