"""The class for uvicorn's ``ws`` hook: every WebSocket goes through the app; hubs then take the socket itself.

An upgrade request becomes an ASGI scope, and the app runs as ever: middleware, mounts, authentication. The scope
carries an offer, ``scope["extensions"]["hubplane.native"]``. A hub endpoint takes it and has the socket on the event
loop's callbacks from then on. When anything receives or sends through ASGI instead, uvicorn's own WebSocket class is
given the request as if it had got it first, and serves it.

Source: uvicorn's contract for ``ws`` classes, 0.36 to 0.54; design: docs/decisions/0002-frames-on-the-fast-edge.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, cast  # ASGI scopes and messages hold what servers and middleware put there

from uvicorn.config import Config
from uvicorn.protocols.utils import get_client_addr, get_local_addr, get_remote_addr, is_ssl
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import TransportListener, WebSocketTransport
from hubplane.errors import ConnectionClosedError, LocalProtocolError
from hubplane.server.upgrade import Upgrade, accepted_head, parse_upgrade, rejected_head
from hubplane.server.websocket import FastWebSocket
from hubplane.supervisor import Supervisor

__all__ = ["HubWebSocketProtocol"]

# uvicorn's logger, so that our lines stand among its own, as for any other WebSocket.
logger = logging.getLogger("uvicorn.error")

# More than a client may send before its WebSocket is open, which is nothing.
_EARLY_LIMIT = 65_536


class HubWebSocketProtocol(asyncio.Protocol):
    """Use it as ``uvicorn --ws hubplane.server:HubWebSocketProtocol``, or ``Config(ws=HubWebSocketProtocol)``.

    It lives from the upgrade request to the decision who serves the WebSocket, and as a hub's `WebSocketExchange` until
    the app returns.
    """

    __slots__ = (
        "_app_done",
        "_app_state",
        "_config",
        "_early",
        "_head",
        "_key",
        "_left_kind",
        "_lost",
        "_previous",
        "_request",
        "_server_state",
        "_successor",
        "_task",
        "_transport",
    )

    # Tasks end with their connection, and uvicorn waits for them or cancels them: they are in its set too.
    _supervisor = Supervisor("websocket request")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._transport = cast("asyncio.Transport", None)
        self._previous: asyncio.BaseProtocol | None = None
        self._head = b""
        self._early = b""
        self._key = b""
        self._left_kind = "websocket.connect"
        self._lost = False
        self._request: ConnectionRequest | None = None
        self._successor: FastWebSocket | WebSocketsSansIOProtocol | None = None
        self._app_done: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    # -- what the event loop and uvicorn's HTTP protocol call ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The HTTP protocol hands its socket over."""
        self._transport = cast("asyncio.Transport", transport)
        self._previous = self._transport.get_protocol()
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """First the whole head of the upgrade request; later, what is too early or belongs to the successor."""
        if self._successor is not None:
            # The HTTP protocol has set this protocol only after the successor was in place.
            self._transport.set_protocol(self._successor)
            self._successor.data_received(data)
        elif self._head:
            self._early += data
            if len(self._early) > _EARLY_LIMIT:
                self._transport.abort()
        else:
            head, end, self._early = data.partition(b"\r\n\r\n")
            self._head = head + end
            upgrade = parse_upgrade(self._head) if end else None
            if upgrade is None:
                self._hand_over()
            else:
                self._key = upgrade.key
                self._start(self._scope(upgrade))

    def eof_received(self) -> None:
        """The peer writes no more; the event loop closes the socket."""

    def pause_writing(self) -> None:
        """The socket's buffer is over its high-water mark."""
        if self._successor is not None:
            self._successor.pause_writing()

    def resume_writing(self) -> None:
        """The socket's buffer has drained."""
        if self._successor is not None:
            self._successor.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket has closed before anybody took it."""
        if self._successor is not None:
            self._successor.connection_lost(exc)
        self._lost = True
        self._connections.discard(self)

    def shutdown(self) -> None:
        """The server stops: a request that nobody has answered gets an error."""
        self._answer(500, b"Internal Server Error", "text/plain")

    # -- WebSocketExchange --------------------------------------------------------------------------------------

    def take(self, scope: Mapping[str, Any]) -> HubWebSocketProtocol | None:
        """The offer in the scope: this exchange, with the scope as the endpoint sees it.

        None when uvicorn's own class has the socket already, because a middleware has received or sent.
        """
        if self._successor is not None or self._request is not None:
            return None
        self._request = ConnectionRequest(scope)
        return self

    @property
    def request(self) -> ConnectionRequest:
        """The request's scope.

        Raises:
            LocalProtocolError: The offer has not been taken.
        """
        if self._request is None:
            raise LocalProtocolError("The socket has not been taken from the server.")
        return self._request

    async def reject(self, status: int, body: bytes, *, content_type: str | None = "text/plain") -> None:
        """Answer the upgrade request with an HTTP status, and close the socket."""
        self._log(str(status))
        self._answer(status, body, content_type)

    async def accept(
        self, connect: Callable[[WebSocketTransport], TransportListener], *, subprotocol: str | None = None
    ) -> WebSocketTransport:
        """Complete the upgrade and switch the socket to the hub connection; data goes to what `connect` returns.

        Raises:
            ConnectionClosedError: The peer went away meanwhile.
        """
        transport = self._transport
        if self._lost or transport.is_closing():
            raise ConnectionClosedError("", "The client went away before the WebSocket was open.")
        self._log("[accepted]")
        successor = self._successor = FastWebSocket(transport, connect, self._connections)
        self._connections.discard(self)
        transport.write(accepted_head(self._key, _lines(self._server_state.default_headers), subprotocol))
        transport.set_protocol(successor)
        early, self._early, self._head, self._key = self._early, b"", b"", b""
        if early:
            successor.data_received(early)
        return successor

    async def finish(self, timeout: float) -> None:
        """Wait until the socket has closed, at most `timeout` seconds, then cut it; cancellation cuts it at once."""
        if isinstance(self._successor, FastWebSocket):
            await self._successor.finish(timeout)

    # -- the app ------------------------------------------------------------------------------------------------

    def _scope(self, upgrade: Upgrade) -> dict[str, Any]:
        config = self._config
        transport = self._transport
        root_path = config.root_path
        try:
            # The HTTP protocol has asked the system already.
            server, client = cast("Any", self._previous).server, cast("Any", self._previous).client
        except AttributeError:
            server, client = get_local_addr(transport), get_remote_addr(transport)
        return {
            "type": "websocket",
            "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(transport) else "ws",
            "server": server,
            "client": client,
            "root_path": root_path,
            "path": root_path + upgrade.path,
            "raw_path": root_path.encode("ascii") + upgrade.raw_path,
            "query_string": upgrade.query_string,
            "headers": upgrade.headers,
            "subprotocols": upgrade.subprotocols,
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, "hubplane.native": self},
        }

    def _start(self, scope: dict[str, Any]) -> None:
        context = Context() if getattr(self._config, "reset_contextvars", False) else None
        self._task = self._supervisor.start(self._run(scope), "app", context=context)
        self._server_state.tasks.add(self._task)

    async def _run(self, scope: dict[str, Any]) -> None:
        failure: Exception | None = None
        # The HTTP protocol and its parser hold each other. It is done; now both go without the garbage collector.
        previous, self._previous = self._previous, None
        if hasattr(previous, "parser"):
            cast("Any", previous).parser = None
        del previous
        try:
            # The app's type is any ASGI version's; by now it is version 3.
            await cast("Any", self._config.loaded_app)(scope, self._receive, self._send)
        except asyncio.CancelledError:
            if self._app_done is not None:
                self._app_done.cancel()
            self._transport.abort()
            raise
        except Exception as error:  # noqa: BLE001 - the boundary of the app's task; it is logged at the end
            failure = error
        finally:
            scope["extensions"].pop("hubplane.native", None)  # else scope and exchange hold each other
            if self._task is not None:
                self._server_state.tasks.discard(self._task)
                self._task = None
        self._app_returned(failure)

    def _app_returned(self, failure: Exception | None) -> None:
        if self._app_done is not None:
            # uvicorn's class runs what it takes for the app: it ends as the app did, and the class reports it.
            if not self._app_done.done():
                if failure is None:
                    self._app_done.set_result(None)
                else:
                    self._app_done.set_exception(failure)
                    # When the class has refused the request, it never runs the app, and nobody looks.
                    self._app_done.exception()
            return
        if failure is not None:
            logger.error("Exception in ASGI application\n", exc_info=failure)
        elif not self._answered:
            logger.error("ASGI callable returned without completing handshake.")
        self._answer(500, b"Internal Server Error", "text/plain; charset=utf-8")
        self._transport.close()

    @property
    def _answered(self) -> bool:
        return self._lost or self._successor is not None or self._transport.is_closing()

    # -- uvicorn's own class ------------------------------------------------------------------------------------

    async def _receive(self) -> Any:
        if self._left:
            kind, self._left_kind = self._left_kind, "websocket.disconnect"
            return {"type": kind} if kind == "websocket.connect" else {"type": kind, "code": 1006, "reason": ""}
        return await self._asgi().receive()

    async def _send(self, message: Any) -> None:
        if not self._left:
            await self._asgi().send(message)

    @property
    def _left(self) -> bool:
        """Whether the client has left before anybody decided; to the app that is as usual as if it left later."""
        return self._lost and self._successor is None and self._request is None

    def _asgi(self) -> WebSocketsSansIOProtocol:
        successor = self._successor
        if isinstance(successor, WebSocketsSansIOProtocol):
            return successor
        if self._request is not None:
            raise ConnectionClosedError("", "The WebSocket is not served through ASGI.")
        self._app_done = asyncio.get_running_loop().create_future()
        return self._hand_over()

    def _hand_over(self) -> WebSocketsSansIOProtocol:
        """Let uvicorn's class serve the request, as if it had got it first."""
        successor = WebSocketsSansIOProtocol(self._config, self._server_state, self._app_state)
        if self._app_done is not None:
            successor.app = self._await_app
        self._successor = successor
        self._connections.discard(self)
        successor.connection_made(self._transport)
        self._transport.set_protocol(successor)
        successor.data_received(self._head + self._early)
        self._head = self._early = b""
        return successor

    async def _await_app(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app_done is not None:
            await self._app_done

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def _connections(self) -> set[Any]:
        # uvicorn's set names its own classes; it calls nothing but shutdown() on them.
        return cast("set[Any]", self._server_state.connections)

    def _answer(self, status: int, body: bytes, content_type: str | None) -> None:
        transport = self._transport
        if self._lost or transport.is_closing() or self._successor is not None:
            return
        fields = _lines(self._server_state.default_headers)
        transport.write(rejected_head(status, fields, content_type, len(body)) + body)
        transport.close()

    def _log(self, outcome: str) -> None:
        # Unlike uvicorn's line this one leaves the query out: it holds the connection's token.
        if logger.isEnabledFor(logging.INFO) and self._request is not None:
            scope = cast("Any", self._request.scope)
            logger.info('%s - "WebSocket %s" %s', get_client_addr(scope), self._request.path, outcome)


def _lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Header lines of what uvicorn adds to each answer: the date, its name, and what it was told to."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])
