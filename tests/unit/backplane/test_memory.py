"""The memory carrier, beyond the contract it shares with the others."""

from __future__ import annotations

import asyncio

import pytest

from hubplane.backplane.memory import MemoryBackplane, MemoryBus
from hubplane.errors import BackplaneUnavailableError, LocalProtocolError
from hubplane.testing.backplane_contract import RecordingSink


async def test_backplane_without_a_bus_has_one_of_its_own() -> None:
    """Two backplanes that were given no bus do not hear each other."""
    one, two, heard = MemoryBackplane(), MemoryBackplane(), RecordingSink()
    async with one.run(RecordingSink()), two.run(heard):
        await two.subscribe(["room"])
        assert await one.publish("room", b"x") == 0
        assert await two.publish("room", b"x") == 1
        assert heard.messages == [("room", b"x")]


async def test_receiver_may_publish_in_answer() -> None:
    """What a receiver publishes while it is delivered to comes in a later turn of the loop, in order."""
    node = MemoryBackplane()

    class Answering(RecordingSink):
        def deliver(self, channel: str, payload: bytes) -> None:
            super().deliver(channel, payload)
            if channel == "question":
                node.publish("answer", payload)
                assert ("answer", payload) not in self.messages

    heard = Answering()
    async with node.run(heard):
        await node.subscribe(["question", "answer"])
        await asyncio.gather(node.publish("question", b"1"), node.publish("question", b"2"))
        await heard.message("answer", b"2")
        assert heard.messages == [("question", b"1"), ("question", b"2"), ("answer", b"1"), ("answer", b"2")]


async def test_endless_answers_do_not_starve_the_loop() -> None:
    """Two nodes that answer each other for ever leave the event loop its turns."""
    node = MemoryBackplane()

    class Echo(RecordingSink):
        def deliver(self, channel: str, payload: bytes) -> None:
            super().deliver(channel, payload)
            node.publish(channel, payload)

    heard = Echo()
    async with node.run(heard):
        await node.subscribe(["ball"])
        await node.publish("ball", b"")
        for _ in range(10):
            await asyncio.sleep(0)
        assert 5 < len(heard.messages) < 20


async def test_waiting_bytes_are_bounded() -> None:
    """A publish above the bus's limit fails; once the others are delivered there is room again."""
    node = MemoryBackplane(MemoryBus(limit=100))
    async with node.run(RecordingSink()):
        fits, too_much = node.publish("room", b"x" * 60), node.publish("room", b"x" * 60)
        assert await fits == 0
        with pytest.raises(BackplaneUnavailableError, match="More than 100 bytes"):
            await too_much
        assert await node.publish("room", b"x" * 100) == 0


async def test_interruption_fails_what_waits() -> None:
    """A publish that waited for delivery when the bus went away fails and reaches nobody."""
    bus = MemoryBus()
    node, heard = MemoryBackplane(bus), RecordingSink()
    async with node.run(heard):
        await node.subscribe(["room"])
        waiting = node.publish("room", b"x")
        bus.interrupt()
        bus.interrupt()
        with pytest.raises(BackplaneUnavailableError, match="interrupted"):
            await waiting
        with pytest.raises(BackplaneUnavailableError, match="interrupted"):
            await node.publish("room", b"x")
        bus.resume()
        bus.resume()
        assert heard.messages == []
        assert heard.events == ["lost", "restored with a gap"]


async def test_interruption_without_channels_is_no_gap() -> None:
    """A node that wants nothing missed nothing."""
    bus = MemoryBus()
    heard = RecordingSink()
    async with MemoryBackplane(bus).run(heard):
        bus.interrupt()
        bus.resume()
    assert heard.events == ["lost", "restored"]


async def test_cancelled_publish_is_delivered_all_the_same() -> None:
    """Cancelling the awaitable does not take the message back."""
    node, heard = MemoryBackplane(), RecordingSink()
    async with node.run(heard):
        await node.subscribe(["room"])
        confirmed = node.publish("room", b"x")
        assert isinstance(confirmed, asyncio.Future)
        confirmed.cancel()
        await heard.message("room", b"x")


async def test_message_does_not_reach_who_left_meanwhile() -> None:
    """Between publish and delivery a node may unsubscribe or stop; then it hears nothing, and is not counted."""
    bus = MemoryBus()
    one, two, heard = MemoryBackplane(bus), MemoryBackplane(bus), RecordingSink()
    async with one.run(RecordingSink()):
        async with two.run(heard):
            await two.subscribe(["a", "b"])
            first = one.publish("a", b"x")
            await two.unsubscribe(["a"])
            second = one.publish("b", b"x")
        assert await first == await second == 0
    assert heard.messages == []


async def test_failing_sink_harms_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A sink that raises is logged, and the other nodes get the message all the same."""
    bus = MemoryBus()

    class Failing(RecordingSink):
        def deliver(self, channel: str, payload: bytes) -> None:
            raise RuntimeError("the sink broke its word")

    one, two, heard = MemoryBackplane(bus), MemoryBackplane(bus), RecordingSink()
    async with one.run(Failing()), two.run(heard):
        await one.subscribe(["room"])
        await two.subscribe(["room"])
        assert await one.publish("room", b"x") == 2
    assert heard.messages == [("room", b"x")]
    assert "A sink failed on channel room." in caplog.text


async def test_states_outside_a_run() -> None:
    """Without a run nothing can be published, subscribed or counted, but channels to keep may be named and dropped."""
    bus = MemoryBus()
    node = MemoryBackplane(bus)
    assert not node.is_connected
    assert node.traits.name == "memory"
    for call in (node.publish("room", b""), node.subscribe(["room"]), node.count_subscribers(["room"])):
        with pytest.raises(BackplaneUnavailableError, match="not running"):
            await call
    await node.subscribe(["room", "dropped"], keep=True)
    await node.unsubscribe(["dropped"])
    async with node.run(RecordingSink()):
        assert node.is_connected
        assert await node.count_subscribers(["room", "dropped"]) == {"room": 1, "dropped": 0}
        with pytest.raises(LocalProtocolError):
            async with node.run(RecordingSink()):
                pytest.fail("it ran twice")
        bus.interrupt()
        with pytest.raises(BackplaneUnavailableError, match="interrupted"):
            await node.subscribe(["other"])
    late = RecordingSink()
    async with node.run(late):
        assert late.events == ["lost"]


async def test_last_subscriber_leaves_nothing_behind() -> None:
    """The bus forgets a channel with its last subscriber, and only then."""
    bus = MemoryBus()
    one, two = MemoryBackplane(bus), MemoryBackplane(bus)
    async with one.run(RecordingSink()):
        async with two.run(RecordingSink()):
            await one.subscribe(["room"])
            await two.subscribe(["room"])
            await two.unsubscribe(["room", "unknown"])
            assert bus.count("room") == 1
        assert bus.count("room") == 1
        await one.unsubscribe(["room"])
        assert bus.count("room") == 0
        assert bus._subscribers == {}
