"""Facts about group commands that wait for another node."""

from __future__ import annotations

import asyncio
import gc

import pytest

from hubplane.errors import AckTimeoutError, BackplaneUnavailableError
from hubplane.lifetime.acks import PendingAcks
from hubplane.testing.fakes import FakeClock


async def test_ids_count_from_one() -> None:
    """The first command has the id 1, the next one 2."""
    acks = PendingAcks(FakeClock())
    assert [acks.create("c", "g")[0] for _ in range(3)] == [1, 2, 3]


async def test_ids_stay_within_32_bits() -> None:
    """After the largest signed 32-bit number comes the smallest."""
    acks = PendingAcks(FakeClock(), first=2**31 - 2)
    assert [acks.create("c", "g")[0] for _ in range(4)] == [2**31 - 2, 2**31 - 1, -(2**31), -(2**31) + 1]


async def test_acknowledged() -> None:
    """An acknowledgement ends the wait for its command only."""
    acks = PendingAcks(FakeClock())
    first, one = acks.create("c", "g")
    _, two = acks.create("c", "h")
    acks.acknowledge(99)
    acks.acknowledge(first)
    assert one.done()
    assert not two.done()
    assert len(acks) == 1
    acks.acknowledge(first)


async def test_deadline() -> None:
    """A command that nobody acknowledged fails with the first tick at its deadline, and names what it was about."""
    clock = FakeClock()
    acks = PendingAcks(clock, timeout=30.0)
    _, one = acks.create("c1", "room")
    clock.advance(10)
    _, two = acks.create("c2", "room")
    clock.advance(19.9)
    acks.tick(clock.monotonic())
    assert not one.done()
    clock.advance(0.1)
    acks.tick(clock.monotonic())
    with pytest.raises(AckTimeoutError, match=r"No node acknowledged within 30 s .*'room'.*'c1'") as caught:
        await one
    assert (caught.value.connection_id, caught.value.group) == ("c1", "room")
    assert not two.done()


async def test_forgotten_and_cancelled() -> None:
    """Neither a forgotten command nor a caller who has gone is told anything."""
    clock = FakeClock()
    acks = PendingAcks(clock, timeout=1.0)
    command, one = acks.create("c", "g")
    acks.forget(command)
    acks.forget(command)
    late, two = acks.create("c", "g")
    two.cancel()
    _, three = acks.create("c", "g")
    three.cancel()
    acks.acknowledge(late)
    clock.advance(2)
    acks.tick(clock.monotonic())
    assert not one.done()
    assert len(acks) == 0


async def test_close() -> None:
    """At the end of the node all waiting ends with an error."""
    acks = PendingAcks(FakeClock())
    _, one = acks.create("c", "g")
    _, two = acks.create("c", "g")
    two.cancel()
    acks.close(BackplaneUnavailableError("The hub is shutting down."))
    with pytest.raises(BackplaneUnavailableError, match="shutting down"):
        await one
    with pytest.raises(asyncio.CancelledError):
        await two
    assert len(acks) == 0


async def test_failure_that_nobody_awaits_is_no_news() -> None:
    """A command that failed for another reason meanwhile leaves nothing for the event loop to complain about."""
    clock = FakeClock()
    acks = PendingAcks(clock, timeout=1.0)
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    acks.create("c", "g")
    clock.advance(1.0)
    acks.tick(clock.monotonic())
    acks.create("c", "g")
    acks.close(BackplaneUnavailableError("away"))
    gc.collect()
    assert complaints == []
