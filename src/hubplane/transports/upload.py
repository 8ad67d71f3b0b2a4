"""What a client of Server-Sent Events or long polling sends: one POST after the other, with back pressure.

Source: signalr-server sections 1.5 and 2.4.
"""

from __future__ import annotations

import asyncio

from hubplane.connection.hub_connection import HubConnection
from hubplane.transports.exchange import HttpExchange

__all__ = ["Upload"]


class Upload:
    """The bytes from a client to one connection.

    What comes before a transport has attached is kept here. Above the limit the verdict is to wait: the POST is not
    answered, and its body not read, until there is room.

    Args:
        limit: Bytes kept before there is a connection; 0 for no limit.
    """

    __slots__ = ("_connection", "_early", "_ended", "_limit", "_lock", "_paused", "_reading", "_room")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = asyncio.Lock()
        self._connection: HubConnection | None = None
        self._early = bytearray()
        self._paused = False
        self._ended = False
        self._room: asyncio.Future[None] | None = None
        self._reading: asyncio.Timeout | None = None

    async def take(self, exchange: HttpExchange) -> bool:
        """Read the body of a POST and hand it to the connection, behind the POSTs that came before.

        Returns:
            Whether the connection has taken all of it; False when it ended meanwhile, wherever the body stands.

        Raises:
            ConnectionClosedError: The client went away within the body. What had arrived counts.
        """
        async with self._lock:
            while not self._ended and (data := await self._read(exchange)):
                self._feed(data)
                while self._paused and not self._ended:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
        return not self._ended

    def attach(self, connection: HubConnection) -> None:
        """There is a connection now: it gets what came before it, and everything from here on."""
        self._connection = connection
        early, self._early = bytes(self._early), bytearray()
        self.resume()
        if early:
            connection.data_received(early)

    def pause(self) -> None:
        """The connection has more than it can take."""
        self._paused = True

    def resume(self) -> None:
        """The connection takes bytes again."""
        self._paused = False
        self._wake()

    def end(self) -> None:
        """The connection takes nothing any more; idempotent."""
        if self._ended:
            return
        self._ended = True
        self._early.clear()
        self._wake()
        if self._reading is not None:
            self._reading.reschedule(asyncio.get_running_loop().time())

    async def _read(self, exchange: HttpExchange) -> bytes:
        """The next piece of a body; nothing at its end, or when the connection has ended before more came."""
        try:
            async with asyncio.timeout(None) as self._reading:
                return await exchange.read()
        except TimeoutError:
            if not self._ended:
                raise
            return b""
        finally:
            self._reading = None

    def _feed(self, data: bytes) -> None:
        if self._ended:
            return
        if self._connection is not None:
            self._connection.data_received(data)
            return
        self._early += data
        if len(self._early) > self._limit > 0:
            self._paused = True

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
