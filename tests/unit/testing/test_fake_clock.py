"""`FakeClock`: time that a test owns."""

from __future__ import annotations

import asyncio

from hubplane.testing import FakeClock


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    """`advance` wakes whose time has come, the earliest first, and leaves the others and the cancelled alone."""
    clock = FakeClock(now=10)
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.ensure_future(sleep(seconds)) for seconds in (3, 1, 2, 2.5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.sleep(0)
    clock.advance(2.5)
    await asyncio.gather(tasks[1], tasks[3])
    assert woken == [1, 2.5]
    assert clock.monotonic() == clock.wall() == 12.5
    clock.advance(0.5)
    await tasks[0]


async def test_elapsing_time_beats() -> None:
    """`elapse` goes step by step, so that what sleeps every second sees every second."""
    clock = FakeClock(now=0)
    beats: list[float] = []

    async def beat() -> None:
        while True:
            await clock.sleep(1)
            beats.append(clock.monotonic())

    task = asyncio.ensure_future(beat())
    await asyncio.sleep(0)
    await clock.elapse(3.5)
    assert beats == [1, 2, 3]
    await clock.elapse(2, step=0.5)
    assert beats == [1, 2, 3, 4, 5]
    assert clock.monotonic() == 5.5
    task.cancel()
