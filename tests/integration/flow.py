"""Numbered messages between the nodes of a fleet, while things are done to its Redis."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor
from hubplane.testing.backplane_contract import RecordingSink

__all__ = ["GAP", "Fleet", "FlowNode", "flowing", "lost_between"]

GAP = "restored with a gap"


class FlowSink(RecordingSink):
    """Remembers numbered messages by who published them.

    Attributes:
        numbers: By publisher and channel, as they came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[tuple[str, str], list[int]] = defaultdict(list)

    def deliver(self, channel: str, payload: bytes) -> None:
        """Remember a message."""
        name, number = payload.decode().split()
        self.numbers[name, channel].append(int(number))
        super().deliver(channel, payload)


@dataclass(eq=False)
class FlowNode:
    """One node of a fleet, which publishes and hears numbered messages.

    Attributes:
        sent: How many messages it published on each channel.
        confirmed: The (channel, number) of those that did not raise.
        failed: The errors of those that did. A server that was frozen may deliver such a message later.
    """

    name: str
    backplane: RedisBackplane
    sink: FlowSink = field(default_factory=FlowSink)
    sent: dict[str, int] = field(default_factory=dict)
    confirmed: set[tuple[str, int]] = field(default_factory=set)
    failed: dict[tuple[str, int], BackplaneUnavailableError] = field(default_factory=dict)

    def publish(self, channel: str) -> None:
        """Publish the next number."""
        number = self.sent[channel] = self.sent.get(channel, 0) + 1
        answer = self.backplane.publish(channel, f"{self.name} {number}".encode())
        assert isinstance(answer, asyncio.Future)
        answer.add_done_callback(lambda done: self._done(channel, number, done))

    def _done(self, channel: str, number: int, answer: asyncio.Future[int]) -> None:
        if answer.cancelled():
            return
        if isinstance(error := answer.exception(), BackplaneUnavailableError):
            self.failed[channel, number] = error
        elif error is None:
            self.confirmed.add((channel, number))

    def heard(self, channel: str, publisher: FlowNode) -> list[int]:
        """The numbers of one publisher that arrived on a channel, as they came."""
        return self.sink.numbers[publisher.name, channel]


class Fleet:
    """Nodes that all want the same channels, and publish on all of them all the time."""

    def __init__(self, nodes: Sequence[FlowNode], channels: Sequence[str]) -> None:
        self.nodes = nodes
        self.channels = channels
        self._rounds = 0
        self._round = asyncio.Event()

    async def publish(self) -> None:
        """Publish for ever: one message of each node on each channel, then a little pause."""
        while True:
            for node in self.nodes:
                for channel in self.channels:
                    node.publish(channel)
            self._rounds += 1
            self._round.set()
            await asyncio.sleep(0.01)  # the pace, nothing waits for it

    async def rounds(self, count: int) -> None:
        """Return when so many further rounds were published."""
        until = self._rounds + count
        while self._rounds < until:
            self._round.clear()
            await self._round.wait()

    async def event(self, name: str, count: int = 1) -> None:
        """Wait until something happened at every node."""
        for node in self.nodes:
            await node.sink.event(name, count)

    async def caught_up(self) -> None:
        """Return when what is published from here on arrives everywhere."""
        await self.rounds(1)
        numbers = {(node, channel): node.sent[channel] for node in self.nodes for channel in self.channels}
        for hearer in self.nodes:
            for (publisher, channel), number in numbers.items():
                await hearer.sink.until(partial(_reached, hearer.heard(channel, publisher), number))

    def assert_ordered(self) -> None:
        """Nothing arrived twice, and no confirmed message before one that was published before it on its channel."""
        for hearer in self.nodes:
            for publisher in self.nodes:
                for channel in self.channels:
                    numbers = hearer.heard(channel, publisher)
                    twice = [number for number, times in Counter(numbers).items() if times > 1]
                    assert not twice, (hearer.name, publisher.name, channel, twice, len(numbers))
                    confirmed = [number for number in numbers if (channel, number) not in publisher.failed]
                    assert confirmed == sorted(confirmed), (hearer.name, publisher.name, channel)


def _reached(heard: list[int], number: int) -> bool:
    return bool(heard) and heard[-1] >= number


def lost_between(fleet: Fleet) -> int:
    """How many confirmed messages did not arrive, of those before the last that did."""
    lost = 0
    for hearer in fleet.nodes:
        for publisher in fleet.nodes:
            for channel in fleet.channels:
                numbers = set(hearer.heard(channel, publisher))
                last = max(numbers, default=0)
                lost += sum(
                    number not in numbers for name, number in publisher.confirmed if name == channel and number <= last
                )
    return lost


@asynccontextmanager
async def flowing(options: RedisOptions, channels: Sequence[str], nodes: int = 2) -> AsyncIterator[Fleet]:
    """A fleet at work: its messages flow until the end of the block."""
    async with AsyncExitStack() as stack:
        made = [FlowNode(f"n{number}", RedisBackplane(options)) for number in range(nodes)]
        for node in made:
            await stack.enter_async_context(node.backplane.run(node.sink))
            await node.backplane.subscribe(channels)
        fleet = Fleet(made, channels)
        publishers = Supervisor("publishers")
        work = publishers.start(fleet.publish(), "publish")
        try:
            await fleet.rounds(5)
            yield fleet
        finally:
            await publishers.close()
        assert work.cancelled()
