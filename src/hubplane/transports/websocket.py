"""The rules of the WebSocket transport: claim the token, open the socket, serve, close.

Source: signalr-server sections 1.5 and 2.1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import Transport, TransportKind
from hubplane.errors import ConnectionClosedError
from hubplane.options import HttpTransportType
from hubplane.transports.exchange import WebSocketExchange
from hubplane.transports.ownership import Ownership
from hubplane.transports.registry import ConnectionEntry, ConnectionRegistry, EntryState

__all__ = ["SubProtocolSelector", "serve_websocket"]

SubProtocolSelector: TypeAlias = Callable[[Sequence[str]], str | None]
"""Chooses among the sub-protocols that a client offers; .NET's `WebSocketOptions.SubProtocolSelector`."""


async def serve_websocket(  # noqa: PLR0913 - its parts, by name
    exchange: WebSocketExchange,
    registry: ConnectionRegistry,
    *,
    ownership: Ownership,
    offered: HttpTransportType,
    new_id: Callable[[], str],
    connect: Callable[[ConnectionRequest, str, TransportKind], HubConnection],
    serve: Callable[[HubConnection], Awaitable[None]],
    close_timeout: float,
    sub_protocol_selector: SubProtocolSelector | None = None,
    serve_stateful: Callable[[WebSocketExchange, ConnectionEntry], Awaitable[None]] | None,
) -> None:
    """Open the socket and stay until it has closed, or reject it.

    Cancellation, and an exception of `serve`, cut the socket at once and are raised on.

    Args:
        exchange: The upgrade request.
        registry: Where negotiated connections are.
        ownership: Knows whose they are.
        offered: The transports of the hub.
        new_id: Makes the id of a connection that skipped negotiation.
        connect: Makes the connection from the request, its id and its transport.
        serve: Runs the connection's life and returns after its goodbye.
        close_timeout: Seconds to wait for the peer's Close frame.
        sub_protocol_selector: Chooses a sub-protocol; None chooses none.
        serve_stateful: Does the same for an entry to which stateful reconnect was promised; None promises nobody.
    """
    # One coroutine for all of it: its frame stays in memory as long as the connection.
    entry = _claim(exchange.request, registry, ownership, offered, new_id)
    if not isinstance(entry, ConnectionEntry):
        status, body, content_type = entry
        await exchange.reject(status, body, content_type=content_type)
        return
    if entry.is_stateful and serve_stateful is not None:
        await serve_stateful(exchange, entry)
        return
    try:
        connection = entry.connection = connect(exchange.request, entry.connection_id, TransportKind.WEB_SOCKETS)
        try:
            chosen = None
            if sub_protocol_selector is not None:
                chosen = sub_protocol_selector(exchange.request.scope.get("subprotocols") or ())
            transport = await exchange.accept(partial(_attach, connection), subprotocol=chosen)
        except ConnectionClosedError:
            return
        if entry.upload is not None:  # a client may post before it connects, whatever it connects with
            entry.upload.attach(connection)
        try:
            await serve(connection)
            entry.state = EntryState.DISPOSED
            await exchange.finish(close_timeout)
        finally:
            transport.abort()
    finally:
        registry.dispose(entry)


def _claim(
    request: ConnectionRequest,
    registry: ConnectionRegistry,
    ownership: Ownership,
    offered: HttpTransportType,
    new_id: Callable[[], str],
) -> ConnectionEntry | tuple[int, bytes, str | None]:
    """The entry this WebSocket may use, or status, body and media type of the answer that rejects it.

    The entry is claimed, unless stateful reconnect was promised.
    """
    token = request.query_value("id")
    entry = registry.get(token) if token else None
    if token and entry is None:
        return 404, b"No Connection with that ID", None
    if not offered & HttpTransportType.WEB_SOCKETS:
        return 404, b"WebSockets transport not supported by this end point type", "text/plain"
    if entry is None:
        return registry.add_active(new_id(), TransportKind.WEB_SOCKETS)
    if not ownership.admits(entry, request, claims=True):
        return 403, b"", None
    if entry.kind not in {None, TransportKind.WEB_SOCKETS}:
        return 400, b"Cannot change transports mid-connection", "text/plain"
    if entry.is_stateful:
        return entry
    if entry.state is not EntryState.INACTIVE:
        return 409 if entry.state is EntryState.ACTIVE else 404, b"", "text/plain"
    registry.claim(entry, TransportKind.WEB_SOCKETS)
    return entry


def _attach(connection: HubConnection, transport: Transport) -> HubConnection:
    connection.attach(transport)
    return connection
