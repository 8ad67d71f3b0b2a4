"""Who gets in, over real uvicorn and both edges: 401, 403, tokens, origins, CORS."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from tests.integration.edges import CLOSE, EDGES, Edge, RawWebSocket, Server, serving

from hubplane import (
    AuthorizationContext,
    Hub,
    HubApp,
    HubFilter,
    HubInvocationContext,
    JwtAuthenticator,
    TransportOptions,
    authorize,
)
from hubplane.hubs.filters import NextInvocation

KEY = "a secret that is long enough for HS256"
APP = "https://app.example"


def token(name: str, *, seconds: float = 600) -> str:
    """A token for this user."""
    return jwt.encode({"sub": name, "exp": time.time() + seconds}, KEY)


def not_mallory(context: AuthorizationContext) -> bool:
    """Knows whom to keep out."""
    return getattr(context.user, "identity", None) != "mallory"


async def mine_only(context: AuthorizationContext) -> bool:
    """Knows what is whose."""
    return context.arguments[0] == "mine"


@authorize(not_mallory)
class MembersHub(Hub):
    """For users only."""

    async def who(self) -> str | None:
        return self.context.user_identifier

    @authorize(mine_only)
    async def read(self, what: str) -> str:
        return what


class OpenHub(Hub):
    """For everybody."""

    async def who(self) -> str | None:
        return self.context.user_identifier


class Sign(HubFilter):
    """Adds its sign to each result."""

    def __init__(self, sign: str) -> None:
        self.sign = sign

    async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
        return f"{self.sign}({await next_(invocation)})"


def make_app() -> Starlette:
    """The recipe of docs/how-to/users.md."""
    hubs = HubApp(authenticators=[JwtAuthenticator(KEY)], filters=[Sign("app")])
    hubs.add_hub("/members", MembersHub, filters=[Sign("hub")])
    hubs.add_hub("/open", OpenHub, transport_options=TransportOptions(close_on_authentication_expiration=True))
    hubs.add_hub(
        "/listed", type("ListedHub", (OpenHub,), {}), transport_options=TransportOptions(allowed_origins=(APP,))
    )
    cors = Middleware(
        CORSMiddleware,
        allow_origins=[APP],
        allow_credentials=True,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["authorization", "x-requested-with", "x-signalr-user-agent"],
    )
    return Starlette(lifespan=hubs.lifespan, routes=[Mount("/hubs", hubs)], middleware=[cors])


@pytest.fixture(params=EDGES, ids=lambda edge: edge.name, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Edge]]:
    """A server shared by the tests of an edge."""
    edge: Edge = request.param
    with serving(make_app(), edge, access_log=False) as running:
        yield running, edge


@pytest.fixture
def port(server: tuple[Server, Edge]) -> int:
    """Its port."""
    return server[0].port


@pytest.fixture
def http(server: tuple[Server, Edge]) -> Iterator[httpx.Client]:
    """Asks it."""
    with httpx.Client(base_url=server[0].url) as client:
        yield client


def bearer(name: str) -> dict[str, str]:
    """The header of this user's token."""
    return {"authorization": f"Bearer {token(name)}"}


@pytest.mark.row("B23")
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/negotiate?negotiateVersion=1"), ("GET", "?id=x"), ("POST", "?id=x"), ("DELETE", "?id=x")],
)
def test_a_guarded_hub_refuses_each_http_request(http: httpx.Client, method: str, path: str) -> None:
    """Nobody, and whoever brings a bad token, gets 401; a user whom the policy refuses 403; others are answered."""
    nobody = http.request(method, f"/hubs/members{path}")
    assert (nobody.status_code, nobody.content, nobody.headers["www-authenticate"]) == (401, b"", "Bearer")
    forged = {"authorization": f"Bearer {token('ann')[:-2]}"}
    assert http.request(method, f"/hubs/members{path}", headers=forged).status_code == 401
    refused = http.request(method, f"/hubs/members{path}", headers=bearer("mallory"))
    assert (refused.status_code, refused.content) == (403, b"")
    allowed = http.request(method, f"/hubs/members{path}", headers=bearer("ann"))
    assert allowed.status_code == (200 if "negotiate" in path else 404)


@pytest.mark.row("B23")
async def test_a_guarded_hub_refuses_websockets(port: int) -> None:
    """The upgrade request is answered with 401 or 403."""
    async with RawWebSocket.opened(port, "/hubs/members") as client:
        assert (client.status, client.body) == (401, b"")
    async with RawWebSocket.opened(port, f"/hubs/members?access_token={token('mallory')}") as client:
        assert (client.status, client.body) == (403, b"")


async def call(client: RawWebSocket, target: str, *arguments: object) -> dict[str, object]:
    """Shake hands, call, and return the completion."""
    client.write_frame(1, b'{"protocol":"json","version":1}\x1e')
    assert (await client.read_frame())[1] == b"{}\x1e"
    message = {"type": 1, "invocationId": "1", "target": target, "arguments": arguments}
    client.write_frame(1, json.dumps(message).encode() + b"\x1e")
    answer: dict[str, object] = json.loads((await client.read_frame())[1].rstrip(b"\x1e"))
    return answer


@pytest.mark.row("B24", "B140")
@pytest.mark.parametrize("where", ["header", "query", "both"])
async def test_a_token_counts_in_header_and_query(
    server: tuple[Server, Edge], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The token makes the user, the header's before the query's; filters of the app stand around the hub's."""
    running, edge = server
    fields = [] if where == "query" else [f"Authorization: Bearer {token('ann')}"]
    in_query = "" if where == "header" else f"?access_token={token('bob' if where == 'both' else 'ann')}"
    with caplog.at_level(logging.DEBUG):
        async with RawWebSocket.opened(running.port, f"/hubs/members{in_query}", *fields) as client:
            assert client.status == 101
            assert (await call(client, "Who"))["result"] == "app(hub(ann))"
    if edge.fast:  # uvicorn's own WebSocket classes log the query; ours does not
        assert "eyJ" not in caplog.text


@pytest.mark.row("B100")
async def test_a_method_may_refuse(port: int) -> None:
    """A call that a policy refuses is told so, and the connection goes on."""
    async with RawWebSocket.opened(port, f"/hubs/members?access_token={token('ann')}") as client:
        assert (await call(client, "read", "yours"))["error"] == "Failed to invoke 'Read' because user is unauthorized"
        message = {"type": 1, "invocationId": "2", "target": "read", "arguments": ["mine"]}
        client.write_frame(1, json.dumps(message).encode() + b"\x1e")
        assert json.loads((await client.read_frame())[1].rstrip(b"\x1e"))["result"] == "app(hub(mine))"


@pytest.mark.row("B131")
async def test_an_expired_token_ends_the_connection(port: int) -> None:
    """When the token expires, a Close message allows to reconnect, without an error."""
    async with RawWebSocket.opened(port, f"/hubs/open?access_token={token('ann', seconds=1)}") as client:
        assert (await call(client, "Who"))["result"] == "app(ann)"
        assert json.loads((await client.read_frame())[1].rstrip(b"\x1e")) == {"type": 7, "allowReconnect": True}
        assert (await client.read_frame())[0] == CLOSE


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("open", [], 101),
        ("open", ["Cookie: session=1"], 101),
        ("open", ["Origin: https://evil.example"], 101),
        ("open", ["Origin: https://evil.example", "Cookie: session=1"], 403),
        ("open", ["Origin: http://localhost", "Cookie: session=1"], 101),
        ("listed", ["Origin: https://evil.example"], 403),
        ("listed", [f"Origin: {APP}", "Cookie: session=1"], 101),
        ("listed", ["Origin: http://localhost", "Cookie: session=1"], 101),
    ],
)
async def test_pages_of_others_cannot_use_cookies(port: int, path: str, fields: list[str], status: int) -> None:
    """A WebSocket with cookies is for pages of this host and of the allowed origins."""
    async with RawWebSocket.opened(port, f"/hubs/{path}", *fields) as client:
        assert client.status == status


@pytest.mark.row("B25")
def test_cors_is_the_frameworks(http: httpx.Client) -> None:
    """With Starlette's middleware preflights and answers, refusals too, name the origin and allow credentials."""
    preflight = http.options(
        "/hubs/members/negotiate",
        headers={
            "origin": APP,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-requested-with,x-signalr-user-agent",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == APP
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert {"GET", "POST", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
    for headers, status in (({}, 401), (bearer("ann"), 200)):
        answer = http.post("/hubs/members/negotiate", headers={"origin": APP, **headers})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == APP
        assert answer.headers["access-control-allow-credentials"] == "true"
    other = http.post("/hubs/members/negotiate", headers={"origin": "https://evil.example", **bearer("ann")})
    assert "access-control-allow-origin" not in other.headers
