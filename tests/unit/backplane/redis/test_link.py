"""`Link`: back-off, probes, and the race between a silent connection and a new one, on a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest

from hubplane.backplane.redis.connection import RedisConnection
from hubplane.backplane.redis.link import Link
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor
from hubplane.testing.fakes import FakeClock

if TYPE_CHECKING:
    from .conftest import Wire


class Rig:
    """A link whose attempts to connect are decided by the test."""

    def __init__(self, options: RedisOptions, wire: Callable[[], Wire]) -> None:
        self.clock = FakeClock()
        self.wire = wire
        self.wires: list[Wire] = []
        self.attempts: list[tuple[str, asyncio.Future[None]]] = []
        self.events: list[str] = []
        self.probes = 0
        self.role = "master"
        self.supervisor = Supervisor("test")
        self.link = Link(
            "commands",
            self,
            options,
            clock=self.clock,
            random=Random(1),
            supervisor=self.supervisor,
            on_change=self.changed,
            connect=self.connect,
        )

    def attach(self, connection: RedisConnection) -> None:
        self.events.append("attach")

    def detach(self, error: BackplaneUnavailableError) -> None:
        self.events.append("detach")

    def probe(self) -> None:
        self.probes += 1

    def changed(self, error: BackplaneUnavailableError | None) -> None:
        self.events.append("up" if error is None else "down")

    async def connect(self, endpoint: Endpoint, options: RedisOptions) -> RedisConnection:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.attempts.append((endpoint.host, gate))
        await gate
        self.wires.append(self.wire())
        self.wires[-1].connection.role = self.role
        return self.wires[-1].connection

    async def allow(self, role: str = "master") -> None:
        """Let the latest attempt succeed."""
        self.role = role
        self.attempts[-1][1].set_result(None)
        await turns()

    async def refuse(self) -> None:
        """Let the latest attempt fail."""
        self.attempts[-1][1].set_exception(BackplaneUnavailableError("refused"))
        await turns()

    def take(self) -> list[str]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    async def pass_time(self, seconds: float, *, ticks: int = 1) -> None:
        """Advance the clock in steps, with a tick after each."""
        for _ in range(ticks):
            self.clock.advance(seconds / ticks)
            self.link.tick(self.clock.monotonic())
            await turns()


async def turns() -> None:
    """Let everything that is ready run."""
    for _ in range(8):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(options: RedisOptions, wire: Callable[[], Wire]) -> AsyncIterator[Rig]:
    """A link at its first attempt."""
    rig = Rig(options, wire)
    rig.supervisor.start(rig.link.run(), "run")
    await turns()
    yield rig
    await rig.supervisor.close()


async def test_pauses_grow_and_are_capped(wire: Callable[[], Wire]) -> None:
    """After a failure the next attempt waits for the base, then twice that, with jitter, up to the longest pause."""
    async with running(RedisOptions(retry_base=1.0, retry_max=4.0), wire) as rig:
        for pause in (1.0, 2.0, 4.0, 4.0):
            await rig.refuse()
            assert rig.take() == ["detach", "down"]
            count = len(rig.attempts)
            await rig.pass_time(pause * 0.49)
            assert len(rig.attempts) == count
            await rig.pass_time(pause * 0.51)
            assert len(rig.attempts) == count + 1
        assert rig.link.failures == 4
        await rig.allow()
        assert rig.take() == ["attach", "up"]
        assert rig.link.is_up


async def test_first_attempt_after_a_loss_follows_at_once(wire: Callable[[], Wire]) -> None:
    """A connection that lasted is replaced without a pause; one that broke at once counts as a failure."""
    async with running(RedisOptions(retry_base=1.0, retry_max=4.0), wire) as rig:
        await rig.allow()
        rig.clock.advance(5.0)
        rig.wires[-1].transport.lose(OSError("gone"))
        await turns()
        assert rig.take() == ["attach", "up", "detach", "down"]
        assert not rig.link.is_up
        assert len(rig.attempts) == 2
        await rig.allow()
        rig.wires[-1].transport.lose(None)
        await turns()
        assert len(rig.attempts) == 2
        await rig.pass_time(1.0)
        assert len(rig.attempts) == 3


async def test_idle_connection_is_probed_and_a_busy_one_is_not(wire: Callable[[], Wire]) -> None:
    """A probe is sent after one interval of silence, and none while something arrives."""
    async with running(RedisOptions(liveness_interval=1.0), wire) as rig:
        rig.link.tick(rig.clock.monotonic())
        await rig.allow()
        for _ in range(20):
            rig.wires[-1].connection.heard = True
            await rig.pass_time(0.5)
        assert rig.probes == 0
        await rig.pass_time(1.0, ticks=4)
        assert rig.probes == 1
        rig.wires[-1].connection.heard = True
        await rig.pass_time(1.0, ticks=4)
        assert rig.link.is_up


async def test_silent_connection_is_replaced_by_one_that_answers(wire: Callable[[], Wire]) -> None:
    """After three silent intervals the link is down, a second attempt runs, and its connection is used."""
    async with running(RedisOptions(liveness_interval=1.0), wire) as rig:
        await rig.allow()
        rig.take()
        await rig.pass_time(2.75, ticks=11)
        assert rig.link.is_up
        await rig.pass_time(0.5, ticks=2)
        assert rig.take() == ["down"]
        assert not rig.link.is_up
        assert len(rig.attempts) == 2
        await rig.pass_time(1.0, ticks=4)
        assert rig.probes > 1
        await rig.allow()
        assert rig.wires[0].transport.aborted
        assert rig.take() == ["detach", "down", "attach", "up"]
        assert rig.link.is_up


async def test_silent_connection_that_wakes_up_is_used_on(wire: Callable[[], Wire]) -> None:
    """When the silent connection speaks before the second attempt succeeds, that attempt is given up."""
    async with running(RedisOptions(liveness_interval=1.0), wire) as rig:
        await rig.allow()
        rig.take()
        await rig.pass_time(3.25, ticks=13)
        rig.wires[0].connection.heard = True
        await rig.pass_time(0.25)
        assert rig.take() == ["down", "up"]
        assert rig.attempts[1][1].cancelled()
        assert not rig.wires[0].transport.closing
        await rig.pass_time(3.25, ticks=13)
        assert rig.take() == ["down"]


async def test_both_alive_means_the_old_one(wire: Callable[[], Wire]) -> None:
    """When the second attempt succeeds and the silent one has spoken meanwhile, the second is closed."""
    async with running(RedisOptions(liveness_interval=1.0), wire) as rig:
        await rig.allow()
        rig.take()
        await rig.pass_time(3.25, ticks=13)
        rig.wires[0].connection.heard = True
        await rig.allow()
        assert rig.take() == ["down", "up"]
        assert rig.wires[1].transport.closing
        assert not rig.wires[0].transport.closing


async def test_silent_connection_that_breaks_leaves_the_attempt_running(wire: Callable[[], Wire]) -> None:
    """When the silent connection is lost, its user learns it at once, and the attempt under way goes on."""
    async with running(RedisOptions(liveness_interval=1.0), wire) as rig:
        await rig.allow()
        rig.take()
        await rig.pass_time(3.25, ticks=13)
        rig.wires[0].transport.lose(OSError("gone"))
        await turns()
        assert rig.take() == ["down", "detach", "down"]
        assert len(rig.attempts) == 2
        await rig.allow()
        assert rig.take() == ["attach", "up"]


async def test_failing_second_attempts_are_repeated_quietly(wire: Callable[[], Wire]) -> None:
    """While the silent connection is open failed attempts beside it are tried again and not reported."""
    async with running(RedisOptions(liveness_interval=1.0, retry_base=0.1), wire) as rig:
        await rig.allow()
        rig.take()
        await rig.pass_time(3.25, ticks=13)
        await rig.refuse()
        await rig.pass_time(0.2)
        assert len(rig.attempts) == 3
        assert rig.take() == ["down"]


async def test_leaving_during_a_race_closes_everything(wire: Callable[[], Wire]) -> None:
    """Ending the link while it races closes the silent connection and gives the attempt up."""
    async with running(RedisOptions(liveness_interval=1.0), wire) as rig:
        await rig.allow()
        await rig.pass_time(3.25, ticks=13)
    assert rig.wires[0].transport.closing
    assert rig.attempts[1][1].cancelled()


@pytest.mark.parametrize(("keep_alive", "probes"), [(10.0, 1), (0.0, 0), (-1.0, 0)])
async def test_keep_alive_is_the_interval_where_liveness_is_off(
    wire: Callable[[], Wire], keep_alive: float, probes: int
) -> None:
    """With a `liveness_interval` of 0 the probe follows `keep_alive`, and there is none where that is off too."""
    async with running(RedisOptions(liveness_interval=0.0, keep_alive=keep_alive), wire) as rig:
        await rig.allow()
        await rig.pass_time(9.0, ticks=9)
        assert rig.probes == 0
        await rig.pass_time(1.0)
        assert rig.probes == probes


async def test_our_own_sleep_is_not_held_against_redis(wire: Callable[[], Wire]) -> None:
    """One late tick after a long block of our own loop is one silent interval, not many."""
    async with running(RedisOptions(liveness_interval=1.0), wire) as rig:
        await rig.allow()
        await rig.pass_time(60.0)
        assert rig.link.is_up
        assert rig.probes == 1


async def test_replicas_are_passed_over(wire: Callable[[], Wire]) -> None:
    """Of several addresses the first primary is used; a replica alone among them is an outage; a lone one is used."""
    several = RedisOptions(endpoints=(Endpoint("a"), Endpoint("b"), Endpoint("c")), retry_base=0.1)
    async with running(several, wire) as rig:
        await rig.refuse()
        await rig.allow("replica")
        await rig.refuse()
        assert [host for host, _ in rig.attempts] == ["a", "b", "c"]
        assert rig.wires[0].transport.closing
        assert rig.take() == ["detach", "down"]
        await rig.pass_time(0.1)
        await rig.allow("master")
        assert rig.take() == ["attach", "up"]
    async with running(RedisOptions(endpoints=(Endpoint("a"),)), wire) as rig:
        await rig.allow("replica")
        assert rig.link.is_up
