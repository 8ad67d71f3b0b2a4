"""Time and chance that a test owns."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

__all__ = ["FakeClock", "SeededIds"]


class FakeClock:
    """Time that stands still until `advance`.

    Args:
        now: Where it starts, in seconds.
    """

    def __init__(self, now: float = 1_000.0) -> None:
        self._now = now
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        """The present time."""
        return self._now

    def wall(self) -> float:
        """The present time: the epoch is that of `monotonic`."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Return once `advance` has passed `seconds` from now."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Let time pass; sleepers whose time has come wake in the next turn of the event loop."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    async def elapse(self, seconds: float, *, step: float = 1.0) -> None:
        """Let time pass in steps, with turns of the event loop in between: as a running application sees it.

        `advance` is one jump, after which everything is late at once; here a heartbeat comes every second. What an
        application does in many turns may still be under way afterwards, so wait for it.

        Args:
            seconds: How long, in all.
            step: Seconds of one step; the last one may be shorter.
        """
        end = self._now + seconds
        while self._now < end:
            self.advance(min(step, end - self._now))
            for _ in range(_TURNS):
                await _turn()


_TURNS = 20


async def _turn() -> None:
    loop = asyncio.get_running_loop()
    turned = loop.create_future()
    loop.call_soon(turned.set_result, None)
    await turned


class SeededIds:
    """Ids in a fixed order: ``a-connection-1``, ``a-node-1``, ``a-invocation-1`` and so on.

    Args:
        name: What they begin with; give each node of a test its own.
    """

    def __init__(self, name: str = "a") -> None:
        self._name = name
        self._connections = count(1)
        self._nodes = count(1)
        self._invocations = count(1)

    def connection_id(self) -> str:
        """The next connection id."""
        return f"{self._name}-connection-{next(self._connections)}"

    def node_name(self) -> str:
        """The next node name."""
        return f"{self._name}-node-{next(self._nodes)}"

    def invocation_id(self) -> str:
        """The next invocation id."""
        return f"{self._name}-invocation-{next(self._invocations)}"
