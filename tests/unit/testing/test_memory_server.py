"""`MemoryServer`: an ASGI application in memory, by the rules of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any  # scopes and messages

import pytest
from fastapi import FastAPI

from hubplane import Hub, HubApp, LocalProtocolError
from hubplane.testing import ConnectError, HubClient, MemoryServer

Make = Callable[..., HubApp]


def fastapi_around(hubs: HubApp, *, forget: bool = False) -> FastAPI:
    """An application as a user would write it."""
    app = FastAPI(lifespan=None if forget else hubs.lifespan)
    app.mount("/hubs", hubs)

    @app.post("/announce")
    async def announce(text: str) -> None:
        hub = next(iter(hubs._endpoints.values())).hub_type
        await hubs.context(hub).clients.all.send("News", text)

    return app


async def test_a_whole_application(make_app: Make) -> None:
    """A client reaches a hub through FastAPI's mount, and hears what a route sends."""
    app = fastapi_around(make_app())
    async with MemoryServer(app) as server, server.client("/hubs/chat", user="ann") as client:
        assert await client.receive("Welcome") == ["ann"]
        answer = await server.http("POST", "/announce", query="text=hi")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.body == b"null"
        assert await client.receive("News") == ["hi"]
        with pytest.raises(ConnectError, match="'/hubs/chat' for a hub at '/chat'"):
            await server.client("/chat").connect()


async def test_a_forgotten_lifespan(make_app: Make) -> None:
    """A framework without the hubs' lifespan fails with the hubs' sentence, not with its own error page."""
    with pytest.raises(ValueError, match=r"FastAPI\(lifespan=hubs\.lifespan\)"):
        async with HubClient(fastapi_around(make_app(), forget=True), "/hubs/chat"):
            pass


async def test_requests_see_a_servers_scope() -> None:
    """Scopes have what servers put there, and each request gets its own copy of the lifespan's state."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            scope["state"]["pool"] = "open"
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            scopes.append("closed")
            await send({"type": "lifespan.shutdown.complete"})
            return
        scopes.append(scope)
        body = await receive()
        assert body == {"type": "http.request", "body": b"in", "more_body": False}
        await send({"type": "http.response.start", "status": 201, "headers": [(b"X-A", b"1")]})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await send({"type": "http.response.body", "body": b"ut"})
        assert (await receive())["type"] == "http.disconnect"

    server = MemoryServer(app, root_path="/base")
    async with server:
        assert server.is_running
        answer = await server.http("PUT", "/x", query="a=1", headers={"X-B": "2"}, body=b"in", extra={"user": 7})
    assert not server.is_running
    assert (answer.status, answer.headers, answer.body) == (201, {"x-a": "1"}, b"out")
    scope, last = scopes
    assert last == "closed"
    assert scope["state"] == {"pool": "open"}
    assert scope["headers"] == [(b"host", b"testserver"), (b"x-b", b"2")]
    assert (scope["method"], scope["path"], scope["query_string"], scope["root_path"]) == ("PUT", "/x", b"a=1", "/base")
    assert scope["user"] == 7


async def test_a_start_that_fails(make_app: Make) -> None:
    """A start-up that fails raises its reason, and the server may be started again."""
    attempts: list[int] = []

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        attempts.append(1)
        if len(attempts) == 1:
            raise LookupError("no database")
        yield
        raise LookupError("no goodbye")

    server = MemoryServer(FastAPI(lifespan=lifespan))
    with pytest.raises(ConnectError, match="did not start: no database") as caught:
        await server.start()
    assert isinstance(caught.value.__cause__, LookupError)
    await server.start()
    with pytest.raises(LocalProtocolError, match="already running"):
        await server.start()
    with pytest.raises(ConnectError, match="did not shut down: no goodbye"):
        await server.stop()
    await server.stop()
    with pytest.raises(LocalProtocolError, match="not running: enter it"):
        await server.http("GET", "/")


async def test_what_takes_too_long() -> None:
    """A start-up and a request that do not end are given up after the timeout."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" and quick:
            raise ValueError("no lifespan here")
        await asyncio.Event().wait()

    quick = False
    server = MemoryServer(app, timeout=0.05)
    with pytest.raises(ConnectError, match=r"did not start within 0\.05 s"):
        await server.start()
    quick = True
    async with server:
        with pytest.raises(TimeoutError):
            await server.http("GET", "/")
        client = server.client("/chat", skip_negotiation=True, timeout=0.05)
        with pytest.raises(ConnectError, match=r"No answer to the handshake at /chat within 0\.05 s"):
            await client.connect()
        server.timeout = 0.01


async def test_an_answer_that_does_not_come() -> None:
    """An application that returns without an answer is told so."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    async with MemoryServer(app) as server:
        with pytest.raises(ConnectError, match="returned without an answer"):
            await server.http("GET", "/")


async def test_sockets_of_others_are_closed_at_the_end() -> None:
    """A WebSocket that is no hub's is closed with 1012 when the server stops, and its route ends in time."""
    ended: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            ended.append((await receive())["code"])

    async with MemoryServer(app) as server:
        socket = server.websocket("/other")
        assert await socket.opened() is None
    assert ended == [1012]
    await socket.returned()


async def test_a_websocket_that_only_closes() -> None:
    """A close before the accept is a 403, as servers answer it, and one before the handshake is told."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            assert await receive() == {"type": "websocket.connect"}
            if scope["path"] == "/late":
                await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 4000})
            assert (await receive())["type"] == "websocket.disconnect"

    async with MemoryServer(app) as server:
        with pytest.raises(ConnectError, match="answered 403 to the WebSocket at /early"):
            await server.client("/early", skip_negotiation=True).connect()
        with pytest.raises(ConnectError, match=r"without a Close message \(WebSocket code 4000\)"):
            await server.client("/late", skip_negotiation=True).connect()


async def test_a_server_that_speaks_nonsense() -> None:
    """Bytes that are no hub message end the connection, and the reason is kept."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await send({"type": "websocket.send", "text": "{}"})
            await send(
                {"type": "websocket.send", "text": '\x1e{"type":99}\x1e{"type":2,"invocationId":"7","item":1}\x1e'}
            )
            await send(
                {
                    "type": "websocket.send",
                    "bytes": b'{"type":3,"invocationId":"7"}\x1e{"type":5,"invocationId":"7"}\x1e',
                }
            )
            await send({"type": "websocket.send", "text": '{"type":1}\x1e'})
            with pytest.raises(OSError, match="has gone"):
                await send({"type": "websocket.send", "text": "more"})
            assert (await receive())["code"] == 1002

    async with HubClient(app, "/chat", skip_negotiation=True) as client:
        end = await client.wait_closed()
        assert "does not understand the server" in str(end)


async def test_an_error_of_the_application_surfaces() -> None:
    """What the application raises while it serves a connection is raised when the client closes."""

    class Broken(Hub):
        pass

    hubs = HubApp()
    hubs.add_hub("/chat", Broken)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await hubs(scope, receive, send)
        if scope["type"] == "websocket":
            raise LookupError("after the hub")

    with pytest.raises(LookupError, match="after the hub"):
        async with HubClient(app, "/chat") as client:
            await client.ping()


async def test_an_answer_may_have_no_headers() -> None:
    """ASGI lets an application leave them out, of an answer and of a refused WebSocket alike."""

    async def bare(scope: Any, _receive: Any, send: Any) -> None:
        kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
        await send({"type": f"{kind}.start", "status": 401})
        await send({"type": f"{kind}.body"})

    async with MemoryServer(bare) as server:
        assert (await server.http("GET", "/")).status == 401
        refusal = await server.websocket("/").opened()
        assert refusal is not None
        assert refusal.status == 401
