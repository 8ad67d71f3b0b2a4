"""A chat in Starlette: login by cookie through its AuthenticationMiddleware, rooms, and private messages.

Run it like this::

    hubplane serve starlette_chat:app --app-dir examples

``POST /login`` sets the cookie; a browser sends it along by itself. Whoever Starlette's middleware calls
``request.user`` is the hub's user.
"""

from __future__ import annotations

import os
import secrets
import time

import jwt
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from hubplane import Hub, HubApp, HubException, authorize

KEY = os.environ.get("CHAT_SECRET") or secrets.token_hex()  # processes that act as one need the same
PASSWORDS = {"ann": "apple", "bob": "banana"}  # a real application keeps hashes in a database
COOKIE = "login"


class SignedCookie(AuthenticationBackend):
    """The cookie holds the user's name, signed."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        """The user of a request, None for nobody."""
        try:
            claims = jwt.decode(conn.cookies.get(COOKIE, ""), KEY, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            return None
        return AuthCredentials(["authenticated"]), SimpleUser(claims["sub"])


async def login(request: Request) -> JSONResponse:
    """For who knows the password."""
    form = await request.json()
    name, password = str(form["name"]), str(form["password"])
    if not password or not secrets.compare_digest(PASSWORDS.get(name, "").encode(), password.encode()):
        return JSONResponse({"error": "Wrong name or password."}, 401)
    answer = JSONResponse({"name": name})
    # SameSite keeps the cookie from requests that pages of other sites make; behind TLS add secure=True.
    answer.set_cookie(
        COOKIE,
        jwt.encode({"sub": name, "exp": time.time() + 3600}, KEY),
        httponly=True,
        samesite="lax",
    )
    return answer


@authorize
class ChatHub(Hub):
    """For users only."""

    async def join(self, room: str) -> None:
        """Clients call this as Join("..."); from then on they hear the room."""
        await self.groups.add(self.context.connection_id, room)

    async def leave(self, room: str) -> None:
        """Leave("...") ends it."""
        await self.groups.remove(self.context.connection_id, room)

    async def send_message(self, room: str, text: str) -> None:
        """SendMessage("lobby", "hello"); everybody in the room gets ReceiveMessage(user, text)."""
        if not text.strip():
            raise HubException("Say something.")
        await self.clients.group(room).send("ReceiveMessage", self.context.user_identifier, text)

    async def whisper(self, to: str, text: str) -> None:
        """Whisper("bob", "psst") reaches Bob in all his windows, on whatever node they are."""
        await self.clients.user(to).send("ReceiveMessage", self.context.user_identifier, text)


hubs = HubApp()
hubs.add_hub("/chat", ChatHub)

app = Starlette(
    lifespan=hubs.lifespan,
    routes=[Route("/login", login, methods=["POST"]), Mount("/hubs", hubs)],
    middleware=[Middleware(AuthenticationMiddleware, backend=SignedCookie())],
)
