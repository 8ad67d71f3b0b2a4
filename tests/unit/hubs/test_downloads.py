"""Streams towards clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any  # a served hub, of the conftest

import pytest

from hubplane.errors import HubException
from hubplane.hubs.hub import Hub

Serve = Callable[..., AbstractAsyncContextManager[Any]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]

EVENTS: list[object] = []


@pytest.fixture(autouse=True)
def no_events() -> None:
    """What methods noted is forgotten between tests."""
    EVENTS.clear()


class OwnIterator:
    """An async iterator that is no generator, and cannot be closed."""

    def __init__(self, items: list[int]) -> None:
        self.items = items

    def __aiter__(self) -> OwnIterator:
        return self

    async def __anext__(self) -> int:
        if not self.items:
            raise StopAsyncIteration
        return self.items.pop(0)


class Streams(Hub):
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    async def returned(self, to: int) -> AsyncIterator[int]:
        return OwnIterator(list(range(to)))

    def from_thread(self, to: int) -> AsyncIterator[int]:
        return OwnIterator(list(range(to)))

    async def fails(self, kind: str) -> AsyncIterator[int]:
        yield 1
        if kind == "told":
            raise HubException("told")
        if kind == "cancelled":
            raise asyncio.CancelledError
        raise ValueError("secret")

    async def fails_before(self) -> AsyncIterator[int]:
        raise ValueError("secret")

    async def cancelled_before(self) -> AsyncIterator[int]:
        raise asyncio.CancelledError

    async def returns_none(self) -> AsyncIterator[int]:
        return None  # type: ignore[return-value]

    async def forever(self) -> AsyncIterator[int]:
        try:
            yield 0
            EVENTS.append("waits")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            EVENTS.append("cancelled")
            raise
        finally:
            EVENTS.append("closed")

    async def stubborn(self) -> AsyncIterator[int]:
        yield 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield 1
            EVENTS.append("went on")

    async def waits_before(self) -> AsyncIterator[int]:
        EVENTS.append("waits")
        await asyncio.Event().wait()
        raise AssertionError("never comes here")

    async def fails_when_cancelled(self) -> AsyncIterator[int]:
        yield 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("secret") from None

    async def unwritable(self) -> AsyncIterator[object]:
        yield 1
        yield object()
        EVENTS.append("went on")

    async def endless(self, size: int) -> AsyncIterator[str]:
        number = 0
        while True:
            EVENTS[:] = [number]
            yield "x" * size
            number += 1

    async def echo(self, text: str) -> str:
        return text

    async def wait(self) -> None:
        await asyncio.Event().wait()


def item(value: object, invocation_id: str = "1") -> dict[str, object]:
    """An item as the client receives it."""
    return {"type": 2, "invocationId": invocation_id, "item": value}


def completion(error: str | None = None, invocation_id: str = "1") -> dict[str, object]:
    """The end of a stream as the client receives it."""
    return {"type": 3, "invocationId": invocation_id} | ({} if error is None else {"error": error})


@pytest.mark.row("B102")
@pytest.mark.parametrize("target", ["Count", "Returned", "FromThread"])
@pytest.mark.parametrize("to", [0, 3, 40])
async def test_items_then_completion(serve: Serve, target: str, to: int) -> None:
    """A stream sends each item in order and then a completion without a result; an empty one the completion only."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream(target, to)
        assert await client.receive_many(to + 1) == [*map(item, range(to)), completion()]


FAILED = "An error occurred on the server while streaming results."


@pytest.mark.row("B103")
@pytest.mark.parametrize("detailed", [False, True])
@pytest.mark.parametrize(
    ("kind", "detail", "always"),
    [
        ("secret", " ValueError: secret", False),
        ("told", " HubException: told", True),
        ("cancelled", " CancelledError: ", False),
    ],
)
async def test_a_stream_that_fails(serve: Serve, detailed: bool, kind: str, detail: str, always: bool) -> None:
    """An error ends a stream behind its items; its text is told as for methods."""
    async with serve(Streams, enable_detailed_errors=detailed) as server:
        client = await server.connect()
        client.stream("Fails", kind)
        error = FAILED + (detail if detailed or always else "")
        assert await client.receive_many(2) == [item(1), completion(error)]


@pytest.mark.parametrize("target", ["FailsBefore", "CancelledBefore"])
async def test_a_method_that_fails_before_its_stream(
    serve: Serve, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    """An error before there is a stream is the method's own."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream(target)
        text = f"An unexpected error occurred invoking '{target}' on the server."
        assert await client.receive() == completion(text)
    assert [vars(each)["event_id"] for each in caplog.records if each.levelno == logging.ERROR] == [8]


async def test_a_stream_method_that_returns_none(serve: Serve) -> None:
    """A stream method must return something to iterate over."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("ReturnsNone")
        assert await client.receive() == completion(
            "The value returned by the streaming method 'ReturnsNone' is not a ChannelReader<> or IAsyncEnumerable<>."
        )


@pytest.mark.row("B104")
async def test_cancel(serve: Serve, until: Until) -> None:
    """A cancelled stream is interrupted and closed, and completed without an error; unknown ids are ignored."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("Forever")
        assert await client.receive() == item(0)
        await until(lambda: "waits" in EVENTS)
        client.write({"type": 5, "invocationId": "99"}, {"type": 5, "invocationId": "1"})
        assert await client.receive() == completion()
        assert EVENTS == ["waits", "cancelled", "closed"]
        client.write({"type": 5, "invocationId": "1"})
        assert (await client.invoke("Echo", "x"))["result"] == "x"


async def test_cancel_before_any_stream(serve: Serve) -> None:
    """An unknown cancel of a client that has no streams at all is ignored."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.write({"type": 5, "invocationId": "1"})
        assert (await client.invoke("Echo", "x"))["result"] == "x"


async def test_cancel_together_with_the_call(serve: Serve) -> None:
    """A cancel that comes in one piece with its call ends the stream before it has begun."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.write(
            {"type": 4, "invocationId": "1", "target": "Forever", "arguments": []},
            {"type": 5, "invocationId": "1"},
        )
        assert await client.receive() == completion()
        assert EVENTS == []


async def test_cancel_before_there_is_a_stream(serve: Serve, until: Until) -> None:
    """A method that is cancelled before it returned its stream has failed (section 5.5)."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("WaitsBefore")
        await until(lambda: "waits" in EVENTS)
        client.write({"type": 5, "invocationId": "1"})
        text = "An unexpected error occurred invoking 'WaitsBefore' on the server."
        assert await client.receive() == completion(text)


async def test_a_stream_that_does_not_stop(serve: Serve) -> None:
    """A generator that swallows its cancellation sends nothing more all the same."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("Stubborn")
        assert await client.receive() == item(0)
        await asyncio.sleep(0)
        client.write({"type": 5, "invocationId": "1"})
        assert await client.receive() == completion()
        assert EVENTS == []


async def test_a_stream_that_fails_when_cancelled(serve: Serve) -> None:
    """An error in answer to a cancel is still an error."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("FailsWhenCancelled")
        assert await client.receive() == item(0)
        await asyncio.sleep(0)
        client.write({"type": 5, "invocationId": "1"})
        assert await client.receive() == completion(FAILED)


@pytest.mark.row("B105")
async def test_the_wrong_kind_of_call(serve: Serve) -> None:
    """A stream method is not called with type 1, nor another one with type 4; without an id nothing is said."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.notify("Forever")
        client.call("count", 1)
        client.stream("echo", "x")
        assert await client.receive_many(2) == [
            completion("The client attempted to invoke the streaming 'Count' method with a non-streaming invocation."),
            completion(
                "The client attempted to invoke the non-streaming 'Echo' method with a streaming invocation.", "2"
            ),
        ]
        assert EVENTS == []


async def test_streams_that_cannot_be_bound(serve: Serve) -> None:
    """Unknown stream methods and wrong arguments are told as for plain calls."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("Missing")
        client.stream("Count", "x")
        assert await client.receive_many(2) == [
            completion(
                "Failed to invoke 'Missing' due to an error on the server. HubException: Method does not exist."
            ),
            completion("Failed to invoke 'Count' due to an error on the server.", "2"),
        ]


@pytest.mark.row("B106")
async def test_an_id_in_use(serve: Serve) -> None:
    """A second stream with the id of a running one is refused, and the first goes on."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("Forever")
        assert await client.receive() == item(0)
        client.stream("Count", 1, invocationId="1")
        assert await client.receive() == completion("Invocation ID '1' is already in use.")
        client.write({"type": 5, "invocationId": "1"})
        assert await client.receive() == completion()
        client.stream("Count", 1, invocationId="1")
        assert await client.receive_many(2) == [item(0), completion()]


@pytest.mark.row("B97")
async def test_streams_take_no_slot(serve: Serve) -> None:
    """Streams run beside a plain call that takes the only slot, any number of them."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.call("Wait")
        for _ in range(3):
            client.stream("Count", 0)
        assert await client.receive_many(3) == [completion(invocation_id=str(number)) for number in (2, 3, 4)]


async def test_the_number_of_streams_is_limited(serve: Serve) -> None:
    """A client has so many streams running and no more; one that ended makes room."""
    async with serve(Streams, maximum_streams_per_client=2) as server:
        client, other = await server.connect(), await server.connect()
        client.stream("Forever")
        client.stream("Forever")
        assert await client.receive_many(2) == [item(0), item(0, "2")]
        client.stream("Count", 0)
        assert await client.receive() == completion(
            "An unexpected error occurred invoking 'Count' on the server. "
            "HubException: The connection already has 2 active streams.",
            "3",
        )
        other.stream("Count", 0)
        assert await other.receive() == completion()
        client.write({"type": 5, "invocationId": "2"})
        assert await client.receive() == completion(invocation_id="2")
        client.stream("Count", 0)
        assert await client.receive() == completion(invocation_id="4")


@pytest.mark.row("B107")
@pytest.mark.parametrize("size", [1, 100_000])
async def test_a_slow_client_stalls_its_stream(serve: Serve, size: int) -> None:
    """While a client takes nothing its stream stands still, and goes on when it reads again."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("Endless", size)
        await client.receive()
        client.connection.pause_writing()
        for _ in range(50):
            await asyncio.sleep(0)
        (stalled,) = EVENTS
        for _ in range(50):
            await asyncio.sleep(0)
        assert EVENTS[0] == stalled
        assert client.connection.outbound.size < 16 * size + 16_384 + 200
        client.connection.resume_writing()
        await client.receive_many(stalled + 1 if size == 1 else 5)  # type: ignore[operator]
        assert EVENTS[0] > stalled  # type: ignore[operator]  # a number
        assert not client.connection.closed


async def test_an_endless_stream_leaves_room_for_others(serve: Serve) -> None:
    """A generator that never waits does not keep the loop: others are served meanwhile."""
    async with serve(Streams) as server:
        client, other = await server.connect(), await server.connect()
        client.stream("Endless", 1)
        await client.receive()
        for number in range(20):
            assert (await other.invoke("Echo", str(number)))["result"] == str(number)
        assert not client.connection.closed


async def test_the_end_of_the_connection_ends_its_streams(serve: Serve, until: Until) -> None:
    """A stream whose connection has ended is interrupted and closed."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("Forever")
        await client.receive()
        await until(lambda: "waits" in EVENTS)
        await client.leave()
        await until(lambda: "closed" in EVENTS)
        assert EVENTS == ["waits", "cancelled", "closed"]


async def test_an_item_that_cannot_be_written_closes_the_connection(serve: Serve) -> None:
    """An item that the protocol cannot write ends the connection, as a result does."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("Unwritable")
        await client.gone()
        close = {"type": 7, "error": "Connection closed with an error.", "allowReconnect": True}
        assert client.received() == [item(1), close]
        assert EVENTS == []


async def test_a_hub_that_closes_starts_no_streams(serve: Serve) -> None:
    """While the hub closes a stream is not started, and nothing fails."""
    async with serve(Streams) as server:
        client = await server.connect()
        server.supervisor._closing = True
        client.stream("Forever")
        assert EVENTS == []
        server.supervisor._closing = False


async def test_stopping_the_hub_cancels_its_streams(serve: Serve, until: Until) -> None:
    """A stream that is cancelled by its owner, not by its client, ends without a completion."""
    async with serve(Streams) as server:
        client = await server.connect()
        client.stream("Forever")
        await client.receive()
        await until(lambda: "waits" in EVENTS)
        before = await server.connect()
        before.stream("WaitsBefore")
        await until(lambda: EVENTS.count("waits") == 2)
        for task in list(server.supervisor._tasks):
            if "Forever" in task.get_name() or "WaitsBefore" in task.get_name():
                task.cancel()
        await until(lambda: "closed" in EVENTS)
        assert (await client.invoke("Echo", "x"))["result"] == "x"
        assert (await before.invoke("Echo", "x"))["result"] == "x"
        assert before.received() == [{"type": 3, "invocationId": "2", "result": "x"}]
