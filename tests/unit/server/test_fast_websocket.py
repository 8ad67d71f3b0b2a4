"""One WebSocket of the fast edge: closing, pings, flow control, and what its listener is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any  # the stand-ins of the conftest

import pytest

from hubplane.connection.transport import CloseReason, OutboundBatch, TransportKind
from hubplane.errors import RemoteProtocolError
from hubplane.server.websocket import FastWebSocket

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
OWN_CLOSE = b"\x88\x02\x03\xe8"

ClientFrame = Callable[..., bytes]


@pytest.fixture
def connections() -> set[Any]:
    """The server's open connections."""
    return set()


@pytest.fixture
def websocket(socket: Any, listener: Any, connections: set[Any]) -> FastWebSocket:
    """A WebSocket that has been accepted."""
    websocket = FastWebSocket(socket, lambda _: listener, connections)
    socket.protocol = websocket
    return websocket


def test_listener_gets_one_call_for_a_chunk(websocket: FastWebSocket, listener: Any, client_frame: ClientFrame) -> None:
    """All messages in a chunk reach the listener in one call."""
    websocket.data_received(client_frame(TEXT, b"one") + client_frame(BINARY, b"two"))
    assert listener.data == [b"onetwo"]
    assert websocket.kind is TransportKind.WEB_SOCKETS


def test_opcode_follows_set_binary(websocket: FastWebSocket, socket: Any) -> None:
    """A batch leaves as text until binary is chosen."""
    websocket.send(OutboundBatch(b"{}\x1e"))
    websocket.set_binary(True)
    websocket.send(OutboundBatch(b"\x01\x02"))
    assert socket.written == b"\x81\x03{}\x1e\x82\x02\x01\x02"


def test_frame_is_shared_among_connections(listener: Any, socket: Any) -> None:
    """A batch for many connections is framed once: all sockets get the same object."""
    written: list[object] = []
    socket.write = written.append
    batch = OutboundBatch(b"to all")
    for _ in range(2):
        FastWebSocket(socket, lambda _: listener, set()).send(batch)
    assert written[0] is written[1]


@pytest.mark.row("B38")
def test_ping_is_answered(websocket: FastWebSocket, socket: Any, client_frame: ClientFrame) -> None:
    """A Ping is answered with a Pong of the same payload; nothing else is written."""
    websocket.data_received(client_frame(PING, b"are you there"))
    assert socket.written == b"\x8a\x0dare you there"


def test_pings_to_a_blocked_socket_do_not_pile_up(
    websocket: FastWebSocket, socket: Any, client_frame: ClientFrame
) -> None:
    """While the peer does not read, its Pings are not answered; then the latest one is."""
    websocket.pause_writing()
    for number in range(100):
        websocket.data_received(client_frame(PING, b"%d" % number))
    assert socket.written == b""
    websocket.resume_writing()
    assert socket.written == b"\x8a\x0299"


@pytest.mark.row("B34")
@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9going away"])
def test_client_close_is_answered_with_1000(
    websocket: FastWebSocket, socket: Any, listener: Any, client_frame: ClientFrame, payload: bytes
) -> None:
    """A Close frame of the client, with whatever code, is answered with 1000; the connection ends without an error."""
    websocket.data_received(client_frame(TEXT, b"last") + client_frame(CLOSE, payload))
    assert listener.data == [b"last"]
    assert socket.written == OWN_CLOSE
    assert socket.ended == ["closed"]
    assert listener.errors == [None]
    websocket.send(OutboundBatch(b"too late"))
    websocket.connection_lost(None)
    assert listener.errors == [None]


@pytest.mark.row("B35")
def test_close_waits_for_the_peer(
    websocket: FastWebSocket, socket: Any, listener: Any, client_frame: ClientFrame
) -> None:
    """Closing sends a Close frame behind what was sent, drops what still arrives, and closes on the peer's answer."""
    websocket.send(OutboundBatch(b"bye"))
    websocket.close(CloseReason.NORMAL)
    websocket.close(CloseReason.APPLICATION_ERROR)
    websocket.send(OutboundBatch(b"too late"))
    assert socket.written == b"\x81\x03bye" + OWN_CLOSE
    assert not socket.ended
    websocket.data_received(client_frame(TEXT, b"ignored"))
    assert listener.data == []
    websocket.data_received(client_frame(CLOSE, b"\x03\xe8"))
    assert socket.ended == ["closed"]
    assert listener.errors == [None]


def test_application_error_is_1011(websocket: FastWebSocket, socket: Any) -> None:
    """A connection whose application failed closes with 1011."""
    websocket.close(CloseReason.APPLICATION_ERROR)
    assert socket.written == b"\x88\x02\x03\xf3"


@pytest.mark.row("B28", "B29")
@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\x81\x81\x00\x00\x00\x00\xff", 1007), (b"\x81\x01a", 1002), (b"\xf1\x80\x00\x00\x00\x00", 1002)],
)
def test_broken_rules_close_with_their_code(
    websocket: FastWebSocket, socket: Any, listener: Any, data: bytes, code: int
) -> None:
    """A client that breaks RFC 6455 gets a Close frame with the code for it; the listener learns the error."""
    websocket.data_received(data)
    assert socket.written == b"\x88\x02" + code.to_bytes(2)
    assert socket.ended == ["eof"]
    assert listener.data == []
    assert len(listener.errors) == 1
    assert isinstance(listener.errors[0], RemoteProtocolError)
    websocket.data_received(b"more of it")
    assert listener.data == []


def test_broken_rules_over_tls(websocket: FastWebSocket, socket: Any) -> None:
    """Where a socket cannot end one direction, it is closed."""
    socket.half_open = False
    websocket.data_received(b"\x81\x01a")
    assert socket.ended == ["closed"]


@pytest.mark.row("B37")
def test_lost_socket_is_no_error(websocket: FastWebSocket, socket: Any, listener: Any, connections: set[Any]) -> None:
    """A socket that breaks ends the connection without an error, and the server forgets it."""
    assert connections == {websocket}
    websocket.connection_lost(ConnectionResetError())
    assert listener.calls == ["lost"]
    assert listener.errors == [None]
    assert connections == set()
    websocket.send(OutboundBatch(b"nobody"))
    websocket.close(CloseReason.NORMAL)
    websocket.pause_reading()
    websocket.abort()
    assert socket.written == b""
    assert socket.ended == []


@pytest.mark.row("B148")
@pytest.mark.parametrize("before", ["nothing", "client's close", "our close", "abort", "broken rule"])
def test_torn_sockets(websocket: FastWebSocket, client_frame: ClientFrame, before: str) -> None:
    """A socket is torn only when it ends without a Close frame of either side, a broken rule or an abort."""
    if before == "client's close":
        websocket.data_received(client_frame(CLOSE))
    elif before == "our close":
        websocket.close(CloseReason.NORMAL)
    elif before == "abort":
        websocket.abort()
    elif before == "broken rule":
        websocket.data_received(client_frame(3))
    websocket.connection_lost(ConnectionResetError())
    assert websocket.torn is (before == "nothing")


def test_end_of_input_lets_the_loop_close_the_socket(websocket: FastWebSocket) -> None:
    """A peer that ends its direction is not kept half open: the answer to the event loop is falsy."""
    assert not websocket.eof_received()  # type: ignore[func-returns-value]  # the event loop looks at it


def test_flow_control_of_writing(websocket: FastWebSocket, listener: Any) -> None:
    """The listener hears when the socket takes no bytes and when it does again, until the end."""
    websocket.pause_writing()
    websocket.resume_writing()
    websocket.connection_lost(None)
    websocket.pause_writing()
    websocket.resume_writing()
    assert listener.calls == ["pause", "resume", "lost"]


def test_flow_control_of_reading(websocket: FastWebSocket, socket: Any) -> None:
    """Pausing and resuming may be repeated."""
    websocket.pause_reading()
    websocket.pause_reading()
    assert not socket.reading
    websocket.resume_reading()
    websocket.resume_reading()
    assert socket.reading


def test_close_reads_on_for_the_answer(websocket: FastWebSocket, socket: Any) -> None:
    """A paused socket is read again when we close, or the peer's Close frame would not be seen."""
    websocket.pause_reading()
    websocket.close(CloseReason.NORMAL)
    assert socket.reading
    websocket.pause_reading()
    assert socket.reading


def test_shutdown_is_passed_on_while_open(websocket: FastWebSocket, listener: Any, client_frame: ClientFrame) -> None:
    """The server's shutdown reaches the listener, unless the connection has ended already."""
    websocket.shutdown()
    websocket.data_received(client_frame(CLOSE))
    websocket.shutdown()
    assert listener.calls == ["shutdown", "lost"]


def test_abort_from_inside_a_callback(
    websocket: FastWebSocket, socket: Any, listener: Any, client_frame: ClientFrame
) -> None:
    """A listener may abort while data is being delivered; nothing is written after it."""
    listener.on_data = lambda _: websocket.abort()
    websocket.data_received(client_frame(TEXT, b"x") + client_frame(PING, b"p"))
    assert socket.ended == ["aborted"]
    assert socket.written == b""


@pytest.mark.row("B36")
async def test_finish_cuts_a_peer_that_never_answers(websocket: FastWebSocket, socket: Any) -> None:
    """A peer that does not answer the Close frame in time is cut."""
    websocket.close(CloseReason.NORMAL)
    cut = asyncio.Event()
    socket.abort = cut.set
    finishing = asyncio.ensure_future(websocket.finish(0.001))
    await cut.wait()
    assert not finishing.done()
    websocket.connection_lost(None)
    await finishing


async def test_finish_returns_when_the_socket_has_closed(websocket: FastWebSocket, socket: Any) -> None:
    """Finishing returns as soon as the socket has closed, at once when it has already."""
    websocket.close(CloseReason.NORMAL)
    finishing = asyncio.ensure_future(websocket.finish(60))
    await asyncio.sleep(0)
    assert not finishing.done()
    websocket.connection_lost(None)
    await finishing
    await websocket.finish(60)
    assert socket.ended == []


async def test_cancelled_finish_cuts_at_once(websocket: FastWebSocket, socket: Any) -> None:
    """Cancellation cuts the socket without waiting."""
    finishing = asyncio.ensure_future(websocket.finish(60))
    await asyncio.sleep(0)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert socket.ended == ["aborted"]
