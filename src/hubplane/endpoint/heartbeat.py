"""One tick a second for everything with a deadline, instead of a timer for each.

Source: signalr-server section 2.5.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection

__all__ = ["Heartbeat"]

logger = logging.getLogger(__name__)

INTERVAL = 1.0
SLICE = 500
"""Connections looked at before the event loop gets a turn."""


class Heartbeat:
    """Calls `tick(now)` of every connection, and every further `tick`, once a second.

    Args:
        clock: Where time comes from.
        connections: A snapshot of the connections there are now.
        ticks: Further functions to call with the monotonic time.
    """

    __slots__ = ("_clock", "_connections", "_ticks")

    def __init__(
        self,
        clock: Clock,
        connections: Callable[[], Iterator[HubConnection]],
        ticks: tuple[Callable[[float], object], ...] = (),
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._ticks = ticks

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await self._clock.sleep(INTERVAL)
            await self.beat()

    async def beat(self) -> None:
        """One beat, in slices, so that many connections do not hold the event loop up."""
        now = self._clock.monotonic()
        for tick in self._ticks:
            try:
                tick(now)
            except Exception:
                logger.exception("A heartbeat callback failed: %r", tick)
        for count, connection in enumerate(self._connections(), start=1):
            try:
                connection.tick(now)
            except Exception:
                logger.exception("The heartbeat of connection %s failed.", connection.connection_id)
            if count % SLICE == 0:
                await self._clock.sleep(0)
