"""Ears for events of Redis: what an application's handlers are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hubplane import RedisConnectionFailed, RedisConnectionRestored, RedisGap
from hubplane.backplane.redis.events import RedisHandlers

__all__ = ["Ears"]

PATIENCE = 20.0


class Ears:
    """Remembers events, in order, and can be waited on."""

    def __init__(self) -> None:
        self.heard: list[RedisConnectionFailed | RedisConnectionRestored | RedisGap] = []
        self._changed = asyncio.Event()
        self.handlers = RedisHandlers(
            on_connection_failed=self.hear, on_connection_restored=self.hear, on_gap=self.hear
        )

    def hear(self, event: RedisConnectionFailed | RedisConnectionRestored | RedisGap) -> None:
        """A handler for everything."""
        self.heard.append(event)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what an event made true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def count(self, number: int) -> None:
        """Wait for so many events."""
        await self.until(lambda: len(self.heard) >= number)

    @property
    def failed(self) -> list[RedisConnectionFailed]:
        """The losses."""
        return [event for event in self.heard if isinstance(event, RedisConnectionFailed)]

    @property
    def restored(self) -> list[RedisConnectionRestored]:
        """The returns."""
        return [event for event in self.heard if isinstance(event, RedisConnectionRestored)]

    @property
    def gaps(self) -> list[RedisGap]:
        """The gaps."""
        return [event for event in self.heard if isinstance(event, RedisGap)]
