"""A chat in Starlette, with users: who sends a token is somebody, and can be written to by name.

Run it like this::

    hubplane serve starlette_chat:app --app-dir examples

A client says who it is with ``accessTokenFactory: () => "ann"``. A real application verifies a signature here.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from hubplane import Hub, HubApp, HubException


class TokenIsTheName(AuthenticationBackend):
    """Browsers cannot set headers on a WebSocket, so SignalR's clients send the token in the query there."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        """The user of a request, None for nobody."""
        header = conn.headers.get("authorization", "")
        name = header.removeprefix("Bearer ") or conn.query_params.get("access_token", "")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


class ChatHub(Hub):
    """Private messages between users, on whatever node and in however many windows they are."""

    async def whisper(self, to: str, text: str) -> None:
        """Clients call this as Whisper("bob", "hello")."""
        sender = self.context.user_identifier
        if sender is None:
            raise HubException("Say who you are first.")
        await self.clients.user(to).send("ReceiveMessage", sender, text)


hubs = HubApp()
hubs.add_hub("/chat", ChatHub)

app = Starlette(
    lifespan=hubs.lifespan,
    routes=[Mount("/hubs", hubs)],
    middleware=[Middleware(AuthenticationMiddleware, backend=TokenIsTheName())],
)
