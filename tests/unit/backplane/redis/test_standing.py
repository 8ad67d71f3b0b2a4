"""`Standing`: when Redis counts as lost, how a start ends, and how long publishes are held back."""

from __future__ import annotations

import pytest

from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.standing import Standing
from hubplane.errors import BackplaneAuthenticationError, BackplaneUnavailableError
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.fakes import FakeClock

ONE, OTHER = BackplaneUnavailableError("one"), BackplaneUnavailableError("other")


class World:
    """A standing, its clock, and what it told."""

    def __init__(self, options: RedisOptions | None = None) -> None:
        self.clock = FakeClock()
        self.sink = RecordingSink()
        self.standing = Standing(options or RedisOptions(), self.sink, self.clock)


async def test_outage_is_told_once() -> None:
    """Whatever else is lost during an outage changes its reason at most; its end is told once too."""
    world = World()
    world.standing.blame(ONE)
    assert world.standing.outage is None

    world.standing.lose(ONE)
    world.standing.lose(OTHER)
    assert world.standing.outage is ONE
    world.standing.blame(OTHER)
    assert world.standing.outage is OTHER
    assert world.sink.errors == [ONE]

    world.standing.whole(gap=True)
    world.standing.whole(gap=False)
    assert world.sink.events == ["lost", "restored with a gap"]
    assert world.standing.outage is None


async def test_nothing_is_told_after_the_end() -> None:
    """A run that is over, or has left everything to another one, reports no outage."""
    world = World()
    world.standing.end()
    world.standing.lose(ONE)
    assert world.standing.outage is None
    assert world.sink.events == []


async def test_start_fails_after_its_attempts() -> None:
    """The last of `connect_retry` attempts fails the start with the outage as its cause, and of its kind."""
    world = World(RedisOptions(connect_retry=2))
    first = world.standing.first()
    world.standing.lose(BackplaneAuthenticationError("wrong password"))
    world.standing.failed(1)
    assert not first.done()

    world.standing.failed(2)
    world.standing.failed(3)
    with pytest.raises(BackplaneAuthenticationError, match="It was not possible to connect") as raised:
        await first
    assert str(raised.value.__cause__) == "wrong password"


async def test_start_that_succeeded_does_not_fail_later() -> None:
    """Once all was whole, failed attempts concern outages only; whoever takes over has the same start."""
    world, heir = World(), World()
    first = world.standing.first()
    heir.standing.succeed(world.standing)
    assert heir.standing.first() is first

    heir.standing.whole(gap=False)
    await first
    heir.standing.lose(ONE)
    heir.standing.failed(100)
    assert heir.sink.events == ["lost"]


async def test_first_attempts_have_a_time() -> None:
    """They are undecided for `async_timeout` at most, and given up once; a decision in time is final."""
    world = World(RedisOptions(async_timeout=2.0))
    assert not world.standing.is_undecided
    world.standing.begin()
    world.clock.advance(1.9)
    assert world.standing.give_up(world.clock.monotonic()) is None
    assert world.standing.is_undecided

    world.clock.advance(0.1)
    error = world.standing.give_up(world.clock.monotonic())
    assert str(error) == "No connection to Redis within 2 s."
    assert world.standing.give_up(world.clock.monotonic()) is None
    assert not world.standing.is_undecided

    world.standing.begin()
    world.standing.decided()
    world.clock.advance(5.0)
    assert world.standing.give_up(world.clock.monotonic()) is None


async def test_publishes_are_held_for_a_second_at_most() -> None:
    """From the moment Redis takes commands; before that they wait anyway, and answered subscriptions end it."""
    world = World()
    for _ in range(3):
        assert world.standing.holds(answered=False, takes=False)
        world.clock.advance(10.0)
    assert world.standing.holds(answered=False, takes=True)
    world.clock.advance(0.9)
    assert world.standing.holds(answered=False, takes=True)
    world.clock.advance(0.1)
    assert not world.standing.holds(answered=False, takes=True)

    assert not world.standing.holds(answered=True, takes=True)
    assert world.standing.holds(answered=False, takes=True)


async def test_fail_fast_holds_nothing() -> None:
    """With the policy "fail_fast" nothing waits, so nothing is held back."""
    world = World(RedisOptions(backlog="fail_fast"))
    assert not world.standing.holds(answered=False, takes=False)
    assert not world.standing.holds(answered=False, takes=True)
