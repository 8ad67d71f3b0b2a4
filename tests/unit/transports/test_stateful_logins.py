"""Stateful reconnect and logins: whose a new socket is, which login counts then, and how a connection's end is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any  # claims, options

import pytest
from tests.unit.transports.stateful_node import Node, Socket, node

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.transport import CloseReason
from hubplane.endpoint.refresh import AuthenticationRefreshContext
from hubplane.telemetry.base import DROPPED_CONNECTIONS, Telemetry

REFRESH: dict[str, Any] = {"enable_authentication_refresh": True, "close_on_authentication_expiration": True}


def claims(role: str, until: float, name: str = "ann") -> dict[str, object]:
    """A user."""
    return {"sub": name, "role": role, "exp": until}


def results(socket: Socket) -> list[object]:
    """What calls have returned on a socket."""
    return [message["result"] for message in socket.messages if message["type"] == 3]


async def guests_out(context: AuthenticationRefreshContext) -> bool:
    """Lets nobody become a guest; it takes a turn of the loop to say so."""
    await asyncio.sleep(0)
    return bool(context.new_user["role"] != "guest")  # type: ignore[index]  # claims


async def test_a_refused_login_ends_the_connection() -> None:
    """A socket whose new login the application refuses is answered with 403, and the connection is gone."""
    async with node(settings={"on_authentication_refresh": guests_out}, **REFRESH) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user=claims("clerk", now + 60))
        socket.cut()
        assert (await running.open(token, user=claims("guest", now + 90))).rejected == 403
        assert running.log == ["connected", ("gone", None)]
        assert (await running.open(token, user=claims("clerk", now + 60))).rejected == 404
        assert len(running.endpoint.registry) == 0


async def test_a_stale_login_keeps_the_newer_one() -> None:
    """A socket with the login from before a refresh takes the connection on, with the newer login and its expiry."""
    async with node(**REFRESH) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user=claims("old", now + 10))
        socket.cut()
        newer = await running.open(token, user=claims("new", now + 30))
        newer.cut()
        again = await running.open(token, user=claims("old", now + 10))
        again.call("Role", invocation_id="1")
        await running.settle()
        assert results(again) == ["new"]
        assert running.log == ["connected", ("login", "new")]
        await running.seconds(20)
        assert running.log == ["connected", ("login", "new")]
        await running.seconds(11)
        assert running.log[-1] == ("gone", None)


async def test_a_running_call_keeps_its_login() -> None:
    """A socket brings a new login: the call that runs keeps the first, the next sees the second, as does the end."""
    async with node(**REFRESH) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user=claims("old", now + 10))
        socket.call("SlowRole", invocation_id="1")
        await running.settle()
        socket.cut()
        again = await running.open(token, user=claims("new", now + 30))
        again.call("Role", invocation_id="2")
        await running.settle()
        assert running.log == ["connected"]
        running.gate.set()
        await running.settle()
        assert results(again) == ["old", "new"]
        assert running.log == ["connected", ("login", "new")]
        await running.seconds(20)
        assert ("gone", None) not in running.log
        await running.seconds(11)
        assert running.log[-1] == ("gone", None)


async def test_a_slow_upgrade_brings_no_old_login_back() -> None:
    """The hub sees a new login while the socket that brought it still opens; it stays the hub's."""
    async with node(**REFRESH) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user=claims("old", now + 10))
        socket.cut()
        again = await running.open(token, held=True, user=claims("new", now + 30))
        assert running.log == ["connected", ("login", "new")]
        again.opening.set()
        again.early = b""
        await running.settle()
        again.call("Role", invocation_id="1")
        await running.settle()
        assert results(again) == ["new"]


@pytest.mark.parametrize("refreshes", [True, False])
@pytest.mark.parametrize("is_away", [True, False])
async def test_another_user_harms_nothing(is_away: bool, refreshes: bool) -> None:
    """Another user is refused with 403, here or away; the connection goes on, and its login ends when it did."""
    async with node(enable_authentication_refresh=refreshes, close_on_authentication_expiration=True) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user=claims("clerk", now + 10))
        if is_away:
            socket.cut()
        assert (await running.open(token, user=claims("chief", now + 90, "bob"))).rejected == 403
        if is_away:
            socket = await running.open(token, user=claims("clerk", now + 10))
        socket.call("Role", invocation_id="1")
        await running.settle()
        assert results(socket) == ["clerk"]
        await running.seconds(11)
        assert socket.messages[-1] == {"type": 7, "allowReconnect": True}


async def test_a_refresh_while_away() -> None:
    """A client without its socket may renew its login, and comes back with either one."""
    async with node(**REFRESH) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user=claims("old", now + 5))
        socket.cut()
        request = socket.request.__class__(
            {"method": "POST", "query_string": f"id={token}".encode(), "user": claims("new", now + 60)}
        )
        answer = Answer(request)
        await running.endpoint.router.http(answer, "refresh")  # type: ignore[arg-type]  # all that a refresh asks of one
        assert answer.status == 200
        await running.seconds(8)
        assert running.log == ["connected", ("login", "new")]
        again = await running.open(token, user=claims("old", now + 5))
        again.call("Role", invocation_id="1")
        await running.settle()
        assert results(again) == ["new"]


class Answer:
    """An HTTP exchange that remembers its status."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.status = 0

    async def respond(self, status: int, *_: object, **__: object) -> None:
        self.status = status


async def test_a_hook_that_fails_leaves_the_connection() -> None:
    """What a refresh hook raises reaches the server; the connection waits for its client as before."""

    def broken(context: AuthenticationRefreshContext) -> bool:
        raise LookupError(context.connection_id)

    async with node(settings={"on_authentication_refresh": broken}, **REFRESH) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user=claims("old", now + 50))
        socket.cut()
        failed = await running.open(token, user=claims("new", now + 90))
        with pytest.raises(LookupError):
            await failed.task
        assert failed.listener is None
        again = await running.open(token, user=claims("old", now + 50))
        assert again.messages == [{"type": 9, "sequenceId": 1}]


async def test_a_hook_that_is_slower_than_the_end() -> None:
    """A client that is judged while the hook thinks about its socket: the socket opens and is closed at once."""
    thinking = asyncio.Event()

    async def slowly(context: AuthenticationRefreshContext) -> bool:
        await thinking.wait()
        return True

    async with node(settings={"on_authentication_refresh": slowly}, **REFRESH) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user=claims("old", now + 50))
        socket.cut()
        late = await running.open(token, user=claims("new", now + 90))
        await running.seconds(17)
        assert running.log == ["connected", ("gone", None)]
        thinking.set()
        await running.settle()
        assert late.rejected is not None or late.transport.closed is not None
        assert running.log == ["connected", ("gone", None)]
        assert len(running.endpoint.registry) == 0


async def test_a_hook_that_is_asked_about_two_sockets() -> None:
    """Two sockets with newer logins wait for the hook; the newest login counts, whichever socket comes last."""
    thinking = {"two": asyncio.Event(), "three": asyncio.Event()}

    async def slowly(context: AuthenticationRefreshContext) -> bool:
        role: str = context.new_user["role"]  # type: ignore[index]  # claims
        await thinking[role].wait()
        return True

    async with node(settings={"on_authentication_refresh": slowly}, **REFRESH) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user=claims("one", now + 20))
        socket.cut()
        second = await running.open(token, user=claims("two", now + 30))
        third = await running.open(token, user=claims("three", now + 40))
        thinking["three"].set()
        await running.settle()
        thinking["two"].set()
        await running.settle()
        assert third.transport.closed is not None  # the second socket has taken its place
        second.call("Role", invocation_id="1")
        await running.settle()
        assert results(second) == ["three"]
        assert running.log == ["connected", ("login", "three")]
        await running.seconds(32)
        assert running.log[-1] == ("login", "three")


@pytest.mark.parametrize("moment", ["negotiate", "handshake"])
async def test_a_user_id_provider_that_fails(moment: str) -> None:
    """Its exception ends the connection that it was asked about, and leaves no entry behind."""

    def broken(connection: HubConnection) -> str | None:
        if moment == "handshake" and connection.session.protocol is None:
            return None
        raise LookupError("nobody")

    async with node(settings={"user_id": broken}) as running:
        token = running.negotiate()
        socket = await running.open(token, user=claims("any", 0))
        if moment == "negotiate":
            with pytest.raises(LookupError):
                await socket.task
            assert socket.listener is None
            await running.seconds(17)
        else:
            socket.send({"protocol": "json", "version": 2})
            await running.settle()
            assert socket.messages == [{"error": "An unexpected error occurred during connection handshake."}]
            assert socket.transport.closed is CloseReason.NORMAL
            socket.close()
            await running.settle()
        assert len(running.endpoint.registry) == 0
        assert running.endpoint.connections() == ()


class Told(Telemetry):
    """Writes down how connections end."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        self.dropped: list[str] = []

    def connection_stopped(self, transport: str, status: str, seconds: float) -> None:
        self.stopped.append(status)

    def count(self, name: str, tags: Any) -> None:
        assert name == DROPPED_CONNECTIONS
        self.dropped.extend(tags.values())


async def ended(how: str, running: Node) -> None:
    """Let the only connection end."""
    _, socket = await running.client()
    if how == "stays away":
        socket.cut()
        await running.seconds(17)
    elif how == "closes":
        socket.close()
    elif how == "aborted away":
        socket.cut()
        running.connection().abort()
    elif how == "acknowledges nothing":
        socket.call("Tell", 3, 60_000)
        await running.settle()
        for _ in range(12):
            socket.send({"type": 6})
            await running.seconds(1)
        socket.close()
    elif how == "overflows away":
        socket.cut()
        for _ in range(6):
            running.connection().write(json.dumps("x" * 1_000_000).encode() + b"\x1e")
    await running.settle()


@pytest.mark.parametrize(
    ("how", "status", "dropped"),
    [
        ("stays away", "timeout", []),
        ("closes", "normal_closure", []),
        ("aborted away", "normal_closure", []),
        ("acknowledges nothing", "normal_closure", ["slow_consumer"]),
        ("overflows away", "normal_closure", ["slow_consumer"]),
        ("is away at shutdown", "app_shutdown", []),
        ("is here at shutdown", "app_shutdown", []),
    ],
)
async def test_how_an_end_is_told(how: str, status: str, dropped: list[str]) -> None:
    """Metrics hear of each end once, with its status, and of clients that the server has dropped."""
    told = Told()
    async with node(telemetry=told) as running:
        if how.endswith("shutdown"):
            _, socket = await running.client()
            if "away" in how:
                socket.cut()
            await running.settle()
        else:
            await ended(how, running)
            assert running.endpoint.connections() == ()
            assert len(running.endpoint.registry) == 0
            assert told.stopped == [status]
    assert told.stopped == [status]
    assert told.dropped == dropped


@pytest.mark.parametrize("turns", [None, 0, 1, 2, 3])
async def test_a_request_cancelled_as_its_connection_ends(turns: int | None) -> None:
    """A socket's request that is cancelled while the hub is about to be done leaves no entry behind."""
    told = Told()
    async with node(telemetry=told) as running:
        _, socket = await running.client()
        running.farewell.clear()
        running.connection().abort()
        await running.settle()
        if turns is None:
            socket.task.cancel()
        running.farewell.set()
        if turns is not None:
            for _ in range(turns):
                await asyncio.sleep(0)
            socket.task.cancel()
        await running.settle()
        assert len(running.endpoint.registry) == 0
        assert told.stopped == ["normal_closure"]


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_each_await(turns: int) -> None:
    """However far a socket's request has come when it is cancelled, its connection ends and nothing is left."""
    told = Told()
    async with node(telemetry=told) as running:
        token = running.negotiate()
        socket = Socket(running, f"id={token}", {}, b'{"protocol":"json","version":2}\x1e')
        running.sockets.append(socket)
        for _ in range(turns):
            await asyncio.sleep(0)
        socket.task.cancel()
        await running.settle()
        await running.seconds(17)
        assert len(running.endpoint.registry) == 0
        assert running.endpoint.connections() == ()
        assert len(told.stopped) == (1 if turns else 0)
