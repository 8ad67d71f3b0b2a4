"""Metrics and spans of connections over real uvicorn: each edge, each transport, each outcome."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from opentelemetry import trace
from tests.integration.edges import CLOSE, EDGES, Edge, RawWebSocket, Server, serving
from tests.integration.observed import HUB, Observed, TracedHub

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
EVENTS = {"accept": "text/event-stream"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(params=EDGES[:2], ids=lambda edge: edge.name)
def edge(request: pytest.FixtureRequest) -> Edge:
    """How WebSockets are served."""
    chosen: Edge = request.param
    return chosen


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client."""
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        yield client


async def negotiated(http: httpx.AsyncClient, server: Server) -> str:
    """The address of a new connection."""
    body = (await http.post(f"{server.url}/hub/negotiate?negotiateVersion=1")).json()
    return f"{server.url}/hub?id={body['connectionToken']}"


async def answer_close(client: RawWebSocket) -> None:
    """Wait for the server's Close frame, and answer it."""
    while (frame := await client.read_frame())[0] != CLOSE:
        pass
    client.write_frame(*frame)


@pytest.fixture
def observed(edge: Edge) -> Iterator[tuple[Observed, Server]]:
    """A running app."""
    app = Observed(disconnect_timeout=1.0)
    with serving(app, edge) as server:
        yield app, server


@pytest.mark.row("B154")
async def test_a_websocket_that_closes(observed: tuple[Observed, Server]) -> None:
    """It counts while it is open, and its duration is a normal closure's; negotiate counts nothing."""
    app, server = observed
    async with RawWebSocket.opened(server.port, "/hub") as client:
        await client.shake_hands()
        assert app.active() == {"web_sockets": 1}
        assert app.durations() == []
        assert await client.close() == 1000
    await app.until(lambda: app.active() == {"web_sockets": 0})
    assert app.durations() == [("web_sockets", "normal_closure", 1)]


@pytest.mark.row("B154")
async def test_a_silent_client_is_a_normal_closure(observed: tuple[Observed, Server]) -> None:
    """A client timeout of the hub layer counts as a normal closure, as in the original, and as dropped by us."""
    app, server = observed
    async with RawWebSocket.opened(server.port, "/hub") as client:
        await client.shake_hands()
        client.write_json({"type": 6})
        await answer_close(client)
        await app.until(lambda: app.active() == {"web_sockets": 0})
    assert app.durations() == [("web_sockets", "normal_closure", 1)]
    await app.until(lambda: app.number("hubplane.server.dropped_connections") == {"client_timeout": 1})


@pytest.mark.row("B154")
async def test_an_event_stream_that_closes(observed: tuple[Observed, Server], http: httpx.AsyncClient) -> None:
    """A connection that was only negotiated does not count; an event stream does."""
    app, server = observed
    address = await negotiated(http, server)
    assert app.active() == {}
    async with http.stream("GET", address, headers=EVENTS) as answer:
        assert answer.status_code == 200
        await app.until(lambda: app.active() == {"server_sent_events": 1})
    await app.until(lambda: app.durations() == [("server_sent_events", "normal_closure", 1)])
    assert app.active() == {"server_sent_events": 0}


@pytest.mark.row("B154")
async def test_polls_that_stop(observed: tuple[Observed, Server], http: httpx.AsyncClient) -> None:
    """A client that deletes its connection closes it normally; one that polls no more has timed out."""
    app, server = observed
    address = await negotiated(http, server)
    await http.get(address)
    await http.post(address, content=HANDSHAKE)
    assert (await http.get(address)).content == b"{}\x1e"
    assert app.active() == {"long_polling": 1}
    assert (await http.delete(address)).status_code == 202
    await app.until(lambda: app.durations() == [("long_polling", "normal_closure", 1)])
    await http.get(await negotiated(http, server))
    await app.until(lambda: app.durations() == [("long_polling", "normal_closure", 1), ("long_polling", "timeout", 1)])
    assert app.active() == {"long_polling": 0}


@pytest.mark.row("B154")
async def test_a_server_that_stops(edge: Edge, http: httpx.AsyncClient) -> None:
    """At shutdown the connections end as the app's; a server that closes ASGI WebSockets by itself does not tell."""
    app = Observed(disconnect_timeout=30)
    stop = contextlib.ExitStack()
    server = stop.enter_context(serving(app, edge))
    try:
        address, polled = await negotiated(http, server), await negotiated(http, server)
        await http.get(polled)
        for each in (address, polled):
            await http.post(each, content=HANDSHAKE)
        async with http.stream("GET", address, headers=EVENTS), RawWebSocket.opened(server.port, "/hub") as client:
            await client.shake_hands()
            assert app.active() == {"web_sockets": 1, "server_sent_events": 1, "long_polling": 1}
            app.announce_stop()
            server.stop()
            await answer_close(client)
            await app.until(lambda: set(app.active().values()) == {0})
    finally:
        await asyncio.to_thread(stop.close)
    assert app.durations() == [
        ("long_polling", "app_shutdown", 1),
        ("server_sent_events", "app_shutdown", 1),
        ("web_sockets", "app_shutdown" if edge.fast else "normal_closure", 1),
    ]
    assert app.number("hubplane.server.dropped_connections") == {}


@pytest.mark.row("B155")
async def test_spans_of_calls(observed: tuple[Observed, Server]) -> None:
    """Calls have .NET's spans: in the caller's trace or one of their own, linked to the request, failed or not."""
    app, server = observed
    async with RawWebSocket.opened(server.port, "/hub") as client:
        await client.shake_hands()
        client.write_json(
            {"type": 1, "invocationId": "1", "target": "where", "arguments": [], "headers": {"traceparent": PARENT}}
        )
        assert (await client.read_json())["result"] == PARENT[3:35]
        first = (await client.invoke("Where"))["result"]
        assert (await client.invoke("whereInThread"))["result"] not in {first, PARENT[3:35]}
        assert "error" in await client.invoke("Fail")
        assert "unauthorized" in (await client.invoke("Guarded"))["error"]
        assert "does not exist" in (await client.invoke("Nothing"))["error"]
        client.write_json({"type": 1, "invocationId": "u", "target": "upload", "streamIds": ["s"], "arguments": []})
        client.write_json({"type": 2, "invocationId": "s", "item": 7}, {"type": 3, "invocationId": "s"})
        assert (await client.read_json())["result"] == 7
        assert await client.close() == 1000
    await app.until(lambda: len(app.spans("OnDisconnectedAsync")) == 1)
    (request,) = app.requests
    called, alone = app.spans("Where")
    assert called.parent is not None
    assert (called.parent.is_remote, trace.format_span_id(called.parent.span_id)) == (True, PARENT[36:52])
    assert alone.parent is None
    (failed,) = app.spans("Fail")
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert dict(failed.attributes or {}) == {
        "rpc.method": "Fail",
        "rpc.system": "signalr",
        "rpc.service": HUB,
        "error.type": "hubplane.errors.HubException",
    }
    assert len(app.spans("Upload")) == 1
    assert app.spans("Guarded") == []
    (connected,), (disconnected,) = app.spans("OnConnectedAsync"), app.spans("OnDisconnectedAsync")
    assert connected.parent == request
    assert disconnected.parent is None
    for span in (called, alone, failed, disconnected, *app.spans("WhereInThread"), *app.spans("Upload")):
        assert [link.context for link in span.links] == [request]
    assert {span.kind for span in (connected, disconnected)} == {trace.SpanKind.INTERNAL}
    assert {span.kind for span in (called, alone, failed)} == {trace.SpanKind.SERVER}
    assert not [span.name for span in app.exporter.get_finished_spans() if span.events], "texts of errors stay here"


@pytest.mark.row("B155")
async def test_a_streams_span_lasts_to_its_end(observed: tuple[Observed, Server]) -> None:
    """The span of a stream is the current one for each item, ends behind the last, and fails with the stream."""
    app, server = observed
    async with RawWebSocket.opened(server.port, "/hub") as client:
        await client.shake_hands()
        client.write_json(
            {"type": 4, "invocationId": "1", "target": "count", "arguments": [2], "headers": {"traceparent": PARENT}}
        )
        items = [(await client.read_json()).get("item") for _ in range(3)]
        client.write_json({"type": 4, "invocationId": "2", "target": "broken", "arguments": []})
        assert [(await client.read_json())["type"] for _ in range(2)] == [2, 3]
        await app.until(lambda: len(app.spans("Broken")) == 1)
        (counted,), (broken,) = app.spans("Count"), app.spans("Broken")
        context = counted.get_span_context()
        assert context is not None
        span_id = trace.format_span_id(context.span_id)
        assert items == [span_id, span_id, None]
        assert counted.parent is not None
        assert trace.format_span_id(counted.parent.span_id) == PARENT[36:52]
        assert counted.status.status_code is trace.StatusCode.UNSET
        assert (broken.attributes or {})["error.type"] == "LookupError"
        assert broken.status.status_code is trace.StatusCode.ERROR


async def test_the_backplane_is_counted(observed: tuple[Observed, Server]) -> None:
    """What is published and received is told, and whether the broker is there."""
    app, server = observed
    async with RawWebSocket.opened(server.port, "/hub") as client:
        await client.shake_hands()
        done = threading.Event()

        def send() -> None:
            app.hubs.context(TracedHub).clients.all.send("Said", 1)
            done.set()

        await asyncio.to_thread(send)
        assert (await client.read_json())["target"] == "Said"
        assert done.is_set()
        assert app.number("hubplane.backplane.published") == {"": 1}
        assert app.number("hubplane.backplane.received") == {"": 1}
        assert app.number("hubplane.backplane.connected") == {"": 1}


async def test_nothing_is_traced_unless_asked(edge: Edge) -> None:
    """With metrics alone a call runs in the span of the request, and makes none."""
    app = Observed(traces=False)
    with serving(app, edge) as server:
        async with RawWebSocket.opened(server.port, "/hub") as client:
            await client.shake_hands()
            here = (await client.invoke("Where"))["result"]
            assert await client.close() == 1000
        await app.until(lambda: len(app.exporter.get_finished_spans()) == 1)
    assert here == trace.format_trace_id(app.requests[0].trace_id)
