"""Method, path and upgrade -> the room that answers.

Source: signalr-server sections 1.1 and 1.5.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any  # what a coroutine yields and is sent is the event loop's matter

from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import TransportKind
from hubplane.ids import IdSource
from hubplane.options import HttpTransportType, TransportOptions
from hubplane.transports.exchange import HttpExchange, WebSocketExchange
from hubplane.transports.negotiate import negotiate
from hubplane.transports.registry import ConnectionEntry, ConnectionRegistry
from hubplane.transports.websocket import serve_websocket

__all__ = ["TransportRouter"]

# The transports that have a room here. Others count as switched off, whatever the options say.
_IMPLEMENTED = HttpTransportType.WEB_SOCKETS

_NEGOTIATE = "negotiate"

_NO_CACHE = (
    ("cache-control", "no-cache, no-store"),
    ("pragma", "no-cache"),
    ("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
)


class TransportRouter:
    """Answers every request of one hub.

    Args:
        registry: The hub's connections in this process.
        options: What is offered, and the limits.
        connect: Makes a connection from its request and public id; called when a transport has claimed it.
        serve: Runs a connection's life and returns after its goodbye.
        ids: Makes ids and tokens.
        clock: For the transports' own time limits; WebSockets have none.
        stateful_reconnect: Whether negotiate may agree to stateful reconnect.
    """

    __slots__ = ("_connect", "_ids", "_offered", "_options", "_registry", "_serve", "_stateful_reconnect")

    def __init__(
        self,
        registry: ConnectionRegistry,
        options: TransportOptions,
        connect: Callable[[ConnectionRequest, str], HubConnection],
        serve: Callable[[HubConnection], Awaitable[None]],
        *,
        ids: IdSource,
        clock: Clock,
        stateful_reconnect: bool = False,
    ) -> None:
        self._registry = registry
        self._options = options
        self._connect = connect
        self._serve = serve
        self._ids = ids
        self._offered = options.transports & _IMPLEMENTED
        self._stateful_reconnect = stateful_reconnect

    async def http(self, exchange: HttpExchange, subpath: str = "") -> None:
        """Answer one HTTP request.

        Args:
            exchange: The request.
            subpath: What follows the hub's path, with or without its slash: ``negotiate`` or nothing.
        """
        subpath = subpath.strip("/")
        method = exchange.request.scope["method"]
        if subpath == _NEGOTIATE:
            if method == "POST":
                await negotiate(
                    exchange,
                    self._registry,
                    offered=self._offered,
                    minimum_version=self._options.minimum_protocol_version,
                    stateful_reconnect=self._stateful_reconnect,
                    ids=self._ids,
                )
            else:
                await exchange.respond(405)
        elif subpath:
            await exchange.respond(404, content_type=None)
        elif method == "GET":
            await self._get(exchange)
        elif method == "POST":
            await self._post(exchange)
        elif method == "DELETE":
            await self._delete(exchange)
        else:
            await exchange.respond(405)

    def websocket(self, exchange: WebSocketExchange, subpath: str = "") -> Coroutine[Any, Any, None]:
        """Answer one WebSocket request; the coroutine returns when the connection is over.

        Cancellation cuts the connection.

        Args:
            exchange: The upgrade request.
            subpath: As for `http`.
        """
        subpath = subpath.strip("/")
        if subpath == _NEGOTIATE:
            return exchange.reject(405, b"")
        if subpath:
            return exchange.reject(404, b"", content_type=None)
        return serve_websocket(
            exchange,
            self._registry,
            offered=self._offered,
            new_id=self._ids.connection_id,
            connect=self._connect,
            serve=self._serve,
            close_timeout=self._options.close_timeout,
        )

    async def _get(self, exchange: HttpExchange) -> None:
        wants_events = _accepts_event_stream(exchange.request)
        headers = () if wants_events else _NO_CACHE
        if await self._find(exchange, headers) is None:
            return
        kind = TransportKind.SERVER_SENT_EVENTS if wants_events else TransportKind.LONG_POLLING
        text = f"{kind.value} transport not supported by this end point type"
        await exchange.respond(404, text.encode("ascii"), headers=headers)

    async def _post(self, exchange: HttpExchange) -> None:
        # While WebSockets are the only transport, an unclaimed connection can only become one of them.
        if await self._find(exchange) is not None:
            await exchange.respond(405, b"POST requests are not allowed for WebSocket connections.")

    async def _delete(self, exchange: HttpExchange) -> None:
        if await self._find(exchange) is not None:
            await exchange.respond(400, b"Cannot terminate this connection using the DELETE endpoint.")

    async def _find(self, exchange: HttpExchange, headers: tuple[tuple[str, str], ...] = ()) -> ConnectionEntry | None:
        token = exchange.request.query_value("id")
        if not token:
            await exchange.respond(400, b"Connection ID required", headers=headers)
            return None
        entry = self._registry.get(token)
        if entry is None:
            await exchange.respond(404, b"No Connection with that ID", headers=headers)
        return entry


def _accepts_event_stream(request: ConnectionRequest) -> bool:
    # Only the bare media type counts: "text/event-stream;q=0.9" does not match (signalr-server section 1.1).
    return any(
        media_type.strip().lower() == "text/event-stream"
        for name, value in request.headers
        if name == "accept"
        for media_type in value.split(",")
    )
