"""A connection token belongs to the user who negotiated it: over real uvicorn, both edges, every transport."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any  # JSON, claims

import httpx
import jwt
import pytest
from tests.integration.edges import EDGES, Edge, RawWebSocket, Server, serving

from hubplane import Hub, HubApp, HubConnectionContext, JwtAuthenticator, TransportOptions

KEY = "a secret that is long enough for HS256"
HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
STATEFUL_HANDSHAKE = {"protocol": "json", "version": 2}
WHO = b'{"type":1,"invocationId":"1","target":"Who","arguments":[]}\x1e'
EVENTS = {"accept": "text/event-stream"}


class OwnedHub(Hub):
    """Tells whose connection it is."""

    async def who(self) -> str | None:
        return self.context.user_identifier


def account(connection: HubConnectionContext) -> str | None:
    """Several logins may be of one account; a login that names none has none."""
    claims: dict[str, Any] = getattr(connection.request.user, "claims", {})
    if claims.get("account") == "broken":
        raise LookupError("no such account")
    return claims.get("account")


@pytest.fixture(params=EDGES[:2], ids=lambda edge: edge.name, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server shared by the tests of an edge."""
    edge: Edge = request.param
    options = TransportOptions(
        poll_timeout=1, allow_stateful_reconnects=True, close_timeout=1, close_on_authentication_expiration=True
    )
    hubs = HubApp(authenticators=[JwtAuthenticator(KEY)], transport_options=options)
    hubs.add_hub("/hub", OwnedHub)
    hubs.add_hub("/accounts", type("AccountsHub", (OwnedHub,), {}), user_id_provider=account)
    with serving(hubs, edge, access_log=False) as running:
        yield running


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """Asks it."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:
        yield client


def token(name: str, *, seconds: float = 600, **claims: object) -> str:
    """A token for this user; each is another one."""
    return jwt.encode({"sub": name, "exp": time.time() + seconds, **claims}, KEY)


def login(name: str | None, **claims: Any) -> dict[str, str]:
    """Headers of a fresh login; None for nobody."""
    return {} if name is None else {"authorization": f"Bearer {token(name, **claims)}"}


async def negotiate(http: httpx.AsyncClient, headers: dict[str, str], hub: str = "/hub") -> str:
    """The address of a connection."""
    answer = await http.post(f"{hub}/negotiate?negotiateVersion=1&useStatefulReconnect=true", headers=headers)
    return f"{hub}?id={answer.json()['connectionToken']}"


@asynccontextmanager
async def opened(server: Server, address: str, headers: dict[str, str]) -> AsyncIterator[RawWebSocket]:
    """A WebSocket request with a login."""
    fields = [f"{name}: {value}" for name, value in headers.items()]
    async with RawWebSocket.opened(server.port, address, *fields) as client:
        yield client


def results(body: bytes) -> list[Any]:
    """What calls have returned, in the answer to a poll."""
    return [json.loads(record).get("result") for record in body.split(b"\x1e")[:-1]]


async def test_websockets(server: Server, http: httpx.AsyncClient) -> None:
    """Another user's WebSocket is refused before and after the owner's, who may come with a fresh token."""
    address = await negotiate(http, login("ann"))
    async with opened(server, address, login("bob")) as client:
        assert client.status == 403
    async with opened(server, address, login("ann")) as client:
        await client.shake_hands()
        assert (await client.invoke("Who"))["result"] == "ann"
        async with opened(server, address, login("bob")) as second:
            assert second.status == 403
        for method in ("POST", "DELETE", "GET"):
            assert (await http.request(method, address, headers=login("bob"))).status_code == 403
        assert (await client.invoke("Who"))["result"] == "ann"


async def test_stateful_reconnect(server: Server, http: httpx.AsyncClient) -> None:
    """Another user neither begins a stateful connection nor takes it over, here or away."""
    address = await negotiate(http, login("ann"))
    async with opened(server, address, login("bob")) as client:
        assert client.status == 403
    async with opened(server, address, login("ann")) as client:
        client.write_json(STATEFUL_HANDSHAKE)
        assert await client.read_json() == {}
        async with opened(server, address, login("bob")) as second:
            assert second.status == 403
        assert (await client.invoke("Who"))["result"] == "ann"
        client.reset()
    async with opened(server, address, login("bob")) as client:
        assert client.status == 403
    async with opened(server, address, login("ann")) as client:
        assert (await client.read_json())["type"] == 9


async def test_server_sent_events(http: httpx.AsyncClient) -> None:
    """Another user gets no events and posts nothing; the connection goes on."""
    address = await negotiate(http, login("ann"))
    assert (await http.get(address, headers=login("bob") | EVENTS)).status_code == 403
    assert (await http.post(address, content=HANDSHAKE, headers=login("bob"))).status_code == 403
    async with http.stream("GET", address, headers=login("ann") | EVENTS) as stream:
        assert stream.status_code == 200
        parts = stream.aiter_text()
        assert await anext(parts) == ":\r\n"
        assert (await http.get(address, headers=login("bob") | EVENTS)).status_code == 403
        assert (await http.post(address, content=HANDSHAKE, headers=login("bob"))).status_code == 403
        assert (await http.delete(address, headers=login("bob"))).status_code == 403
        assert (await http.post(address, content=HANDSHAKE, headers=login("ann"))).status_code == 200
        assert await anext(parts) == "data: {}\x1e\r\n\r\n"


async def test_long_polling(http: httpx.AsyncClient) -> None:
    """Another user cannot poll, post or end the connection, nor make its login last longer."""
    address = await negotiate(http, login("ann"))
    refused = await http.get(address, headers=login("bob"))
    assert (refused.status_code, refused.headers["cache-control"]) == (403, "no-cache, no-store")
    assert (await http.get(address, headers=login("ann", seconds=2))).status_code == 200
    for method in ("GET", "POST", "DELETE"):
        assert (await http.request(method, address, headers=login("bob"))).status_code == 403
    assert (await http.post(address, content=HANDSHAKE, headers=login("ann", seconds=2))).status_code == 200
    assert (await http.get(address, headers=login("ann", seconds=2))).content == b"{}\x1e"
    await http.post(address, content=WHO)  # without a login: that is for the hub's @authorize to refuse
    assert results((await http.get(address)).content) == ["ann"]
    until = time.monotonic() + 10
    while (answer := await http.get(address)).content == b"" and time.monotonic() < until:
        assert answer.status_code == 200
    assert answer.content == b'{"type":7,"allowReconnect":true}\x1e'


@pytest.mark.parametrize("way", ["polls", "events", "socket"])
async def test_a_login_that_comes_later(server: Server, http: httpx.AsyncClient, way: str) -> None:
    """Who negotiates without a login may connect with one; the token is that user's from then on."""
    address = await negotiate(http, {})
    if way == "polls":
        assert (await http.get(address, headers=login("ann"))).status_code == 200
        assert (await http.post(address, content=HANDSHAKE, headers=login("bob"))).status_code == 403
        assert (await http.post(address, content=HANDSHAKE, headers=login("ann"))).status_code == 200
    elif way == "events":
        async with http.stream("GET", address, headers=login("ann") | EVENTS) as stream:
            assert stream.status_code == 200
            assert (await http.post(address, content=HANDSHAKE, headers=login("bob"))).status_code == 403
            assert (await http.post(address, content=HANDSHAKE, headers=login("ann"))).status_code == 200
    else:
        async with opened(server, address, login("ann")) as client:
            await client.shake_hands()
            async with opened(server, address, login("bob")) as second:
                assert second.status == 403
            assert (await client.invoke("Who"))["result"] == "ann"


async def test_a_later_post_binds_nobody(server: Server, http: httpx.AsyncClient) -> None:
    """A POST with a login does not make a token somebody's; only the transport does."""
    address = await negotiate(http, {})
    assert (await http.post(address, headers=login("bob"))).status_code == 200
    async with opened(server, address, login("ann")) as client:
        assert client.status == 101


async def test_the_user_id_provider_decides(server: Server, http: httpx.AsyncClient) -> None:
    """Who is the same user is for the hub's provider to say; a login that it knows nobody for is not compared."""
    address = await negotiate(http, login("ann", account="x"), "/accounts")
    async with opened(server, address, login("ann", account="y")) as client:
        assert client.status == 403
    async with opened(server, address, login("bob", account="x")) as client:
        assert client.status == 101
    address = await negotiate(http, login("ann", account="x"), "/accounts")
    async with opened(server, address, login("cid")) as client:
        assert client.status == 101


async def test_a_user_id_provider_that_fails(server: Server, http: httpx.AsyncClient) -> None:
    """Its exception is the server's 500, whoever asks, and the connection is untouched."""
    broken = login("ann", account="broken")
    answer = await http.post("/accounts/negotiate?negotiateVersion=1", headers=broken)
    assert answer.status_code == 500
    address = await negotiate(http, login("ann", account="x"), "/accounts")
    assert (await http.post(address, headers=broken)).status_code == 500
    async with opened(server, address, broken) as client:
        assert client.status == 500
    async with opened(server, address, login("ann", account="x")) as client:
        await client.shake_hands()
        assert (await client.invoke("Who"))["result"] == "x"
