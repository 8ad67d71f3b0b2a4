"""A chat without a web framework: the hubs are the application. Login by JSON Web Token, rooms, private messages.

Run it under the command, or under any ASGI server::

    export CHAT_SECRET=$(python -c "import secrets; print(secrets.token_hex())")
    hubplane serve plain_chat:app --app-dir examples
    uvicorn --app-dir examples plain_chat:app

Who may in is decided elsewhere, by a service that signs tokens. This file plays that service as well::

    python examples/plain_chat.py ann

prints a token for Ann, which a client hands in with ``accessTokenFactory: () => token``.
"""

from __future__ import annotations

import os
import sys
import time

import jwt

from hubplane import Hub, HubApp, HubException, JwtAuthenticator, authorize

KEY = os.environ["CHAT_SECRET"]


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


app = HubApp(authenticators=[JwtAuthenticator(KEY)])
app.add_hub("/hubs/chat", ChatHub)


if __name__ == "__main__":
    print(jwt.encode({"sub": sys.argv[1], "exp": time.time() + 3600}, KEY))
