"""Awaitables for what is already on its way: they make no task, and cost nothing when nobody awaits them."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Sequence
from typing import Any  # what an event loop passes through `yield` is its own affair

from hubplane.errors import BackplaneError

__all__ = ["DONE", "AllOf"]


class _Done(Awaitable[None]):
    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        """Return at once."""
        return
        yield  # makes this a generator


DONE: Awaitable[None] = _Done()
"""Ends at once, as often as it is awaited."""


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
