"""Every request of a hub: negotiate, status codes, and the rules of WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any  # the stand-ins of the conftest, and bodies of answers

import pytest

from hubplane.connection.transport import TransportKind
from hubplane.options import HttpTransportType
from hubplane.transports.registry import EntryState

MakeHub = Callable[..., Any]

NO_CACHE = {"cache-control": "no-cache, no-store", "pragma": "no-cache", "expires": "Thu, 01 Jan 1970 00:00:00 GMT"}
WEB_SOCKETS = {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]}
EVENTS = {"transport": "ServerSentEvents", "transferFormats": ["Text"]}
POLLING = {"transport": "LongPolling", "transferFormats": ["Text", "Binary"]}


# -- negotiate -------------------------------------------------------------------------------------------------------


@pytest.mark.row("B1")
async def test_negotiate_version_1(make_hub: MakeHub) -> None:
    """Version 1 gives id, token and transports, as JSON without a charset."""
    hub = make_hub()
    answer = await hub.http("POST", "/negotiate?negotiateVersion=1")
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.json == {
        "negotiateVersion": 1,
        "connectionId": "a-connection-1",
        "connectionToken": "a-connection-2",
        "availableTransports": [WEB_SOCKETS, EVENTS, POLLING],
    }
    entry = hub.registry.get("a-connection-2")
    assert (entry.connection_id, entry.state) == ("a-connection-1", EntryState.INACTIVE)


@pytest.mark.row("B2")
async def test_negotiate_version_0(make_hub: MakeHub) -> None:
    """Without a version the id is its own token."""
    hub = make_hub()
    body = await hub.negotiate("")
    assert body["negotiateVersion"] == 0
    assert "connectionToken" not in body
    assert hub.registry.get(body["connectionId"]) is not None


@pytest.mark.row("B3", "B4", "B5")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?negotiateVersion=7", {"negotiateVersion": 1}),
        ("?NEGOTIATEVERSION=1", {"negotiateVersion": 1}),
        ("?negotiateVersion=abc", {"error": "The client requested a non-integer protocol version."}),
        ("?negotiateVersion=", {"error": "The client requested a non-integer protocol version."}),
        ("?negotiateVersion=1&negotiateVersion=1", {"error": "The client requested a non-integer protocol version."}),
        (
            "?negotiateVersion=-1",
            {"error": "The client requested version '-1', but the server does not support this version."},
        ),
    ],
)
async def test_negotiate_chooses_the_version(make_hub: MakeHub, query: str, expected: dict[str, object]) -> None:
    """A version above ours gets ours; one that cannot be is an error, with status 200 and no connection."""
    hub = make_hub()
    answer = await hub.http("POST", "/negotiate" + query)
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert expected.items() <= answer.json.items()
    assert hub.registry.unclaimed == (0 if "error" in expected else 1)


@pytest.mark.row("B6")
async def test_minimum_version(make_hub: MakeHub) -> None:
    """A hub may insist on version 1."""
    body = await make_hub(minimum_protocol_version=1).negotiate("")
    assert body == {"error": "The client requested version '0', but the server does not support this version."}


@pytest.mark.row("B7")
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS", "DELETE"])
async def test_negotiate_is_a_post(make_hub: MakeHub, method: str) -> None:
    """Any other method on negotiate gives 405."""
    assert (await make_hub().http(method, "/negotiate")).outcome == (405, "text/plain", b"")


@pytest.mark.row("B8")
async def test_disabled_transport_is_not_offered(make_hub: MakeHub) -> None:
    """A transport that is switched off is missing; the order of the others stays."""
    for off, left in {
        HttpTransportType.WEB_SOCKETS: [EVENTS, POLLING],
        HttpTransportType.SERVER_SENT_EVENTS: [WEB_SOCKETS, POLLING],
        HttpTransportType.LONG_POLLING: [WEB_SOCKETS, EVENTS],
    }.items():
        body = await make_hub(transports=~off).negotiate()
        assert body["availableTransports"] == left


@pytest.mark.row("B9")
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("asked", ["", "&useStatefulReconnect=True", "&useStatefulReconnect=1"])
@pytest.mark.parametrize("version", ["0", "1"])
async def test_stateful_reconnect_is_agreed_on(make_hub: MakeHub, enabled: bool, asked: str, version: str) -> None:
    """Stateful reconnect is mentioned only when the client asked for it and the server has it."""
    body = await make_hub(stateful_reconnect=enabled).negotiate(f"?negotiateVersion={version}{asked}")
    assert body.get("useStatefulReconnect", False) is (enabled and asked.endswith("True"))


async def test_full_registry_refuses_to_negotiate(make_hub: MakeHub) -> None:
    """When too many connections wait for their transport, further ones get 503."""
    hub = make_hub(max_unclaimed=1)
    await hub.negotiate()
    answer = await hub.http("POST", "/negotiate?negotiateVersion=1")
    assert (answer.status, answer.content_type) == (503, "text/plain")


# -- the hub's path over HTTP ----------------------------------------------------------------------------------------


@pytest.mark.row("B12", "B13")
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", (400, "text/plain", b"Connection ID required")),
        ("?id=", (400, "text/plain", b"Connection ID required")),
        ("?id=nobody", (404, "text/plain", b"No Connection with that ID")),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_id_is_required_and_known(
    make_hub: MakeHub, method: str, query: str, expected: tuple[int, str, bytes], accept: str
) -> None:
    """No id gives 400, an unknown one 404, before anything else is looked at."""
    answer = await make_hub().http(method, query, accept=accept)
    assert answer.outcome == expected
    assert answer.headers == (NO_CACHE if method == "GET" and accept == "*/*" else {})


@pytest.mark.row("B10")
async def test_public_id_is_no_key(make_hub: MakeHub) -> None:
    """In version 1 the public id is not accepted where the token belongs."""
    hub = make_hub()
    body = await hub.negotiate()
    answer = await hub.http("POST", f"?id={body['connectionId']}")
    assert answer.outcome == (404, "text/plain", b"No Connection with that ID")


@pytest.mark.row("B16")
@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("text/event-stream", b"ServerSentEvents"),
        ("text/html, Text/Event-Stream", b"ServerSentEvents"),
        ("text/event-stream;q=0.9", b"LongPolling"),
        ("*/*", b"LongPolling"),
    ],
)
async def test_transport_that_is_not_offered(make_hub: MakeHub, accept: str, name: bytes) -> None:
    """A GET for a transport that the hub does not have gives 404 with the transport's name."""
    hub = make_hub(transports=HttpTransportType.WEB_SOCKETS)
    token = (await hub.negotiate())["connectionToken"]
    answer = await hub.http("GET", f"?ID={token}&_=1", accept=accept)
    assert answer.outcome == (404, "text/plain", name + b" transport not supported by this end point type")
    assert answer.headers == (NO_CACHE if name == b"LongPolling" else {})


@pytest.mark.row("B21")
@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS", "PATCH"])
async def test_other_methods(make_hub: MakeHub, method: str) -> None:
    """Other methods on the hub's path give 405."""
    assert (await make_hub().http(method, "?id=x")).outcome == (405, "text/plain", b"")


async def test_other_paths(make_hub: MakeHub) -> None:
    """Nothing but negotiate lives below a hub."""
    hub = make_hub()
    assert (await hub.http("GET", "/elsewhere")).outcome == (404, None, b"")
    for path, outcome in {"/elsewhere": (404, None, b""), "/negotiate": (405, "text/plain", b"")}.items():
        exchange, serving = hub.websocket(path)
        await serving
        assert exchange.outcome == outcome


# -- WebSockets ------------------------------------------------------------------------------------------------------


@pytest.mark.row("B15", "B33", "B36")
async def test_websocket_without_negotiation(make_hub: MakeHub) -> None:
    """A WebSocket without an id gets a new connection, whose id is its token while it lives; no sub-protocol."""
    hub = make_hub()
    exchange, serving = hub.websocket()
    task = asyncio.ensure_future(serving)
    await asyncio.sleep(0)
    (connection,) = hub.served
    assert exchange.listener is connection
    assert connection.transport is exchange.transport
    assert connection.request is exchange.request
    assert exchange.subprotocol is None
    assert hub.registry.get(connection.connection_id).connection is connection
    hub.release.set()
    await task
    assert exchange.finished == hub.options.close_timeout == 5, "seconds for the peer's Close frame"
    assert hub.registry.get(connection.connection_id) is None


@pytest.mark.row("B11")
async def test_websocket_claims_its_token(make_hub: MakeHub) -> None:
    """A negotiated WebSocket gets the public id that negotiate told; the key's case means nothing."""
    hub = make_hub()
    body = await hub.negotiate()
    exchange, serving = hub.websocket(f"?Id={body['connectionToken']}&whatever=1")
    task = asyncio.ensure_future(serving)
    await asyncio.sleep(0)
    assert exchange.outcome is None
    assert hub.served[0].connection_id == body["connectionId"]
    assert hub.registry.unclaimed == 0
    hub.clock.advance(60)
    hub.registry.tick(hub.clock.monotonic())
    assert hub.registry.get(body["connectionToken"]) is not None
    hub.release.set()
    await task


@pytest.mark.row("B58")
async def test_post_before_the_websocket(make_hub: MakeHub) -> None:
    """What is posted before a WebSocket claims the connection is the first that the hub reads from it."""
    hub = make_hub()
    token = (await hub.negotiate())["connectionToken"]
    answer = await hub.http("POST", f"?id={token}", b'{"protocol":"json","version":1}\x1e')
    assert answer.outcome == (200, "text/plain", b"")
    _, serving = hub.websocket(f"?id={token}")
    task = asyncio.ensure_future(serving)
    await asyncio.sleep(0)
    assert [message.protocol for message in hub.served[0].inbox] == ["json"]
    assert hub.kinds == [TransportKind.WEB_SOCKETS]
    hub.release.set()
    await task


@pytest.mark.row("B14")
@pytest.mark.parametrize("transports", [HttpTransportType.WEB_SOCKETS, HttpTransportType.LONG_POLLING])
async def test_websocket_with_an_unknown_id(make_hub: MakeHub, transports: HttpTransportType) -> None:
    """An unknown token gives 404 without a media type, before the transport is looked at."""
    exchange, serving = make_hub(transports=transports).websocket("?id=nobody")
    await serving
    assert exchange.outcome == (404, None, b"No Connection with that ID")


@pytest.mark.row("B16")
@pytest.mark.parametrize("negotiated", [True, False])
async def test_websockets_switched_off(make_hub: MakeHub, negotiated: bool) -> None:
    """Where WebSockets are switched off, the answer is 404 and says so."""
    hub = make_hub(transports=HttpTransportType.SERVER_SENT_EVENTS)
    exchange, serving = hub.websocket(f"?id={(await hub.negotiate())['connectionToken']}" if negotiated else "")
    await serving
    assert exchange.outcome == (404, "text/plain", b"WebSockets transport not supported by this end point type")


@pytest.mark.row("B18", "B19", "B20")
async def test_active_connection_refuses_other_requests(make_hub: MakeHub) -> None:
    """While a WebSocket is open, a second one gets 409, a POST 405 and a DELETE 400."""
    hub = make_hub()
    token = (await hub.negotiate())["connectionToken"]
    _, serving = hub.websocket(f"?id={token}")
    task = asyncio.ensure_future(serving)
    await asyncio.sleep(0)
    second, serving = hub.websocket(f"?id={token}")
    await serving
    assert second.outcome == (409, "text/plain", b"")
    post = await hub.http("POST", f"?id={token}")
    assert post.outcome == (405, "text/plain", b"POST requests are not allowed for WebSocket connections.")
    delete = await hub.http("DELETE", f"?id={token}")
    assert delete.outcome == (400, "text/plain", b"Cannot terminate this connection using the DELETE endpoint.")
    hub.release.set()
    await task
    third, serving = hub.websocket(f"?id={token}")
    await serving
    assert third.outcome == (404, None, b"No Connection with that ID")


@pytest.mark.row("B20")
async def test_delete_before_any_transport(make_hub: MakeHub) -> None:
    """An unattached connection cannot be ended with DELETE."""
    hub = make_hub()
    token = (await hub.negotiate())["connectionToken"]
    answer = await hub.http("DELETE", f"?id={token}")
    assert answer.outcome == (400, "text/plain", b"Cannot terminate this connection using the DELETE endpoint.")
    assert hub.registry.get(token) is not None


async def test_websocket_during_the_close_of_its_connection(make_hub: MakeHub) -> None:
    """A connection that is closing is as good as gone: 404."""
    hub = make_hub()
    token = (await hub.negotiate())["connectionToken"]
    hub.registry.get(token).state = EntryState.DISPOSED
    exchange, serving = hub.websocket(f"?id={token}")
    await serving
    assert exchange.outcome == (404, "text/plain", b"")


@pytest.mark.row("B17")
async def test_transport_cannot_be_switched(make_hub: MakeHub) -> None:
    """A connection that another transport has claimed does not become a WebSocket."""
    hub = make_hub()
    token = (await hub.negotiate())["connectionToken"]
    hub.registry.claim(hub.registry.get(token), TransportKind.LONG_POLLING)
    exchange, serving = hub.websocket(f"?id={token}")
    await serving
    assert exchange.outcome == (400, "text/plain", b"Cannot change transports mid-connection")


async def test_client_that_left_before_the_answer(make_hub: MakeHub) -> None:
    """A client that has gone before its WebSocket was open leaves nothing behind."""
    hub = make_hub()
    exchange, serving = hub.websocket()
    exchange.left = True
    await serving
    assert hub.served == []
    assert len(hub.registry) == 0


async def test_failure_of_a_connection_cuts_its_socket(make_hub: MakeHub) -> None:
    """When serving fails, the socket is cut, the entry is gone, and the exception reaches the server."""
    hub = make_hub()
    hub.failure = ValueError("a bug")
    hub.release.set()
    exchange, serving = hub.websocket()
    with pytest.raises(ValueError, match="a bug"):
        await serving
    assert exchange.transport.aborted
    assert len(hub.registry) == 0


async def test_cancelled_connection_is_cut(make_hub: MakeHub) -> None:
    """Cancelling the request cuts the socket and forgets the connection."""
    hub = make_hub()
    exchange, serving = hub.websocket()
    task = asyncio.ensure_future(serving)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert exchange.transport.aborted
    assert len(hub.registry) == 0


# -- stateful reconnect ----------------------------------------------------------------------------------------------


async def promised(hub: Any) -> str:
    """The token of a client that was promised stateful reconnect."""
    body = await hub.negotiate("?negotiateVersion=1&useStatefulReconnect=true")
    assert body["useStatefulReconnect"] is True
    return str(body["connectionToken"])


async def begun(hub: Any, token: str) -> tuple[Any, asyncio.Task[None]]:
    """A WebSocket, and the task that serves it."""
    exchange, serving = hub.websocket(f"?id={token}")
    task = asyncio.ensure_future(serving)
    await turns()
    return exchange, task


async def turns() -> None:
    """Let happen what can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_failure_of_a_stateful_connection_cuts_its_socket(
    make_hub: MakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    """When the life of a stateful connection fails, its socket is cut, the token forgotten, and the failure logged."""
    hub = make_hub(stateful_reconnect=True)
    token = await promised(hub)
    exchange, task = await begun(hub, token)
    hub.failure = ValueError("a bug")
    hub.release.set()
    await turns()
    assert exchange.transport.aborted
    exchange.listener.transport_lost(None)
    await task
    assert hub.registry.get(token) is None
    assert "a bug" in caplog.text


async def test_stateful_connection_that_cannot_begin(make_hub: MakeHub) -> None:
    """When the life of a connection cannot even begin, as at the very end of a server, its socket is cut."""
    hub = make_hub(stateful_reconnect=True)
    token = await promised(hub)
    await hub.supervisor.close()
    exchange, task = await begun(hub, token)
    with pytest.raises(RuntimeError, match="is closing"):
        await task
    assert exchange.transport.aborted
    assert hub.registry.get(token) is None


async def test_stateful_connection_that_cannot_be_made(make_hub: MakeHub) -> None:
    """When making the connection fails the token is forgotten."""
    hub = make_hub(stateful_reconnect=True)
    token = await promised(hub)
    hub.connect_stateful = None
    with pytest.raises(TypeError):
        await hub.websocket(f"?id={token}")[1]
    assert hub.registry.get(token) is None


async def test_bytes_posted_before_a_stateful_websocket(make_hub: MakeHub) -> None:
    """What a client posts before it opens its WebSocket comes first, with stateful reconnect, too."""
    hub = make_hub(stateful_reconnect=True)
    token = await promised(hub)
    assert (await hub.http("POST", f"?id={token}", b'{"protocol":"json","version":2}\x1e')).status == 200
    _, task = await begun(hub, token)
    (connection,) = hub.served
    assert len(connection.inbox) == 1
    task.cancel()
    hub.release.set()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_request_for_a_socket_renews_no_login(make_hub: MakeHub) -> None:
    """The id of a WebSocket that skipped negotiation is public: no HTTP request has to do with its login."""
    hub = make_hub()
    exchange, serving = hub.websocket()
    task = asyncio.ensure_future(serving)
    await asyncio.sleep(0)
    (connection,) = hub.served
    for method, status in (("GET", 400), ("POST", 405), ("DELETE", 400)):
        assert (await hub.http(method, f"?id={connection.connection_id}", user="bob")).status == status
    assert hub.renewed == []
    hub.release.set()
    await task
    assert exchange.outcome is None


async def test_polls_renew_a_login(make_hub: MakeHub) -> None:
    """Each later request of a connection that polls may bring a login; one of another user brings none."""
    hub = make_hub()
    token = (await hub.negotiate())["connectionToken"]
    assert (await hub.http("GET", f"?id={token}", user="ann")).status == 200
    assert hub.renewed == []
    assert (await hub.http("POST", f"?id={token}", b"x", user="bob")).status == 403
    assert hub.renewed == []
    assert (await hub.http("POST", f"?id={token}", b"x", user="ann")).status == 200
    assert len(hub.renewed) == 1
