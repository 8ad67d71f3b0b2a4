"""`BackplaneContract`: what every backplane promises, as tests to inherit.

A carrier's own test module subclasses it and provides one fixture::

    class TestMyBackplane(BackplaneContract):
        @pytest.fixture
        def fleet(self) -> BackplaneFleet:
            return BackplaneFleet(node=lambda: MyBackplane(...), interrupt=..., resume=...)

The numbers in the docstrings are those of the promises in `hubplane.backplane.base`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from hubplane.backplane.base import Backplane
from hubplane.errors import BackplaneError, BackplaneUnavailableError, LocalProtocolError

__all__ = ["BackplaneContract", "BackplaneFleet", "RecordingSink"]

_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class BackplaneFleet:
    """Where a contract's backplanes come from.

    Attributes:
        node: Makes one more backplane on the same broker; it is not running yet.
        interrupt: Takes the broker away, and everything it knew with it.
        resume: Brings it back, empty.
        fences: Channels that, together, take every path a message may take; one where all messages keep their order.
    """

    node: Callable[[], Backplane]
    interrupt: Callable[[], None]
    resume: Callable[[], None]
    fences: tuple[str, ...] = ("fence",)


class RecordingSink:
    """A sink that remembers everything and can be waited on.

    Attributes:
        messages: (channel, payload) in the order of arrival.
        events: "lost", "restored" and "restored with a gap", in order.
        errors: What `lost` was told.
        on_restored: Called by `restored`, to look at the world at that very moment.
    """

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.events: list[str] = []
        self.errors: list[BackplaneError] = []
        self.on_restored: Callable[[], None] | None = None
        self._changed = asyncio.Event()

    def deliver(self, channel: str, payload: bytes) -> None:
        """Remember a message."""
        self.messages.append((channel, payload))
        self._changed.set()

    def lost(self, error: BackplaneError) -> None:
        """Remember an outage."""
        self.events.append("lost")
        self.errors.append(error)
        self._changed.set()

    def restored(self, *, gap: bool) -> None:
        """Remember its end."""
        self.events.append("restored with a gap" if gap else "restored")
        if self.on_restored is not None:
            self.on_restored()
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that happened here made `condition` true.

        Raises:
            TimeoutError: Not within 20 s.
        """
        async with asyncio.timeout(_PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def event(self, name: str, count: int = 1) -> None:
        """Wait until an event happened `count` times."""
        await self.until(lambda: self.events.count(name) >= count)

    async def message(self, channel: str, payload: bytes) -> None:
        """Wait for a certain message."""
        await self.until(lambda: (channel, payload) in self.messages)

    def payloads(self, channel: str) -> list[bytes]:
        """What arrived on one channel."""
        return [payload for name, payload in self.messages if name == channel]


class BackplaneContract:
    """Tests of a backplane's promises: subclass it as ``Test...`` with a fixture `fleet`, a `BackplaneFleet`.

    Attributes:
        ordered_across_channels: The carrier keeps the order of one publisher across its channels.
    """

    ordered_across_channels = True

    @asynccontextmanager
    async def nodes(
        self, fleet: BackplaneFleet, count: int = 2
    ) -> AsyncIterator[list[tuple[Backplane, RecordingSink]]]:
        """Run `count` connected backplanes."""
        async with AsyncExitStack() as stack:
            made: list[tuple[Backplane, RecordingSink]] = []
            for _ in range(count):
                node, sink = fleet.node(), RecordingSink()
                await stack.enter_async_context(node.run(sink))
                await node.subscribe(fleet.fences)
                made.append((node, sink))
            yield made

    @pytest.fixture(autouse=True)
    def _fences(self, fleet: BackplaneFleet) -> None:
        self.fences = fleet.fences

    async def fence(self, publisher: Backplane, *sinks: RecordingSink) -> None:
        """Return when everything `publisher` published before has reached the sinks, or never will."""
        for name in self.fences:
            counts = [sink.payloads(name).count(b"|") for sink in sinks]
            await publisher.publish(name, b"|")
            for sink, count in zip(sinks, counts, strict=True):
                await sink.until(partial(_more_fences, sink, name, count))

    async def test_publisher_hears_itself(self, fleet: BackplaneFleet) -> None:
        """1: A publisher that is subscribed to the channel gets its own message."""
        async with self.nodes(fleet, 1) as [(node, sink)]:
            await node.subscribe(["room"])
            await node.publish("room", b"hello")
            await sink.message("room", b"hello")

    async def test_every_subscriber_and_nobody_else_hears(self, fleet: BackplaneFleet) -> None:
        """A message reaches all nodes subscribed to its channel, once each, and no other node."""
        async with self.nodes(fleet, 3) as [(one, heard_one), (two, heard_two), (_, heard_three)]:
            await one.subscribe(["room"])
            await two.subscribe(["room"])
            await one.publish("room", b"hello")
            await self.fence(one, heard_one, heard_two, heard_three)
            assert heard_one.payloads("room") == heard_two.payloads("room") == [b"hello"]
            assert heard_three.payloads("room") == []

    async def test_order_is_kept_per_channel(self, fleet: BackplaneFleet) -> None:
        """2: A thousand messages of one publisher arrive in order, whether awaited or not."""
        sent = [str(number).encode() for number in range(1000)]
        async with self.nodes(fleet) as [(one, heard_one), (two, heard_two)]:
            await one.subscribe(["room"])
            await two.subscribe(["room"])
            await asyncio.gather(*[one.publish("room", payload) for payload in sent[:900]])
            for payload in sent[900:]:
                await one.publish("room", payload)
            await self.fence(one, heard_one, heard_two)
            assert heard_one.payloads("room") == sent
            assert heard_two.payloads("room") == sent

    async def test_order_is_kept_across_channels(self, fleet: BackplaneFleet) -> None:
        """2: A carrier with one pipeline keeps a publisher's order across channels too."""
        if not self.ordered_across_channels:
            return
        sent = [(f"room {number % 3}", str(number).encode()) for number in range(1000)]
        async with self.nodes(fleet) as [(one, _), (two, heard)]:
            await two.subscribe(["room 0", "room 1", "room 2"])
            await asyncio.gather(*[one.publish(channel, payload) for channel, payload in sent])
            await self.fence(one, heard)
            assert [message for message in heard.messages if message[0] not in self.fences] == sent

    async def test_nothing_published_after_subscribe_is_missed(self, fleet: BackplaneFleet) -> None:
        """3: Once subscribe returned, what another node publishes arrives."""
        async with self.nodes(fleet) as [(one, _), (two, heard)]:
            for number in range(50):
                channel = f"room {number}"
                await two.subscribe([channel])
                await one.publish(channel, b"first")
            await self.fence(one, heard)
            assert all(heard.payloads(f"room {number}") == [b"first"] for number in range(50))

    async def test_subscribing_twice_delivers_once(self, fleet: BackplaneFleet) -> None:
        """Wanting a channel again changes nothing, and unsubscribing once ends it."""
        async with self.nodes(fleet, 1) as [(node, heard)]:
            await node.subscribe(["room", "room"])
            await asyncio.gather(node.subscribe(["room"]), node.subscribe(["room"]))
            await node.publish("room", b"once")
            await node.unsubscribe(["room"])
            await node.publish("room", b"never")
            await self.fence(node, heard)
            assert heard.payloads("room") in ([], [b"once"])
            assert b"never" not in heard.payloads("room")

    async def test_nothing_is_delivered_after_unsubscribe(self, fleet: BackplaneFleet) -> None:
        """Once unsubscribe was called, nothing more arrives on the channel; other channels go on."""
        async with self.nodes(fleet) as [(one, _), (two, heard)]:
            await two.subscribe(["room", "other"])
            await two.unsubscribe(["room", "never subscribed"])
            await one.publish("room", b"late")
            await one.publish("other", b"still here")
            await self.fence(one, heard)
            assert heard.payloads("room") == []
            assert heard.payloads("other") == [b"still here"]

    async def test_last_wanted_state_wins(self, fleet: BackplaneFleet) -> None:
        """Calls that overlap leave the channel as the last of them wanted it."""
        async with self.nodes(fleet) as [(one, _), (two, heard)]:
            calls = []
            for _ in range(25):
                calls += [
                    two.subscribe(["in"]),
                    two.unsubscribe(["in"]),
                    two.unsubscribe(["out"]),
                    two.subscribe(["out"]),
                ]
            calls += [two.subscribe(["in"]), two.unsubscribe(["out"])]
            await asyncio.gather(*calls)
            await one.publish("in", b"yes")
            await one.publish("out", b"no")
            await self.fence(one, heard)
            assert heard.payloads("in") == [b"yes"]
            assert heard.payloads("out") == []
            if (counts := await one.count_subscribers(["in", "out"])) is not None:
                assert counts == {"in": 1, "out": 0}

    async def test_publish_counts_receivers(self, fleet: BackplaneFleet) -> None:
        """7: publish returns how many nodes heard, where the carrier counts, and None where not."""
        async with self.nodes(fleet) as [(one, _), (two, _)]:
            await one.subscribe(["both"])
            await two.subscribe(["both", "two"])
            found = [await one.publish(channel, b"") for channel in ("both", "two", "nobody")]
            assert found == ([2, 1, 0] if one.traits.counts_receivers else [None, None, None])

    async def test_subscribers_are_counted(self, fleet: BackplaneFleet) -> None:
        """count_subscribers tells how many nodes are subscribed, 0 included, where the carrier can tell."""
        async with self.nodes(fleet) as [(one, _), (two, _)]:
            await one.subscribe(["both"])
            await two.subscribe(["both", "two"])
            counts = await one.count_subscribers(["both", "two", "nobody"])
            assert counts in ({"both": 2, "two": 1, "nobody": 0}, None)
            assert await one.count_subscribers([]) in ({}, None)

    async def test_publish_never_delivers_inside_the_call(self, fleet: BackplaneFleet) -> None:
        """Nothing arrives while the publisher's own code runs, so that it cannot be entered again."""
        async with self.nodes(fleet, 1) as [(node, heard)]:
            await node.subscribe(["room"])
            confirmed = node.publish("room", b"hello")
            assert heard.payloads("room") == []
            await confirmed
            await heard.message("room", b"hello")

    async def test_channels_are_literal(self, fleet: BackplaneFleet) -> None:
        """No character of a channel's name means anything: stars, question marks, brackets, spaces, any script."""
        names = ["*", "a*", "?", "[ab]", "a b", "a\\b", "", "Grüße", "部屋", "\x00\r\n", "a"]
        async with self.nodes(fleet) as [(one, _), (two, heard)]:
            await two.subscribe(names[:-1])
            for name in names:
                await one.publish(name, name.encode())
            await self.fence(one, heard)
            found = [message for message in heard.messages if message[0] not in self.fences]
            assert sorted(found) == sorted((name, name.encode()) for name in names[:-1])

    async def test_payloads_are_bytes(self, fleet: BackplaneFleet) -> None:
        """Payloads arrive as they were: empty, every byte value, a megabyte."""
        sent = [b"", bytes(range(256)), b"x" * 1_048_576, b"\r\n$3\r\nfoo\r\n"]
        async with self.nodes(fleet) as [(one, _), (two, heard)]:
            await two.subscribe(["room"])
            for payload in sent:
                await one.publish("room", payload)
            await self.fence(one, heard)
            assert heard.payloads("room") == sent

    async def test_failing_sink_does_not_stop_delivery(self, fleet: BackplaneFleet) -> None:
        """A sink that raises loses that one message and no other."""

        class Failing(RecordingSink):
            def deliver(self, channel: str, payload: bytes) -> None:
                if payload == b"bad":
                    raise RuntimeError("the sink broke its word")
                super().deliver(channel, payload)

        node, heard = fleet.node(), Failing()
        async with node.run(heard):
            await node.subscribe(["room"])
            for payload in (b"one", b"bad", b"two"):
                await node.publish("room", payload)
            await heard.message("room", b"two")
            assert heard.payloads("room") == [b"one", b"two"]

    async def test_failed_publish_raises(self, fleet: BackplaneFleet) -> None:
        """4: While the broker is away a publish fails, from the awaitable and not from the call."""
        async with self.nodes(fleet, 1) as [(node, sink)]:
            fleet.interrupt()
            await sink.event("lost")
            confirmed = node.publish("room", b"lost")
            assert await _failure(confirmed)
            assert await _failure(node.count_subscribers(["room"]))
            assert not node.is_connected

    async def test_failed_subscribe_is_rolled_back(self, fleet: BackplaneFleet) -> None:
        """3: A subscribe that fails leaves nothing subscribed, also after the broker is back."""
        async with self.nodes(fleet, 1) as [(node, sink)]:
            await node.subscribe(["before"])
            fleet.interrupt()
            await sink.event("lost")
            assert await _failure(node.subscribe(["room", "before"]))
            fleet.resume()
            await sink.event("restored with a gap")
            await node.publish("room", b"nobody")
            await node.publish("before", b"still wanted")
            await self.fence(node, sink)
            assert sink.payloads("room") == []
            assert sink.payloads("before") == [b"still wanted"]

    async def test_kept_channels_are_subscribed_later(self, fleet: BackplaneFleet) -> None:
        """A channel to keep is wanted at once although the broker is away, and confirmed when it is back."""
        async with self.nodes(fleet, 1) as [(node, sink)]:
            fleet.interrupt()
            await sink.event("lost")
            await node.subscribe(["room"], keep=True)
            fleet.resume()
            await sink.event("restored with a gap")
            await node.publish("room", b"hello")
            await sink.message("room", b"hello")

    async def test_outage_is_reported_once_and_healed(self, fleet: BackplaneFleet) -> None:
        """5: lost once, then everything wanted is subscribed again, then restored once, with a gap."""
        async with self.nodes(fleet) as [(one, heard_one), (two, heard_two)]:
            channels = [f"room {number}" for number in range(500)]
            await two.subscribe(channels)
            connected: list[bool] = []
            heard_two.on_restored = lambda: connected.append(two.is_connected)
            fleet.interrupt()
            await heard_one.event("lost")
            await heard_two.event("lost")
            assert not two.is_connected
            assert isinstance(heard_two.errors[0], BackplaneUnavailableError)
            await two.unsubscribe(["room 0"])
            fleet.resume()
            await heard_one.event("restored with a gap")
            await heard_two.event("restored with a gap")
            assert connected == [True]
            for channel in channels:
                await one.publish(channel, b"back")
            await self.fence(one, heard_two)
            assert [channel for channel in channels if heard_two.payloads(channel) == [b"back"]] == channels[1:]
            assert heard_one.events == heard_two.events == ["lost", "restored with a gap"]

    async def test_starts_without_the_broker(self, fleet: BackplaneFleet) -> None:
        """5: A node that starts while the broker is away says so once, and is whole when it comes."""
        fleet.interrupt()
        node, sink = fleet.node(), RecordingSink()
        async with node.run(sink):
            await node.subscribe(["room"], keep=True)
            await sink.event("lost")
            assert not node.is_connected
            fleet.resume()
            await sink.until(lambda: len(sink.events) > 1)
            assert node.is_connected
            await node.publish("room", b"hello")
            await sink.message("room", b"hello")
            assert sink.events in (["lost", "restored"], ["lost", "restored with a gap"])

    async def test_channels_may_be_wanted_before_the_run(self, fleet: BackplaneFleet) -> None:
        """A channel to keep may be named before the backplane runs."""
        node, sink = fleet.node(), RecordingSink()
        await node.subscribe(["room", "dropped"], keep=True)
        await node.unsubscribe(["dropped"])
        async with node.run(sink):
            await node.subscribe(self.fences)
            await node.publish("room", b"hello")
            await node.publish("dropped", b"nobody")
            await self.fence(node, sink)
            assert sink.payloads("room") == [b"hello"]
            assert sink.payloads("dropped") == []

    async def test_nothing_is_delivered_after_the_run(self, fleet: BackplaneFleet) -> None:
        """6: Leaving run is prompt, and nothing is delivered after it."""
        async with self.nodes(fleet, 1) as [(one, _)]:
            node, sink = fleet.node(), RecordingSink()
            async with node.run(sink):
                await node.subscribe(["room"])
                flood = [one.publish("room", b"x" * 1000) for _ in range(500)]
                await flood[0]
                before = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - before < 2.0
            count = len(sink.messages)
            await asyncio.gather(*flood[1:])
            await one.publish("fence", b"")
            assert len(sink.messages) == count
            assert not node.is_connected

    async def test_stopped_backplane_refuses(self, fleet: BackplaneFleet) -> None:
        """A backplane that does not run refuses everything but channels to keep and unsubscribing."""
        node = fleet.node()
        async with node.run(RecordingSink()):
            await node.subscribe(["room"])
        assert await _failure(node.publish("room", b""))
        assert await _failure(node.subscribe(["room"]))
        assert await _failure(node.count_subscribers(["room"]))
        await node.unsubscribe(["room"])

    async def test_runs_again_with_nothing_wanted(self, fleet: BackplaneFleet) -> None:
        """A backplane may run again, and then wants nothing of what it wanted before."""
        node = fleet.node()
        async with node.run(RecordingSink()):
            await node.subscribe(["room"])
        sink = RecordingSink()
        async with node.run(sink):
            await node.subscribe(self.fences)
            await node.publish("room", b"nobody")
            await self.fence(node, sink)
            assert sink.payloads("room") == []

    async def test_runs_once_at_a_time(self, fleet: BackplaneFleet) -> None:
        """Running it a second time at once is an error of the caller, and leaves the first run alone."""
        async with self.nodes(fleet, 1) as [(node, sink)]:
            refused = False
            try:
                async with node.run(RecordingSink()):
                    pass
            except LocalProtocolError:
                refused = True
            assert refused
            await self.fence(node, sink)


def _more_fences(sink: RecordingSink, name: str, count: int) -> bool:
    return sink.payloads(name).count(b"|") > count


async def _failure(awaitable: Awaitable[object]) -> bool:
    """Whether awaiting it raises `BackplaneUnavailableError`."""
    try:
        await awaitable
    except BackplaneUnavailableError:
        return True
    return False
