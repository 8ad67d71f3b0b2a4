"""One WebSocket over ASGI's scope, receive and send: the edge that runs under any server.

Two tasks per connection, owned by its exchange, move bytes between the server's awaitables and the connection's
callbacks: one receives, one sends. What a full socket holds up waits here up to a high-water mark; above it the
connection is told to keep what it has.

What ASGI does not let an application do: read Close frames' codes before the server has answered them, drop a peer
without a closing handshake (`abort` leaves that to the server, once the application has returned), or wait for the
peer's Close frame (the server does).

Source: the ASGI 3 WebSocket specification and its "websocket.http.response" extension.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol  # ASGI messages hold what servers and middleware put there

from hubplane.asgi.http import Receive, Scope, Send
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import (
    CloseReason,
    OutboundBatch,
    TransportKind,
    TransportListener,
    WebSocketTransport,
)
from hubplane.errors import ConnectionClosedError
from hubplane.supervisor import Supervisor
from hubplane.transports.exchange import WebSocketExchange
from hubplane.transports.pump import Pump

__all__ = ["NATIVE_EXTENSION", "AsgiWebSocketExchange", "AsgiWebSocketTransport", "NativeOffer", "open_websocket"]

logger = logging.getLogger(__name__)

NATIVE_EXTENSION = "hubplane.native"
"""The key in ``scope["extensions"]`` under which the fast edge offers the socket itself."""

# What servers raise when the peer is gone: OSError by the specification since 2.4, RuntimeError in older ones.
_GONE = (OSError, RuntimeError)

_HIGH_WATER = 65_536
_LOW_WATER = 16_384


class NativeOffer(Protocol):
    """What the fast edge puts into the scope."""

    def take(self, scope: Mapping[str, Any]) -> WebSocketExchange | None:
        """The exchange of the socket itself, with `scope` as its request.

        None when a middleware has already received or sent through ASGI; then ASGI has to be used.
        """
        ...


def open_websocket(scope: Scope, receive: Receive, send: Send) -> WebSocketExchange:
    """The fast edge's exchange where the server offers one, else one over ASGI."""
    offer: NativeOffer | None = (scope.get("extensions") or {}).get(NATIVE_EXTENSION)
    native = offer.take(scope) if offer is not None else None
    return AsgiWebSocketExchange(scope, receive, send) if native is None else native


class AsgiWebSocketExchange:
    """`WebSocketExchange` of one ASGI ``websocket`` scope."""

    __slots__ = ("_receive", "_request", "_send", "_supervisor", "_transport")

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self._request = ConnectionRequest(scope)
        self._receive = receive
        self._send = send
        self._supervisor = Supervisor("websocket")
        self._transport: AsgiWebSocketTransport | None = None

    @property
    def request(self) -> ConnectionRequest:
        """The request's scope."""
        return self._request

    async def reject(self, status: int, body: bytes, *, content_type: str | None = "text/plain") -> None:
        """Answer the upgrade request with an HTTP status.

        Servers without the "websocket.http.response" extension answer 403 whatever the status.
        """
        await self._receive()  # "websocket.connect", which comes first
        if "websocket.http.response" in (self._request.scope.get("extensions") or {}):
            headers = [] if content_type is None else [(b"content-type", content_type.encode("latin-1"))]
            headers.append((b"content-length", b"%d" % len(body)))
            await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})
            await self._send({"type": "websocket.http.response.body", "body": body})
        else:
            await self._send({"type": "websocket.close", "code": 1000})

    async def accept(
        self, connect: Callable[[WebSocketTransport], TransportListener], *, subprotocol: str | None = None
    ) -> WebSocketTransport:
        """Complete the upgrade; data goes to the listener that `connect` returns.

        Raises:
            ConnectionClosedError: The peer went away meanwhile.
        """
        message = await self._receive()
        if message["type"] != "websocket.connect":
            raise ConnectionClosedError("", "The client went away before the WebSocket was open.")
        try:
            await self._send({"type": "websocket.accept", "subprotocol": subprotocol})
        except _GONE as error:
            raise ConnectionClosedError("", "The client went away before the WebSocket was open.") from error
        transport = self._transport = AsgiWebSocketTransport(self._receive, self._send, connect)
        transport.start(self._supervisor)
        return transport

    async def finish(self, timeout: float) -> None:
        """Wait until everything is sent and the Close handed to the server, at most `timeout` seconds, then stop.

        The server itself waits for the peer's Close frame. Cancellation stops at once.
        """
        transport = self._transport
        if transport is None:
            return
        try:
            await transport.wait_ended(timeout)
        finally:
            transport.abort()
            await self._supervisor.close()


class AsgiWebSocketTransport:
    """`Transport` over ASGI's awaitables.

    Attributes:
        torn: See `WebSocketTransport`.
    """

    __slots__ = (
        "_binary",
        "_blocked",
        "_close_code",
        "_listener",
        "_outgoing",
        "_pump",
        "_receive",
        "_send",
        "_size",
        "_unpaused",
        "torn",
    )

    def __init__(
        self, receive: Receive, send: Send, connect: Callable[[WebSocketTransport], TransportListener]
    ) -> None:
        self._receive = receive
        self._send = send
        self._binary = False
        self._outgoing: list[tuple[bytes, bool]] = []
        self._size = 0
        self._blocked = False
        self._close_code: int | None = None
        self._pump = Pump()
        self._unpaused: asyncio.Future[None] | None = None
        self.torn = False
        self._listener = connect(self)

    def start(self, supervisor: Supervisor) -> None:
        """Start moving bytes; the tasks belong to `supervisor`."""
        self._pump.start(supervisor, self._receive_all(), "receive")
        self._pump.start(supervisor, self._send_all(), "send")

    @property
    def kind(self) -> TransportKind:
        """WebSockets."""
        return TransportKind.WEB_SOCKETS

    def set_binary(self, binary: bool) -> None:  # noqa: FBT001 - mirrors the wire's two opcodes
        """Frame what follows as binary (messagepack) or text (json); text until it is called."""
        self._binary = binary

    def send(self, batch: OutboundBatch) -> None:
        """Hand a batch to the sending task; above 64 KiB waiting the listener is asked to pause."""
        if self._pump.ended or self._close_code is not None:
            return
        self._outgoing.append((batch.payload, self._binary))
        self._size += len(batch.payload)
        self._pump.wake()
        if self._size > _HIGH_WATER and not self._blocked:
            self._blocked = True
            self._listener.pause_writing()

    def pause_reading(self) -> None:
        """Take nothing more from the server, which then stops reading itself."""
        if self._unpaused is None and not self._pump.ended:
            self._unpaused = asyncio.get_running_loop().create_future()

    def resume_reading(self) -> None:
        """Take what arrives again."""
        waiter, self._unpaused = self._unpaused, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def close(self, reason: CloseReason) -> None:
        """Begin the closing handshake behind everything sent so far; idempotent."""
        if self._close_code is None and not self._pump.ended:
            self._close_code = reason.value
            self.resume_reading()
            self._pump.wake()

    def abort(self) -> None:
        """Stop at once; the server drops the peer when the application returns."""
        self._end()

    async def wait_ended(self, timeout: float) -> None:
        """Return when the transport has ended, or after `timeout` seconds."""
        if not await self._pump.wait_ended(timeout):
            logger.debug("The peer did not take what was written before its Close frame.")

    async def _receive_all(self) -> None:
        try:
            while True:
                if self._unpaused is not None:
                    await self._unpaused
                message = await self._receive()
                if message["type"] != "websocket.receive":
                    self.torn = self._close_code is None and _broke_off(message)
                    return
                data = message.get("bytes")
                if data is None:
                    data = message["text"].encode()
                if data and self._close_code is None:
                    self._listener.data_received(data)
        except _GONE:
            self.torn = self._close_code is None
            logger.debug("The server lost the client while receiving.", exc_info=True)
        finally:
            self._end()

    async def _send_all(self) -> None:
        try:
            while True:
                if self._outgoing:
                    await self._send_pending()
                elif self._close_code is not None:
                    await self._send({"type": "websocket.close", "code": self._close_code})
                    return
                else:
                    await self._pump.sleep()
        except _GONE:
            self.torn = self._close_code is None
            logger.debug("The server lost the client while sending.", exc_info=True)
        finally:
            self._end()

    async def _send_pending(self) -> None:
        """One frame for everything of one kind that waits: whole hub messages, joined."""
        outgoing, self._outgoing = self._outgoing, []
        size, at = self._size, 0
        while at < len(outgoing):
            binary = outgoing[at][1]
            end = at + 1
            while end < len(outgoing) and outgoing[end][1] is binary:
                end += 1
            payload = outgoing[at][0] if end == at + 1 else b"".join([item[0] for item in outgoing[at:end]])
            if binary:
                await self._send({"type": "websocket.send", "bytes": payload})
            else:
                await self._send({"type": "websocket.send", "text": payload.decode()})
            at = end
        self._size -= size
        if self._blocked and self._size < _LOW_WATER and not self._pump.ended:
            self._blocked = False
            self._listener.resume_writing()

    def _end(self) -> None:
        if self._pump.end():
            self._outgoing.clear()
            self.resume_reading()
            self._listener.transport_lost(None)


def _broke_off(message: Mapping[str, Any]) -> bool:
    """Whether a "websocket.disconnect" means that no Close frame came.

    That is code 1006. uvicorn also says 1005, which stands for a frame without a code; but where there was a frame it
    gives its reason, however empty.
    """
    code = message.get("code", 1005)
    return code == 1006 or (code == 1005 and message.get("reason") is None)
