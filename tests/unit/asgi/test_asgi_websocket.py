"""WebSockets over ASGI: pumps between awaitables and callbacks, bounded in both directions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any  # ASGI messages

import pytest

from hubplane.asgi.websocket import AsgiWebSocketExchange, AsgiWebSocketTransport, open_websocket
from hubplane.connection.transport import CloseReason, OutboundBatch, Transport, TransportKind
from hubplane.errors import ConnectionClosedError


class Server:
    """The ASGI server's side.

    Attributes:
        sent: What the application has sent.
        gate: While it is clear, `send` waits, as for a peer that does not read.
        receiving: How many calls of `receive` are waiting.
        broken: Raised by `send`, if set.
    """

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.receiving = 0
        self.broken: Exception | None = None
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()

    def bring(self, *messages: dict[str, Any]) -> None:
        """Let messages arrive."""
        for message in messages:
            self._incoming.put_nowait(message)

    async def receive(self) -> Any:
        self.receiving += 1
        try:
            message = await self._incoming.get()
        finally:
            self.receiving -= 1
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Any) -> None:
        await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        self.sent.append(message)


class Listener:
    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.calls: list[str] = []

    def data_received(self, data: bytes) -> None:
        self.data.append(data)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def shutting_down(self) -> None:
        self.calls.append("shutdown")

    def transport_lost(self, error: Exception | None) -> None:
        assert error is None
        self.calls.append("lost")


CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept", "subprotocol": None}
CLOSE = {"type": "websocket.close", "code": 1000}


def text(data: str) -> dict[str, Any]:
    """A text message that arrives."""
    return {"type": "websocket.receive", "text": data, "bytes": None}


def scope(**more: Any) -> dict[str, Any]:
    """The scope of an upgrade request."""
    return {"type": "websocket", "path": "/hub", "query_string": b"", "headers": [], **more}


async def turn() -> None:
    """Let the tasks that are ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def server() -> Server:
    """The other side."""
    return Server()


@pytest.fixture
def listener() -> Listener:
    """Who listens to the transport."""
    return Listener()


@pytest.fixture
def exchange(server: Server) -> AsgiWebSocketExchange:
    """An upgrade request."""
    server.bring(CONNECT)
    return AsgiWebSocketExchange(scope(), server.receive, server.send)


@pytest.fixture
async def transport(
    exchange: AsgiWebSocketExchange, server: Server, listener: Listener
) -> AsyncIterator[AsgiWebSocketTransport]:
    """An accepted WebSocket."""
    transport = await exchange.accept(lambda _: listener)
    assert isinstance(transport, AsgiWebSocketTransport)
    assert server.sent == [ACCEPT]
    server.sent.clear()
    await turn()
    yield transport
    transport.abort()
    await exchange.finish(0)


@pytest.mark.row("B33")
async def test_subprotocol_is_named_on_request(
    exchange: AsgiWebSocketExchange, server: Server, listener: Listener
) -> None:
    """Accepting names no sub-protocol unless it is told one."""
    await exchange.accept(lambda _: listener, subprotocol="v1")
    assert server.sent == [{"type": "websocket.accept", "subprotocol": "v1"}]
    await exchange.finish(0)


@pytest.mark.row("B28", "B30")
async def test_text_and_binary_arrive_as_bytes(
    transport: AsgiWebSocketTransport, server: Server, listener: Listener
) -> None:
    """Messages of both kinds are bytes of one pipe; empty ones are nothing."""
    server.bring(text("caf\u00e9"), {"type": "websocket.receive", "bytes": b"\xff"}, text(""))
    await turn()
    assert listener.data == ["caf\u00e9".encode(), b"\xff"]
    assert transport.kind is TransportKind.WEB_SOCKETS


async def test_batches_of_a_kind_leave_joined(transport: AsgiWebSocketTransport, server: Server) -> None:
    """What waits for the server leaves as one message for each run of one kind."""
    server.gate.clear()
    transport.send(OutboundBatch(b"first"))
    await turn()
    for payload in (b"a\x1e", "\u00e9\x1e".encode()):
        transport.send(OutboundBatch(payload))
    transport.set_binary(True)
    for payload in (b"\x01", b"\x02"):
        transport.send(OutboundBatch(payload))
    server.gate.set()
    await turn()
    assert server.sent == [
        {"type": "websocket.send", "text": "first"},
        {"type": "websocket.send", "text": "a\x1e\u00e9\x1e"},
        {"type": "websocket.send", "bytes": b"\x01\x02"},
    ]


async def test_slow_peer_pauses_the_listener(
    transport: AsgiWebSocketTransport, server: Server, listener: Listener
) -> None:
    """Above 64 KiB waiting the listener is told to keep what it has; when that has left, to go on."""
    server.gate.clear()
    transport.send(OutboundBatch(b"x" * 65_536))
    assert listener.calls == []
    transport.send(OutboundBatch(b"y"))
    transport.send(OutboundBatch(b"z"))
    assert listener.calls == ["pause"]
    await turn()
    assert listener.calls == ["pause"]
    server.gate.set()
    await turn()
    assert listener.calls == ["pause", "resume"]


async def test_paused_reading_leaves_messages_with_the_server(
    transport: AsgiWebSocketTransport, server: Server, listener: Listener
) -> None:
    """While reading is paused, at most the call of `receive` that already waits takes a message."""
    transport.pause_reading()
    transport.pause_reading()
    server.bring(text("1"), text("2"), text("3"))
    await turn()
    assert listener.data == [b"1"]
    assert server.receiving == 0
    transport.resume_reading()
    transport.resume_reading()
    await turn()
    assert listener.data == [b"1", b"2", b"3"]


@pytest.mark.row("B35")
async def test_close_follows_everything_sent(
    exchange: AsgiWebSocketExchange, transport: AsgiWebSocketTransport, server: Server, listener: Listener
) -> None:
    """Closing sends what waits, then the Close; nothing after it, and the listener hears of the end once."""
    transport.send(OutboundBatch(b"bye"))
    transport.pause_reading()
    transport.close(CloseReason.NORMAL)
    transport.close(CloseReason.APPLICATION_ERROR)
    transport.send(OutboundBatch(b"too late"))
    server.bring(text("ignored"))
    await exchange.finish(60)
    assert server.sent == [{"type": "websocket.send", "text": "bye"}, CLOSE]
    assert listener.calls == ["lost"]
    assert listener.data == []


async def test_application_error_is_1011(
    exchange: AsgiWebSocketExchange, transport: AsgiWebSocketTransport, server: Server
) -> None:
    """A connection whose application failed closes with 1011."""
    transport.close(CloseReason.APPLICATION_ERROR)
    await exchange.finish(60)
    assert server.sent == [{"type": "websocket.close", "code": 1011}]


@pytest.mark.row("B34", "B37")
@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006])
async def test_disconnect_ends_the_transport(
    exchange: AsgiWebSocketExchange, transport: AsgiWebSocketTransport, server: Server, listener: Listener, code: int
) -> None:
    """However the client goes, the connection ends without an error, and finishing returns at once."""
    server.bring({"type": "websocket.disconnect", "code": code})
    await turn()
    assert listener.calls == ["lost"]
    transport.send(OutboundBatch(b"nobody"))
    transport.close(CloseReason.NORMAL)
    transport.pause_reading()
    await exchange.finish(60)
    assert server.sent == []
    assert listener.calls == ["lost"]


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("websocket.send after close")])
async def test_failing_server_ends_the_transport(
    transport: AsgiWebSocketTransport, server: Server, listener: Listener, error: Exception
) -> None:
    """What a server raises for a client that has gone ends the connection like a disconnect."""
    server.broken = error
    transport.send(OutboundBatch(b"x"))
    await turn()
    assert listener.calls == ["lost"]


async def test_failing_receive_ends_the_transport(
    transport: AsgiWebSocketTransport, server: Server, listener: Listener
) -> None:
    """The same when receiving."""
    server._incoming.put_nowait(OSError("gone"))
    await turn()
    assert listener.calls == ["lost"]
    assert transport._outgoing == []


@pytest.mark.row("B36")
async def test_peer_that_takes_nothing_is_cut(
    exchange: AsgiWebSocketExchange, transport: AsgiWebSocketTransport, server: Server, listener: Listener
) -> None:
    """Finishing waits for what was sent no longer than it is told to."""
    server.gate.clear()
    transport.send(OutboundBatch(b"stuck"))
    transport.close(CloseReason.NORMAL)
    await exchange.finish(0.001)
    assert server.sent == []
    assert listener.calls == ["lost"]


async def test_cancelled_finish_stops_the_pumps(
    exchange: AsgiWebSocketExchange, transport: AsgiWebSocketTransport, server: Server, listener: Listener
) -> None:
    """Cancellation ends the transport at once, and no task stays behind."""
    before = asyncio.all_tasks()
    finishing = asyncio.ensure_future(exchange.finish(60))
    await turn()
    assert server.receiving == 1
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert listener.calls == ["lost"]
    assert server.receiving == 0
    assert asyncio.all_tasks() < before


async def test_client_that_left_is_not_accepted(server: Server, listener: Listener) -> None:
    """A client that has gone before or during the accept raises, and there is nothing to finish."""
    server.bring({"type": "websocket.disconnect", "code": 1006}, CONNECT)
    for broken in (None, OSError("gone")):
        server.broken = broken
        exchange = AsgiWebSocketExchange(scope(), server.receive, server.send)
        with pytest.raises(ConnectionClosedError):
            await exchange.accept(lambda _: listener)
        await exchange.finish(60)
    assert listener.calls == []


@pytest.mark.row("B14")
@pytest.mark.parametrize("content_type", ["text/plain", None])
async def test_rejection_with_the_extension(server: Server, content_type: str | None) -> None:
    """Where the server can answer an upgrade with HTTP, status, media type and body are told."""
    server.bring(CONNECT)
    offered = scope(extensions={"websocket.http.response": {}})
    exchange = AsgiWebSocketExchange(offered, server.receive, server.send)
    await exchange.reject(404, b"No Connection with that ID", content_type=content_type)
    headers = [(b"content-length", b"26")]
    if content_type is not None:
        headers.insert(0, (b"content-type", b"text/plain"))
    assert server.sent == [
        {"type": "websocket.http.response.start", "status": 404, "headers": headers},
        {"type": "websocket.http.response.body", "body": b"No Connection with that ID"},
    ]


async def test_rejection_without_the_extension(exchange: AsgiWebSocketExchange, server: Server) -> None:
    """Elsewhere the upgrade is refused by a close, which servers answer with 403."""
    await exchange.reject(404, b"No Connection with that ID")
    assert server.sent == [CLOSE]


async def test_offer_of_the_fast_edge_is_preferred(server: Server) -> None:
    """An offer in the scope is taken with the endpoint's scope; where there is none, or it is gone, ASGI is used."""
    taken: list[Any] = []

    class Offer:
        def __init__(self, native: Any) -> None:
            self.native = native

        def take(self, scope: Any) -> Any:
            taken.append(scope)
            return self.native

    native = AsgiWebSocketExchange(scope(), server.receive, server.send)
    offered = scope(extensions={"hubplane.native": Offer(native)})
    assert open_websocket(offered, server.receive, server.send) is native
    assert taken == [offered]
    for other in (scope(), scope(extensions=None), scope(extensions={"hubplane.native": Offer(None)})):
        exchange = open_websocket(other, server.receive, server.send)
        assert isinstance(exchange, AsgiWebSocketExchange)
        assert exchange.request.scope is other


async def test_bug_while_sending_is_reported(
    exchange: AsgiWebSocketExchange,
    transport: AsgiWebSocketTransport,
    listener: Listener,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A payload that is no text though it should be ends this connection, with a traceback in the log."""
    caplog.set_level(logging.ERROR)
    transport.send(OutboundBatch(b"\xff"))
    await turn()
    assert listener.calls == ["lost"]
    assert "UnicodeDecodeError" in caplog.text


async def test_listener_may_abort_while_it_is_called(exchange: AsgiWebSocketExchange, server: Server) -> None:
    """Aborting inside a callback ends the transport."""
    transports: list[Transport] = []

    class Impatient(Listener):
        def data_received(self, data: bytes) -> None:
            transports[0].abort()

    listener = Impatient()

    def connect(transport: Transport) -> Listener:
        transports.append(transport)
        return listener

    await exchange.accept(connect)
    server.bring(text("x"), text("y"))
    await exchange.finish(60)
    assert listener.calls == ["lost"]


@pytest.mark.row("B148")
@pytest.mark.parametrize(
    ("event", "torn"),
    [
        ({"code": 1006}, True),
        ({"code": 1006, "reason": ""}, True),
        ({"code": 1005}, True),
        ({}, True),
        ({"code": 1005, "reason": ""}, False),
        ({"code": 1000}, False),
        ({"code": 1001, "reason": "going away"}, False),
        ({"code": 1012}, False),
    ],
)
async def test_torn_sockets(
    transport: AsgiWebSocketTransport, server: Server, event: dict[str, Any], torn: bool
) -> None:
    """A socket is torn when the server reports code 1006, or 1005 without the reason that a Close frame would have."""
    server.bring({"type": "websocket.disconnect", **event})
    await turn()
    assert transport.torn is torn


@pytest.mark.row("B148")
async def test_a_closed_or_cut_socket_is_not_torn(
    transport: AsgiWebSocketTransport, server: Server, listener: Listener
) -> None:
    """What we have closed or cut ourselves is not torn, whatever the server reports afterwards."""
    server.gate.clear()
    transport.close(CloseReason.NORMAL)
    server.bring({"type": "websocket.disconnect", "code": 1006})
    await turn()
    assert listener.calls == ["lost"]
    assert not transport.torn
    server.gate.set()
