"""Counters and gauges: a seam that does nothing by default."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Meter", "NullMeter"]


class Meter(Protocol):
    """Receives measurements; implementations must not block or raise."""

    def add(self, name: str, amount: float = 1, **tags: str) -> None:
        """Add `amount` to the counter `name`; negative amounts are for up-down counters."""
        ...

    def record(self, name: str, value: float, **tags: str) -> None:
        """Record one value of the histogram `name`."""
        ...


class NullMeter:
    """Forgets everything."""

    __slots__ = ()

    def add(self, name: str, amount: float = 1, **tags: str) -> None:
        """Do nothing."""

    def record(self, name: str, value: float, **tags: str) -> None:
        """Do nothing."""
