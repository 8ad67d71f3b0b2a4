"""The two tasks of a transport over awaitables: one brings, one takes away, and with either the transport ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any  # what a coroutine yields and takes does not matter to its owner

from hubplane.supervisor import Supervisor

__all__ = ["Pump"]


class Pump:
    """Owns a transport's tasks, lets the writing one sleep, and knows when the transport has ended.

    Attributes:
        ended: `end` was called.
    """

    __slots__ = ("_tasks", "_waiter", "_wake", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._tasks: list[asyncio.Task[None]] = []
        self._wake: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def start(self, supervisor: Supervisor, work: Coroutine[Any, Any, None], name: str) -> None:
        """Start one of the tasks; it belongs to `supervisor`."""
        self._tasks.append(supervisor.start(work, name))

    async def sleep(self) -> None:
        """Return after the next `wake`. For the writing task; one at a time."""
        self._wake = asyncio.get_running_loop().create_future()
        await self._wake

    def wake(self) -> None:
        """There is something to do."""
        waiter, self._wake = self._wake, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end(self) -> bool:
        """Cancel the tasks, but not the one that calls; whether this was the first call."""
        if self.ended:
            return False
        self.ended = True
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return True

    async def wait_ended(self, timeout: float) -> bool:
        """Return when the transport has ended, or after `timeout` seconds; whether it has. For one caller."""
        if not self.ended:
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout):
                    await waiter
            except TimeoutError:
                return False
        return True
