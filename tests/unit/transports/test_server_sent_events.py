"""Server-Sent Events: the stream's bytes, its end, and what a client that does not read brings about."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any  # the stand-ins of the conftest

import pytest

from hubplane.connection.transport import OutboundBatch
from hubplane.transports.server_sent_events import encode_event

Running = Callable[..., Any]

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
OPENING = b":\r\n"


@pytest.mark.row("B41")
@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (b'{"type":6}\x1e', b'data: {"type":6}\x1e\r\n\r\n'),
        (b"one\ntwo", b"data: one\r\ndata: two\r\n\r\n"),
        (b"one\r\ntwo\n\nthree", b"data: one\r\ndata: two\r\ndata: \r\ndata: three\r\n\r\n"),
    ],
)
def test_event(payload: bytes, event: bytes) -> None:
    """Each line of a payload has its own data field, however the lines end; a blank line ends the event."""
    assert encode_event(payload) == event


@pytest.mark.row("B41")
async def test_payload_of_several_lines(running: Running) -> None:
    """A protocol whose messages have line breaks may use event streams: they arrive as one event of several lines."""
    async with running() as live:
        stream = await live.events()
        live.entry.connection.transport.send(OutboundBatch(b"one\r\ntwo\nthree\x1e"))
        await live.settle()
        assert stream.stream == OPENING + b"data: one\r\ndata: two\r\ndata: three\x1e\r\n\r\n"


@pytest.mark.row("B39")
async def test_opening(running: Running) -> None:
    """Status, headers and a comment line leave at once; proxies are asked not to collect."""
    async with running() as live:
        stream = await live.events()
        assert (stream.answer.status, stream.answer.content_type) == (200, "text/event-stream")
        assert stream.answer.headers == {
            "cache-control": "no-cache,no-store",
            "pragma": "no-cache",
            "content-encoding": "identity",
            "x-accel-buffering": "no",
        }
        assert stream.stream == OPENING


@pytest.mark.row("B40", "B60")
async def test_answers_arrive_as_events(running: Running) -> None:
    """What the hub says is an event behind the opening, while the POST that caused it has its own empty answer."""
    async with running() as live:
        stream = await live.events()
        post = await live.post(HANDSHAKE)
        assert post.answer.outcome == (200, "text/plain", b"")
        assert (await live.call("wait", 1, invocation_id="1")).answer.status == 200
        assert stream.stream == OPENING + b"data: {}\x1e\r\n\r\n"
        live.gate.set()
        await live.settle()
        assert stream.answer.parts[-1] == b'data: {"type":3,"invocationId":"1","result":1}\x1e\r\n\r\n'


@pytest.mark.row("B18")
async def test_second_stream_is_refused(running: Running) -> None:
    """A connection has one stream: a second GET gets 409."""
    async with running() as live:
        await live.events()
        assert (await live.events()).answer.outcome == (409, "text/plain", b"")


@pytest.mark.row("B42")
async def test_binary_protocol_is_refused(running: Running) -> None:
    """MessagePack is refused in the handshake, in the original's words, and the stream ends."""
    async with running() as live:
        stream = await live.events()
        await live.post(b'{"protocol":"messagepack","version":1}\x1e')
        error = json.loads(stream.answer.parts[-1][6:-5])["error"]
        assert error == (
            "Cannot use the 'messagepack' protocol on the current transport. The transport does not support 'Binary' "
            "transfer format."
        )
        assert stream.answer.finished


@pytest.mark.row("B43", "B126")
async def test_client_that_leaves(running: Running) -> None:
    """When the client leaves, the connection ends at once, without an error, and its token is forgotten."""
    async with running() as live:
        stream = await live.events()
        await live.post(HANDSHAKE)
        stream.leave()
        await live.settle()
        assert live.log == [("gone", None)]
        assert stream.task.done()
        assert (await live.events()).answer.status == 404


@pytest.mark.row("B44")
async def test_pings(running: Running) -> None:
    """Every 15 s a ping arrives as an event."""
    async with running() as live:
        stream = await live.events()
        await live.post(HANDSHAKE)
        before = len(stream.answer.parts)
        await live.seconds(31)
        assert stream.answer.parts[before:] == [b'data: {"type":6}\x1e\r\n\r\n'] * 2


@pytest.mark.row("B129")
async def test_shutdown(running: Running) -> None:
    """A hub that stops ends the stream behind a Close message with permission to reconnect."""
    async with running() as live:
        stream = await live.events()
        await live.post(HANDSHAKE)
    assert stream.answer.parts[-1] == b'data: {"type":7,"allowReconnect":true}\x1e\r\n\r\n'
    assert stream.answer.finished


@pytest.mark.row("B129")
@pytest.mark.parametrize("how", ["told", "cancelled"])
async def test_stopping_server(running: Running, how: str) -> None:
    """A server that stops, whether it tells its requests or cancels them, ends the stream with a goodbye."""
    async with running() as live:
        stream = await live.events()
        await live.post(HANDSHAKE)
        if how == "told":
            stream.answer.stops[0]()
        else:
            stream.task.cancel()
        await live.settle()
        assert stream.answer.parts[-1] == b'data: {"type":7,"allowReconnect":true}\x1e\r\n\r\n'
        assert stream.answer.finished
        assert stream.answer.stops == []
        assert stream.task.cancelled() is (how == "cancelled")
        assert live.log == [("gone", None)]


@pytest.mark.row("B132")
async def test_client_that_does_not_read(running: Running) -> None:
    """A write that is stuck for more than 10 s ends the connection; until then nothing is lost."""
    async with running() as live:
        stream = await live.events()
        await live.post(HANDSHAKE)
        stream.answer.gate.clear()
        for number in range(3):
            await live.call("echo", str(number), invocation_id=str(number))
        await live.seconds(5)
        stream.answer.gate.set()
        await live.settle()
        assert stream.stream.count(b'"type":3') == 3
        stream.answer.gate.clear()
        for number in range(2):
            await live.call("echo", str(number), invocation_id=str(number))
        await live.seconds(11)
        assert live.log == []
        await live.seconds(1)
        assert live.log == [("gone", None)]
        await asyncio.wait_for(stream.task, 10)


async def test_slow_client_holds_a_stream_up(running: Running) -> None:
    """A client that does not read stops the generator of its stream, and starts it again by reading."""
    async with running() as live:
        stream = await live.events()
        await live.post(HANDSHAKE)
        stream.answer.gate.clear()
        await live.call("echo", "stuck", invocation_id="0")
        await live.post(b'{"type":4,"invocationId":"1","target":"count","arguments":[1000]}\x1e')
        assert len(live.log) < 500
        stream.answer.gate.set()
        await live.settle()
        await live.settle()
        assert live.log == list(range(1_000))
        assert stream.stream.count(b'"type":2') == 1_000


async def test_client_that_takes_nothing_at_the_end(running: Running) -> None:
    """The goodbye is waited for no longer than the close timeout."""
    async with running(close_timeout=0.01) as live:
        stream = await live.events()
        await live.post(HANDSHAKE)
        stream.answer.gate.clear()
        await live.post(b'{"type":7}\x1e')
        await asyncio.wait_for(stream.task, 10)
        assert not stream.answer.finished
        assert live.log == [("gone", None)]


async def test_client_that_left_before_the_stream(running: Running) -> None:
    """A client that is gone before the first byte leaves nothing behind."""
    async with running() as live:
        stream = await live.events()
        assert len(live.endpoint.registry) == 1
        stream.answer.gone.set()
        await live.settle()
        assert len(live.endpoint.registry) == 0
