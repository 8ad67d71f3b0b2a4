"""The way from user code to the lifetime manager: direct on the event loop, blocking from a worker thread.

Hub methods written as plain ``def`` run in worker threads and send from there; so may any other code of the
application. `HubPort` knows which thread the loop runs in and takes the right way.

Source: design.md section 3, "Methods".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TypeVar

from hubplane.lifetime.base import HubLifetimeManager
from hubplane.lifetime.completed import DONE

__all__ = ["HubPort"]

T = TypeVar("T")


async def _awaited(start: Callable[[], Awaitable[T]]) -> T:
    return await start()


class HubPort:
    """A lifetime manager, and the event loop it lives on.

    Attributes:
        lifetime: Who hears what.
        thread: The thread of the event loop, 0 until `open`. On this thread `lifetime` may be called directly.
    """

    __slots__ = ("_loop", "lifetime", "thread")

    def __init__(self, lifetime: HubLifetimeManager) -> None:
        self.lifetime = lifetime
        self.thread = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Remember the running loop; cheap enough to be repeated.

        Raises:
            RuntimeError: No event loop runs in this thread.
        """
        self._loop = asyncio.get_running_loop()
        self.thread = get_ident()

    def run(self, start: Callable[[], Awaitable[None]]) -> Awaitable[None]:
        """Call `start` on the loop's thread.

        On the loop's own thread its awaitable is returned. On another event loop the caller gets an awaitable of that
        loop. In a thread without a loop the call blocks until it is done; its errors are raised from here.

        Raises:
            RuntimeError: Called from a thread before the hub has ever run on an event loop.
        """
        if get_ident() == self.thread:
            return start()
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        loop = self._loop
        if loop is None or loop.is_closed():
            if here is None:
                raise RuntimeError("The hub is not running: no event loop is known to send from.")
            self.open()
            return start()
        future = asyncio.run_coroutine_threadsafe(_awaited(start), loop)
        if here is not None:
            return asyncio.wrap_future(future)
        future.result()
        return DONE

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function that neither waits nor raises on the loop's thread: now, or soon from any other thread."""
        loop = self._loop
        if get_ident() == self.thread or loop is None:
            function()
        else:
            loop.call_soon_threadsafe(function)
