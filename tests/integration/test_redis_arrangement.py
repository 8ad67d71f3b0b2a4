"""Settings that show on a real server: prefixes from code, supported versions, distance, and order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from hubplane import Endpoint, Hub, HubApp, RedisOptions
from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_server import RedisServer

PATIENCE = 20.0
CHECKS = "hubplane.backplane.redis.server_check"


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of each kind."""
    with RedisServer(kind=request.param) as server:
        yield server


class ChatHub(Hub):
    async def ping(self) -> None: ...


@pytest.mark.row("S49")
async def test_hubs_of_a_process_share_two_connections(server: RedisServer) -> None:
    """Three hubs of an app are twelve channels on one connection, and publish over one other, whatever they send."""
    hubs = HubApp(f"{server.configuration},name=shared")
    hub_types = [type(name, (Hub,), {}) for name in ("First", "Second", "Third")]
    for hub_type in hub_types:
        hubs.add_hub(f"/{hub_type.__name__}", hub_type, hub_name=hub_type.__name__)
    async with hubs.lifespan():
        await until(lambda: hubs.is_connected)
        for hub_type in hub_types:
            await hubs.context(hub_type).clients.all.send("news")
        clients = server.command("CLIENT", "LIST")
        assert isinstance(clients, bytes)
        ours = [line for line in clients.decode().splitlines() if "name=shared" in line]
        assert len(ours) == 2
        assert sum(" sub=12 " in line for line in ours) == 1


@pytest.mark.row("S23", "S24", "S26")
async def test_prefix_of_the_code_is_on_the_wire(server: RedisServer) -> None:
    """With A in the string and B in code it is B that Redis sees, by name and by function; both saw the string."""
    seen: list[str] = []

    def configure(options: RedisOptions) -> RedisOptions:
        seen.append(options.channel_prefix)
        return replace(options, channel_prefix="B:")

    by_name, by_function = HubApp(), HubApp()
    by_name.add_redis(f"{server.configuration},channelPrefix=A:", channel_prefix="B:")
    by_function.add_redis(f"{server.configuration},channelPrefix=A:", configure=configure)
    assert seen == ["A:"]
    for hubs in (by_name, by_function):
        hubs.add_hub("/chat", ChatHub, hub_name="ChatHub")
        async with hubs.lifespan():
            await until(lambda hubs=hubs: hubs.is_connected)
            assert server.command("PUBSUB", "CHANNELS", "A:*") == []
            assert server.command("PUBSUB", "NUMSUB", "B:ChatHub:all") == [b"B:ChatHub:all", 1]


async def until(condition: object) -> None:
    """Wait for what announces itself to nobody."""
    assert callable(condition)
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - as said
            await asyncio.sleep(0.01)


# -- which servers -----------------------------------------------------------------------------------------------


@pytest.mark.row("S2")
@pytest.mark.parametrize("protocol", [2, 3])
async def test_supported_server_is_recognised(
    server: RedisServer, protocol: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Both servers say which version they are, in either protocol, and both are recent enough: no warning."""
    node = RedisBackplane(replace(parse(server.configuration), protocol=protocol))  # type: ignore[arg-type]
    async with node.run(RecordingSink()):
        await until(lambda: node.health().round_trip is not None)
        name = "valkey" if "valkey" in str(server.program) else "redis"
        assert re.fullmatch(rf"{name} \d+\.\d+\.\d+", node.health().server)
    assert "supports it from" not in caplog.text


def hello(server: bytes, version: bytes) -> bytes:
    """The greeting of a server of our making, up to the answers to its introduction."""
    pairs = [(b"server", server), (b"version", version), (b"role", b"master")]
    return b"%%%d\r\n" % len(pairs) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for pair in pairs for word in pair)


@asynccontextmanager
async def old_server(greeting: bytes) -> AsyncIterator[int]:
    """A peer that greets, and answers pings."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                for command in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", data):
                    answers = {b"HELLO": greeting, b"PING": b"+PONG\r\n"}
                    writer.write(answers.get(command.upper(), b"+OK\r\n"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@pytest.mark.row("S2")
@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        (b"redis", b"6.0.16", "is Redis 6.0.16; hubplane supports it from version 6.2 on"),
        (b"redis", b"5.9.103", "is Redis 5.9.103; hubplane supports it from version 6.2 on"),
        (b"redis", b"6.2.0", None),
        (b"redis", b"10.0.1", None),
        (b"valkey", b"7.1.9", "is Valkey 7.1.9; hubplane supports it from version 7.2 on"),
        (b"valkey", b"8.0.0", None),
        (b"dragonfly", b"1.0", None),
        (b"redis", b"unstable", None),
    ],
)
async def test_old_server_is_warned_about_once(
    name: bytes, version: bytes, says: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A server older than those supported is named with its version, once for a node, however often it connects."""
    async with old_server(hello(name, version)) as port:
        options = RedisOptions(endpoints=(Endpoint("127.0.0.1", port),), retry_max=0.1, slow_round_trip=0)
        node, sink = RedisBackplane(options), RecordingSink()
        async with node.run(sink):
            await until(lambda: node.is_connected and node.health().round_trip is not None)
            session = node._session
            assert session is not None
            for connection in (session._commands.connection, session._subscriptions.connection):
                assert connection is not None
                connection.abort()
            await sink.event("restored")
            await until(lambda: node.health().round_trip is not None)
    warnings = [record.getMessage() for record in caplog.records if record.name == CHECKS]
    assert len(warnings) == (says is not None)
    assert says is None or says in warnings[0]


# -- how far away ------------------------------------------------------------------------------------------------


class Distance:
    """A proxy in front of a server that holds each answer back for some seconds."""

    def __init__(self, server: RedisServer, seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Distance]:
        """Serve while inside."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._server.host, self._server.port)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await asyncio.gather(self._pump(reader, back, 0), self._pump(there, writer, self._seconds))
        finally:
            for end in (back, writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65_536):
            loop.call_later(seconds, writer.write, data)
        writer.close()


@pytest.mark.row("S3")
async def test_distant_redis_is_warned_about(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis 50 ms away is measured as that, and a warning says so once; one nearby is measured without a word."""
    async with Distance(server, 0.05).run() as distance:
        options = RedisOptions(endpoints=(Endpoint("127.0.0.1", distance.port),))
        node, sink = RedisBackplane(options), RecordingSink()
        async with node.run(sink):
            await node.subscribe(["room"])
            await until(lambda: node.health().round_trip is not None)
            round_trip = node.health().round_trip
            assert round_trip is not None
            assert 0.05 <= round_trip < 0.5
            server.command("CLIENT", "KILL", "TYPE", "normal")
            await sink.event("restored")
            await until(lambda: node.health().round_trip is not None)
    warnings = [record for record in caplog.records if record.name == CHECKS]
    assert len(warnings) == 1
    assert warnings[0].levelno == logging.WARNING
    found = re.search(r"is ([\d.]+) ms away, there and back; more than 5 ms", warnings[0].getMessage())
    assert found is not None
    assert float(found[1]) >= 50
    caplog.clear()
    node = RedisBackplane(replace(parse(server.configuration), slow_round_trip=0.5))
    async with node.run(RecordingSink()):
        await until(lambda: node.health().round_trip is not None)
        assert 0 < (node.health().round_trip or 0) < 0.5
    assert not [record for record in caplog.records if record.name == CHECKS]


async def test_distance_is_not_measured_where_pings_are_forbidden(server: RedisServer) -> None:
    """Without the right to ping the round trip stays unknown, and nothing else is missing."""
    server.command("ACL", "SETUSER", "node", "on", ">pw", "+@all", "-ping", "&*")
    node, sink = RedisBackplane(replace(parse(server.configuration), user="node", password="pw")), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        assert await node.publish("room", b"x") == 1
        await sink.message("room", b"x")
        assert node.health().round_trip is None
        assert sink.events == []


# -- order -------------------------------------------------------------------------------------------------------


@pytest.mark.row("S14", "X1")
async def test_order_is_kept_on_each_channel(server: RedisServer) -> None:
    """Of 4,000 messages on four channels by two publishers at once, every node hears each channel in one order."""
    first, second = RedisBackplane(parse(server.configuration)), RedisBackplane(parse(server.configuration))
    ears = (RecordingSink(), RecordingSink())
    channels = [f"room {n}" for n in range(4)]
    async with first.run(ears[0]), second.run(ears[1]):
        for node in (first, second):
            await node.subscribe(channels)

        async def publish(node: RedisBackplane, name: str) -> None:
            for start in range(0, 2_000, 100):
                done = [node.publish(channels[n % 4], f"{name} {n}".encode()) for n in range(start, start + 100)]
                assert await asyncio.gather(*done) == [2] * 100

        await asyncio.gather(publish(first, "a"), publish(second, "b"))
        for sink in ears:
            await sink.until(lambda sink=sink: len(sink.messages) == 4_000)  # type: ignore[misc]  # bound now
    for number, channel in enumerate(channels):
        heard = ears[0].payloads(channel)
        assert heard == ears[1].payloads(channel)
        for name in ("a", "b"):
            own = [payload for payload in heard if payload.startswith(name.encode())]
            assert own == [f"{name} {n}".encode() for n in range(number, 2_000, 4)]
    # One pipeline out and one reader in: the order of a publisher holds across its channels, too.
    for sink in ears:
        own = [payload for _, payload in sink.messages if payload.startswith(b"a")]
        assert own == [f"a {n}".encode() for n in range(2_000)]
