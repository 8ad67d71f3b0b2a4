"""A chat in FastAPI: login by JSON Web Token, rooms, private messages, and a route that sends to everybody.

Run it as one node, or as several that act as one and therefore share a secret::

    hubplane serve fastapi_chat:app --app-dir examples

    export CHAT_SECRET=$(python -c "import secrets; print(secrets.token_hex())")
    hubplane serve fastapi_chat:app --app-dir examples --workers 4 --redis redis://localhost:6379

Any other ASGI server will do as well: ``uvicorn --app-dir examples fastapi_chat:app``.

``POST /login`` answers with a token; a client hands it in with ``accessTokenFactory: () => token``.
"""

from __future__ import annotations

import os
import secrets
import time

import jwt
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from hubplane import Hub, HubApp, HubException, JwtAuthenticator, authorize

KEY = os.environ.get("CHAT_SECRET") or secrets.token_hex()  # processes that act as one need the same
PASSWORDS = {"ann": "apple", "bob": "banana"}  # a real application keeps hashes in a database


@authorize
class ChatHub(Hub):
    """For users only. They are in the lobby, and may join rooms."""

    async def on_connected(self) -> None:
        """Clients hear the lobby from the start."""
        await self.groups.add(self.context.connection_id, "lobby")

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


# Redis comes from --redis or HUBPLANE_REDIS; without either this is one node in memory.
hubs = HubApp(authenticators=[JwtAuthenticator(KEY)])
hubs.add_hub("/chat", ChatHub)

app = FastAPI(lifespan=hubs.lifespan)
app.mount("/hubs", hubs)


class Login(BaseModel):
    """What the login form sends."""

    name: str
    password: str


@app.post("/login")
async def login(form: Login) -> dict[str, str]:
    """A token for an hour, for who knows the password."""
    if not secrets.compare_digest(PASSWORDS.get(form.name, "").encode(), form.password.encode()) or not form.password:
        raise HTTPException(401, "Wrong name or password.")
    return {"token": jwt.encode({"sub": form.name, "exp": time.time() + 3600}, KEY)}


@app.post("/announce")
async def announce(text: str) -> dict[str, bool]:
    """Send from outside a hub: to the lobby of every node."""
    await hubs.context(ChatHub).clients.group("lobby").send("ReceiveMessage", "server", text)
    return {"sent": True}
