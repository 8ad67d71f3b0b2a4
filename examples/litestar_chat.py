"""A chat in Litestar: login by its session middleware, rooms, and private messages.

Run it like this::

    hubplane serve litestar_chat:app --app-dir examples

``POST /login`` puts the name into the session, which lives in an encrypted cookie. Whoever Litestar calls the
connection's user is the hub's user. Litestar itself refuses those who are not logged in, with 401.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Request, asgi, post
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.middleware.session.client_side import ClientSideSessionBackend, CookieBackendConfig
from litestar.security.session_auth import SessionAuth
from litestar.types import Receive, Scope, Send

from hubplane import Hub, HubApp, HubException

KEY = os.environ.get("CHAT_SECRET") or secrets.token_hex()  # processes that act as one need the same
PASSWORDS = {"ann": "apple", "bob": "banana"}  # a real application keeps hashes in a database


@dataclass
class Login:
    """What the login form sends."""

    name: str
    password: str


@dataclass
class User:
    """Who is logged in; hubplane takes `username` for the user's id."""

    username: str


async def user_of_session(session: dict[str, Any], _connection: ASGIConnection[Any, Any, Any, Any]) -> User | None:
    """Litestar asks this for every request but the login."""
    return User(session["name"]) if "name" in session else None


@post("/login", status_code=200)
async def login(data: Login, request: Request[Any, Any, Any]) -> dict[str, str]:
    """For who knows the password."""
    if not data.password or not secrets.compare_digest(PASSWORDS.get(data.name, "").encode(), data.password.encode()):
        raise NotAuthorizedException("Wrong name or password.")
    request.set_session({"name": data.name})
    return {"name": data.name}


class ChatHub(Hub):
    """For users only, since Litestar lets nobody else through."""

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


@asgi("/hubs", is_mount=True, copy_scope=True)
async def mounted_hubs(scope: Scope, receive: Receive, send: Send) -> None:
    """Everything below /hubs, HTTP and WebSockets."""
    await hubs(scope, receive, send)


auth = SessionAuth[User, ClientSideSessionBackend](
    retrieve_user_handler=user_of_session,
    session_backend_config=CookieBackendConfig(secret=bytes.fromhex(KEY)),
    exclude=["^/login$"],
)

app = Litestar([login, mounted_hubs], lifespan=[hubs.lifespan], on_app_init=[auth.on_app_init])
