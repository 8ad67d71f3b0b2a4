"""A page with Microsoft's client, and hubs behind a login by cookie or token, for the tests in Chromium.

With ``PAGE_ORIGIN`` the pages of that origin may use these hubs: by the recipe of docs/how-to/users.md.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, PlainTextResponse
from starlette.routing import Mount, Route

from hubplane import Hub, HubApp, HubOptions, TransportOptions, authorize

HERE = Path(__file__).parent
LIBRARIES = HERE / "node_modules" / "@microsoft"
PAGE_ORIGIN = os.environ.get("PAGE_ORIGIN", "")


class CookieOrToken(AuthenticationBackend):
    """The name is the token; the tests need no secret."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        header = conn.headers.get("authorization", "").removeprefix("Bearer ")
        name = header or conn.query_params.get("access_token", "") or conn.cookies.get("login", "")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


class ChatHub(Hub):
    """For everybody."""

    async def who(self) -> dict[str, str | None]:
        """The user, and how the request that carries the connection has named them."""
        request = self.context.request
        ways = {
            "header": request.header("authorization"),
            "query": request.query_value("access_token"),
            "cookie": request.header("cookie"),
        }
        way = next((name for name, value in ways.items() if value), None)
        return {"user": self.context.user_identifier, "by": way}

    async def echo(self, value: str) -> str:
        return value

    async def join(self, room: str) -> None:
        await self.groups.add(self.context.connection_id, room)

    async def send_to_room(self, room: str, text: str) -> None:
        await self.clients.group(room).send("ReceiveMessage", text)

    async def send_to_me(self, text: str) -> None:
        await self.clients.caller.send("ReceiveMessage", text)

    async def count(self, number: int) -> AsyncIterator[int]:
        for each in range(number):
            yield each


@authorize
class MembersHub(ChatHub):
    """For users."""


async def page(_: Request) -> FileResponse:
    """Microsoft's client, and what the tests call."""
    return FileResponse(HERE / "browser_page.html")


async def library(request: Request) -> FileResponse:
    """A file of Microsoft's packages for browsers."""
    name = request.path_params["name"]
    return FileResponse(LIBRARIES / name.removesuffix(".min.js") / "dist" / "browser" / name)


async def login(request: Request) -> PlainTextResponse:
    """Whoever says who they are is."""
    answer = PlainTextResponse("")
    answer.set_cookie("login", request.query_params["name"], httponly=True, samesite="lax")
    return answer


cors = Middleware(
    CORSMiddleware,
    allow_origins=[PAGE_ORIGIN],
    allow_credentials=True,
    allow_methods=["GET", "POST", "DELETE"],
    allow_headers=["authorization", "x-requested-with", "x-signalr-user-agent"],
)
hubs = HubApp(
    options=HubOptions(enable_detailed_errors=True),
    transport_options=TransportOptions(
        allowed_origins=(PAGE_ORIGIN,) if PAGE_ORIGIN else (),
        allow_stateful_reconnects=True,
    ),
)
hubs.add_hub("/chat", ChatHub)
hubs.add_hub("/members", MembersHub)
app = Starlette(
    lifespan=hubs.lifespan,
    routes=[
        Route("/", page),
        Route("/lib/{name}", library),
        Route("/login", login, methods=["POST"]),
        Mount("/hubs", hubs),
    ],
    middleware=[*([cors] if PAGE_ORIGIN else []), Middleware(AuthenticationMiddleware, backend=CookieOrToken())],
)
