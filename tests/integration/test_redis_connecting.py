"""Connecting to Redis: addresses, sockets, peers that are not Redis, and the event loop people really use."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_server import RedisServer

HELLO = b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
OK = b"+OK\r\n"
GREETING = HELLO + OK * 3  # HELLO, CLIENT SETNAME, CLIENT SETINFO twice


@asynccontextmanager
async def peer(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """A TCP server on the port it yields."""
    writers: list[asyncio.StreamWriter] = []
    idle = asyncio.Event()
    idle.set()
    serving = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal serving
        writers.append(writer)
        serving += 1
        idle.clear()
        try:
            with contextlib.suppress(ConnectionError):
                await answer(reader, writer)
                await reader.read()
        finally:
            writer.close()
            serving -= 1
            if not serving:
                idle.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await idle.wait()


def at(port: int) -> RedisOptions:
    """Options for a server on this machine that fail soon."""
    return RedisOptions(endpoints=(Endpoint("127.0.0.1", port),), async_timeout=1.0, connect_timeout=1.0)


@pytest.mark.parametrize(
    "form", ["configuration", "url", "localhost"], ids=["StackExchange.Redis string", "URL", "host name"]
)
async def test_every_form_of_address(form: str) -> None:
    """A configuration string, a URL and a host name all lead to the same server."""
    with RedisServer() as server:
        text = f"localhost:{server.port}" if form == "localhost" else getattr(server, form)
        node, sink = RedisBackplane(parse(text)), RecordingSink()
        assert node.endpoints == [f"{'localhost' if form == 'localhost' else '127.0.0.1'}:{server.port}"]
        async with node.run(sink):
            await node.subscribe(["room"])
            assert await node.publish("room", b"x") == 1
            await sink.message("room", b"x")


async def test_unix_socket() -> None:
    """A unix socket works as TCP does, also after a restart, from a string and from a URL."""
    with RedisServer(unix=True) as server:
        for text in (server.configuration, server.url):
            node, sink = RedisBackplane(parse(text)), RecordingSink()
            async with node.run(sink):
                await node.subscribe(["room"])
                server.restart()
                await sink.event("restored with a gap")
                assert await node.publish("room", b"x") == 1
                await sink.message("room", b"x")


async def test_first_address_that_answers_is_used() -> None:
    """Of several addresses a dead one and a replica are passed over for the primary."""
    with RedisServer() as primary, RedisServer() as replica, RedisServer() as dead:
        replica.command("REPLICAOF", primary.host, primary.port)
        dead.kill()
        ports = (dead.port, replica.port, primary.port)
        options = RedisOptions(endpoints=tuple(Endpoint("127.0.0.1", port) for port in ports))
        node, sink = RedisBackplane(options), RecordingSink()
        async with node.run(sink):
            await node.subscribe(["room"])
            assert primary.command("PUBSUB", "NUMSUB", "room") == [b"room", 1]
            assert replica.command("PUBSUB", "NUMSUB", "room") == [b"room", 0]


async def test_only_replicas_is_an_outage() -> None:
    """Where all of several addresses are replicas the node says so rather than publish where nobody listens."""
    with RedisServer() as primary, RedisServer() as one, RedisServer() as two:
        for replica in (one, two):
            replica.command("REPLICAOF", primary.host, primary.port)
        options = RedisOptions(endpoints=(Endpoint("127.0.0.1", one.port), Endpoint("127.0.0.1", two.port)))
        node, sink = RedisBackplane(options), RecordingSink()
        async with node.run(sink):
            await sink.event("lost")
            assert "is a replica" in str(sink.errors[0])
            one.command("REPLICAOF", "NO", "ONE")
            await sink.event("restored")


async def test_abort_on_connect_fail_lets_the_start_fail() -> None:
    """With `abort_on_connect_fail` entering run raises when Redis is away, and works when it is there."""
    with RedisServer() as server:
        options = replace(parse(f"{server.configuration},abortConnect=true"), connect_retry=2)
        node = RedisBackplane(options)
        async with node.run(RecordingSink()):
            assert node.is_connected
        server.kill()
        with pytest.raises(BackplaneUnavailableError, match="It was not possible to connect") as caught:
            async with node.run(RecordingSink()):
                pytest.fail("run was entered")
        assert caught.value.__cause__ is not None
        assert not node.is_connected


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        b"\x00" * 64,
        b"+hello\r\n",
        b":1\r\n" * 10,
        b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"-\xff\xfe\r\n",
        b"-\r\n",
        b"*-5\r\n",
        b"*1\r\n" * 5_000,
        b"$99999999999999999999\r\n",
        HELLO[:-10],
        b"",
    ],
)
async def test_peer_that_is_not_redis_counts_as_away(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Nonsense in place of a greeting is an outage with a reason; the loop lives and the attempts go on."""
    attempts = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.write(garbage)
        if attempts % 2:
            writer.write_eof()

    async with peer(answer) as port:
        node, sink = RedisBackplane(replace(at(port), connect_timeout=0.2)), RecordingSink()
        async with node.run(sink):
            await sink.event("lost")
            assert str(sink.errors[0]).startswith(f"Cannot connect to Redis at 127.0.0.1:{port}: ")
            async with asyncio.timeout(10.0):
                while attempts < 4:  # noqa: ASYNC110 - the peer's own counter
                    await asyncio.sleep(0.02)
            assert sink.events == ["lost"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "garbage",
    [
        b"+PONG\r\n" * 3,
        b":1\r\n" * 3,
        b">1\r\n$7\r\nmessage\r\n",
        b">0\r\n",
        b">3\r\n$9\r\nsubscribe\r\n$5\r\nother\r\n:1\r\n",
        b">3\r\n$7\r\nmessage\r\n*1\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"!!!\r\n",
        b"-ERR\r\n-ERR\r\n",
        b"_\r\n#f\r\n",
    ],
)
async def test_nonsense_after_the_greeting_is_a_lost_connection(garbage: bytes) -> None:
    """A server that goes mad in the middle is cut off, reported, and tried again; no reply reaches a wrong caller."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.read(65_536)
        await asyncio.sleep(0.05)  # until our side waits for commands
        writer.write(garbage)

    async with peer(answer) as port:
        node, sink = RedisBackplane(at(port)), RecordingSink()
        async with node.run(sink):
            await node.subscribe(["room"], keep=True)
            await sink.event("lost")
            with pytest.raises(BackplaneUnavailableError):
                await node.publish("room", b"x")
            assert [message for message in sink.messages if message[0] != "room"] == []


async def test_replies_cut_at_every_byte() -> None:
    """Replies and messages that arrive byte by byte are understood as if they came whole."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def trickle(data: bytes) -> None:
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)

        await trickle(GREETING)
        while data := await reader.read(65_536):
            if b"SUBSCRIBE" in data:
                await trickle(b">3\r\n$9\r\nsubscribe\r\n$4\r\nroom\r\n:1\r\n")
                await trickle(b">3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n$5\r\nhello\r\n")
            elif b"PUBLISH" in data:
                await trickle(b":7\r\n")
            elif b"PING" in data:
                await trickle(b"+PONG\r\n")

    async with peer(answer) as port:
        node, sink = RedisBackplane(at(port)), RecordingSink()
        async with node.run(sink):
            await node.subscribe(["room"])
            await sink.message("room", b"hello")
            assert await node.publish("room", b"x") == 7


async def test_host_that_does_not_exist() -> None:
    """A host name that cannot be resolved, or cannot be one, is an outage with a reason."""
    for host in ("no-such-host.invalid", "a" * 70 + ".example", "a..b"):
        node, sink = (
            RedisBackplane(RedisOptions(endpoints=(Endpoint(host, 6379),), connect_timeout=2.0)),
            RecordingSink(),
        )
        async with node.run(sink):
            await sink.event("lost")
            assert host in str(sink.errors[0])


def test_runs_on_uvloop(recwarn: pytest.WarningsRecorder) -> None:
    """On uvloop everything works as on asyncio, a restart, a freeze and leaving in the middle included."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        with RedisServer() as server:
            options = replace(parse(server.configuration), liveness_interval=0.2)
            node, sink = RedisBackplane(options), RecordingSink()
            async with node.run(sink):
                await node.subscribe(["room"])
                assert await node.publish("room", b"one") == 1
                server.restart()
                await sink.event("restored with a gap")
                server.pause()
                await sink.until(lambda: sink.events.count("lost") == 2)
                server.resume()
                await sink.until(lambda: len(sink.events) == 4)
                assert await node.publish("room", b"two") == 1
                await sink.message("room", b"two")
                server.pause()
                for _ in range(100):
                    node.publish("room", b"x" * 100_000).add_done_callback(lambda future: future.exception())  # type: ignore[attr-defined]
            server.resume()

    uvloop.run(main())
    gc.collect()
    assert not [str(warning.message) for warning in recwarn]
