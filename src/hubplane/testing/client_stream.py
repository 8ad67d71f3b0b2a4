"""A server's stream, as a test reads it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from hubplane.testing.failures import NothingArrivedError

__all__ = ["ClientStream"]

T = TypeVar("T")


class ClientStream(Generic[T]):
    """The items of a server's stream: ``async for item in client.stream("Count", 3):``.

    The method is called when the first item is asked for. ``async with`` cancels what is left when its block ends; a
    plain loop that is left early leaves the stream running until `aclose`, or until the client is closed.

    Args:
        target: What is called, for messages.
        timeout: Seconds to wait for each item.
        start: Sends the call.
        cancel: Sends the cancellation.
        room: Called when an item was taken.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float,
        start: Callable[[ClientStream[T]], Awaitable[None]],
        cancel: Callable[[], Awaitable[None]],
        room: Callable[[], None],
    ) -> None:
        self._target = target
        self._timeout = timeout
        self._start = start
        self._cancel = cancel
        self._room = room
        self._items: deque[T] = deque()
        self._changed = asyncio.Event()
        self._started = False
        self._ended = False
        self._closed = False
        self._error: Exception | None = None

    @property
    def unread(self) -> int:
        """The items that have arrived and were not taken."""
        return len(self._items)

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> T:
        """The next item.

        Raises:
            HubException: The stream ended with an error, whose text this is.
            BindingError: An item is not of the stream's type.
            ConnectionClosedError: The connection ended.
            NothingArrivedError: No item came within the client's timeout.
        """
        if not self._started and not self._closed:
            self._started = True
            await self._start(self)
        if self._closed:
            raise StopAsyncIteration
        await self._until(lambda: bool(self._items) or self._ended or self._error is not None)
        if self._items:
            item = self._items.popleft()
            self._room()
            return item
        error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel what is left, and wait until the server says that the stream has ended; idempotent.

        Raises:
            NothingArrivedError: It does not say so within the client's timeout.
        """
        if self._closed:
            return
        self._closed = True
        self._items.clear()
        self._room()
        if self._started and not self._ended:
            await self._cancel()
            await self._until(lambda: self._ended)

    async def __aenter__(self) -> Self:
        """Call the method at once."""
        if not self._started:
            self._started = True
            await self._start(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """See `aclose`."""
        await self.aclose()

    async def _until(self, condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            what = "end" if self._closed else "item"
            raise NothingArrivedError(
                f"No {what} of the stream of {self._target!r} arrived within {self._timeout:g} s."
            ) from None

    # -- for the client -----------------------------------------------------------------------------------------

    def add(self, item: T) -> None:
        """An item has arrived."""
        if not self._closed:
            self._items.append(item)
            self._changed.set()

    def fail(self, error: Exception) -> None:
        """An item that cannot be read has arrived; the server goes on."""
        self._error = error
        self._changed.set()

    def end(self, error: Exception | None) -> None:
        """The stream has ended."""
        self._ended = True
        self._error = self._error or error
        self._changed.set()
