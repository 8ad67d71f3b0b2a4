"""The tasks of a transport over awaitables, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hubplane.supervisor import Supervisor
from hubplane.transports.pump import Pump


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    """Owns what a test starts."""
    supervisor = Supervisor("test")
    yield supervisor
    await supervisor.close()


async def test_sleep_lasts_until_the_next_wake(supervisor: Supervisor) -> None:
    """A wake before the sleep does not count; the writer looks at its queue first."""
    pump, woken = Pump(), asyncio.Event()

    async def write() -> None:
        await pump.sleep()
        woken.set()

    pump.wake()
    pump.start(supervisor, write(), "write")
    await asyncio.sleep(0)
    assert not woken.is_set()

    pump.wake()
    pump.wake()
    await woken.wait()


async def test_with_one_task_the_other_ends(supervisor: Supervisor) -> None:
    """The task that ends the pump runs on; the others are cancelled; the second `end` says so."""
    pump, said = Pump(), list[bool]()

    async def read() -> None:
        said.append(pump.end())
        await asyncio.sleep(0)
        said.append(pump.end())

    async def write() -> None:
        try:
            await pump.sleep()
        except asyncio.CancelledError:
            said.append(pump.ended)
            raise

    pump.start(supervisor, write(), "write")
    pump.start(supervisor, read(), "read")
    assert await pump.wait_ended(5.0)
    await supervisor.close(grace=5.0)

    assert sorted(said) == [False, True, True]


async def test_waiting_for_the_end_has_a_limit() -> None:
    """Whoever waits is told whether the transport has ended, and may ask again."""
    pump = Pump()
    assert not await pump.wait_ended(0.0)
    pump.end()
    assert await pump.wait_ended(0.0)
