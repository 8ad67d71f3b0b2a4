"""`CommandPipeline`: order, one write per turn, limits and deadlines, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.pipeline import CommandPipeline
from hubplane.backplane.redis.resp import pack_command
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.fakes import FakeClock

if TYPE_CHECKING:
    from .conftest import Wire

LOST = BackplaneUnavailableError("The connection was lost.")


def submit(pipeline: CommandPipeline, text: str) -> asyncio.Future[object]:
    """Publish `text`."""
    return pipeline.submit(pack_command(("PUBLISH", "room", text)), "PUBLISH", "room")


async def turn() -> None:
    """Let the loop go round once."""
    await asyncio.sleep(0)


async def refusal(future: asyncio.Future[object]) -> str:
    """The error of a future that has one already."""
    assert future.done()
    with pytest.raises(BackplaneUnavailableError) as caught:
        await future
    return str(caught.value)


async def test_one_turn_is_one_write(wire: Callable[[], Wire]) -> None:
    """Commands of one turn leave together, in order; only the first goes ahead when nothing is under way."""
    pipeline, redis = CommandPipeline(RedisOptions(), FakeClock()), wire()
    pipeline.attach(redis.connection)
    futures = [submit(pipeline, str(number)) for number in range(3)]
    assert len(redis.transport.writes) == 1
    await turn()
    assert len(redis.transport.writes) == 2
    futures += [submit(pipeline, str(number)) for number in range(3, 5)]
    assert len(redis.transport.writes) == 2
    await turn()
    assert len(redis.transport.writes) == 3
    assert [command[2] for command in redis.commands()] == [b"0", b"1", b"2", b"3", b"4"]
    redis.receive(b":1\r\n:2\r\n:")
    redis.receive(b"3\r\n:4\r\n:5\r\n")
    assert [await future for future in futures] == [1, 2, 3, 4, 5]


async def test_error_reply_goes_to_its_own_command(wire: Callable[[], Wire]) -> None:
    """An error answers one command; pushes are nobody's answer."""
    pipeline, redis = CommandPipeline(RedisOptions(), FakeClock()), wire()
    pipeline.attach(redis.connection)
    futures = [submit(pipeline, "a"), submit(pipeline, "b")]
    await turn()
    redis.receive(b"-NOPERM no\r\n>2\r\n+invalidate\r\n*0\r\n:7\r\n")
    assert await refusal(futures[0]) == (
        "Redis refused the command PUBLISH room: NOPERM no. The node's user needs: ACL SETUSER default +publish &*"
    )
    assert await futures[1] == 7


async def test_reply_to_nothing_ends_the_connection(wire: Callable[[], Wire]) -> None:
    """A reply too many is no Redis; commands that wait are not answered with it."""
    pipeline, redis = CommandPipeline(RedisOptions(), FakeClock()), wire()
    pipeline.attach(redis.connection)
    pipeline.hold(held=True)
    waiting = submit(pipeline, "a")
    await turn()
    redis.receive(b":1\r\n")
    assert redis.transport.aborted
    assert not waiting.done()


async def test_lost_connection_fails_what_was_sent_only(wire: Callable[[], Wire]) -> None:
    """What was sent is unconfirmed; what was not goes to the next connection, before anything newer."""
    pipeline, old, new = CommandPipeline(RedisOptions(), FakeClock()), wire(), wire()
    pipeline.attach(old.connection)
    sent = submit(pipeline, "sent")
    await turn()
    old.connection.pause_writing()
    unsent = submit(pipeline, "unsent")
    await turn()
    assert pipeline.unsent == 1
    pipeline.detach(LOST)
    assert await refusal(sent) == "Not confirmed: The connection was lost."
    assert sent.exception() is not None
    later = submit(pipeline, "later")
    await turn()
    pipeline.attach(new.connection)
    assert [command[2] for command in new.commands()] == [b"unsent", b"later"]
    new.receive(b":1\r\n:2\r\n")
    assert (await unsent, await later) == (1, 2)


async def test_resumed_socket_gets_what_waited(wire: Callable[[], Wire]) -> None:
    """While the socket is full nothing is written; when it drains, everything in one write."""
    pipeline, redis = CommandPipeline(RedisOptions(), FakeClock()), wire()
    pipeline.attach(redis.connection)
    redis.connection.pause_writing()
    for number in range(3):
        submit(pipeline, str(number))
        await turn()
    assert redis.transport.writes == []
    redis.connection.resume_writing()
    assert len(redis.transport.writes) == 1
    assert len(redis.commands()) == 3
    pipeline.close()


async def test_limits_hold_for_what_waits(wire: Callable[[], Wire]) -> None:
    """Above the limits a command fails at once, with the figures; where the socket takes it, it is sent instead."""
    options = RedisOptions(backlog_messages=2)
    pipeline, redis = CommandPipeline(options, FakeClock()), wire()
    waiting = [submit(pipeline, "a"), submit(pipeline, "b")]
    text = await refusal(submit(pipeline, "c"))
    assert text.startswith("No connection is active/available to service this operation: PUBLISH room; 2 commands of ")
    assert text.endswith("the limit is 2 commands and 67108864 bytes.")
    pipeline.attach(redis.connection)
    waiting += [submit(pipeline, "d"), submit(pipeline, "e"), submit(pipeline, "f")]
    await turn()
    assert [command[2] for command in redis.commands()] == [b"a", b"b", b"d", b"e", b"f"]
    redis.receive(b":1\r\n" * 5)
    assert [await future for future in waiting] == [1] * 5


async def test_deadline_fails_what_was_sent_and_keeps_the_order(wire: Callable[[], Wire]) -> None:
    """A command without an answer in time fails; its late answer does not reach the next one."""
    clock = FakeClock()
    pipeline, redis = CommandPipeline(RedisOptions(async_timeout=5.0), clock), wire()
    pipeline.attach(redis.connection)
    early = submit(pipeline, "early")
    await turn()
    clock.advance(3.0)
    late = submit(pipeline, "late")
    await turn()
    clock.advance(1.9)
    pipeline.expire(clock.monotonic())
    assert not early.done()
    clock.advance(0.1)
    pipeline.expire(clock.monotonic())
    pipeline.expire(clock.monotonic())
    assert (await refusal(early)).startswith("Timeout awaiting response (5000ms)")
    redis.receive(b":1\r\n:2\r\n")
    assert await late == 2


async def test_deadline_takes_waiting_commands_out(wire: Callable[[], Wire]) -> None:
    """A command that waited too long is never sent, and those behind it are."""
    clock = FakeClock()
    pipeline, redis = CommandPipeline(RedisOptions(async_timeout=5.0), clock), wire()
    pipeline.detach(LOST)
    old = [submit(pipeline, "old 1"), submit(pipeline, "old 2")]
    await turn()
    clock.advance(4.0)
    young = submit(pipeline, "young")
    await turn()
    clock.advance(1.0)
    pipeline.expire(clock.monotonic())
    for future in old:
        assert await refusal(future) == (
            "The message timed out in the backlog attempting to send because no connection became available (5000ms) - "
            "Last Connection Exception: The connection was lost."
        )
    pipeline.attach(redis.connection)
    assert [command[2] for command in redis.commands()] == [b"young"]
    redis.receive(b":1\r\n")
    assert await young == 1


async def test_deadline_of_sent_and_waiting_together(wire: Callable[[], Wire]) -> None:
    """Both kinds expire in one go, and the answers of the sent ones are still taken in."""
    clock = FakeClock()
    pipeline, redis = CommandPipeline(RedisOptions(async_timeout=5.0), clock), wire()
    pipeline.attach(redis.connection)
    sent = [submit(pipeline, "1"), submit(pipeline, "2")]
    await turn()
    redis.receive(b":1\r\n")
    redis.connection.pause_writing()
    waiting = submit(pipeline, "3")
    await turn()
    clock.advance(5.0)
    pipeline.expire(clock.monotonic())
    assert await sent[0] == 1
    assert "Timeout awaiting response" in await refusal(sent[1])
    assert "timed out in the backlog" in await refusal(waiting)
    redis.connection.resume_writing()
    after = submit(pipeline, "4")
    await turn()
    assert [command[2] for command in redis.commands()] == [b"1", b"2", b"4"]
    clock.advance(1.0)
    pipeline.expire(clock.monotonic())
    redis.receive(b":2\r\n:4\r\n")
    assert await after == 4


async def test_fail_fast_refuses_without_a_connection(wire: Callable[[], Wire]) -> None:
    """With "fail_fast" nothing waits: neither what comes while Redis is away, nor what was unsent when it went."""
    pipeline, redis = CommandPipeline(RedisOptions(backlog="fail_fast"), FakeClock()), wire()
    assert "No connection is active/available" in await refusal(submit(pipeline, "a"))
    pipeline.attach(redis.connection)
    redis.connection.pause_writing()
    unsent = submit(pipeline, "b")
    await turn()
    pipeline.detach(LOST)
    assert await refusal(unsent) == "Not sent: The connection was lost."
    assert pipeline.unsent == 0


async def test_probe_is_a_ping_nobody_waits_for(wire: Callable[[], Wire]) -> None:
    """A probe goes behind what waits and its answer is dropped; without a writable connection it is not sent."""
    pipeline, redis = CommandPipeline(RedisOptions(), FakeClock()), wire()
    pipeline.probe()
    pipeline.attach(redis.connection)
    waiting = submit(pipeline, "a")
    pipeline.probe()
    assert [command[0] for command in redis.commands()] == [b"PUBLISH", b"PING"]
    redis.receive(b":1\r\n+PONG\r\n")
    assert await waiting == 1
    redis.connection.pause_writing()
    pipeline.probe()
    redis.connection.resume_writing()
    pipeline.hold(held=True)
    held = submit(pipeline, "b")
    pipeline.probe()
    assert redis.commands() == []
    pipeline.hold(held=False)
    assert len(redis.commands()) == 1
    redis.receive(b":2\r\n")
    assert await held == 2


async def test_closing_sends_what_waits_and_fails_the_rest(wire: Callable[[], Wire]) -> None:
    """Closing writes what this turn collected, then fails everything unanswered and refuses more."""
    pipeline, redis = CommandPipeline(RedisOptions(), FakeClock()), wire()
    pipeline.attach(redis.connection)
    last = submit(pipeline, "last")
    pipeline.close()
    assert [command[2] for command in redis.commands()] == [b"last"]
    assert await refusal(last) == "Not confirmed: The backplane is not running."
    assert "No connection is active" in await refusal(submit(pipeline, "more"))
    await turn()


async def test_cancelled_command_keeps_its_place(wire: Callable[[], Wire]) -> None:
    """A caller that gave up still consumes its own answer, deadline or loss."""
    clock = FakeClock()
    pipeline, redis = CommandPipeline(RedisOptions(async_timeout=5.0), clock), wire()
    pipeline.attach(redis.connection)
    futures = [submit(pipeline, str(number)) for number in range(3)]
    futures[0].cancel()
    futures[1].cancel()
    await turn()
    redis.receive(b":0\r\n")
    clock.advance(5.0)
    pipeline.expire(clock.monotonic())
    pipeline.detach(LOST)
    assert futures[0].cancelled()
    assert futures[1].cancelled()
    assert "Timeout" in await refusal(futures[2])
