"""Method, path and upgrade -> the room that answers.

Source: signalr-server sections 1.1 and 1.5.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any  # what a coroutine yields and is sent is the event loop's matter

from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import TransportKind
from hubplane.errors import ConnectionClosedError
from hubplane.ids import IdSource
from hubplane.options import HttpTransportType, TransportOptions
from hubplane.transports.exchange import HttpExchange, LoginRefresh, WebSocketExchange
from hubplane.transports.long_polling import NO_CACHE, LongPolling, StartTask, serve_poll
from hubplane.transports.negotiate import negotiate
from hubplane.transports.ownership import Ownership
from hubplane.transports.redirect import NegotiateHook, answered_by
from hubplane.transports.registry import ConnectionEntry, ConnectionRegistry, EntryState
from hubplane.transports.server_sent_events import serve_events
from hubplane.transports.stateful import StatefulHub, serve_stateful
from hubplane.transports.websocket import SubProtocolSelector, serve_websocket

__all__ = ["TransportRouter"]

_NEGOTIATE = "negotiate"
_REFRESH = "refresh"


class TransportRouter:
    """Answers every request of one hub.

    Args:
        registry: The hub's connections in this process.
        options: What is offered, and the limits.
        connect: Makes a connection from its request, public id and transport; called when that has claimed it.
        serve: Runs a connection's life and returns after its goodbye.
        ids: Makes ids and tokens.
        clock: For the transports' own time limits.
        start_task: Starts a task of the hub: the life of a connection that is not bound to one request.
        ownership: Knows whose the connections are.
        renew: Told about each later request of a connection without a socket, whose login may be a newer one.
        negotiate_hook: Asked before a negotiate request is answered.
        refresh: Gives connections new logins; None where there is no such thing.
        sub_protocol_selector: Chooses a WebSocket sub-protocol; None chooses none.
        stateful: Serves clients with stateful reconnect; None to agree to none.
    """

    __slots__ = (
        "_clock",
        "_connect",
        "_ids",
        "_negotiate_hook",
        "_options",
        "_ownership",
        "_refresh",
        "_registry",
        "_renew",
        "_serve",
        "_serve_stateful",
        "_start_task",
        "_sub_protocol_selector",
    )

    def __init__(  # noqa: PLR0913 - the parts of a router, by name
        self,
        registry: ConnectionRegistry,
        options: TransportOptions,
        connect: Callable[[ConnectionRequest, str, TransportKind], HubConnection],
        serve: Callable[[HubConnection], Awaitable[None]],
        *,
        ids: IdSource,
        clock: Clock,
        start_task: StartTask,
        ownership: Ownership,
        renew: Callable[[HubConnection, ConnectionRequest], None],
        negotiate_hook: NegotiateHook | None = None,
        refresh: LoginRefresh | None = None,
        sub_protocol_selector: SubProtocolSelector | None = None,
        stateful: StatefulHub | None = None,
    ) -> None:
        self._registry = registry
        self._options = options
        self._connect = connect
        self._serve = serve
        self._ids = ids
        self._clock = clock
        self._start_task = start_task
        self._ownership = ownership
        self._renew = renew
        self._negotiate_hook = negotiate_hook
        self._refresh = refresh
        self._sub_protocol_selector = sub_protocol_selector
        self._serve_stateful: Callable[[WebSocketExchange, ConnectionEntry], Awaitable[None]] | None = None
        if stateful is not None:
            self._serve_stateful = partial(
                serve_stateful,
                registry=registry,
                hub=stateful,
                serve=serve,
                start_task=start_task,
                close_timeout=options.close_timeout,
                sub_protocol_selector=sub_protocol_selector,
            )

    async def http(self, exchange: HttpExchange, subpath: str = "") -> None:
        """Answer one HTTP request.

        Args:
            exchange: The request.
            subpath: What follows the hub's path, with or without its slash: ``negotiate``, ``refresh`` or nothing.
        """
        subpath = subpath.strip("/")
        method = exchange.request.scope["method"]
        if subpath == _NEGOTIATE:
            if method != "POST":
                await exchange.respond(405)
            elif self._negotiate_hook is None or not await answered_by(self._negotiate_hook, exchange):
                await negotiate(
                    exchange,
                    self._registry,
                    ownership=self._ownership,
                    offered=self._options.transports,
                    minimum_version=self._options.minimum_protocol_version,
                    stateful_reconnect=self._serve_stateful is not None,
                    ids=self._ids,
                    token_lifetime=self._lifetime(exchange.request),
                )
        elif subpath == _REFRESH and self._refresh is not None:
            await self._refresh.handle(exchange)
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
            ownership=self._ownership,
            offered=self._options.transports,
            new_id=self._ids.connection_id,
            connect=self._connect,
            serve=self._serve,
            close_timeout=self._options.close_timeout,
            sub_protocol_selector=self._sub_protocol_selector,
            serve_stateful=self._serve_stateful,
        )

    def _lifetime(self, request: ConnectionRequest) -> int | None:
        refresh = self._refresh
        return refresh.lifetime(request) if refresh is not None and refresh.is_enabled else None

    async def _get(self, exchange: HttpExchange) -> None:
        wants_events = _accepts_event_stream(exchange.request)
        headers = () if wants_events else NO_CACHE
        entry = await self._find(exchange, headers, claims=True)
        if entry is None:
            return
        kind = TransportKind.SERVER_SENT_EVENTS if wants_events else TransportKind.LONG_POLLING
        wanted = HttpTransportType.SERVER_SENT_EVENTS if wants_events else HttpTransportType.LONG_POLLING
        if not self._options.transports & wanted:
            text = f"{kind.value} transport not supported by this end point type"
            await exchange.respond(404, text.encode("ascii"), headers=headers)
        elif wants_events:
            await serve_events(
                exchange,
                entry,
                self._registry,
                connect=self._connect,
                serve=self._serve,
                close_timeout=self._options.close_timeout,
            )
        elif await self._may_poll(entry, exchange.request):
            await serve_poll(
                exchange,
                entry,
                self._registry,
                options=self._options,
                clock=self._clock,
                connect=self._connect,
                serve=self._serve,
                start_task=self._start_task,
            )
        else:
            body = b'{"error":"permission_change_rejected"}'
            await exchange.respond(403, body, content_type="application/json", headers=headers)

    async def _may_poll(self, entry: ConnectionEntry, request: ConnectionRequest) -> bool:
        """A poll may bring a new login; whether the application takes it."""
        if self._refresh is None or entry.connection is None or entry.kind is not TransportKind.LONG_POLLING:
            return True
        return await self._refresh.reauthenticate(entry.connection, request)

    async def _post(self, exchange: HttpExchange) -> None:
        entry = await self._find(exchange)
        if entry is None:
            return
        if entry.kind is TransportKind.WEB_SOCKETS:
            await exchange.respond(405, b"POST requests are not allowed for WebSocket connections.")
            return
        try:
            taken = entry.state is not EntryState.DISPOSED and await self._registry.upload_of(entry).take(exchange)
        except ConnectionClosedError:
            await exchange.respond(400)
            return
        await exchange.respond(200 if taken else 404)

    async def _delete(self, exchange: HttpExchange) -> None:
        entry = await self._find(exchange)
        if entry is None:
            return
        connection = entry.connection
        if connection is None or not isinstance(connection.transport, LongPolling):
            await exchange.respond(400, b"Cannot terminate this connection using the DELETE endpoint.")
            return
        connection.transport.delete()
        connection.end(None, allow_reconnect=True)
        await exchange.respond(202)

    async def _find(
        self, exchange: HttpExchange, headers: tuple[tuple[str, str], ...] = (), *, claims: bool = False
    ) -> ConnectionEntry | None:
        token = exchange.request.query_value("id")
        if not token:
            await exchange.respond(400, b"Connection ID required", headers=headers)
            return None
        entry = self._registry.get(token)
        if entry is None:
            await exchange.respond(404, b"No Connection with that ID", headers=headers)
        elif not self._ownership.admits(entry, exchange.request, claims=claims):
            await exchange.respond(403, headers=headers)
            return None
        elif entry.connection is not None and entry.kind is not TransportKind.WEB_SOCKETS:
            self._renew(entry.connection, exchange.request)
        return entry


def _accepts_event_stream(request: ConnectionRequest) -> bool:
    # Only the bare media type counts: "text/event-stream;q=0.9" does not match (signalr-server section 1.1).
    return any(
        media_type.strip().lower() == "text/event-stream"
        for name, value in request.headers
        if name == "accept"
        for media_type in value.split(",")
    )
