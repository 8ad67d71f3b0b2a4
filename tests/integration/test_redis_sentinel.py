"""Real Sentinels: the primary is found through them, followed when it changes, and never taken on trust."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Literal

import pytest
from tests.integration.flow import GAP, flowing, lost_between

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_fleets import wait_until
from hubplane.testing.redis_sentinels import RedisSentinels
from hubplane.testing.redis_server import RedisServer, find_redis_server

pytestmark = pytest.mark.timeout(120)
prefixes = count()
CHANNELS = [f"room {number}" for number in range(6)]


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisSentinels]:
    """A primary, a replica and three Sentinels."""
    with RedisSentinels(kind="redis" if find_redis_server("redis") else "any") as sentinels:
        yield sentinels


@pytest.fixture
def sentinels(shared: RedisSentinels) -> RedisSentinels:
    """The same, well again after what the test before did to it."""
    shared.resume()
    return shared


def options_for(sentinels: RedisSentinels) -> RedisOptions:
    """How to reach it, with a prefix of the test's own."""
    return replace(parse(sentinels.configuration), channel_prefix=f"T{next(prefixes)}:")


@asynccontextmanager
async def running(options: RedisOptions, *channels: str) -> AsyncIterator[tuple[RedisBackplane, RecordingSink]]:
    """A connected backplane with some channels."""
    node, sink = RedisBackplane(options), RecordingSink()
    async with node.run(sink):
        await node.subscribe([*channels, "ready"])
        await node.publish("nobody", b"")  # both connections are up
        yield node, sink


async def eventually(check: Callable[[], object], what: str) -> None:
    """Wait for something that only the servers know, without stopping the event loop."""
    await asyncio.to_thread(wait_until, check, what)


def count_at(server: RedisServer, channel: str) -> object:
    """How many have subscribed a channel at a server."""
    reply = server.command("PUBSUB", "NUMSUB", channel)
    assert isinstance(reply, list)
    return reply[1]


@pytest.mark.parametrize("form", ["configuration", "url"])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_primary_is_found(sentinels: RedisSentinels, form: str, protocol: Literal[2, 3]) -> None:
    """A string with serviceName, and a redis+sentinel URL, name Sentinels; the messages go through the primary."""
    options = replace(parse(getattr(sentinels, form)), channel_prefix=f"T{next(prefixes)}:", protocol=protocol)
    async with running(options, "room") as (node, sink):
        assert node.endpoints == [f"127.0.0.1:{server.port}" for server in sentinels.sentinels]
        assert await node.publish("room", b"x") == 1
        await sink.message("room", b"x")
        for server in sentinels.servers:
            at_primary = server is sentinels.primary()
            assert count_at(server, f"{options.channel_prefix}room") == int(at_primary)


async def test_primary_dies(sentinels: RedisSentinels) -> None:
    """Messages flow while the primary is killed: nodes say so, follow the new one, and hear all that is sent then."""
    options = replace(options_for(sentinels), async_timeout=1.0)
    loop = asyncio.get_running_loop()
    async with flowing(options, CHANNELS) as fleet:
        old = sentinels.primary()
        before = loop.time()
        old.kill()
        await fleet.event("lost")
        assert loop.time() - before < 2.5
        # A second until it counts as down, then an election.
        await fleet.event(GAP)
        assert loop.time() - before < 20.0
        # One Sentinel that knows it is enough for the nodes; the others need a moment.
        await eventually(lambda: sentinels.primary() is not old, "another primary")
        new = sentinels.primary()
        await fleet.caught_up()
        lost = lost_between(fleet)
        old.start()
        await asyncio.to_thread(sentinels.wait_until_well)
        await fleet.caught_up()
        fleet.assert_ordered()
        # It follows the new one. Now and then Sentinels go back to it at once: more outages, told like the first.
        outages = max(len(node.sink.events) // 2 for node in fleet.nodes)
        for node in fleet.nodes:
            assert node.sink.events in [["lost", GAP] * times for times in range(1, outages + 1)]
        primary = sentinels.primary()
        if outages == 1:
            assert primary is new
            assert lost_between(fleet) == lost
        for server in sentinels.servers:
            assert count_at(server, f"{options.channel_prefix}room 0") == (2 if server is primary else 0)


async def test_forced_failover(sentinels: RedisSentinels) -> None:
    """When the Sentinels choose another primary both connections leave the old one, which is alive, within seconds."""
    options = options_for(sentinels)
    async with flowing(options, CHANNELS) as fleet:
        old = sentinels.primary()
        sentinels.fail_over()
        await eventually(lambda: sentinels.primary() is not old, "another primary")
        channel = f"{options.channel_prefix}room 0"
        await eventually(lambda: count_at(old, channel) == 0 and count_at(sentinels.primary(), channel) == 2, "moved")
        await fleet.event(GAP)
        await fleet.caught_up()
        fleet.assert_ordered()
        for node in fleet.nodes:
            assert node.backplane.is_connected


async def test_primary_freezes(sentinels: RedisSentinels) -> None:
    """A primary that stops answering is left for the new one; what it does when it wakes up concerns nobody."""
    options = replace(options_for(sentinels), liveness_interval=0.3, connect_timeout=1.0)
    loop = asyncio.get_running_loop()
    async with flowing(options, CHANNELS) as fleet:
        old = sentinels.primary()
        before = loop.time()
        old.pause()
        try:
            await fleet.event("lost")
            assert loop.time() - before < 10.0
            await fleet.event(GAP)
            assert loop.time() - before < 20.0
            await fleet.caught_up()
        finally:
            old.resume()
        # It follows the new one, or becomes the primary again: on a busy machine the new one may count as down too.
        await asyncio.to_thread(sentinels.wait_until_well)
        await fleet.caught_up()
        fleet.assert_ordered()


async def test_one_sentinel_of_three_is_enough(sentinels: RedisSentinels) -> None:
    """Sentinels that are down are passed over; without any the error says what became of each."""
    options = replace(options_for(sentinels), connect_timeout=1.0)
    primary = sentinels.primary()
    for sentinel in sentinels.sentinels[:2]:
        sentinel.kill()
    async with running(options, "room") as (node, sink):
        assert await node.publish("room", b"x") == 1
        sentinels.sentinels[2].kill()
        # Nobody needs a Sentinel while the primary is well.
        assert await node.publish("room", b"y") == 1
        primary.command("CLIENT", "KILL", "TYPE", "pubsub")
        await sink.event("lost")
        other, heard = RedisBackplane(options), RecordingSink()
        async with other.run(heard):
            await heard.event("lost")
            text = str(heard.errors[0])
            assert text.startswith("Sentinel: Failed connecting to configured primary for service: mymaster.")
            for sentinel in sentinels.sentinels:
                assert f"Sentinel 127.0.0.1:{sentinel.port}: Cannot connect to Redis at" in text
            sentinels.start()
            await heard.event("restored")
        await sink.event(GAP)


async def test_unknown_name(sentinels: RedisSentinels) -> None:
    """A name that no Sentinel knows is an error that says so, for each of them."""
    node, sink = RedisBackplane(replace(options_for(sentinels), service_name="nobody")), RecordingSink()
    async with node.run(sink):
        await sink.event("lost")
        assert str(sink.errors[0]).count("It knows no primary of the name nobody.") == 3


@asynccontextmanager
async def false_sentinel(primary: Endpoint, epoch: int) -> AsyncIterator[int]:
    """A peer that answers as a Sentinel does, with whatever a test wants; yields its port."""
    said = [b"*2\r\n", *(b"$%d\r\n%b\r\n" % (len(w), w) for w in (primary.host.encode(), str(primary.port).encode()))]
    replies = {
        b"GET-MASTER-ADDR-BY-NAME": b"".join(said),
        b"MASTER": b"*2\r\n$12\r\nconfig-epoch\r\n$%d\r\n%d\r\n" % (len(str(epoch)), epoch),
        b"SUBSCRIBE": b"*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n",
        b"HELLO": b"-ERR unknown command\r\n",
        b"PING": b"+PONG\r\n",
        b"INFO": b"-ERR unknown command\r\n",
        b"CLIENT": b"+OK\r\n",
    }
    serving: set[asyncio.StreamWriter] = set()
    idle = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(writer)
        idle.clear()
        try:
            while head := await reader.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                writer.write(replies[words[1] if words[0] == b"SENTINEL" else words[0]])
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            serving.discard(writer)
            if not serving:
                idle.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in serving:
            writer.transport.abort()
        if serving:
            await idle.wait()


@pytest.mark.parametrize("protocol", [2, None])
async def test_replica_is_left_whatever_sentinels_say(sentinels: RedisSentinels, protocol: Literal[2] | None) -> None:
    """A server that a Sentinel calls the primary and that is a replica is not used: a PUBLISH there reaches nobody."""
    replica = next(server for server in sentinels.servers if server is not sentinels.primary())
    async with false_sentinel(Endpoint(replica.host, replica.port), epoch=9) as port:
        endpoints = (Endpoint("127.0.0.1", port),)
        options = replace(options_for(sentinels), endpoints=endpoints, protocol=protocol)
        node, sink = RedisBackplane(options), RecordingSink()
        async with node.run(sink):
            await sink.event("lost")
            assert f"says 127.0.0.1:{replica.port}. Redis at 127.0.0.1:{replica.port} is a replica" in str(
                sink.errors[0]
            )


async def test_sentinels_disagree(sentinels: RedisSentinels) -> None:
    """The newest configuration counts, and where it leads nowhere the next is tried."""
    primary = sentinels.primary()
    right = Endpoint(primary.host, primary.port)
    with RedisServer() as stray:
        old = Endpoint(stray.host, stray.port)
        # Two Sentinels that were cut off name a server that takes itself for the primary; one knows better.
        async with (
            false_sentinel(old, epoch=1) as one,
            false_sentinel(old, epoch=1) as two,
            false_sentinel(right, epoch=2) as three,
            false_sentinel(Endpoint("127.0.0.1", 1), epoch=3) as four,
        ):
            endpoints = tuple(Endpoint("127.0.0.1", port) for port in (one, two, three, four))
            options = replace(options_for(sentinels), endpoints=endpoints)
            async with running(options, "room") as (node, _):
                assert await node.publish("room", b"x") == 1
                assert count_at(primary, f"{options.channel_prefix}room") == 1


@pytest.mark.parametrize("sentinel_password", [None, "other"])
async def test_passwords(sentinel_password: str | None) -> None:
    """Servers and Sentinels may have passwords of their own; Sentinels without one take that of the servers."""
    with RedisSentinels(password="first", sentinel_password=sentinel_password) as sentinels:
        assert sentinel_password is None or "sentinelPassword=other" in sentinels.configuration
        for protocol in (2, 3):
            options = replace(parse(sentinels.configuration), protocol=protocol)
            async with running(options, "room") as (node, _):
                assert await node.publish("room", b"x") == 1
        node, sink = RedisBackplane(replace(options, password="wrong", sentinel_password="wrong")), RecordingSink()
        async with node.run(sink):
            await sink.event("lost")
            text = str(sink.errors[0])
            assert "WRONGPASS" in text
            assert "wrong" not in text


async def test_users_with_few_rights(sentinels: RedisSentinels) -> None:
    """A user of the Sentinels needs two questions and one channel; where the second is refused the first is enough."""
    options = options_for(sentinels)
    for server in sentinels.servers:
        rules = f"on >pw resetchannels &{options.channel_prefix}* +subscribe +unsubscribe +publish +pubsub"
        server.command("ACL", "SETUSER", "few", "reset", *rules.split(), "+ping", "+hello", "+client")
    asks = "+sentinel|get-master-addr-by-name +sentinel|master +subscribe +ping +hello +client"
    for rules in (asks, asks.replace("+sentinel|master ", "")):
        for sentinel in sentinels.sentinels:
            sentinel.command("ACL", "SETUSER", "asks", "reset", "on", ">sp", "&+switch-master", *rules.split())
        login = replace(options, user="few", password="pw", sentinel_user="asks", sentinel_password="sp")
        async with running(login, "room") as (node, _):
            assert await node.publish("room", b"x") == 1
            assert await node.count_subscribers(["room"]) == {"room": 1}


async def test_starts_before_the_sentinels() -> None:
    """A node that starts while the servers and their Sentinels are away is whole when they come."""
    with RedisSentinels() as sentinels:
        for server in (*sentinels.servers, *sentinels.sentinels):
            server.kill()
        node, sink = RedisBackplane(replace(parse(sentinels.configuration), async_timeout=1.0)), RecordingSink()
        async with node.run(sink):
            await sink.event("lost")
            await node.subscribe(["room"], keep=True)
            with pytest.raises(BackplaneUnavailableError):
                await _publish(node)
            sentinels.start()
            await sink.event(GAP)
            assert await node.publish("room", b"x") == 1
            await sink.message("room", b"x")


def _publish(node: RedisBackplane) -> Awaitable[int]:
    return node.publish("room", b"lost")
