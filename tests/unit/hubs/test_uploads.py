"""Streams from clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any  # a served hub, of the conftest

import msgspec
import pytest

from hubplane.errors import ConnectionClosedError, HubException
from hubplane.hubs.hub import Hub
from hubplane.hubs.streaming import UploadStream

Serve = Callable[..., AbstractAsyncContextManager[Any]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]

EVENTS: list[object] = []
GATE = asyncio.Event()


@pytest.fixture(autouse=True)
def no_events() -> None:
    """What methods noted is forgotten between tests."""
    global GATE  # noqa: PLW0603 - an Event belongs to the loop of its test
    EVENTS.clear()
    GATE = asyncio.Event()


async def everything(items: AsyncIterator[Any]) -> list[Any]:
    """All items of a stream."""
    return [item async for item in items]


class Point(msgspec.Struct):
    x: int


class BadPoint(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        raise LookupError("an application's own failure")


class Uploads(Hub):
    async def total(self, numbers: AsyncIterator[int]) -> int:
        return sum(await everything(numbers))

    async def mixed(
        self, first: AsyncIterator[int], name: str, second: AsyncIterator[Point], factor: int
    ) -> list[object]:
        return [name, factor, await everything(first), [point.x for point in await everything(second)]]

    async def untyped(self, anything: AsyncIterator) -> list[object]:  # type: ignore[type-arg]
        return await everything(anything)

    async def bad(self, points: AsyncIterator[BadPoint]) -> None:
        await everything(points)

    async def note(self, numbers: AsyncIterator[int]) -> None:
        async for number in numbers:
            EVENTS.append(number)  # noqa: PERF401 - one by one, for some come before an error

    async def doubled(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield number * 2

    async def first_only(self, numbers: AsyncIterator[int]) -> int:
        async for number in numbers:
            return number
        return -1

    async def slow(self, numbers: AsyncIterator[int]) -> list[int]:
        await GATE.wait()
        return await everything(numbers)

    async def unread(self, numbers: AsyncIterator[int]) -> str:
        await GATE.wait()
        return "did not read"

    async def outlive(self, numbers: AsyncIterator[int]) -> None:
        try:
            EVENTS.extend(await everything(numbers))
        except ConnectionClosedError as error:
            EVENTS.append(str(error))

    async def read_twice(self, numbers: AsyncIterator[int]) -> str:
        first = asyncio.create_task(everything(numbers))
        await asyncio.sleep(0)
        try:
            await everything(numbers)
        except RuntimeError as error:
            return str(error)
        finally:
            first.cancel()
        return "both"

    async def wait(self) -> None:
        await GATE.wait()

    async def echo(self, text: str) -> str:
        return text


def item(stream_id: str, value: object) -> dict[str, object]:
    """An item as the client sends it."""
    return {"type": 2, "invocationId": stream_id, "item": value}


def end(stream_id: str, error: str | None = None) -> dict[str, object]:
    """The end of a stream as the client sends it."""
    return {"type": 3, "invocationId": stream_id} | ({} if error is None else {"error": error})


@pytest.mark.row("B108")
async def test_one_stream(serve: Serve) -> None:
    """A method reads the items of its client until the client ends the stream."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call("Total", streamIds=["s"])
        client.write(item("s", 1), item("s", 2))
        client.write(item("s", 3), end("s"))
        assert await client.receive() == {"type": 3, "invocationId": "1", "result": 6}


@pytest.mark.row("B108")
async def test_several_streams_with_arguments(serve: Serve) -> None:
    """Streams go to the stream parameters in order, arguments to the others, items to their element type."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call("Mixed", "name", 7, streamIds=["a", "b"])
        client.write(item("b", {"x": 5}), item("a", 1), end("b"), item("a", 2), end("a"))
        assert (await client.receive())["result"] == ["name", 7, [1, 2], [5]]


@pytest.mark.row("B108")
async def test_untyped_items(serve: Serve) -> None:
    """Items of a stream without an element type are taken as they come."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call("Untyped", streamIds=["s"])
        client.write(item("s", 1), item("s", {"a": [None]}), end("s"))
        assert (await client.receive())["result"] == [1, {"a": [None]}]


@pytest.mark.row("B108", "B93")
async def test_a_stream_with_send(serve: Serve, until: Until) -> None:
    """A call without an id has its streams too, and is not answered."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.notify("Note", streamIds=["s"])
        client.write(item("s", 1), item("s", 2), end("s"))
        await until(lambda: EVENTS == [1, 2])
        assert (await client.invoke("Echo", "x"))["result"] == "x"


@pytest.mark.row("B108")
async def test_a_stream_for_a_stream(serve: Serve) -> None:
    """A stream method may read a stream of its client: items go out while others come in."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.stream("Doubled", streamIds=["s"])
        for number in range(3):
            client.write(item("s", number))
            assert (await client.receive())["item"] == number * 2
        client.write(end("s"))
        assert await client.receive() == {"type": 3, "invocationId": "1"}


@pytest.mark.row("B109")
@pytest.mark.parametrize(
    ("target", "ids", "expected"), [("Total", ["a", "b"], 1), ("Total", [], 1), ("Echo", ["a"], 0)]
)
async def test_the_wrong_number_of_streams(serve: Serve, target: str, ids: list[str], expected: int) -> None:
    """The number of streams must be that of the method's stream parameters; the text says both."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call(target, *(["x"] if target == "Echo" else []), streamIds=ids)
        assert (await client.receive())["error"] == (
            f"An unexpected error occurred invoking '{target}' on the server. "
            f"HubException: Client sent {len(ids)} stream(s), Hub method expects {expected}."
        )


@pytest.mark.row("B110")
async def test_an_error_of_the_client(serve: Serve) -> None:
    """A stream that the client ends with an error raises a HubException in the method, behind its items."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call("Note", streamIds=["s"])
        client.write(item("s", 1), end("s", "broken"))
        assert (await client.receive())["error"] == (
            "An unexpected error occurred invoking 'Note' on the server. HubException: broken"
        )
        assert EVENTS == [1]


@pytest.mark.row("B111")
@pytest.mark.parametrize(("target", "value"), [("Total", "three"), ("Bad", {"x": 1})])
async def test_an_item_of_the_wrong_type(serve: Serve, target: str, value: object) -> None:
    """An item that does not fit ends its stream with an error in the method, and nothing else."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call("Total", streamIds=["good"])
        client.call(target, streamIds=["bad"])
        client.write(item("bad", value), item("bad", 4), end("bad"))
        assert (await client.receive())["error"] == (
            f"An unexpected error occurred invoking '{target}' on the server. "
            "HubException: Failed to bind Stream message."
        )
        client.write(item("good", 1), end("good"))
        assert (await client.receive())["result"] == 1


@pytest.mark.row("B112")
async def test_a_full_buffer_stops_the_input(serve: Serve, until: Until) -> None:
    """With ten items unread the next one waits, and everything behind it, until the method reads."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call("Slow", streamIds=["s"])
        client.write(*(item("s", number) for number in range(12)))
        client.call("Echo", "behind")
        await until(lambda: len(client.connection.inbox) == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(client.connection.inbox) == 3
        client.write(end("s"))
        client.write(*({"type": 1, "target": "Echo", "arguments": ["x" * 30_000]} for _ in range(3)))
        assert not client.transport.reading
        GATE.set()
        results = {message["invocationId"]: message["result"] for message in await client.receive_many(2)}
        assert results == {"1": list(range(12)), "2": "behind"}
        await until(lambda: client.transport.reading)


async def test_a_method_that_does_not_read_lets_go_when_it_ends(serve: Serve, until: Until) -> None:
    """When a method ends with its buffer full, the input goes on and what is left of the stream is dropped."""
    async with serve(Uploads, stream_buffer_capacity=2) as server:
        client = await server.connect()
        client.call("Unread", streamIds=["s"])
        client.write(*(item("s", number) for number in range(5)), end("s"))
        client.call("Echo", "behind")
        await until(lambda: len(client.connection.inbox) == 5)
        GATE.set()
        results = {message["invocationId"]: message["result"] for message in await client.receive_many(2)}
        assert results == {"1": "did not read", "2": "behind"}


async def test_a_lost_client_blocks_nothing(serve: Serve, until: Until) -> None:
    """A full buffer does not keep a lost connection alive: what was sent before is still read, and then it ends."""
    async with serve(Uploads, stream_buffer_capacity=2) as server:
        client = await server.connect()
        client.notify("Slow", streamIds=["s"])
        client.write(*(item("s", number) for number in range(5)))
        await until(lambda: len(client.connection.inbox) == 3)
        await client.leave()
        assert not client.connection.inbox
        GATE.set()


@pytest.mark.row("B113")
async def test_items_for_nobody(serve: Serve) -> None:
    """Items and ends of unknown or finished streams are ignored."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.write(item("never", 1), end("never"), end("never", "error"))
        client.call("FirstOnly", streamIds=["s"])
        client.write(item("s", 5))
        assert (await client.receive())["result"] == 5
        client.write(item("s", "bad type"), item("s", 6), end("s"), end("s", "error"))
        assert (await client.invoke("Echo", "x"))["result"] == "x"
        client.call("FirstOnly", streamIds=["t"])
        client.write(item("t", 5))
        assert (await client.receive())["result"] == 5
        client.write(*(item("t", number) for number in range(30)))
        assert (await client.invoke("Echo", "nobody's items fill nothing"))["result"]


@pytest.mark.row("B114")
async def test_the_end_of_the_connection_fails_open_uploads(serve: Serve, until: Until) -> None:
    """A method that still reads when its client is gone gets an error that says so."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.notify("Outlive", streamIds=["s"])
        client.write(item("s", 1))
        await client.leave()
        await until(lambda: EVENTS == ["The underlying connection was closed."])


async def test_an_upload_that_ended_before_the_connection(serve: Serve, until: Until) -> None:
    """What a client sent completely before it left is read completely."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.notify("Outlive", streamIds=["s"])
        client.write(item("s", 1), item("s", 2), end("s"))
        await client.leave()
        await until(lambda: EVENTS == [1, 2])


async def test_stream_ids_in_use(serve: Serve) -> None:
    """An id of an open upload, or one given twice, is refused, and the first upload goes on."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call("Total", streamIds=["s"])
        client.call("Total", streamIds=["s"])
        client.call("Mixed", "name", 7, streamIds=["t", "t"])
        errors = [message["error"] for message in await client.receive_many(2)]
        assert errors == [
            f"An unexpected error occurred invoking '{target}' on the server. HubException: {reason}"
            for target, reason in (
                ("Total", "Stream ID 's' is already in use."),
                ("Mixed", "Stream ID 't' is already in use."),
            )
        ]
        client.write(item("s", 1), end("s"))
        assert (await client.receive())["result"] == 1


@pytest.mark.row("B97")
async def test_uploads_take_no_slot(serve: Serve) -> None:
    """A call with an upload runs beside a plain call that takes the only slot."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call("Wait")
        client.call("Total", streamIds=["s"])
        client.write(item("s", 1), end("s"))
        assert (await client.receive())["result"] == 1
        GATE.set()
        assert (await client.receive())["invocationId"] == "1"


@pytest.mark.row("B95")
async def test_other_messages_are_handled_while_a_call_runs(serve: Serve) -> None:
    """While a plain call runs, pings are taken, stream items reach their methods, and streams are cancelled."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.write(
            {"type": 1, "invocationId": "1", "target": "Wait", "arguments": []},
            {"type": 6},
            {"type": 1, "invocationId": "2", "target": "Total", "arguments": [], "streamIds": ["s"]},
            item("s", 1),
            end("s"),
            {"type": 4, "invocationId": "3", "target": "Doubled", "arguments": [], "streamIds": ["t"]},
        )
        assert (await client.receive())["result"] == 1
        client.write({"type": 6}, item("t", 4))
        assert (await client.receive())["item"] == 8
        client.write({"type": 5, "invocationId": "3"})
        assert await client.receive() == {"type": 3, "invocationId": "3"}
        GATE.set()
        assert (await client.receive())["result"] is None


async def test_one_reader_at_a_time(serve: Serve) -> None:
    """A second reader of the same upload is refused instead of taking items at random."""
    async with serve(Uploads) as server:
        client = await server.connect()
        client.call("ReadTwice", streamIds=["s"])
        assert (await client.receive())["result"] == "This stream is already being read."


async def test_the_first_end_of_an_upload_counts() -> None:
    """An upload that has ended does not end again with an error."""
    upload = UploadStream(2, lambda raw: raw, lambda: None)
    upload.end(None)
    upload.end(ValueError())
    assert await everything(upload) == []


async def test_an_item_type_that_raises_anything_ends_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever decoding an item raises ends the upload with an error, and the log tells why."""

    def decode(raw: object) -> object:
        raise LookupError("an application's own failure")

    upload = UploadStream(2, decode, lambda: None)
    assert not upload.put(msgspec.Raw(b"1"))
    with pytest.raises(HubException, match="Failed to bind Stream message"):
        await everything(upload)
    assert caplog.records[0].exc_info
