"""The rules of WebSockets with stateful reconnect: a connection that one socket after the other serves.

No request lives as long as the connection: its life is a task of the endpoint, and each request stays only as long as
its socket. A socket that was replaced is closed there, in good order or after `close_timeout`, and delays nobody.

Source: signalr-server sections 1.5 and 6.5.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.stateful import ClientSocket, StatefulConnection
from hubplane.connection.transport import TransportKind, TransportListener, WebSocketTransport
from hubplane.errors import ConnectionClosedError
from hubplane.transports.exchange import WebSocketExchange
from hubplane.transports.long_polling import StartTask
from hubplane.transports.registry import ConnectionEntry, ConnectionRegistry, EntryState
from hubplane.transports.websocket import SubProtocolSelector

__all__ = ["StatefulHub", "serve_stateful"]

logger = logging.getLogger(__name__)


class StatefulHub(Protocol):
    """What a hub with stateful reconnect offers its transports."""

    def connect_stateful(self, request: ConnectionRequest, connection_id: str) -> StatefulConnection:
        """Make the connection for a client that has reached us."""
        ...

    async def may_resume(self, connection: StatefulConnection, request: ConnectionRequest) -> bool:
        """Whether `request` may take the connection on: it comes from the same user, with a login that counts."""
        ...

    def resumed(self, connection: StatefulConnection, request: ConnectionRequest) -> float | None:
        """`request` becomes the connection's: when its login ends that, in monotonic seconds; None for never."""
        ...


async def serve_stateful(
    exchange: WebSocketExchange,
    entry: ConnectionEntry,
    *,
    registry: ConnectionRegistry,
    hub: StatefulHub,
    serve: Callable[[HubConnection], Awaitable[None]],
    start_task: StartTask,
    close_timeout: float,
    sub_protocol_selector: SubProtocolSelector | None = None,
) -> None:
    """Open a socket for a connection, its first or its next, and stay until it has closed; or reject it.

    Cancellation cuts the socket, and with it the connection.

    Args:
        exchange: The upgrade request.
        entry: The connection it names, which no other transport has claimed.
        registry: Where that is.
        hub: Makes the connection, and knows who may come back to it.
        serve: Runs the connection's life and returns after its goodbye.
        start_task: Starts that life.
        close_timeout: Seconds to wait for the peer's Close frame.
        sub_protocol_selector: Chooses a sub-protocol; None chooses none.
    """
    request = exchange.request
    chosen = None
    if sub_protocol_selector is not None:
        chosen = sub_protocol_selector(request.scope.get("subprotocols") or ())
    connection = entry.connection
    is_first = connection is None
    if connection is None:
        registry.claim(entry, TransportKind.WEB_SOCKETS)
        try:
            connection = entry.connection = hub.connect_stateful(request, entry.connection_id)
            socket = await _open(exchange, connection, chosen)
        except BaseException:
            registry.dispose(entry)
            raise
        if socket is None:
            registry.dispose(entry)
            return
    else:
        if not isinstance(connection, StatefulConnection) or not connection.can_resume:
            # Served without the feature, or at its end. Where only the hub's goodbye is left, nothing conflicts.
            is_gone = connection.closed and (connection.lost or connection.transport is None)
            await exchange.reject(204 if is_gone else 409, b"")
            return
        if not await hub.may_resume(connection, request):
            logger.warning(
                "A socket was refused: its login may not take the connection on.",
                extra={"connection_id": entry.connection_id},
            )
            await exchange.reject(403, b"")
            return
        socket = await _open(exchange, connection, chosen)
        if socket is None:
            return
    try:
        if is_first:
            _begin(connection, entry, registry, serve, start_task)
        else:
            connection.resume(socket, request, expires_at=hub.resumed(connection, request))
        await socket.over
        await exchange.finish(close_timeout)
    finally:
        socket.cut()
        if entry.state is EntryState.DISPOSED and connection.socket in {socket, None}:
            registry.dispose(entry)


def _begin(
    connection: StatefulConnection,
    entry: ConnectionEntry,
    registry: ConnectionRegistry,
    serve: Callable[[HubConnection], Awaitable[None]],
    start_task: StartTask,
) -> None:
    try:
        start_task(_live(connection, entry, registry, serve), "connection")
    except BaseException:
        registry.dispose(entry)
        raise
    if entry.upload is not None:  # a client may post before it connects, whatever it connects with
        entry.upload.attach(connection)


async def _open(
    exchange: WebSocketExchange, connection: StatefulConnection, sub_protocol: str | None
) -> ClientSocket | None:
    opened: list[ClientSocket] = []

    def take(transport: WebSocketTransport) -> TransportListener:
        opened.append(connection.take(transport))
        return opened[0]

    try:
        await exchange.accept(take, subprotocol=sub_protocol)
    except ConnectionClosedError:
        return None
    return opened[0]


async def _live(
    connection: StatefulConnection,
    entry: ConnectionEntry,
    registry: ConnectionRegistry,
    serve: Callable[[HubConnection], Awaitable[None]],
) -> None:
    try:
        await serve(connection)
    except BaseException:
        if connection.transport is not None:
            connection.transport.abort()
        raise
    finally:
        entry.state = EntryState.DISPOSED
        if connection.socket is None:
            registry.dispose(entry, timed_out=connection.timed_out)
        # Else the request of the socket does it, at the end of the closing handshake.
