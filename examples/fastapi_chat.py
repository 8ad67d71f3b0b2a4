"""A chat in FastAPI: a hub beside ordinary routes, and a route that sends to everybody.

Run it with one node, or with several that act as one::

    hubplane serve fastapi_chat:app --app-dir examples
    hubplane serve fastapi_chat:app --app-dir examples --workers 4 --redis redis://localhost:6379

Any other ASGI server will do as well: ``uvicorn --app-dir examples fastapi_chat:app``.
"""

from __future__ import annotations

from fastapi import FastAPI

from hubplane import Hub, HubApp, HubException


class ChatHub(Hub):
    """Everybody is in the lobby, and may join rooms."""

    async def on_connected(self) -> None:
        """Clients hear the lobby from the start."""
        await self.groups.add(self.context.connection_id, "lobby")

    async def join(self, room: str) -> None:
        """Clients call this as Join("..."); from then on they hear the room."""
        await self.groups.add(self.context.connection_id, room)

    async def send_message(self, room: str, user: str, text: str) -> None:
        """Clients call this as SendMessage("lobby", "ann", "hello")."""
        if not text.strip():
            raise HubException("Say something.")
        await self.clients.group(room).send("ReceiveMessage", user, text)


# Redis comes from --redis or HUBPLANE_REDIS; without either this is one node in memory.
hubs = HubApp()
hubs.add_hub("/chat", ChatHub)

app = FastAPI(lifespan=hubs.lifespan)
app.mount("/hubs", hubs)


@app.post("/announce")
async def announce(text: str) -> dict[str, bool]:
    """Send from outside a hub: to the lobby of every node."""
    await hubs.context(ChatHub).clients.group("lobby").send("ReceiveMessage", "server", text)
    return {"sent": True}
