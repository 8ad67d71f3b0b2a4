"""A TCP relay that can be interrupted, as the cable between a client and a server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Self

__all__ = ["Cable"]


class Cable:
    """Relays from a port of its own to another one on 127.0.0.1, in a thread.

    Args:
        target: The port of the server.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._relays: set[asyncio.Task[None]] = set()
        self._in = True
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="cable")

    def pull(self) -> None:
        """End all connections there are, and all that come until it is plugged in again."""

        def change() -> None:
            self._in = False
            for relay in self._relays:
                relay.cancel()

        self._do(change)

    def plug_in(self) -> None:
        """Relay new connections again."""

        def change() -> None:
            self._in = True

        self._do(change)

    def _do(self, change: Callable[[], None]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(change)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(10)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with await asyncio.start_server(self._accepted, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = self._loop.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with contextlib.AsyncExitStack() as ends:
            ends.push_async_callback(_drop, writer)
            if self._in:
                with contextlib.suppress(OSError):
                    onward, back = await asyncio.open_connection("127.0.0.1", self._target)
                    ends.push_async_callback(_drop, back)
                    await asyncio.gather(_pump(reader, back), _pump(onward, writer))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # it was pulled, or an end has gone
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()


async def _drop(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
