"""The threads that plain hub methods run in."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from functools import partial

import pytest

from hubplane.hubs.threads import WorkerThreads, run_in_thread


async def test_results_errors_and_context_variables() -> None:
    """Results and exceptions come out; the function sees the caller's context variables and does not change them."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    variable.set("caller's")

    def change() -> str:
        seen = variable.get()
        variable.set("thread's")
        return seen

    assert await run_in_thread(change) == "caller's"
    assert variable.get() == "caller's"
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda: 1 // 0)


async def test_a_cancelled_wait() -> None:
    """What ends after nobody waits for it any more is dropped."""
    loop = asyncio.get_running_loop()
    started, end, ended = asyncio.Event(), threading.Event(), threading.Event()

    def block() -> None:
        loop.call_soon_threadsafe(started.set)
        end.wait()
        ended.set()

    task = asyncio.ensure_future(run_in_thread(block))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end.set()
    assert ended.wait(10)
    assert await run_in_thread(lambda: "next") == "next"


def test_work_waits_above_the_limit() -> None:
    """Above the limit work waits for a thread; all of it runs, in the order in which it came."""
    threads = WorkerThreads(2)
    gate = threading.Event()
    running = threading.Semaphore(0)
    done: list[int] = []
    all_done = threading.Event()

    def hold() -> None:
        running.release()
        gate.wait()

    def hold_for_ever() -> None:
        running.release()
        threading.Event().wait()

    def note(number: int) -> None:
        done.append(number)
        if number == 9:
            all_done.set()

    threads.submit(hold)
    threads.submit(hold_for_ever)
    assert running.acquire(timeout=10)
    assert running.acquire(timeout=10)
    for number in range(10):
        threads.submit(lambda number=number: note(number))  # type: ignore[misc]
    assert done == []
    gate.set()
    assert all_done.wait(10)
    assert done == list(range(10))


def test_idle_threads_are_used_again() -> None:
    """A thread that has nothing to do takes the next work, so no second one is started."""
    threads = WorkerThreads(8)
    seen: set[int] = set()
    for _ in range(20):
        done = threading.Event()

        def work(done: threading.Event = done) -> None:
            seen.add(threading.get_ident())
            done.set()

        threads.submit(work)
        assert done.wait(10)
    assert 1 <= len(seen) < 20


async def test_stop_iteration_comes_out_as_another_error() -> None:
    """A future cannot carry it; its waiter gets a RuntimeError with the cause, and does not wait for ever."""
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
            await run_in_thread(partial(next, iter(())))
    assert isinstance(caught.value.__cause__, StopIteration)
