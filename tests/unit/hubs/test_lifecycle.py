"""Callbacks at the beginning and the end of a connection, and what a hub knows about it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any  # a served hub, of the conftest

import pytest

from hubplane.connection.transport import CloseReason, TransportKind
from hubplane.errors import HubException
from hubplane.hubs.context import HubCallerContext
from hubplane.hubs.hub import Hub

Serve = Callable[..., AbstractAsyncContextManager[Any]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]

EVENTS: list[object] = []


@pytest.fixture(autouse=True)
def no_events() -> None:
    """What callbacks noted is forgotten between tests."""
    EVENTS.clear()


class Greeting(Hub):
    gate = asyncio.Event()

    async def on_connected(self) -> None:
        await self.gate.wait()
        await self.clients.caller.send("Welcome", self.context.connection_id)

    async def echo(self, text: str) -> str:
        return text


@pytest.mark.row("B124")
async def test_calls_wait_for_on_connected(serve: Serve, until: Until) -> None:
    """What on_connected sends arrives first, and calls that came with the handshake wait for its end."""
    Greeting.gate = asyncio.Event()
    async with serve(Greeting) as server:
        client = server.open()
        client.call("Echo", "early")
        await until(lambda: bool(client.transport.sent))
        assert client.received() == []
        Greeting.gate.set()
        first, second = await client.receive_many(2)
        assert (first["target"], first["arguments"]) == ("Welcome", [client.connection_id])
        assert second["result"] == "early"


class Fussy(Hub):
    async def on_connected(self) -> None:
        EVENTS.append("connected")
        raise HubException("not you") if self.context.user_identifier == "told" else ValueError("secret")

    async def on_disconnected(self, error: Exception | None) -> None:
        EVENTS.append(error)


@pytest.mark.row("B125")
@pytest.mark.parametrize(
    ("user", "text"),
    [(None, "Connection closed with an error."), ("told", "Connection closed with an error. HubException: not you")],
)
async def test_on_connected_that_raises(serve: Serve, user: str | None, text: str) -> None:
    """A failing on_connected closes without permission to reconnect, and on_disconnected is not called."""
    async with serve(Fussy) as server:
        client = await server.connect(user=user)
        await client.gone()
        assert client.received() == [{"type": 7, "error": text}]
        assert EVENTS == ["connected"]
        assert list(server.lifetime.connections()) == []


class Leaving(Hub):
    async def on_disconnected(self, error: Exception | None) -> None:
        EVENTS.append(error)
        EVENTS.append(self.context.is_aborted)
        await self.clients.all.send("Left", self.context.connection_id)

    async def abort(self) -> str:
        await self.clients.caller.send("Before")
        self.context.abort()
        await self.clients.caller.send("After")
        EVENTS.append("went on")
        return "dropped"

    def abort_from_thread(self) -> None:
        self.context.abort()

    async def wait_aborted(self) -> None:
        EVENTS.append("waits")
        await self.context.wait_aborted()
        EVENTS.append("aborted")
        await self.context.wait_aborted()
        EVENTS.append("still aborted")


@pytest.mark.row("B137")
async def test_on_disconnected_reaches_others_only(serve: Serve) -> None:
    """on_disconnected runs once; what it sends reaches the others and not the connection that ends."""
    async with serve(Leaving) as server:
        leaving, staying = await server.connect(), await server.connect()
        await leaving.leave()
        message = await staying.receive()
        assert (message["target"], message["arguments"]) == ("Left", [leaving.connection_id])
        assert leaving.received() == []
        assert EVENTS == [None, True]


@pytest.mark.row("B128")
async def test_abort_closes_and_drops_the_completion(serve: Serve) -> None:
    """After abort the method goes on, but nothing follows the Close message, not even its completion."""
    async with serve(Leaving) as server:
        client = await server.connect()
        client.call("Abort")
        await client.gone()
        assert client.received() == [{"type": 1, "target": "Before", "arguments": []}, {"type": 7}]
        assert EVENTS == ["went on", None, True]
        assert client.transport.closed is CloseReason.NORMAL


async def test_abort_from_a_worker_thread(serve: Serve) -> None:
    """A plain `def` may abort its connection too."""
    async with serve(Leaving) as server:
        client = await server.connect()
        client.call("AbortFromThread")
        await client.gone()
        assert client.received()[-1] == {"type": 7}


async def test_wait_aborted(serve: Serve, until: Until) -> None:
    """A method can wait for the end of its connection, and after it returns at once."""
    async with serve(Leaving) as server:
        client = await server.connect()
        client.notify("WaitAborted")
        await until(lambda: "waits" in EVENTS)
        await client.leave()
        await until(lambda: "still aborted" in EVENTS)
        assert EVENTS.index("aborted") < EVENTS.index("still aborted")


async def test_waiting_for_the_end_can_be_given_up(serve: Serve) -> None:
    """Cancelling the wait leaves nothing behind in the connection."""
    async with serve(Leaving) as server:
        client = await server.connect()
        context = HubCallerContext(client.connection, server.dispatcher._port)
        work = asyncio.create_task(context.wait_aborted())
        await asyncio.sleep(0)
        assert client.connection._abort_callbacks
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert not client.connection._abort_callbacks


class Failing(Hub):
    async def on_disconnected(self, error: Exception | None) -> None:
        raise ValueError("secret")


async def test_on_disconnected_that_raises(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in on_disconnected is logged, and the connection is cleaned up all the same."""
    async with serve(Failing) as server:
        client = await server.connect()
        await client.leave()
        assert list(server.lifetime.connections()) == []
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "Error when dispatching 'OnDisconnectedAsync' on hub."
    ]


class Blocking(Hub):
    def on_connected(self) -> None:  # type: ignore[override]
        EVENTS.append(threading.get_ident())
        self.groups.add(self.context.connection_id, "room")

    def on_disconnected(self, error: Exception | None) -> None:  # type: ignore[override]
        EVENTS.append(threading.get_ident())
        self.clients.group("room").send("Left")


async def test_callbacks_written_as_plain_functions(serve: Serve) -> None:
    """Callbacks may be plain `def` as well; they run in a worker thread and may send from there."""
    async with serve(Blocking) as server:
        leaving, staying = await server.connect(), await server.connect()
        await leaving.leave()
        assert (await staying.receive())["target"] == "Left"
        assert len(EVENTS) == 3
        assert threading.get_ident() not in EVENTS


class Asking(Hub):
    async def on_connected(self) -> None:
        proxy = self.clients.caller if self.context.user_identifier == "caller" else self.clients.client("other")
        await proxy.invoke("Ask", result=int)


@pytest.mark.row("B118")
@pytest.mark.parametrize("user", ["caller", "other"])
async def test_no_client_is_asked_in_on_connected(serve: Serve, user: str) -> None:
    """Asking a client in on_connected fails it, whoever is asked."""
    async with serve(Asking, enable_detailed_errors=True) as server:
        client = await server.connect(user=user)
        await client.gone()
        (close,) = client.received()
        assert close["error"].endswith(": Client results inside OnConnectedAsync Hub methods are not allowed.")
        assert "allowReconnect" not in close


class Knowing(Hub):
    async def look(self) -> list[object]:
        context = self.context
        assert context is self.context
        return [
            context.connection_id,
            context.user_identifier,
            context.user,
            context.request.path,
            context.transport is TransportKind.WEB_SOCKETS,
            context.protocol,
            context.is_aborted,
        ]


async def test_the_context_knows_the_caller(serve: Serve) -> None:
    """A method knows id, user, request, transport and protocol of its caller."""
    async with serve(Knowing) as server:
        client = await server.connect(user="mia")
        assert (await client.invoke("Look"))["result"] == [
            client.connection_id,
            "mia",
            None,
            "/hub",
            True,
            "json",
            False,
        ]


class Quick(Hub):
    async def on_connected(self) -> None:
        EVENTS.append("connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        EVENTS.append(error)


@pytest.mark.parametrize(
    ("message", "error"), [({"type": 7}, None), ({"type": 7, "error": "bored"}, "bored")], ids=["quiet", "with error"]
)
@pytest.mark.row("B127")
async def test_close_from_the_client(serve: Serve, message: dict[str, object], error: str | None) -> None:
    """A Close message of the client is answered with one without an error; on_disconnected gets the client's error."""
    async with serve(Quick) as server:
        client = await server.connect()
        client.write(message)
        await client.gone()
        assert client.received() == [{"type": 7}]
        assert EVENTS[0] == "connected"
        (got,) = EVENTS[1:]
        assert (None if got is None else str(got)) == error
        assert error is None or isinstance(got, HubException)
