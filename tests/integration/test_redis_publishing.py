"""Publishing through Redis: one write per turn of the loop, and limits with a verdict while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import replace

import pytest

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_server import RedisServer

GAP = "restored with a gap"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of this test's own."""
    with RedisServer() as server:
        yield server


async def failures(waiting: Sequence[Awaitable[object]]) -> list[str]:
    """The errors of publishes that all fail."""
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, BackplaneUnavailableError) for result in results)
    return [str(result) for result in results]


@pytest.mark.row("S41")
async def test_publishes_wait_in_order_while_redis_is_away(server: RedisServer) -> None:
    """What is published during a short outage is delivered, in order, once Redis is back."""
    node, sink = RedisBackplane(parse(server.configuration)), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        await node.publish("nobody", b"")  # both connections are up
        server.kill()
        await sink.event("lost")
        waiting = [node.publish("room", str(number).encode()) for number in range(100)]
        await asyncio.sleep(0.2)  # some attempts to reconnect fail meanwhile
        waiting += [node.publish("room", str(number).encode()) for number in range(100, 200)]
        server.start()
        assert await asyncio.gather(*waiting) == [1] * 200
        await sink.message("room", b"199")
        assert sink.payloads("room") == [str(number).encode() for number in range(200)]


@pytest.mark.row("S37")
async def test_waiting_publish_times_out_with_the_reason(server: RedisServer) -> None:
    """A publish that waited `async_timeout` for a connection fails in .NET's words and is not sent later."""
    node, sink = RedisBackplane(replace(parse(server.configuration), async_timeout=0.4)), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        server.kill()
        await sink.event("lost")
        loop = asyncio.get_running_loop()
        before = loop.time()
        [text] = await failures([node.publish("room", b"never")])
        assert 0.3 < loop.time() - before < 4.0
        assert text.startswith(
            "The message timed out in the backlog attempting to send because no connection became available (400ms) - "
            "Last Connection Exception: "
        )
        with pytest.raises(BackplaneUnavailableError, match="subscription timed out in the backlog") as caught:
            await node.subscribe(["other"])
        assert caught.value.__cause__ is not None
        server.start()
        await sink.event(GAP)
        assert await node.publish("room", b"next") == 1
        await sink.message("room", b"next")
        assert sink.payloads("room") == [b"next"]


async def test_fail_fast_does_not_wait(server: RedisServer) -> None:
    """With the policy "fail_fast" publishes and subscribes fail at once while Redis is away, naming the channel."""
    # With abort_on_connect_fail entering run waits for both connections.
    options = replace(parse(server.configuration), backlog="fail_fast", abort_on_connect_fail=True)
    node, sink = RedisBackplane(options), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        server.kill()
        await sink.event("lost")
        loop = asyncio.get_running_loop()
        before = loop.time()
        [text] = await failures([node.publish("room", b"never")])
        assert text == "No connection is active/available to service this operation: PUBLISH room"
        with pytest.raises(BackplaneUnavailableError, match=r"No connection is active/available .* SUBSCRIBE"):
            await node.subscribe(["other"])
        with pytest.raises(BackplaneUnavailableError, match="PUBSUB NUMSUB"):
            await node.count_subscribers(["other"])
        assert loop.time() - before < 2.5  # waiting would take 15 s
        server.start()
        await sink.event(GAP)
        assert await node.publish("room", b"again") == 1


@pytest.mark.parametrize(
    ("limits", "accepted"), [({"backlog_messages": 10}, 10), ({"backlog_bytes": 5_000, "backlog_messages": 1_000}, 4)]
)
async def test_backlog_is_bounded(server: RedisServer, limits: dict[str, int], accepted: int) -> None:
    """While Redis is away no more than the limits wait; what is above fails at once, and the rest is delivered."""
    node, sink = RedisBackplane(replace(parse(server.configuration), **limits)), RecordingSink()  # type: ignore[arg-type]
    async with node.run(sink):
        await node.subscribe(["room"])
        await node.publish("nobody", b"")  # both connections are up
        server.kill()
        await sink.event("lost")
        waiting = [node.publish("room", b"x" * 1_000) for _ in range(20)]
        texts = await failures(waiting[accepted:])
        assert all("No connection is active/available" in text and "the limit is" in text for text in texts)
        server.start()
        assert await asyncio.gather(*waiting[:accepted]) == [1] * accepted


async def test_backlog_is_bounded_while_redis_does_not_read(server: RedisServer) -> None:
    """A frozen Redis fills the socket, then the backlog; above the limit publishes fail and memory stays bounded."""
    options = replace(parse(server.configuration), backlog_bytes=1_000_000, liveness_interval=60.0)
    node, sink = RedisBackplane(options), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        await node.publish("nobody", b"")  # both connections are up
        server.pause()
        waiting: list[Awaitable[int | None]] = []
        refused: list[Awaitable[int | None]] = []
        for _ in range(500):
            confirmed = node.publish("room", b"x" * 100_000)
            (refused if isinstance(confirmed, asyncio.Future) and confirmed.done() else waiting).append(confirmed)
            await asyncio.sleep(0)  # a turn of the loop, so that each leaves in a write of its own
        assert len(refused) > 200
        await failures(refused)
        server.resume()
        assert await asyncio.gather(*waiting) == [1] * len(waiting)
        await sink.until(lambda: len(sink.messages) == len(waiting))


async def test_burst_beyond_the_limits_is_sent_while_redis_takes_it(server: RedisServer) -> None:
    """The limits are for what waits: a burst above them in one turn of the loop is simply sent."""
    options = replace(parse(server.configuration), backlog_messages=100, abort_on_connect_fail=True)
    node, sink = RedisBackplane(options), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        assert await asyncio.gather(*[node.publish("room", b"x") for _ in range(1_000)]) == [1] * 1_000


async def test_cancelled_publish_does_not_disturb_the_others(server: RedisServer) -> None:
    """Giving up on one publish leaves the replies of those around it in their places."""
    node, sink = RedisBackplane(parse(server.configuration)), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["one"])
        confirmed = [node.publish("one" if number % 2 else "none", b"x") for number in range(20)]
        for number in (0, 7, 19):
            future = confirmed[number]
            assert isinstance(future, asyncio.Future)
            future.cancel()
        results = await asyncio.gather(*confirmed, return_exceptions=True)
        assert [r for r in results if not isinstance(r, BaseException)] == [
            number % 2 for number in range(20) if number not in (0, 7, 19)
        ]


@pytest.mark.row("S24", "S25", "S29", "S30")
async def test_prefix_isolates_and_is_literal(server: RedisServer) -> None:
    """Two prefixes do not hear each other, equal ones do, and `*` in a prefix is only a star."""
    options = parse(server.configuration)
    star, plain, none = (RedisBackplane(replace(options, channel_prefix=prefix)) for prefix in ("A*", "AB:", ""))
    heard = [RecordingSink() for _ in range(3)]
    async with star.run(heard[0]), plain.run(heard[1]), none.run(heard[2]):
        for node in (star, plain, none):
            await node.subscribe(["room"])
        for node in (star, plain, none):
            assert await node.publish("room", b"x") == 1
        assert await none.publish("A*room", b"by full name") == 1
        await heard[0].message("room", b"by full name")
        assert sorted(server.command("PUBSUB", "CHANNELS")) == [b"A*room", b"AB:room", b"room"]  # type: ignore[arg-type, type-var]
        assert server.command("PUBSUB", "NUMPAT") == 0
        assert await plain.count_subscribers(["room", "A*room"]) == {"room": 1, "A*room": 0}
    assert [sink.messages for sink in heard] == [
        [("room", b"x"), ("room", b"by full name")],
        [("room", b"x")],
        [("room", b"x")],
    ]


@pytest.mark.row("S49", "S1")
async def test_two_connections_per_process_and_no_keys(server: RedisServer) -> None:
    """However many channels are used there are two connections, both named, and no key is written."""
    node = RedisBackplane(replace(parse(server.configuration), client_name="web 1"))
    async with node.run(RecordingSink()):
        await node.subscribe([f"Hub{hub}:{name}" for hub in range(12) for name in ("all", "internal:groups")])
        await node.publish("Hub1:all", b"x")
        clients = server.command("CLIENT", "LIST")
        assert isinstance(clients, bytes)
        ours = [line for line in clients.decode().splitlines() if "name=web_1" in line]
        assert len(ours) == 2
        assert sum(" sub=24 " in line for line in ours) == 1
        assert server.command("DBSIZE") == 0
