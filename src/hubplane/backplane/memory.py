"""`MemoryBus` and `MemoryBackplane`: several nodes in one process, and the contract of `base` in its plainest form."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from hubplane.backplane.base import BackplaneSink, BackplaneTraits
from hubplane.errors import BackplaneUnavailableError, LocalProtocolError

__all__ = ["MemoryBackplane", "MemoryBus"]

logger = logging.getLogger(__name__)

_AWAY = "The memory bus is interrupted."
_NOT_RUNNING = "The backplane is not running."


class _Node:
    """One running backplane, as the bus sees it."""

    __slots__ = ("sink", "wanted")

    def __init__(self, sink: BackplaneSink, wanted: dict[str, None]) -> None:
        self.sink = sink
        self.wanted = wanted


class MemoryBus:
    """The broker that the nodes of one process share; all of them run on one event loop.

    Messages are delivered by the event loop in the order of their publishing, never inside the publisher's call.

    Args:
        limit: Bytes that may wait for delivery at once; a publish above it fails.
    """

    def __init__(self, *, limit: int = 67_108_864) -> None:
        self._limit = limit
        self._waiting_bytes = 0
        self._queue: deque[tuple[str, bytes, asyncio.Future[int | None]]] = deque()
        self._nodes: dict[_Node, None] = {}
        self._subscribers: dict[str, dict[_Node, None]] = {}
        self._interrupted: BackplaneUnavailableError | None = None

    @property
    def is_interrupted(self) -> bool:
        """Between `interrupt` and `resume`."""
        return self._interrupted is not None

    def interrupt(self) -> None:
        """Be away, as a stopped broker is: every node is told, and everything that needs the bus fails."""
        if self._interrupted is None:
            self._interrupted = BackplaneUnavailableError(_AWAY)
            self._subscribers.clear()
            for node in tuple(self._nodes):
                node.sink.lost(self._interrupted)

    def resume(self) -> None:
        """Be back, empty: every node's wanted channels are subscribed again, then every node is told."""
        if self._interrupted is not None:
            self._interrupted = None
            for node in tuple(self._nodes):
                self.subscribe(node, node.wanted)
            for node in tuple(self._nodes):
                node.sink.restored(gap=bool(node.wanted))

    def enter(self, node: _Node) -> None:
        """Add a node with what it wants."""
        self._nodes[node] = None
        if self._interrupted is not None:
            node.sink.lost(self._interrupted)
        else:
            self.subscribe(node, node.wanted)

    def leave(self, node: _Node) -> None:
        """Forget a node; nothing is delivered to it from here on."""
        self._nodes.pop(node, None)
        self.unsubscribe(node, node.wanted)

    def subscribe(self, node: _Node, channels: Collection[str]) -> None:
        """Deliver `channels` to `node`."""
        for channel in channels:
            self._subscribers.setdefault(channel, {})[node] = None

    def unsubscribe(self, node: _Node, channels: Collection[str]) -> None:
        """Stop delivering `channels` to `node`."""
        for channel in channels:
            if (nodes := self._subscribers.get(channel)) is not None:
                nodes.pop(node, None)
                if not nodes:
                    del self._subscribers[channel]

    def count(self, channel: str) -> int:
        """How many nodes hear `channel`."""
        return len(self._subscribers.get(channel, ()))

    def publish(self, channel: str, payload: bytes, confirmed: asyncio.Future[int | None]) -> None:
        """Queue a message; `confirmed` gets the number of receivers once they have it."""
        if self._interrupted is not None:
            confirmed.set_exception(BackplaneUnavailableError(_AWAY))
        elif self._waiting_bytes + len(payload) > self._limit:
            confirmed.set_exception(BackplaneUnavailableError(f"More than {self._limit} bytes wait for delivery."))
        else:
            if not self._queue:
                confirmed.get_loop().call_soon(self._deliver)
            self._waiting_bytes += len(payload)
            self._queue.append((channel, payload, confirmed))

    def _deliver(self) -> None:
        # Only what was there at the start: what a receiver publishes in answer waits for the next turn of the loop.
        for position in range(len(self._queue), 0, -1):
            channel, payload, confirmed = self._queue[0]
            receivers = tuple(self._subscribers.get(channel, ()))
            for node in receivers:
                if channel in node.wanted:
                    _deliver(node.sink, channel, payload)
            # Taken out last: a receiver that publishes meanwhile must find the queue occupied, or deliveries nest.
            self._queue.popleft()
            self._waiting_bytes -= len(payload)
            if not confirmed.done():
                if self._interrupted is None:
                    confirmed.set_result(len(receivers))
                else:
                    confirmed.set_exception(BackplaneUnavailableError(_AWAY))
            if position == 1 and self._queue:
                confirmed.get_loop().call_soon(self._deliver)


def _deliver(sink: BackplaneSink, channel: str, payload: bytes) -> None:
    try:
        sink.deliver(channel, payload)
    except Exception:
        # The sink broke its word; the other nodes of the bus must not pay for it.
        logger.exception("A sink failed on channel %s.", channel)


class MemoryBackplane:
    """One node on a `MemoryBus`.

    Args:
        bus: What it shares with the other nodes; a bus of its own by default.
    """

    def __init__(self, bus: MemoryBus | None = None) -> None:
        self._bus = bus if bus is not None else MemoryBus()
        self._node: _Node | None = None
        self._wanted: dict[str, None] = {}

    @property
    def traits(self) -> BackplaneTraits:
        """Exact receiver counts; nothing survives an interruption."""
        return BackplaneTraits(name="memory", counts_receivers=True, resumes_after_loss=False)

    @property
    def is_connected(self) -> bool:
        """It runs, and its bus is not interrupted."""
        return self._node is not None and not self._bus.is_interrupted

    def run(self, sink: BackplaneSink) -> AbstractAsyncContextManager[None]:
        """Deliver to `sink` while inside; what was wanted is forgotten when it ends. See `Backplane.run`.

        Raises:
            LocalProtocolError: It is running already.
        """
        return self._run(sink)

    @asynccontextmanager
    async def _run(self, sink: BackplaneSink) -> AsyncIterator[None]:
        if self._node is not None:
            raise LocalProtocolError("The backplane is already running.")
        self._node = node = _Node(sink, self._wanted)
        self._bus.enter(node)
        try:
            yield
        finally:
            self._node = None
            self._bus.leave(node)
            self._wanted.clear()

    async def subscribe(self, channels: Collection[str], *, keep: bool = False) -> None:
        """Want `channels`; see `Backplane.subscribe`."""
        if not keep:
            self._check()
        self._wanted.update(dict.fromkeys(channels))
        if self._node is not None and not self._bus.is_interrupted:
            self._bus.subscribe(self._node, channels)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        """No longer want `channels`; see `Backplane.unsubscribe`."""
        if self._node is not None:
            self._bus.unsubscribe(self._node, channels)
        for channel in channels:
            self._wanted.pop(channel, None)

    def publish(self, channel: str, payload: bytes) -> Awaitable[int | None]:
        """Hand `payload` to the bus; the awaitable ends when every receiver has it. See `Backplane.publish`."""
        confirmed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        if self._node is None:
            confirmed.set_exception(BackplaneUnavailableError(_NOT_RUNNING))
        else:
            self._bus.publish(channel, payload, confirmed)
        return confirmed

    async def count_subscribers(self, channels: Collection[str]) -> dict[str, int] | None:
        """How many nodes are subscribed to each channel; see `Backplane.count_subscribers`."""
        self._check()
        return {channel: self._bus.count(channel) for channel in channels}

    def _check(self) -> None:
        if self._node is None:
            raise BackplaneUnavailableError(_NOT_RUNNING)
        if self._bus.is_interrupted:
            raise BackplaneUnavailableError(_AWAY)
