"""The Redis backplane notices every kind of outage, says so once, and heals by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Self

import pytest

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_server import RedisServer

GAP = "restored with a gap"


@asynccontextmanager
async def running(options: RedisOptions, *channels: str) -> AsyncIterator[tuple[RedisBackplane, RecordingSink]]:
    """A connected backplane with some channels."""
    node, sink = RedisBackplane(options), RecordingSink()
    async with node.run(sink):
        await node.subscribe([*channels, "ready"])
        assert await node.publish("nobody", b"") == 0  # both connections are up
        yield node, sink


class Proxy:
    """A TCP proxy before a server, whose present connections can be made to hold everything back.

    It loses nothing within a connection, as TCP does not: what was held back arrives after `revive`.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._links: list[asyncio.Event] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        onward, back = await asyncio.open_connection("127.0.0.1", self._target)
        carries = asyncio.Event()
        carries.set()
        self._links.append(carries)
        for source, target in ((reader, back), (onward, writer)):
            task = asyncio.create_task(self._pump(source, target, carries))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, carries: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                await carries.wait()
                target.write(data)
        finally:
            target.close()

    def blackhole(self) -> None:
        """Let nothing through any more, in either direction, on the connections there are now."""
        for carries in self._links:
            carries.clear()

    def revive(self) -> None:
        """Let things through again."""
        for carries in self._links:
            carries.set()


async def test_starts_before_redis_and_is_whole_when_it_comes() -> None:
    """A node that starts while Redis is away gets every kept channel once Redis is there, without a restart."""
    with RedisServer() as server:
        options = parse(server.configuration)
        server.kill()
        node, sink = RedisBackplane(options), RecordingSink()
        channels = [f"Hub:{name}" for name in ("all", "internal:groups", "internal:ack:n", "internal:return:n")]
        async with node.run(sink):
            await sink.event("lost")
            await node.subscribe(channels, keep=True)
            assert "Connection refused" in str(sink.errors[0]) or "Connect call failed" in str(sink.errors[0])
            assert isinstance(sink.errors[0].__cause__, OSError)
            server.start()
            await sink.event(GAP)
            assert sorted(map(bytes, server.command("PUBSUB", "CHANNELS"))) == sorted(c.encode() for c in channels)  # type: ignore[arg-type]
            for channel in channels:
                assert await node.publish(channel, b"x") == 1
                await sink.message(channel, b"x")
        assert sink.events == ["lost", GAP]


@pytest.mark.row("S43")
async def test_restart_restores_five_thousand_channels_quickly() -> None:
    """After a restart of an empty Redis 5,000 channels are confirmed again before `restored` is called."""
    with RedisServer() as server:
        channels = [f"Hub:connection:{number:022d}" for number in range(5_000)]
        async with running(parse(server.configuration), *channels) as (node, sink):
            server.kill()
            await sink.event("lost")
            server.start()
            before = asyncio.get_running_loop().time()
            await sink.event(GAP)
            assert asyncio.get_running_loop().time() - before < 10.0
            assert node.is_connected
            assert len(server.command("PUBSUB", "CHANNELS")) == 5_001  # type: ignore[arg-type]
            counts = await node.count_subscribers(channels)
            assert counts == dict.fromkeys(channels, 1)


async def test_killed_subscriber_socket_is_a_gap() -> None:
    """CLIENT KILL TYPE pubsub costs the subscriptions for a moment; it is reported as one outage with a gap."""
    with RedisServer() as server:
        async with running(parse(server.configuration), "room") as (node, sink):
            assert server.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
            await sink.event(GAP)
            assert await node.publish("room", b"back") == 1
            await sink.message("room", b"back")
            assert sink.events == ["lost", GAP]
            assert "subscriptions" not in repr(node)


async def test_publish_waits_for_the_own_subscriptions() -> None:
    """A publish made right after the subscriber's socket was killed is heard by the node itself."""
    with RedisServer() as server:
        async with running(parse(server.configuration), "room") as (node, sink):
            server.command("CLIENT", "KILL", "TYPE", "pubsub")
            await sink.event("lost")
            assert await node.publish("room", b"mine") == 1
            await sink.message("room", b"mine")


async def test_killed_command_socket_is_no_gap() -> None:
    """Losing the command connection loses no message that others published: restored without a gap."""
    with RedisServer() as server:
        async with running(parse(server.configuration), "room") as (node, sink):
            assert server.command("CLIENT", "KILL", "TYPE", "normal") == 1
            await sink.event("restored")
            server.command("PUBLISH", "room", "from elsewhere")
            await sink.message("room", b"from elsewhere")
            assert await node.publish("room", b"again") == 1
            assert sink.events == ["lost", "restored"]


async def test_unconfirmed_publish_fails_when_the_connection_breaks() -> None:
    """A publish that was sent and not answered when the connection broke raises, with the break as its cause."""
    with RedisServer() as server:
        async with running(parse(server.configuration)) as (node, sink):
            server.pause()
            confirmed = node.publish("room", b"x")
            await asyncio.sleep(0.05)  # let it be sent; the server is frozen, so nothing else can happen meanwhile
            server.kill()
            with pytest.raises(BackplaneUnavailableError, match="Not confirmed: The connection to Redis at") as caught:
                await confirmed
            assert isinstance(caught.value.__cause__, BackplaneUnavailableError)
            await sink.event("lost")


async def test_frozen_redis_is_noticed_and_loses_nothing() -> None:
    """A frozen Redis is reported within three intervals; when it wakes up the old connection goes on without a gap."""
    with RedisServer() as server:
        options = replace(parse(server.configuration), liveness_interval=0.2)
        async with running(options, "room") as (node, sink):
            loop = asyncio.get_running_loop()
            server.pause()
            before = loop.time()
            await sink.event("lost")
            assert loop.time() - before < 5.0
            assert "did not answer for 0.6 s" in str(sink.errors[0])
            assert not node.is_connected
            late = node.publish("room", b"sent while frozen")
            server.resume()
            await sink.event("restored")
            assert await late == 1
            await sink.message("room", b"sent while frozen")
            assert sink.events == ["lost", "restored"]


async def test_half_dead_link_is_replaced() -> None:
    """A link that swallows everything while the broker is well is noticed in about 3 s and replaced by a new one."""
    with RedisServer() as server:
        async with Proxy(server.port) as proxy:
            options = replace(parse(server.configuration), endpoints=(Endpoint("127.0.0.1", proxy.port),))
            async with running(options, "room") as (node, sink):
                loop = asyncio.get_running_loop()
                proxy.blackhole()
                before = loop.time()
                await sink.event("lost")
                noticed = loop.time() - before
                await sink.event(GAP)
                healed = loop.time() - before
                # 3 s and 5 s, or more where the machine is starved; TCP itself would take minutes.
                assert 1.0 < noticed < 15.0
                assert healed < 20.0
                # Redis cannot know that the old link is dead.
                assert await node.publish("room", b"back") == 2
                await sink.message("room", b"back")
                assert proxy.connections == 4


async def test_link_that_comes_back_before_the_new_one_is_kept() -> None:
    """When the silent link speaks before a second one could be opened, it is used on, and nothing was missed."""
    with RedisServer() as server:
        async with Proxy(server.port) as proxy:
            options = replace(
                parse(server.configuration),
                endpoints=(Endpoint("127.0.0.1", proxy.port),),
                liveness_interval=0.2,
                connect_timeout=5.0,
            )
            async with running(options, "room") as (node, sink):
                proxy.blackhole()
                server.pause()
                await sink.event("lost")
                proxy.revive()
                server.resume()
                await sink.until(lambda: len(sink.events) > 1)
                assert await node.publish("room", b"back") == 1
                await sink.message("room", b"back")


async def test_publish_to_a_frozen_redis_times_out() -> None:
    """A publish that Redis does not answer fails after `async_timeout`; a late answer harms nothing."""
    with RedisServer() as server:
        options = replace(parse(server.configuration), async_timeout=0.4, liveness_interval=60.0)
        async with running(options, "room") as (node, sink):
            server.pause()
            with pytest.raises(BackplaneUnavailableError, match=r"Timeout awaiting response \(400ms\)"):
                await node.publish("room", b"late")
            with pytest.raises(BackplaneUnavailableError, match=r"Timeout awaiting confirmation of 1 channels"):
                await node.subscribe(["more"])
            await node.unsubscribe(["room"])
            server.resume()
            assert await node.publish("ready", b"next") == 1
            await sink.message("ready", b"next")
            assert sink.payloads("room") == []
            assert await node.count_subscribers(["more", "room"]) == {"more": 0, "room": 0}
            assert sink.events == []


async def test_server_that_hangs_at_the_start_does_not_hang_the_start() -> None:
    """Entering run and wanting channels to keep goes on after `async_timeout` although Redis accepts and is silent."""
    with RedisServer() as server:
        server.pause()
        options = replace(parse(server.configuration), async_timeout=0.3, connect_timeout=0.5)
        node, sink = RedisBackplane(options), RecordingSink()
        async with asyncio.timeout(3.0), node.run(sink):
            await node.subscribe(["room"], keep=True)
            # Said by then, so that nobody takes the end of the call for a confirmation.
            assert sink.events == ["lost"]
            assert str(sink.errors[0]) == "No connection to Redis within 0.3 s."
            server.resume()
            await sink.event(GAP)
            assert await node.publish("room", b"x") == 1


async def test_many_outages_in_a_row() -> None:
    """Ten outages of all kinds in a row are reported one by one, and every one is healed."""
    with RedisServer() as server:
        async with running(parse(server.configuration), "room") as (node, sink):
            for number in range(10):
                if number % 2:
                    server.restart()
                else:
                    server.command("CLIENT", "KILL", "TYPE", "pubsub")
                await sink.event(GAP, number + 1)
                payload = str(number).encode()
                assert await node.publish("room", payload) == 1
                await sink.message("room", payload)
            assert sink.events == ["lost", GAP] * 10


async def test_leaving_during_an_outage_is_prompt() -> None:
    """Leaving run while Redis is away or frozen takes no time, and fails whoever still waits."""
    with RedisServer() as server:
        node, sink = RedisBackplane(parse(server.configuration)), RecordingSink()
        loop = asyncio.get_running_loop()
        async with node.run(sink):
            await node.subscribe(["room"])
            await node.publish("nobody", b"")  # both connections are up
            server.pause()
            waiting = [node.publish("room", b"x" * 100_000) for _ in range(100)]
            joining = asyncio.create_task(node.subscribe(["late"]))
            leaving = asyncio.create_task(node.unsubscribe(["room"]))
            await asyncio.sleep(0.05)  # let them reach the socket; the frozen server cannot answer
            before = loop.time()
        assert loop.time() - before < 3.0
        server.resume()
        results = await asyncio.gather(*waiting, joining, return_exceptions=True)
        assert all(isinstance(result, BackplaneUnavailableError) for result in results)
        await leaving


async def test_logs_tell_the_story_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """Connecting and healing are INFO, losing is a WARNING, and no record shows the password."""
    caplog.set_level(logging.DEBUG, logger="hubplane.backplane")
    with RedisServer(password="hunter2,=x") as server:
        options = replace(parse(f"{server.host}:{server.port}"), password="hunter2,=x")
        async with running(options, "room") as (node, sink):
            server.restart()
            await sink.event(GAP)
            assert "hunter2" not in repr(options) + repr(node) + str(sink.errors) + repr(sink.errors[0].__cause__)
    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert any(level == logging.INFO and text.startswith("Connected to Redis at 127.0.0.1") for level, text in told)
    assert any(level == logging.WARNING and "was lost" in text for level, text in told)
    assert (logging.INFO, "The Redis backplane is whole again; messages may have been missed.") in told
    assert not any("hunter2" in text for _, text in told)
