"""What applications give a hub may fail: a clean answer over real uvicorn and both edges, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any  # settings by name

import httpx
import pytest
from tests.integration.edges import EDGES, TEXT, Edge, RawWebSocket, Server, serving

from hubplane import (
    AuthenticationRefreshContext,
    AuthorizationContext,
    ConnectionRequest,
    Hub,
    HubApp,
    HubConnectionContext,
    TransportOptions,
)
from hubplane.connection.hub_connection import HubConnection
from hubplane.hubs.authorization import authorize

EVENTS = {"accept": "text/event-stream"}
HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
FAILED = b'{"error":"An unexpected error occurred during connection handshake."}\x1e'


class AnyHub(Hub):
    """Whatever it is, it does not get to it."""

    async def echo(self, text: str) -> str:
        return text


def fails(request: ConnectionRequest, what: str) -> None:
    """Fail where the query says so."""
    if request.query_value("fails") == what:
        raise LookupError(f"the {what} fails")


def user_of(request: ConnectionRequest) -> object:
    """Somebody."""
    fails(request, "authenticator")
    return {"sub": "ann", "exp": 4_000_000_000 + int(request.query_value("more") or 0)}


def user_id(connection: HubConnectionContext) -> str:
    """Its id."""
    fails(connection.request, "provider")
    return "ann"


def late_user_id(connection: HubConnectionContext) -> str:
    """Its id, once there is a protocol."""
    assert isinstance(connection, HubConnection)
    if connection.session.protocol is not None:
        fails(connection.request, "provider")
    return "ann"


async def negotiated(request: ConnectionRequest) -> None:
    """Goes on here."""
    await asyncio.sleep(0)
    fails(request, "negotiate")


async def refreshed(context: AuthenticationRefreshContext) -> bool:
    """Takes it."""
    await asyncio.sleep(0)
    fails(context.request, "refresh")
    return True


def chosen(protocols: Sequence[str]) -> str | None:
    """None of those that fail."""
    if "fails" in protocols:
        raise LookupError("the selector fails")
    return None


def policy(context: AuthorizationContext) -> bool:
    """Lets everybody in."""
    fails(context.request, "policy")
    return True


@pytest.fixture(params=EDGES[:2], ids=lambda edge: edge.name)
def edge(request: pytest.FixtureRequest) -> Edge:
    """How the hub is served."""
    found: Edge = request.param
    return found


@pytest.fixture
def hubs() -> HubApp:
    """An app that fails where it is asked to."""
    options = TransportOptions(
        allow_stateful_reconnects=True, enable_authentication_refresh=True, close_timeout=60, poll_timeout=60
    )
    app = HubApp(authenticators=[user_of], transport_options=options)
    settings: dict[str, Any] = {
        "negotiate": negotiated,
        "on_authentication_refresh": refreshed,
        "sub_protocol_selector": chosen,
    }
    app.add_hub("/hub", authorize(policy)(type("OneHub", (AnyHub,), {})), user_id_provider=user_id, **settings)
    app.add_hub("/late", type("LateHub", (AnyHub,), {}), user_id_provider=late_user_id, **settings)
    return app


@pytest.fixture
def server(hubs: HubApp, edge: Edge) -> Iterator[Server]:
    """A running server."""
    with serving(hubs, edge) as running:
        yield running


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """Asks it."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=10) as client:
        yield client


async def negotiate(http: httpx.AsyncClient, hub: str = "/hub", more: str = "") -> str:
    """The address of a connection."""
    answer = await http.post(f"{hub}/negotiate?negotiateVersion=1{more}")
    return f"{hub}?id={answer.json()['connectionToken']}"


@pytest.mark.parametrize("what", ["authenticator", "provider", "negotiate"])
async def test_negotiate(http: httpx.AsyncClient, what: str) -> None:
    """Each failure is a 500; the next request is served."""
    assert (await http.post(f"/hub/negotiate?negotiateVersion=1&fails={what}")).status_code == 500
    assert "id=" in await negotiate(http)


async def test_a_policy_that_fails_refuses(server: Server, http: httpx.AsyncClient) -> None:
    """A policy's failure lets nobody in."""
    assert (await http.post("/hub/negotiate?fails=policy")).status_code == 500
    async with RawWebSocket.opened(server.port, "/hub?fails=policy") as client:
        assert client.status == 500


@pytest.mark.parametrize("what", ["authenticator", "provider"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_later_requests(http: httpx.AsyncClient, method: str, what: str) -> None:
    """A request whose login cannot be told is a 500, and its connection waits for the next one."""
    address = await negotiate(http)
    assert (await http.request(method, f"{address}&fails={what}")).status_code == 500
    assert (await http.get(address)).status_code == 200
    assert (await http.delete(address)).status_code == 202


@pytest.mark.parametrize("stateful", ["", "&useStatefulReconnect=true"])
@pytest.mark.parametrize("what", ["authenticator", "provider", "selector"])
async def test_websockets(server: Server, http: httpx.AsyncClient, what: str, stateful: str) -> None:
    """A WebSocket request that an application's failure meets is a 500; other clients are served."""
    address = await negotiate(http, more=stateful)
    fields = ["Sec-WebSocket-Protocol: fails"] if what == "selector" else []
    async with RawWebSocket.opened(server.port, f"{address}&fails={what}", *fields) as client:
        assert client.status == 500
    async with RawWebSocket.opened(server.port, await negotiate(http, more=stateful)) as client:
        await client.shake_hands()
        assert (await client.invoke("Echo", "well"))["result"] == "well"


async def test_refresh(server: Server, http: httpx.AsyncClient) -> None:
    """A refresh that fails is a 500, and the connection goes on with the login it has."""
    address = await negotiate(http)
    async with RawWebSocket.opened(server.port, address) as client:
        await client.shake_hands()
        token = address.partition("?")[2]
        assert (await http.post(f"/hub/refresh?{token}&more=9&fails=refresh")).status_code == 500
        assert (await client.invoke("Echo", "well"))["result"] == "well"
        assert (await http.post(f"/hub/refresh?{token}&more=9")).status_code == 200


async def test_a_user_id_at_the_handshake(server: Server, http: httpx.AsyncClient) -> None:
    """A provider that fails there is a failed handshake at once, over each transport."""
    async with RawWebSocket.opened(server.port, "/late?fails=provider") as client:
        client.write_frame(TEXT, HANDSHAKE)
        assert await client.read_frame() == (TEXT, FAILED)
        assert await client.read_close() == 1000
    address = await negotiate(http, "/late")
    async with asyncio.timeout(10), http.stream("GET", f"{address}&fails=provider", headers=EVENTS) as stream:
        assert (await http.post(address, content=HANDSHAKE)).status_code == 200
        assert b"data: " + FAILED in await stream.aread()
    address = await negotiate(http, "/late")
    await http.get(f"{address}&fails=provider")
    await http.post(address, content=HANDSHAKE)
    async with asyncio.timeout(10):
        assert (await http.get(address)).content == FAILED
        assert (await http.get(address)).status_code == 204
        assert (await http.get(address)).status_code == 404
