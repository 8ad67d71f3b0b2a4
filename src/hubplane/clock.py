"""Time, injected: nothing else in hubplane reads a clock or sleeps."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """A source of monotonic time; all durations and deadlines are float seconds."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds since 1970, to compare with times that others have written down; it may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; cancellation ends it early."""
        ...


class SystemClock:
    """The clock of the operating system."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970; it may jump."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; cancellation ends it early."""
        await asyncio.sleep(seconds)
