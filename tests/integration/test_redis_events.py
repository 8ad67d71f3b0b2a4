"""What an application hears about Redis, and what its health says, while a real server comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from redis import Redis
from tests.integration.ears import Ears

from hubplane import (
    BackplaneAuthenticationError,
    BackplaneUnavailableError,
    Endpoint,
    Hub,
    HubApp,
    RedisConnectionFailed,
    RedisConnectionRestored,
    RedisFailure,
    RedisGap,
)
from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.events import RedisHandlers
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_server import RedisServer

EVENTS = "hubplane.backplane.redis.events"
PATIENCE = 20.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own."""
    with RedisServer() as server:
        yield server


def kill(server: RedisServer, kind: str) -> None:
    """Cut the connections of one kind: ``pubsub`` or ``normal``."""
    server.command("CLIENT", "KILL", "TYPE", kind)


def where(server: RedisServer) -> Endpoint:
    """The server's address."""
    return Endpoint(server.host, server.port)


@pytest.mark.row("S42", "S44", "S50")
async def test_killed_subscription_is_told_with_its_gap(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A lost subscriber socket is one failure, one return and one gap, which covers what others published meanwhile.

    In one transaction Redis drops the socket and takes a message that nobody is there to hear.
    """
    ears = Ears()
    node, sink = RedisBackplane(parse(server.configuration), handlers=ears.handlers), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["Hub:all", "Hub:group:g"])
        before = datetime.now(UTC)
        with Redis(host=server.host, port=server.port) as other, other.pipeline(transaction=True) as both:
            both.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            both.publish("Hub:all", b"lost")
            assert both.execute() == [1, 0]
        published = datetime.now(UTC)
        await ears.count(3)
        await node.subscribe(["Hub:group:later"])
        assert await node.publish("Hub:all", b"heard") == 1
        await sink.message("Hub:all", b"heard")
        assert sink.payloads("Hub:all") == [b"heard"]
        failed, restored, gap = ears.heard
        assert isinstance(failed, RedisConnectionFailed)
        assert (failed.connection, failed.endpoint, failed.failure) == (
            "subscription",
            where(server),
            RedisFailure.SOCKET_CLOSED,
        )
        assert "was lost" in str(failed.error)
        assert isinstance(restored, RedisConnectionRestored)
        assert (restored.connection, restored.endpoint) == ("subscription", where(server))
        assert 0 <= restored.seconds < PATIENCE
        assert isinstance(gap, RedisGap)
        assert sorted(gap.channels) == ["Hub:all", "Hub:group:g"]
        assert gap.since <= published <= gap.until
        # Nothing that was published before `since` is lost; a probe is due each second, so it is not long ago.
        assert gap.since <= failed.at <= restored.at <= gap.until <= datetime.now(UTC)
        assert (failed.at - gap.since).total_seconds() < 3
        assert (before - failed.at).total_seconds() <= 0.001
        assert sink.events == ["lost", "restored with a gap"]
    records = [record for record in caplog.records if record.name == EVENTS]
    assert [record.__dict__["event_id"] for record in records] == [16]
    assert records[0].getMessage().startswith("Messages may have been missed on 2 channels between ")


async def test_killed_publishing_connection_is_no_gap(server: RedisServer) -> None:
    """A lost command socket is a failure and a return of "publishing", and nothing was missed."""
    ears = Ears()
    node = RedisBackplane(parse(server.configuration), handlers=ears.handlers)
    async with node.run(RecordingSink()):
        await node.subscribe(["a"])
        kill(server, "normal")
        await ears.count(2)
        assert await node.publish("a", b"x") == 1
    assert [event.connection for event in ears.failed] == ["publishing"]
    assert [event.connection for event in ears.restored] == ["publishing"]
    assert ears.gaps == []


@pytest.mark.row("S44", "S50")
async def test_outage_is_told_once_per_connection(server: RedisServer) -> None:
    """However often connecting fails, an outage is one failure for each connection, until each is restored."""
    ears = Ears()
    node, sink = RedisBackplane(parse(server.configuration), handlers=ears.handlers), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["a"])
        await node.publish("nobody", b"")  # both connections are up
        server.kill()
        await ears.until(lambda: len(ears.failed) == 2)
        session = node._session
        assert session is not None
        async with asyncio.timeout(PATIENCE):
            while session._commands.failures < 3:  # noqa: ASYNC110 - attempts announce themselves to nobody
                await asyncio.sleep(0.02)
        assert len(ears.heard) == 2
        server.start()
        await ears.count(5)
    assert {event.connection for event in ears.failed} == {"publishing", "subscription"}
    assert {event.connection for event in ears.restored} == {"publishing", "subscription"}
    assert [gap.channels for gap in ears.gaps] == [("a",)]
    assert len(ears.heard) == 5


async def test_start_without_redis_is_told(server: RedisServer) -> None:
    """A node that starts before Redis tells of both connections, and of a gap since its start."""
    server.kill()
    ears = Ears()
    started = datetime.now(UTC)
    node = RedisBackplane(parse(server.configuration), handlers=ears.handlers)
    async with node.run(RecordingSink()):
        await node.subscribe(["a"], keep=True)
        await ears.count(2)
        assert {event.failure for event in ears.failed} == {RedisFailure.UNABLE_TO_CONNECT}
        assert {event.endpoint for event in ears.failed} == {where(server)}
        assert isinstance(ears.failed[0].error.__cause__, OSError)
        server.start()
        await ears.count(5)
        (gap,) = ears.gaps
        assert gap.channels == ("a",)
        assert abs((gap.since - started).total_seconds()) < 1


async def test_good_start_is_no_event(server: RedisServer) -> None:
    """A first connect that works is no return, and no gap."""
    ears = Ears()
    node = RedisBackplane(parse(server.configuration), handlers=ears.handlers)
    async with node.run(RecordingSink()):
        await node.subscribe(["a"])
        assert await node.publish("a", b"x") == 1
    assert ears.heard == []


async def test_frozen_redis_is_told_and_is_no_gap(server: RedisServer) -> None:
    """A server that falls silent is a socket failure; if it wakes up on the same connection nothing was missed."""
    ears = Ears()
    options = replace(parse(server.configuration), liveness_interval=0.2)
    node = RedisBackplane(options, handlers=ears.handlers)
    async with node.run(RecordingSink()):
        await node.subscribe(["a"])
        await node.publish("nobody", b"")  # both connections are up
        server.pause()
        await ears.until(lambda: len(ears.failed) == 2)
        assert {event.failure for event in ears.failed} == {RedisFailure.SOCKET_FAILURE}
        assert all("did not answer" in str(event.error) for event in ears.failed)
        health = node.health()
        assert (health.is_connected, health.publishing, health.subscription) == (False, None, None)
        server.resume()
        await ears.until(lambda: len(ears.restored) == 2)
        assert node.is_connected
    assert ears.gaps == [] or ears.gaps[0].channels == ("a",)


async def test_failures_of_handlers_are_logged_and_harm_nothing(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Handlers that raise, sync or async, are logged with their traceback; the others and Redis go on."""
    gaps: asyncio.Queue[RedisGap] = asyncio.Queue()

    def broken(_: RedisConnectionFailed) -> None:
        raise RuntimeError("sync handler")

    async def broken_too(_: RedisConnectionRestored) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("async handler")

    async def works(gap: RedisGap) -> None:
        await gaps.put(gap)

    handlers = RedisHandlers(on_connection_failed=broken, on_connection_restored=broken_too, on_gap=works)
    node = RedisBackplane(parse(server.configuration), handlers=handlers)
    async with node.run(RecordingSink()):
        await node.subscribe(["a"])
        kill(server, "pubsub")
        async with asyncio.timeout(PATIENCE):
            assert (await gaps.get()).channels == ("a",)
        assert await node.publish("a", b"x") == 1
    failures = [record for record in caplog.records if record.exc_info]
    assert [record.getMessage() for record in failures] == [
        "A handler of RedisConnectionFailed failed.",
        "A handler of RedisConnectionRestored failed.",
    ]


async def test_handler_that_hangs_delays_nobody(server: RedisServer) -> None:
    """While a handler does not return the node heals; at the end it is cancelled after a second."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_: RedisConnectionFailed) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    node = RedisBackplane(parse(server.configuration), handlers=RedisHandlers(on_connection_failed=hang))
    sink = RecordingSink()
    async with node.run(sink):
        await node.subscribe(["a"])
        kill(server, "pubsub")
        await sink.event("restored with a gap")
        await entered.wait()
        assert await node.publish("a", b"x") == 1
        assert not cancelled.is_set()
    assert cancelled.is_set()


async def test_leaving_is_no_failure(server: RedisServer) -> None:
    """The end of the node itself is no event, during an outage neither."""
    ears = Ears()
    node = RedisBackplane(parse(server.configuration), handlers=ears.handlers)
    async with node.run(RecordingSink()):
        await node.subscribe(["a"])
    assert ears.heard == []
    async with node.run(RecordingSink()):
        await node.subscribe(["a"])
        await node.publish("nobody", b"")  # both connections are up
        server.kill()
        await ears.until(lambda: len(ears.failed) == 2)
    assert len(ears.heard) == 2


@pytest.mark.parametrize("kind", ["valkey", "redis"])
@pytest.mark.row("S42")
async def test_revoked_channel_has_a_gap_of_its_own(kind: str) -> None:
    """What Redis forbids for a while is a gap of that channel alone, longer than that of the others."""
    with RedisServer(kind=kind) as server:  # type: ignore[arg-type]  # one of the two
        server.command("ACL", "SETUSER", "node", "on", ">pw", "+@all", "resetchannels", "&*")
        ears = Ears()
        options = replace(parse(server.configuration), user="node", password="pw")
        node, sink = RedisBackplane(options, handlers=ears.handlers), RecordingSink()
        async with node.run(sink):
            await node.subscribe(["room", "secret"])
            server.command("ACL", "SETUSER", "node", "resetchannels", "&room")
            await ears.until(lambda: bool(ears.gaps))
            (first,) = ears.gaps
            assert first.channels == ("room",)
            health = node.health()
            assert not health.is_connected
            assert (health.channels, health.refused, health.unconfirmed) == (2, 1, 1)
            assert health.subscription == where(server)
            assert health.error
            server.command("ACL", "SETUSER", "node", "&*")
            await ears.until(lambda: len(ears.gaps) == 2)
            second = ears.gaps[1]
            assert second.channels == ("secret",)
            assert second.since <= first.until < second.until
            await sink.event("restored with a gap")
            assert node.health().is_connected
            assert node.health().error == ""


async def test_wrong_password_is_an_authentication_failure() -> None:
    """A refused login is told as such, with a typed error and without the password."""
    with RedisServer(password="right") as server:
        ears = Ears()
        options = replace(parse(f"{server.host}:{server.port}"), password="hunter2")
        node = RedisBackplane(options, handlers=ears.handlers)
        async with node.run(RecordingSink()):
            await ears.count(2)
            assert {event.failure for event in ears.failed} == {RedisFailure.AUTHENTICATION_FAILURE}
            assert all(isinstance(event.error, BackplaneAuthenticationError) for event in ears.failed)
            assert "WRONGPASS" in node.health().error
            assert "hunter2" not in repr(ears.heard) + repr(node.health())


# -- in an application -------------------------------------------------------------------------------------------


class ChatHub(Hub):
    async def ping(self) -> None: ...


class NewsHub(Hub):
    async def ping(self) -> None: ...


@pytest.mark.row("S51")
async def test_application_that_started_without_redis_knows_it(server: RedisServer) -> None:
    """While Redis is away at the start the running app is not connected, and as soon as it is there it is."""
    server.kill()
    hubs = HubApp(f"{server.configuration},asyncTimeout=500")
    hubs.add_hub("/chat", ChatHub, hub_name="ChatHub")
    async with hubs.lifespan(), asyncio.timeout(PATIENCE):
        with pytest.raises(BackplaneUnavailableError):
            await hubs.context(ChatHub).clients.all.send("news")
        assert not hubs.is_connected
        server.start()
        while not hubs.is_connected:  # noqa: ASYNC110 - a first connection is no event
            await asyncio.sleep(0.01)
        await hubs.context(ChatHub).clients.all.send("news")


@pytest.mark.row("S44")
async def test_application_hears_and_knows_its_health(server: RedisServer) -> None:
    """Handlers of `add_redis` hear all three kinds of events, a gap names its hubs, and the app's health follows."""
    ears = Ears()

    async def hear(event: RedisConnectionFailed | RedisConnectionRestored | RedisGap) -> None:
        ears.hear(event)

    hubs = HubApp()
    hubs.add_hub("/chat", ChatHub, hub_name="ChatHub")
    hubs.add_redis(
        server.configuration, on_connection_failed=hear, on_connection_restored=hear, on_gap=hear, async_timeout=1.0
    )
    hubs.add_hub("/news", NewsHub, hub_name="NewsHub")
    assert not hubs.is_connected
    health = hubs.redis_health()
    assert health is not None
    assert health.error == "The backplane is not running."
    async with hubs.lifespan():
        async with asyncio.timeout(PATIENCE):
            while not hubs.is_connected:  # noqa: ASYNC110 - a good start is no event
                await asyncio.sleep(0.01)
        health = hubs.redis_health()
        assert health is not None
        assert health.publishing == health.subscription == where(server)
        assert (health.channels, health.unconfirmed, health.refused, health.error) == (8, 0, 0, "")
        assert health.server.startswith("valkey ") or health.server.startswith("redis ")
        server.kill()
        await ears.until(lambda: len(ears.failed) == 2)
        assert not hubs.is_connected
        health = hubs.redis_health()
        assert health is not None
        assert (health.publishing, health.subscription, health.unconfirmed) == (None, None, 8)
        assert "lost" in health.error or "Cannot connect" in health.error
        server.start()
        await ears.until(lambda: bool(ears.gaps) and len(ears.restored) == 2)
        assert hubs.is_connected
    assert set(ears.gaps[0].hubs) == {"ChatHub", "NewsHub"}
    assert not hubs.is_connected


async def test_one_node_in_memory_is_connected() -> None:
    """Without Redis an app is connected while it runs, and has no health of Redis."""
    hubs = HubApp()
    hubs.add_hub("/chat", ChatHub)
    assert not hubs.is_connected
    async with hubs.lifespan():
        assert hubs.is_connected
    assert hubs.redis_health() is None
