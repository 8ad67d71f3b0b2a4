"""Event streams and polls under a real uvicorn, with each of its WebSocket edges, as bytes on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import ClassVar

import httpx
import pytest
from tests.integration.edges import EDGES, Edge, serving

from hubplane import Hub, HubApp
from hubplane.options import HubOptions, TransportOptions

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
EVENTS = {"accept": "text/event-stream"}
GOODBYE = '{"type":7,"allowReconnect":true}\x1e'


class HttpHub(Hub):
    """Repeats, floods, and says who has left."""

    left: ClassVar[list[str]] = []
    leaving = threading.Condition()

    async def echo(self, text: str) -> str:
        return text

    async def flood(self, count: int, size: int) -> None:
        for _ in range(count):
            await self.clients.caller.send("Noise", "x" * size)

    async def on_disconnected(self, error: Exception | None) -> None:
        with self.leaving:
            self.left.append(f"{self.context.connection_id}: {error!r}")
            self.leaving.notify_all()


def wait_left(connection_id: str, seconds: float) -> bool:
    """Whether a connection has ended without an error, within `seconds`."""
    with HttpHub.leaving:
        return HttpHub.leaving.wait_for(lambda: f"{connection_id}: None" in HttpHub.left, seconds)


def make_app() -> HubApp:
    """The app; time limits are short."""
    hubs = HubApp(
        options=HubOptions(keep_alive_interval=1.0),
        transport_options=TransportOptions(poll_timeout=2.0, disconnect_timeout=2.0, transport_send_timeout=1.0),
    )
    hubs.add_hub("/hub", HttpHub)
    return hubs


@pytest.fixture(params=EDGES, ids=lambda edge: edge.name, scope="module")
def edge(request: pytest.FixtureRequest) -> Edge:
    """How WebSockets are served, and on which loop everything runs."""
    chosen: Edge = request.param
    return chosen


@pytest.fixture(scope="module")
def url(edge: Edge) -> Iterator[str]:
    """A server shared by the tests of an edge."""
    with serving(make_app(), edge) as server:
        yield f"{server.url}/hub"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client."""
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        yield client


async def negotiate(http: httpx.AsyncClient, url: str) -> tuple[str, str]:
    """The address of a new connection, and its id."""
    body = (await http.post(f"{url}/negotiate?negotiateVersion=1")).json()
    return f"{url}?id={body['connectionToken']}", body["connectionId"]


@asynccontextmanager
async def streaming(http: httpx.AsyncClient, address: str) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of an event stream."""
    async with http.stream("GET", address, headers=EVENTS) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-accel-buffering"] == "no"
        # httpx cuts lines at a record separator as well.
        yield answer.aiter_text()


async def read_until(texts: AsyncIterator[str], wanted: str) -> str:
    """What the stream brings up to the text that is waited for."""
    found = ""
    async with asyncio.timeout(10):
        async for text in texts:
            found += text
            if wanted in found:
                return found
    raise AssertionError(f"{wanted!r} is not in {found!r}")


def call(target: str, *arguments: object) -> bytes:
    """One call that wants an answer."""
    message = {"type": 1, "invocationId": "1", "target": target, "arguments": arguments}
    return json.dumps(message).encode() + b"\x1e"


@pytest.mark.row("B39", "B40", "B43", "B44")
async def test_event_stream(http: httpx.AsyncClient, url: str) -> None:
    """The opening arrives before anything is posted, answers and pings as events; leaving ends the connection."""
    address, connection_id = await negotiate(http, url)
    async with streaming(http, address) as texts:
        assert await read_until(texts, "\r\n") == ":\r\n"
        assert (await http.post(address, content=HANDSHAKE)).status_code == 200
        assert await read_until(texts, "\r\n\r\n") == "data: {}\x1e\r\n\r\n"
        await http.post(address, content=call("Echo", "x" * 30_000))
        assert "x" * 30_000 in await read_until(texts, "\r\n\r\n")
        await read_until(texts, 'data: {"type":6}\x1e\r\n\r\n')
    assert await asyncio.to_thread(wait_left, connection_id, 1.5)


@pytest.mark.row("B45", "B46", "B47", "B48", "B52", "B53")
async def test_polls(http: httpx.AsyncClient, url: str) -> None:
    """First poll, data, timeout, replacement, DELETE and the end without polls, as a client sees them."""
    address, connection_id = await negotiate(http, url)
    first = await http.get(address)
    assert (first.status_code, first.content, first.headers["content-length"]) == (200, b"", "0")
    assert first.headers["content-type"] == "application/octet-stream"
    assert (await http.post(address, content=HANDSHAKE)).status_code == 200
    assert (await http.get(address)).content == b"{}\x1e"
    await http.post(address, content=call("Echo", "x" * 30_000))
    assert json.loads((await http.get(address)).content[:-1])["result"] == "x" * 30_000
    idle = await http.get(address)
    assert (idle.status_code, idle.content, idle.headers["content-type"]) == (200, b"", "text/plain")
    replaced = asyncio.ensure_future(http.get(address))
    await asyncio.sleep(0.2)  # on another thread than the server, so the order has to be waited for
    replacing = asyncio.ensure_future(http.get(address))
    assert (await replaced).status_code == 204
    assert (await http.delete(address)).status_code == 202
    assert (await replacing).text == GOODBYE
    assert (await http.get(address)).status_code == 404
    assert await asyncio.to_thread(wait_left, connection_id, 0)
    address, connection_id = await negotiate(http, url)
    await http.get(address)
    await http.post(address, content=HANDSHAKE)
    assert await asyncio.to_thread(wait_left, connection_id, 6)


async def test_poll_whose_client_leaves(http: httpx.AsyncClient, url: str) -> None:
    """A poll that its client drops ends at once on the server, which then waits for the next."""
    address, connection_id = await negotiate(http, url)
    await http.get(address)
    await http.post(address, content=HANDSHAKE)
    assert (await http.get(address)).content == b"{}\x1e"
    with contextlib.suppress(httpx.TimeoutException):
        await http.get(address, timeout=0.3)
    await http.post(address, content=call("Echo", "kept"))
    assert json.loads((await http.get(address)).content[:-1])["result"] == "kept"
    assert (await http.delete(address)).status_code == 202
    assert await asyncio.to_thread(wait_left, connection_id, 1)


@pytest.mark.row("B132")
async def test_client_that_does_not_read_its_stream(http: httpx.AsyncClient, url: str) -> None:
    """A client that takes nothing is disconnected after the send timeout, and others are served meanwhile."""
    address, connection_id = await negotiate(http, url)
    other, _ = await negotiate(http, url)
    host, _, port = url.removeprefix("http://").removesuffix("/hub").partition(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        target = address.removeprefix(f"http://{host}:{port}")
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        await http.post(address, content=HANDSHAKE)
        # More than kernel and server keep, less than the outbound limit of a connection.
        for _ in range(6):
            await http.post(address, content=call("Flood", 30, 100_000))
            await asyncio.sleep(0.05)
        await http.get(other)
        await http.post(other, content=HANDSHAKE)
        started = time.monotonic()
        assert (await http.get(other)).content == b"{}\x1e"
        assert time.monotonic() - started < 1
        assert await asyncio.to_thread(wait_left, connection_id, 8)


@pytest.mark.row("B129")
@pytest.mark.parametrize("events", [True, False], ids=["events", "polls"])
async def test_server_that_stops(http: httpx.AsyncClient, edge: Edge, events: bool) -> None:
    """A plain uvicorn with a grace time stops in time; an event stream ends with its goodbye, an open poll ends."""
    with serving(make_app(), edge, timeout_graceful_shutdown=1) as server:
        address, connection_id = await negotiate(http, f"{server.url}/hub")
        if events:
            async with streaming(http, address) as texts:
                await http.post(address, content=HANDSHAKE)
                await read_until(texts, "{}\x1e\r\n\r\n")
                server.stop()
                assert await read_until(texts, GOODBYE)
        else:
            await http.get(address)
            await http.post(address, content=HANDSHAKE)
            await http.get(address)
            server.stop()
    assert wait_left(connection_id, 0)
