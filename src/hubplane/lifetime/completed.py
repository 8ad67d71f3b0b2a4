"""Awaitables for what is already on its way: they make no task, and cost nothing when nobody awaits them.

A method that sends in a loop would, if no `await` ever let the event loop write, fill the buffers of clients that read
as fast as they can, up to the limit at which they are disconnected. Hence `Taken` and `TURN`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Sequence
from typing import Any  # what an event loop passes through `yield` is its own affair

from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import BackplaneError

__all__ = ["DONE", "TURN", "AllOf", "Taken"]


class _Done(Awaitable[None]):
    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        """Return at once."""
        return
        yield  # makes this a generator


DONE: Awaitable[None] = _Done()
"""Ends at once, as often as it is awaited."""


class _Turn(Awaitable[None]):
    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        """Let the event loop run everything that is ready."""
        yield


TURN: Awaitable[None] = _Turn()
"""Ends in the next turn of the event loop; what was written meanwhile is on its way."""


class Taken(Awaitable[None]):
    """Ends when a client has taken what was written for it, or its connection has ended.

    Args:
        connection: The client's, with much to write.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    def __await__(self) -> Generator[Any, None, None]:
        """Wait for the client, and for a turn of the event loop at least."""
        yield
        yield from self._connection.drain().__await__()


class AllOf(Awaitable[None]):
    """Ends when all parts have ended, and then raises the first `BackplaneError` among theirs.

    Args:
        parts: Already under way; awaited one after the other.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Awaitable[object]]) -> None:
        self._parts = parts

    def __await__(self) -> Generator[Any, None, None]:
        """Wait for all parts."""
        first: BackplaneError | None = None
        for part in self._parts:
            try:
                yield from part.__await__()
            except BackplaneError as error:
                first = first or error
        if first is not None:
            raise first
