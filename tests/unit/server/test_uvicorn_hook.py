"""uvicorn's hook: the app runs as ever, a hub takes the socket, anything else is served by uvicorn's own class."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any  # ASGI scopes and messages, and the stand-ins of the conftest

import pytest
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from hubplane.asgi.websocket import AsgiWebSocketExchange, open_websocket
from hubplane.errors import ConnectionClosedError, LocalProtocolError
from hubplane.server import HubWebSocketProtocol
from hubplane.server.websocket import FastWebSocket

App = Callable[[Any, Any, Any], Awaitable[None]]

HEAD = (
    b"GET /hub%20a?id=secret HTTP/1.1\r\nhost: example.com\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-own: 1\r\n\r\n"
)
TEXT, CLOSE = 1, 8


class HttpProtocol(asyncio.Protocol):
    """Stands for uvicorn's HTTP protocol, which hands its socket over."""

    def __init__(self) -> None:
        self.server = ("192.0.2.2", 80)
        self.client = ("192.0.2.1", 4711)
        self.parser: object | None = object()


class Node:
    """A uvicorn server with one app, up to its sockets."""

    def __init__(self, app: App, socket: Any, **options: Any) -> None:
        self.config = Config(app, log_config=None, **options)
        self.config.load()
        self.state: Any = ServerState()
        self.state.default_headers = [(b"server", b"node")]
        self.socket = socket
        socket.protocol = HttpProtocol()

    def upgrade(self, data: bytes = HEAD) -> HubWebSocketProtocol:
        """What uvicorn's HTTP protocol does with an upgrade request."""
        protocol = HubWebSocketProtocol(config=self.config, server_state=self.state, app_state={"from lifespan": 1})
        protocol.connection_made(self.socket)
        protocol.data_received(data)
        self.socket.set_protocol(protocol)
        return protocol

    async def settle(self) -> None:
        """Wait until all requests have ended."""
        while self.state.tasks:
            await asyncio.wait(self.state.tasks)
            self.state.tasks = {task for task in self.state.tasks if not task.done()}


@pytest.fixture
def node(socket: Any) -> Callable[..., Node]:
    """Makes a node for an app."""

    def make(app: App, **options: Any) -> Node:
        return Node(app, socket, **options)

    return make


def taking(listener: Any, *, then: Callable[[Any], Awaitable[None]] | None = None) -> App:
    """An app whose endpoint takes the socket for `listener` and stays until it has closed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = open_websocket(scope, receive, send)
        await exchange.accept(lambda _: listener)
        if then is not None:
            await then(exchange)
        await exchange.finish(60)

    return app


async def turn() -> None:
    """Let the tasks that are ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_hub_takes_the_socket(
    node: Callable[..., Node], socket: Any, listener: Any, client_frame: Callable[..., bytes]
) -> None:
    """After the 101 answer the socket belongs to the hub's transport, and uvicorn counts it among its connections."""
    served = node(taking(listener))
    served.upgrade()
    await turn()
    assert socket.take() == (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nserver: node\r\n\r\n"
    )
    assert isinstance(socket.protocol, FastWebSocket)
    assert served.state.connections == {socket.protocol}
    assert len(served.state.tasks) == 1
    socket.protocol.data_received(client_frame(TEXT, b"hello") + client_frame(CLOSE))
    socket.protocol.connection_lost(None)
    await turn()
    assert listener.data == [b"hello"]
    assert listener.calls == ["lost"]
    assert not served.state.connections
    assert not served.state.tasks


async def test_scope_is_uvicorns(node: Callable[..., Node], socket: Any) -> None:
    """The app sees the scope that uvicorn's own class makes of the same request, and the offer besides."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope | {"extensions": dict(scope["extensions"])})

    served = node(app, root_path="/api", proxy_headers=False)
    own = WebSocketsSansIOProtocol(served.config, served.state, {"from lifespan": 1})
    own.connection_made(socket)
    own.data_received(HEAD)
    await served.settle()
    socket.ended.clear()
    served.upgrade()
    await served.settle()
    expected, got = scopes
    assert got["extensions"].pop("hubplane.native")
    # These two ask the system; here there is none.
    assert (got.pop("server"), got.pop("client")) == (("192.0.2.2", 80), ("192.0.2.1", 4711))
    assert {key: value for key, value in expected.items() if key not in {"server", "client"}} == got
    assert got["path"] == "/api/hub a"
    own.connection_lost(None)


async def test_http_protocol_is_released(node: Callable[..., Node], socket: Any, listener: Any) -> None:
    """The cycle between uvicorn's HTTP protocol and its parser is cut, so both go at once."""
    served = node(taking(listener))
    before = socket.protocol
    served.upgrade()
    await turn()
    assert before.parser is None
    socket.protocol.connection_lost(None)
    await served.settle()


async def test_offer_is_gone_after_the_request(node: Callable[..., Node], socket: Any, listener: Any) -> None:
    """What outlives a request cannot take its socket."""
    scopes: list[Any] = []
    app = taking(listener)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await app(scope, receive, send)

    served = node(outer, proxy_headers=False)
    served.upgrade()
    await turn()
    socket.protocol.connection_lost(None)
    await served.settle()
    assert "hubplane.native" not in scopes[0]["extensions"]


async def test_early_bytes_are_replayed(
    node: Callable[..., Node], socket: Any, listener: Any, client_frame: Callable[..., bytes]
) -> None:
    """Bytes that arrive before the WebSocket is open reach the hub, in order."""
    served = node(taking(listener))
    protocol = served.upgrade(HEAD + client_frame(TEXT, b"one"))
    protocol.data_received(client_frame(TEXT, b"two"))
    await turn()
    assert b"".join(listener.data) == b"onetwo"
    # uvicorn sets the first protocol once more where tasks start eagerly; it passes on and corrects that.
    socket.set_protocol(protocol)
    protocol.data_received(client_frame(TEXT, b"three"))
    assert isinstance(socket.protocol, FastWebSocket)
    protocol.pause_writing()
    protocol.resume_writing()
    protocol.connection_lost(None)
    assert b"".join(listener.data) == b"onetwothree"
    assert listener.calls == ["pause", "resume", "lost"]
    await served.settle()


async def test_too_many_early_bytes_end_the_connection(node: Callable[..., Node], socket: Any) -> None:
    """A client that sends a lot before its WebSocket is open is dropped."""
    waiting = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await waiting.wait()

    served = node(app)
    protocol = served.upgrade()
    protocol.data_received(b"x" * 65_536)
    assert socket.ended == []
    protocol.data_received(b"x")
    assert socket.ended == ["aborted"]
    waiting.set()
    await served.settle()


async def test_endpoint_sees_the_scope_of_its_middleware(node: Callable[..., Node], socket: Any, listener: Any) -> None:
    """A middleware that hands on a copy of the scope with a user reaches the hub's request."""
    users: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = open_websocket(scope | {"user": "ada"}, receive, send)
        users.append(exchange.request.user)
        await exchange.reject(403, b"")

    served = node(app)
    served.upgrade()
    await served.settle()
    assert users == ["ada"]
    assert socket.take().startswith(b"HTTP/1.1 403 Forbidden\r\n")


async def test_offer_is_taken_once(node: Callable[..., Node], socket: Any) -> None:
    """The socket has one owner: a second taker gets an exchange over ASGI."""
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(open_websocket(scope, receive, send) for _ in range(2))

    served = node(app)
    protocol = served.upgrade()
    with pytest.raises(LocalProtocolError):
        _ = protocol.request
    await served.settle()
    assert seen[0] is protocol
    assert isinstance(seen[1], AsgiWebSocketExchange)


@pytest.mark.row("B14")
async def test_rejection(node: Callable[..., Node], socket: Any) -> None:
    """A rejected upgrade gets the whole answer, and the socket is closed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await open_websocket(scope, receive, send).reject(404, b"No Connection with that ID", content_type=None)

    served = node(app)
    served.upgrade()
    await served.settle()
    assert socket.written == (
        b"HTTP/1.1 404 Not Found\r\nserver: node\r\ncontent-length: 26\r\nconnection: close\r\n\r\n"
        b"No Connection with that ID"
    )
    assert "closed" in socket.ended


async def test_failing_app_is_500(node: Callable[..., Node], socket: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An app that raises before it has answered gives 500, and its traceback is logged."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("broken middleware")

    served = node(app)
    served.upgrade()
    await served.settle()
    assert socket.written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert "broken middleware" in caplog.text


async def test_app_that_answers_nothing_is_500(
    node: Callable[..., Node], socket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An app that returns without an answer gives 500, and that is logged."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    served = node(app)
    served.upgrade()
    await served.settle()
    assert socket.written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert "without completing handshake" in caplog.text


async def test_failing_hub_closes_its_socket(
    node: Callable[..., Node], socket: Any, listener: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An app that raises after it took the socket is logged, and the socket is closed, not answered twice."""

    async def fail(_: Any) -> None:
        raise ValueError("broken hub")

    served = node(taking(listener, then=fail))
    served.upgrade()
    await served.settle()
    assert socket.written.count(b"HTTP/1.1") == 1
    assert socket.ended == ["closed"]
    assert "broken hub" in caplog.text
    socket.protocol.connection_lost(None)


async def test_other_endpoints_are_served_by_uvicorn(
    node: Callable[..., Node], socket: Any, client_frame: Callable[..., bytes]
) -> None:
    """An endpoint that speaks ASGI gets uvicorn's own WebSocket, from accept to close."""
    codes: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})
        codes.append(message["code"])

    served = node(app)
    served.upgrade()
    await turn()
    assert isinstance(socket.protocol, WebSocketsSansIOProtocol)
    assert socket.take().startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    socket.protocol.data_received(client_frame(TEXT, b"hello"))
    await turn()
    assert socket.take() == b"\x81\x05HELLO"
    socket.protocol.data_received(client_frame(CLOSE, b"\x03\xe9"))
    socket.protocol.connection_lost(None)
    await served.settle()
    assert codes == [1001]
    assert not served.state.connections


async def test_failing_endpoint_is_reported_by_uvicorn(
    node: Callable[..., Node], socket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An endpoint that fails after it received through ASGI gets uvicorn's 500, and is logged once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ValueError("broken endpoint")

    served = node(app)
    served.upgrade()
    await served.settle()
    assert socket.written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert caplog.text.count("Exception in ASGI application") == 1
    assert "broken endpoint" in caplog.text
    socket.protocol.connection_lost(None)


async def test_middleware_that_received_leaves_asgi_to_the_hub(node: Callable[..., Node], socket: Any) -> None:
    """When a middleware has received already, the hub is served over ASGI."""
    kinds: list[type] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        first = await receive()

        async def again() -> Any:
            return first

        exchange = open_websocket(scope, again, send)
        kinds.append(type(exchange))
        await exchange.reject(409, b"busy")

    served = node(app)
    served.upgrade()
    await served.settle()
    assert kinds == [AsgiWebSocketExchange]
    assert socket.written.startswith(b"HTTP/1.1 409 Conflict\r\n")
    socket.protocol.connection_lost(None)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"sec-websocket-version: 13", b"sec-websocket-version: 8", b"400"),
        (b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"sec-websocket-key: short", b"400"),
        (b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", b"400"),
        (b"upgrade: websocket", b"upgrade: websocket, h2c", b"426"),
    ],
)
async def test_bad_requests_are_answered_by_the_library(
    node: Callable[..., Node], socket: Any, old: bytes, new: bytes, status: bytes
) -> None:
    """A malformed upgrade request gets the WebSocket library's answer, and the app does not run."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the app must not run")

    served = node(app)
    served.upgrade(HEAD.replace(old, new))
    await turn()
    assert socket.written.startswith(b"HTTP/1.1 " + status)
    assert not served.state.tasks
    socket.protocol.connection_lost(None)


async def test_client_that_left_is_not_accepted(node: Callable[..., Node], socket: Any, listener: Any) -> None:
    """Accepting a client that has gone raises, and the server forgets the connection."""
    raised: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = open_websocket(scope, receive, send)
        await asyncio.sleep(0)
        with pytest.raises(ConnectionClosedError):
            await exchange.accept(lambda _: listener)
        await exchange.finish(60)
        with pytest.raises(ConnectionClosedError):
            await receive()
        raised.append(True)

    served = node(app)
    protocol = served.upgrade()
    protocol.connection_lost(None)
    await served.settle()
    assert raised == [True]
    assert socket.written == b""
    assert not served.state.connections


async def test_client_that_left_before_the_app_looked(node: Callable[..., Node], socket: Any) -> None:
    """An app that is late for a client that has gone sees it come and go, as under uvicorn's own class."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        seen.append((await receive())["type"])
        await send({"type": "websocket.accept"})
        seen.extend([(await receive())["type"] for _ in range(2)])

    served = node(app)
    protocol = served.upgrade()
    protocol.connection_lost(None)
    await served.settle()
    assert seen == ["websocket.connect", "websocket.disconnect", "websocket.disconnect"]
    assert socket.written == b""


async def test_failure_behind_a_refused_request(
    node: Callable[..., Node], socket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What an app raises because the library has refused its client's request is nobody's unretrieved exception."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect", "the client is gone"

    served = node(app)
    served.upgrade(HEAD.replace(b"x-own: 1", b"sec-websocket-extensions: ;"))
    await turn()
    assert socket.written.startswith(b"HTTP/1.1 400 ")
    socket.protocol.connection_lost(None)
    await served.settle()
    del served
    socket.protocol = None
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_shutdown_answers_what_is_undecided(node: Callable[..., Node], socket: Any, listener: Any) -> None:
    """When uvicorn stops, a request that nobody has answered gets 500; accepted ones get the hub's goodbye."""
    waiting = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await waiting.wait()

    served = node(app)
    protocol = served.upgrade()
    assert served.state.connections == {protocol}
    protocol.shutdown()
    assert socket.written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    protocol.connection_lost(None)
    waiting.set()
    await served.settle()


async def test_shutdown_reaches_the_hub(node: Callable[..., Node], socket: Any, listener: Any) -> None:
    """What uvicorn asks its connections at shutdown, the listener of a taken socket hears."""
    served = node(taking(listener))
    served.upgrade()
    await turn()
    for connection in served.state.connections:
        connection.shutdown()
    assert listener.calls == ["shutdown"]
    socket.protocol.connection_lost(None)
    await served.settle()


async def test_cancelled_request_cuts_the_socket(node: Callable[..., Node], socket: Any, listener: Any) -> None:
    """When uvicorn cancels its requests, after its grace period, their sockets are dropped."""
    served = node(taking(listener))
    served.upgrade()
    await turn()
    (task,) = served.state.tasks
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "aborted" in socket.ended
    socket.protocol.connection_lost(None)


async def test_log_line_leaves_the_query_out(
    node: Callable[..., Node], socket: Any, listener: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An accepted WebSocket is logged as uvicorn does, but without the query, which holds the token."""
    caplog.set_level(logging.INFO, "uvicorn.error")
    served = node(taking(listener))
    served.upgrade()
    await turn()
    assert '192.0.2.1:4711 - "WebSocket /hub a" [accepted]' in caplog.text
    assert "secret" not in caplog.text
    socket.protocol.connection_lost(None)
    await served.settle()
