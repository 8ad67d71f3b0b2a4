"""`ConnectionWatch`: what is an event, and from when to when a gap reaches."""

from __future__ import annotations

from hubplane.backplane.redis.events import (
    RedisConnectionError,
    RedisConnectionFailed,
    RedisConnectionRestored,
    RedisEventQueue,
    RedisFailure,
    RedisGap,
    RedisHandlers,
)
from hubplane.backplane.redis.options import Endpoint
from hubplane.backplane.redis.watch import ConnectionWatch
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.fakes import FakeClock

ENDPOINT = Endpoint("redis", 6379)
LOST = RedisConnectionError("lost", endpoint=ENDPOINT, failure=RedisFailure.SOCKET_CLOSED)


class Told(RedisEventQueue):
    """Keeps events instead of handing them over."""

    def __init__(self) -> None:
        super().__init__(RedisHandlers())
        self.events: list[RedisConnectionFailed | RedisConnectionRestored | RedisGap] = []

    def put(self, event: RedisConnectionFailed | RedisConnectionRestored | RedisGap) -> None:
        self.events.append(event)


class World:
    """A watch, its clock, and what it told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told = Told()
        self.watch = ConnectionWatch(self.told, self.clock)

    def later(self, seconds: float, *, heard: bool = False) -> None:
        """Time passes, then the watch looks."""
        self.clock.advance(seconds)
        self.watch.look(heard=heard)

    def gaps(self) -> list[tuple[float, float, tuple[str, ...]]]:
        """The gaps, in seconds before now."""
        now = self.clock.wall()
        return [
            (round(now - event.since.timestamp(), 3), round(now - event.until.timestamp(), 3), event.channels)
            for event in self.told.events
            if isinstance(event, RedisGap)
        ]


def test_first_failure_counts() -> None:
    """Of many failures in a row the first is told, and told anew only after the connection had worked."""
    world = World()
    for _ in range(3):
        world.watch.failed("publishing", LOST)
    world.clock.advance(5)
    world.watch.works("publishing", ENDPOINT)
    world.watch.works("publishing", ENDPOINT)
    world.watch.failed("publishing", BackplaneUnavailableError("no connection within 5 s"))
    first, back, second = world.told.events
    assert isinstance(first, RedisConnectionFailed)
    assert (first.endpoint, first.failure, first.error) == (ENDPOINT, RedisFailure.SOCKET_CLOSED, LOST)
    assert isinstance(back, RedisConnectionRestored)
    assert back.seconds == 5
    assert isinstance(second, RedisConnectionFailed)
    assert (second.endpoint, second.failure) == (None, RedisFailure.UNABLE_TO_CONNECT)


def test_gap_begins_where_something_was_last_heard() -> None:
    """Silence before the loss belongs to the gap: what came last came after the look before it."""
    world = World()
    world.later(1, heard=True)
    world.later(0.25, heard=True)
    world.later(0.25)
    world.later(0.25)
    world.watch.failed("subscription", LOST)
    world.clock.advance(2)
    regained = ["a"]
    world.watch.hears(regained, all_of_them=True)
    assert world.gaps() == [(2.75, 0, ("a",))]
    assert regained == []
    world.clock.advance(1)
    world.watch.failed("publishing", LOST)
    world.watch.hears([], all_of_them=True)
    assert len(world.gaps()) == 1


def test_no_gap_without_a_new_subscription() -> None:
    """A connection that was silent and speaks again, and one that wants nothing, have missed nothing."""
    world = World()
    world.watch.failed("subscription", LOST)
    world.watch.hears([], all_of_them=True)
    world.watch.hears(["joined on the first connection"], all_of_them=True)
    assert world.gaps() == []


def test_refused_channels_have_a_gap_of_their_own() -> None:
    """The granted ones are told at once; the rest together, once all are granted, and since the same moment."""
    world = World()
    world.watch.failed("subscription", LOST)
    world.clock.advance(1)
    world.watch.hears(["a"], all_of_them=False)
    world.clock.advance(1)
    regained = ["b"]
    world.watch.hears(regained, all_of_them=False)
    assert len(world.gaps()) == 1
    regained.append("c")
    world.clock.advance(1)
    world.watch.hears(regained, all_of_them=True)
    assert world.gaps() == [
        (3, 2, ("a",)),
        (3, 0, ("b", "c")),
    ]


def test_second_loss_keeps_the_first_moment_of_the_refused() -> None:
    """Lost again while some were still refused: the next gap begins where those were last heard."""
    world = World()
    world.watch.failed("subscription", LOST)
    world.clock.advance(1)
    world.watch.works("subscription", ENDPOINT)
    world.watch.hears(["a"], all_of_them=False)
    world.clock.advance(1)
    world.watch.failed("subscription", LOST)
    world.clock.advance(1)
    world.watch.hears(["a", "b"], all_of_them=True)
    assert world.gaps()[1] == (3, 0, ("a", "b"))
