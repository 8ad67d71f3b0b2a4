"""Where hub methods written as plain ``def`` run: a bounded set of daemon threads.

Not the event loop's own executor: that one is joined when the loop and the process end, so one method that never
returns would keep a server from ever exiting; and it also looks up host names, which must not wait for hub methods.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from threading import Lock, Semaphore, Thread
from typing import TypeVar

__all__ = ["WorkerThreads", "run_in_thread"]

T = TypeVar("T")


class WorkerThreads:
    """Threads that are started when they are needed and kept; further work waits for one of them.

    Args:
        limit: Threads at most.
    """

    __slots__ = ("_count", "_idle", "_limit", "_lock", "_work")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._lock = Lock()
        self._idle = Semaphore(0)
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which must not raise, as soon as there is a thread for it."""
        self._work.put(work)
        if self._idle.acquire(blocking=False):
            return
        with self._lock:
            if self._count == self._limit:
                return
            self._count += 1
        Thread(target=self._run, name=f"hub method {self._count}", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._work.get()()
            if self._work.empty():
                self._idle.release()


_threads = WorkerThreads(min(32, (os.cpu_count() or 1) + 4))


async def run_in_thread(function: Callable[[], T], *, threads: WorkerThreads = _threads) -> T:
    """Call `function` in a worker thread, in a copy of the current context variables.

    Cancelling ends the waiting: work that has not begun is left out, a running function goes on by itself.

    Args:
        function: What to call.
        threads: Those of hub methods by default. What hub methods may be waiting for wants threads of its own.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None stands for the result that an error has not

    def work() -> None:
        if future.cancelled():
            return
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = context.run(function)
        except StopIteration as error:
            # A future refuses to carry it, and its waiter would wait for ever.
            failure = RuntimeError("What ran in a thread raised StopIteration.")
            failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:  # the event loop has ended meanwhile
            return
        finally:
            del failure  # else its traceback holds this frame, and the frame holds it

    threads.submit(work)
    return await future
