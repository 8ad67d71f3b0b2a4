"""Facts about owned tasks."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hubplane.supervisor import Supervisor


async def test_close_awaits_what_finishes_in_time() -> None:
    """Within the grace period a task runs to its end."""
    supervisor = Supervisor("test")
    done = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(True)

    supervisor.start(work(), "work")
    await supervisor.close(grace=10)
    assert done == [True]
    assert len(supervisor) == 0


async def test_close_cancels_the_rest() -> None:
    """After the grace period tasks are cancelled, and their clean-up is awaited."""
    supervisor = Supervisor("test")
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    supervisor.start(work(), "work")
    await asyncio.sleep(0)
    await supervisor.close()
    assert cleaned == [True]


async def test_start_is_refused_while_closing_and_after_it() -> None:
    """A closing supervisor takes no tasks, until it is opened again."""
    supervisor = Supervisor("test")
    await supervisor.close()

    async def work() -> None: ...

    with pytest.raises(RuntimeError, match="closing"):
        supervisor.start(work(), "late")
    supervisor.open()
    await supervisor.start(work(), "again")


async def test_a_contained_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The failure of an ordinary task is logged with its traceback and harms nobody."""
    supervisor = Supervisor("test")

    async def work() -> None:
        raise LookupError("broken")

    with caplog.at_level(logging.ERROR):
        supervisor.start(work(), "work")
        await supervisor.close(grace=10)
    assert "test: work" in caplog.text
    assert "LookupError: broken" in caplog.text


async def test_a_vital_failure_is_reported() -> None:
    """The failure of a vital task reaches the owner."""
    failures: list[BaseException] = []
    supervisor = Supervisor("test", on_failure=failures.append)

    async def work() -> None:
        raise LookupError("broken")

    supervisor.start(work(), "work", vital=True)
    await supervisor.close(grace=10)
    assert [str(error) for error in failures] == ["broken"]


async def test_closing_from_inside_leaves_the_caller_out() -> None:
    """A task may close its own supervisor without waiting for itself."""
    supervisor = Supervisor("test")
    ended = []

    async def work() -> None:
        await supervisor.close()
        ended.append(True)

    await supervisor.start(work(), "work")
    assert ended == [True]


async def test_a_cancelled_close_still_cancels() -> None:
    """If the closer is cancelled in its grace period, the tasks are cancelled at once."""
    supervisor = Supervisor("test")
    task = supervisor.start(asyncio.Event().wait(), "work")
    closer = asyncio.get_running_loop().create_task(supervisor.close(grace=60))
    await asyncio.sleep(0)
    closer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closer
    with pytest.raises(asyncio.CancelledError):
        await task
