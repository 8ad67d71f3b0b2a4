"""New logins for clients that stay connected, over real uvicorn and both edges."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any  # JSON

import httpx
import jwt
import pytest
from tests.integration.edges import CLOSE, EDGES, Edge, RawWebSocket, Server, serving

from hubplane import (
    AuthenticationRefreshContext,
    AuthorizationContext,
    Hub,
    HubApp,
    JwtAuthenticator,
    TransportOptions,
    authorize,
)

KEY = "a secret that is long enough for HS256"
HANDSHAKE = b'{"protocol":"json","version":1}\x1e'


def token(name: str, *, seconds: float = 600, **claims: object) -> str:
    """A token for this user."""
    return jwt.encode({"sub": name, "exp": int(time.time() + seconds), **claims}, KEY)


def bearer(text: str) -> dict[str, str]:
    """The header of a token."""
    return {"authorization": f"Bearer {text}"}


def is_admin(context: AuthorizationContext) -> bool:
    """Knows who may delete."""
    return bool(getattr(context.user, "claims", {}).get("role") == "admin")


class RefreshedHub(Hub):
    """Tells about the login that it sees."""

    async def role(self) -> str | None:
        claims: dict[str, Any] = getattr(self.context.user, "claims", {})
        return claims.get("role")

    @authorize(is_admin)
    async def delete(self) -> str:
        return "deleted"

    async def on_authentication_refreshed(self) -> None:
        role = await self.role()
        await self.clients.caller.send("Refreshed", role, self.context.user_identifier)
        if role == "broken":
            raise LookupError("broken")


class ClosedHub(RefreshedHub):
    """Takes no new logins."""


class GuardedHub(RefreshedHub):
    """Asks before it takes one."""


async def no_demotion(context: AuthenticationRefreshContext) -> bool:
    """Lets nobody become a guest."""
    claims: dict[str, Any] = getattr(context.new_user, "claims", {})
    assert getattr(context.previous_user, "identity", None) == "ann"
    assert context.expires_at == claims["exp"]
    return claims.get("role") != "guest"


def make_app() -> HubApp:
    """Three hubs, one of each kind."""
    hubs = HubApp(
        authenticators=[JwtAuthenticator(KEY)],
        transport_options=TransportOptions(
            enable_authentication_refresh=True, close_on_authentication_expiration=True, poll_timeout=1
        ),
    )
    hubs.add_hub("/hub", RefreshedHub)
    hubs.add_hub("/guarded", GuardedHub, on_authentication_refresh=no_demotion)
    hubs.add_hub("/closed", ClosedHub, transport_options=TransportOptions(enable_authentication_refresh=False))
    return hubs


@pytest.fixture(params=EDGES[:2], ids=lambda edge: edge.name, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server shared by the tests of an edge."""
    edge: Edge = request.param
    with serving(make_app(), edge, access_log=False) as running:
        yield running


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """Asks it."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:
        yield client


async def negotiate(http: httpx.AsyncClient, login: str, hub: str = "/hub", version: int = 1) -> dict[str, Any]:
    """The answer to a negotiate request."""
    answer = await http.post(f"{hub}/negotiate?negotiateVersion={version}", headers=bearer(login))
    found: dict[str, Any] = answer.json()
    return found


async def refresh(http: httpx.AsyncClient, key: str, login: str = "", hub: str = "/hub") -> tuple[int, Any]:
    """Status and JSON of a refresh."""
    answer = await http.post(f"{hub}/refresh?id={key}", headers=bearer(login) if login else {})
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()


async def test_negotiate_tells_how_long_a_login_lasts(http: httpx.AsyncClient) -> None:
    """With refresh on, negotiate has `tokenLifetimeSeconds`; not without a login, in version 0, or with refresh off."""
    assert 598 <= (await negotiate(http, token("ann")))["tokenLifetimeSeconds"] <= 600
    assert "tokenLifetimeSeconds" not in (await http.post("/hub/negotiate?negotiateVersion=1")).json()
    assert "tokenLifetimeSeconds" not in await negotiate(http, token("ann"), version=0)
    assert "tokenLifetimeSeconds" not in await negotiate(http, token("ann"), "/closed")


async def test_what_is_refused(http: httpx.AsyncClient) -> None:
    """Each reason has .NET's status and code."""
    login = token("ann")
    opened = await negotiate(http, login)
    assert await refresh(http, "x", login, "/closed") == (404, {"error": "refresh_disabled"})
    assert await refresh(http, "", login) == (400, {"error": "missing_connection_token"})
    assert await refresh(http, "x", login) == (404, {"error": "connection_not_found"})
    assert await refresh(http, opened["connectionId"], login) == (404, {"error": "connection_not_found"})
    old = await negotiate(http, login, version=0)
    assert await refresh(http, old["connectionId"], login) == (400, {"error": "unsupported_negotiate_version"})
    assert await refresh(http, opened["connectionToken"]) == (401, {"error": "invalid_token"})
    assert await refresh(http, opened["connectionToken"], "forged") == (401, {"error": "invalid_token"})
    expired = token("ann", seconds=-5)
    assert await refresh(http, opened["connectionToken"], expired) == (401, {"error": "invalid_token"})
    assert (await http.get("/hub/refresh?id=x")).status_code == 405
    status, body = await refresh(http, opened["connectionToken"], login)  # nothing is connected yet
    assert status == 200
    assert 598 <= body["tokenLifetimeSeconds"] <= 600


async def test_a_connection_goes_on_with_its_new_login(server: Server, http: httpx.AsyncClient) -> None:
    """The hub is told, calls and policies see the new claims, and a callback that fails harms nothing."""
    first = token("ann")
    key = (await negotiate(http, first))["connectionToken"]
    async with RawWebSocket.opened(server.port, f"/hub?id={key}&access_token={first}") as client:
        await client.shake_hands()
        assert "unauthorized" in (await client.invoke("Delete"))["error"]
        assert (await refresh(http, key, token("ann", seconds=601, role="admin")))[0] == 200
        assert (await client.read_json())["arguments"] == ["admin", "ann"]
        assert (await client.invoke("Role"))["result"] == "admin"
        assert (await client.invoke("Delete"))["result"] == "deleted"
        assert (await refresh(http, key, token("ann", seconds=602, role="broken")))[0] == 200
        assert (await client.read_json())["arguments"] == ["broken", "ann"]
        assert (await refresh(http, key, token("ann", seconds=60, role="older")))[0] == 200
        assert (await client.invoke("Role"))["result"] == "broken"
        assert await client.close() == 1000


async def test_a_login_of_somebody_else_ends_the_connection(server: Server, http: httpx.AsyncClient) -> None:
    """Another user identifier aborts the connection, without permission to reconnect."""
    first = token("ann")
    key = (await negotiate(http, first))["connectionToken"]
    async with RawWebSocket.opened(server.port, f"/hub?id={key}&access_token={first}") as client:
        await client.shake_hands()
        assert (await refresh(http, key, token("bob", seconds=900)))[0] == 200
        assert await client.read_json() == {"type": 7}
        opcode, _ = await client.read_frame()
        assert opcode == CLOSE


async def test_the_application_may_refuse_a_login(server: Server, http: httpx.AsyncClient) -> None:
    """A refusal is 403, and the connection stays as it is."""
    first = token("ann")
    key = (await negotiate(http, first, "/guarded"))["connectionToken"]
    async with RawWebSocket.opened(server.port, f"/guarded?id={key}&access_token={first}") as client:
        await client.shake_hands()
        refused = await refresh(http, key, token("ann", seconds=700, role="guest"), "/guarded")
        assert refused == (403, {"error": "permission_change_rejected"})
        assert (await client.invoke("Role"))["result"] is None
        assert (await refresh(http, key, token("ann", seconds=700, role="admin"), "/guarded"))[0] == 200
        assert (await client.read_json())["arguments"] == ["admin", "ann"]


def messages(body: bytes) -> list[Any]:
    """The hub messages of a poll."""
    return [json.loads(record) for record in body.split(b"\x1e")[:-1]]


async def test_polls_bring_new_logins(http: httpx.AsyncClient) -> None:
    """A poll with a newer token refreshes the login, one with the same or an older or none changes nothing."""
    first = token("ann", role="one")
    address = f"/hub?id={(await negotiate(http, first))['connectionToken']}"
    await http.get(address, headers=bearer(first))
    await http.post(address, content=HANDSHAKE, headers=bearer(first))
    assert (await http.get(address, headers=bearer(first))).content == b"{}\x1e"
    second = token("ann", seconds=700, role="two")
    (told,) = messages((await http.get(address, headers=bearer(second))).content)
    assert told["arguments"] == ["two", "ann"]
    role = b'{"type":1,"invocationId":"1","target":"Role","arguments":[]}\x1e'
    for login in (bearer(first), bearer(second), {}):
        await http.post(address, content=role, headers=login)
        (answer,) = messages((await http.get(address, headers=login)).content)
        assert answer["result"] == "two"
    assert (await http.delete(address)).status_code == 202


async def test_a_refused_login_ends_the_polling_connection(http: httpx.AsyncClient) -> None:
    """A poll whose login the application refuses is answered with 403, and the connection is gone."""
    first = token("ann")
    address = f"/guarded?id={(await negotiate(http, first, '/guarded'))['connectionToken']}"
    await http.get(address, headers=bearer(first))
    await http.post(address, content=HANDSHAKE, headers=bearer(first))
    assert (await http.get(address, headers=bearer(first))).content == b"{}\x1e"
    refused = await http.get(address, headers=bearer(token("ann", seconds=700, role="guest")))
    assert (refused.status_code, refused.json()) == (403, {"error": "permission_change_rejected"})
    assert (await http.get(address, headers=bearer(first))).status_code == 404
