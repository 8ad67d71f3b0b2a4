"""One open WebSocket of the fast edge: the event loop's callbacks on one side, the hub connection on the other.

Source: RFC 6455 sections 5.5 and 7; signalr-server section 2.1.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from hubplane.connection.transport import (
    CloseReason,
    OutboundBatch,
    TransportKind,
    TransportListener,
    WebSocketTransport,
)
from hubplane.errors import RemoteProtocolError
from hubplane.server.frames import FrameReader, binary_frame, close_frame, pong_frame, text_frame

__all__ = ["FastWebSocket", "Stoppable"]

logger = logging.getLogger(__name__)


class Stoppable(Protocol):
    """What a server keeps of each of its connections."""

    def shutdown(self) -> None:
        """The server stops: end the connection in good order."""
        ...


class FastWebSocket(asyncio.Protocol):
    """`Transport` straight on an asyncio transport.

    Its end: whoever sends Close first, the other answers, and we close the socket. A peer that breaks RFC 6455 gets a
    Close frame with the code for it, and no further reading. Pings are answered, and none are sent. Of several pings
    that could not be answered yet, only the latest is.

    Args:
        transport: The accepted socket, its protocol about to become this one.
        connect: Gets this transport, returns who listens to it.
        connections: The server's open connections; this one is in it until the socket has closed.

    Attributes:
        torn: See `WebSocketTransport`.
    """

    __slots__ = (
        "_binary",
        "_blocked",
        "_closing",
        "_connections",
        "_listener",
        "_reader",
        "_reading_paused",
        "_told",
        "_transport",
        "_waiter",
        "torn",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        connect: Callable[[WebSocketTransport], TransportListener],
        connections: set[Stoppable],
    ) -> None:
        self._transport: asyncio.Transport | None = transport
        self._connections = connections
        self._reader = FrameReader()
        self._binary = False
        self._blocked = False
        self._closing = False  # a Close frame has been sent, or the socket is being dropped
        self._reading_paused = False
        self._told = False  # the listener knows the end
        self._waiter: asyncio.Future[None] | None = None
        self.torn = False
        self._listener = connect(self)
        connections.add(self)

    # -- what the event loop calls ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Hand the payload in a chunk to the listener, all of it in one call, and see to control frames."""
        payload = self._reader.feed(data)
        if payload and not self._closing:
            self._listener.data_received(payload)
        if self._reader.notice:
            self._heed()

    def eof_received(self) -> None:
        """The peer writes no more; the event loop closes the socket."""

    def pause_writing(self) -> None:
        """The socket's buffer is over its high-water mark."""
        self._blocked = True
        if not self._told:
            self._listener.pause_writing()

    def resume_writing(self) -> None:
        """The socket's buffer has drained."""
        self._blocked = False
        if not self._told:
            self._heed()
            self._listener.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket has closed. That the network failed is no error of the application (row B37)."""
        self._connections.discard(self)
        self._transport = None
        self.torn = not self._closing
        self._closing = True
        self._tell(None)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the server calls ----------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """The server stops: let the hub say goodbye."""
        if not self._told:
            self._listener.shutting_down()

    # -- Transport ----------------------------------------------------------------------------------------------

    @property
    def kind(self) -> TransportKind:
        """WebSockets."""
        return TransportKind.WEB_SOCKETS

    def set_binary(self, binary: bool) -> None:  # noqa: FBT001 - mirrors the wire's two opcodes
        """Frame what follows as binary (messagepack) or text (json); text until it is called."""
        self._binary = binary

    def send(self, batch: OutboundBatch) -> None:
        """Write a batch as one message; its frame is made once for all connections."""
        if self._closing or self._transport is None:
            return
        if self._binary:
            self._transport.write(batch.binary_frame or binary_frame(batch))
        else:
            self._transport.write(batch.text_frame or text_frame(batch))

    def pause_reading(self) -> None:
        """Stop reading from the socket; idempotent."""
        if not self._reading_paused and not self._closing and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the socket again; idempotent."""
        if self._reading_paused:
            self._reading_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def close(self, reason: CloseReason) -> None:
        """Send Close behind everything sent so far, and wait for the peer's; idempotent."""
        self._send_close(reason.value)

    def abort(self) -> None:
        """Drop the peer at once; idempotent."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    async def finish(self, timeout: float) -> None:
        """Wait until the socket has closed, at most `timeout` seconds, then cut it; cancellation cuts it at once."""
        if self._transport is None:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout, self._cut)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self.abort()

    # -- inside -------------------------------------------------------------------------------------------------

    def _heed(self) -> None:
        """Act on control frames and broken rules."""
        reader = self._reader
        reader.notice = False
        transport = self._transport
        if transport is None:
            return
        if reader.failure is not None:
            self._give_up(transport, *reader.failure)
        elif reader.close_code is not None:
            self._send_close(CloseReason.NORMAL.value)
            self._tell(None)
            transport.close()
        elif reader.ping is not None and not self._blocked and not self._closing:
            transport.write(pong_frame(reader.ping))
            reader.ping = None

    def _give_up(self, transport: asyncio.Transport, code: int, text: str) -> None:
        self._send_close(code)
        self._tell(RemoteProtocolError(text, error_type="WebSocketException"))
        # Closing a socket that still receives resets it, and the peer might lose our Close frame. Ending only our
        # direction lets it read that frame first; `finish` bounds the wait for its own end.
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _cut(self) -> None:
        logger.debug("The peer did not finish the closing handshake in time.")
        self.abort()

    def _send_close(self, code: int) -> None:
        transport = self._transport
        if self._closing or transport is None:
            return
        self._closing = True
        self.resume_reading()
        transport.write(close_frame(code))

    def _tell(self, error: Exception | None) -> None:
        if not self._told:
            self._told = True
            self._listener.transport_lost(error)
