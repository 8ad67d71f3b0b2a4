"""`RedisEventQueue`: handlers get events in order, one at a time, and can harm nobody."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from hubplane.backplane.redis.events import (
    RedisConnectionFailed,
    RedisConnectionRestored,
    RedisEventQueue,
    RedisFailure,
    RedisGap,
    RedisHandlers,
    moment,
)
from hubplane.errors import BackplaneUnavailableError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAILED = RedisConnectionFailed(
    connection="subscription",
    endpoint=None,
    failure=RedisFailure.SOCKET_CLOSED,
    error=BackplaneUnavailableError("away"),
    at=NOW,
)
RESTORED = RedisConnectionRestored(connection="subscription", endpoint=None, at=NOW, seconds=1.0)
GAP = RedisGap(since=NOW, until=NOW + timedelta(seconds=1), channels=("a", "b"))


async def test_order_holds_across_slow_handlers() -> None:
    """A handler that takes its time keeps the next event waiting, of whichever kind."""
    told: list[str] = []
    go = asyncio.Event()

    async def slow(_: RedisConnectionFailed) -> None:
        told.append("failed begins")
        await go.wait()
        told.append("failed ends")

    queue = RedisEventQueue(
        RedisHandlers(
            on_connection_failed=slow,
            on_connection_restored=lambda _: told.append("restored"),
            on_gap=lambda _: told.append("gap"),
        )
    )
    for event in (FAILED, RESTORED, GAP):
        queue.put(event)
    assert told == []
    await asyncio.sleep(0)
    assert told == ["failed begins"]
    go.set()
    await queue.close()
    assert told == ["failed begins", "failed ends", "restored", "gap"]


async def test_nobody_has_to_listen(caplog: pytest.LogCaptureFixture) -> None:
    """Without handlers no task is started; a gap is logged all the same."""
    queue = RedisEventQueue(RedisHandlers())
    before = len(asyncio.all_tasks())
    for event in (FAILED, RESTORED, GAP):
        queue.put(event)
    assert len(asyncio.all_tasks()) == before
    (record,) = caplog.records
    assert (record.levelno, record.__dict__["event_id"], record.__dict__["event_name"]) == (
        logging.WARNING,
        16,
        "DeliveryGap",
    )
    assert record.getMessage() == (
        "Messages may have been missed on 2 channels between 2026-01-01T00:00:00.000+00:00 "
        "and 2026-01-01T00:00:01.000+00:00."
    )
    await queue.close()


async def test_handler_that_hangs_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """What waits behind a handler that does not return is bounded; dropped events are counted in the log."""
    go = asyncio.Event()
    calls = 0

    async def hang(_: RedisConnectionFailed) -> None:
        nonlocal calls
        calls += 1
        await go.wait()

    queue = RedisEventQueue(RedisHandlers(on_connection_failed=hang))
    queue.put(FAILED)
    await asyncio.sleep(0)
    for _ in range(1_003):
        queue.put(FAILED)
    go.set()
    await queue.close()
    assert calls == 1_001
    assert [record.getMessage() for record in caplog.records] == [
        "A handler of Redis events does not return; events are dropped from here on.",
        "3 Redis events were dropped.",
    ]


async def test_queue_works_again_after_it_was_empty() -> None:
    """Events that come later are handed over as well."""
    told: list[object] = []
    queue = RedisEventQueue(RedisHandlers(on_gap=told.append))
    for number in (1, 2):
        queue.put(GAP)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(told) == number
    await queue.close()


def test_moments_are_utc() -> None:
    """Times are dates with a zone."""
    assert moment(0.0) == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("ends", [RuntimeError("no"), asyncio.CancelledError()])
async def test_handler_that_fails_keeps_nothing_back(ends: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """An exception is logged, also that of something cancelled which the handler awaited; the next event follows."""
    told: list[object] = []

    async def fail(_: RedisConnectionFailed) -> None:
        raise ends

    queue = RedisEventQueue(RedisHandlers(on_connection_failed=fail, on_connection_restored=told.append))
    queue.put(FAILED)
    queue.put(RESTORED)
    await queue.close()
    assert told == [RESTORED]
    assert [record.getMessage() for record in caplog.records] == ["A handler of RedisConnectionFailed failed."]


async def test_handler_that_never_returns_is_cancelled_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Closing gives it a second; then it is cancelled, which is no failure."""
    ended: list[str] = []

    async def hang(_: RedisConnectionFailed) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    queue = RedisEventQueue(RedisHandlers(on_connection_failed=hang, on_connection_restored=lambda _: None))
    queue.put(FAILED)
    queue.put(RESTORED)
    await queue.close()
    assert ended == ["cancelled"]
    assert caplog.records == []
