"""One node of the demo: a chat hub, and the page that talks to it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from hubplane import Hub, HubApp, HubOptions
from hubplane.demo.settings import DemoSettings

__all__ = ["HUB_NAME", "ChatHub", "create_app"]

HUB_NAME = "Hubplane.Demo.ChatHub"

PAGE = Path(__file__).parent / "page"

SCRIPTS = {"signalr.min.js": "signalr", "signalr-protocol-msgpack.min.js": "signalr-protocol-msgpack"}


class ChatHub(Hub):
    """What the page calls; every send goes to the clients of both nodes."""

    node = ""

    async def who_am_i(self) -> dict[str, object]:
        """Which process the caller is connected to."""
        return {"node": self.node, "pid": os.getpid()}

    async def send_message(self, id: str, user: str, text: str) -> None:  # noqa: A002 - its name in JavaScript
        """Show a message to everybody."""
        message = {"id": id, "user": user[:24], "text": text[:500], "node": self.node}
        await self.clients.all.send("ReceiveMessage", message)

    async def typing(self, user: str) -> None:
        """Tell everybody else that somebody is writing."""
        await self.clients.others.send("Typing", user[:24], self.node)

    async def probe(self, id: str) -> None:  # noqa: A002 - as above
        """Send something nobody sees: how the page finds out that messages cross."""
        await self.clients.all.send("Probe", id)


def create_app() -> Starlette:
    """The node's application, as `hubplane demo` has set it up in the environment."""
    settings = DemoSettings.from_environment()
    ChatHub.node = settings.node
    hubs = HubApp()
    hubs.add_hub("/chat", ChatHub, hub_name=HUB_NAME, options=HubOptions(enable_detailed_errors=True))
    public = {
        "nodes": [{"name": node.name, "port": node.port} for node in settings.nodes],
        "broker": settings.broker,
        "channel": f"{HUB_NAME}:all",
        "embedded": settings.outage_descriptor is not None,
        "outageSeconds": settings.outage_seconds,
    }

    async def tell_settings(_: Request) -> Response:
        return JSONResponse(public, headers={"cache-control": "no-store"})

    async def send_script(request: Request) -> Response:
        name = request.path_params["name"]
        if (package := SCRIPTS.get(name)) is None:
            return Response(status_code=404)
        return FileResponse(Path(settings.client) / "@microsoft" / package / "dist" / "browser" / name)

    async def stop_redis(request: Request) -> Response:
        # Only the page itself may ask, not some other site that the browser has open.
        origin = request.headers.get("origin", "")
        if settings.outage_descriptor is None or urlsplit(origin).netloc != request.headers.get("host"):
            return Response(status_code=403)
        os.write(settings.outage_descriptor, b"\n")
        return JSONResponse({"seconds": settings.outage_seconds}, status_code=202)

    ports = "|".join(str(node.port) for node in settings.nodes)
    return Starlette(
        lifespan=hubs.lifespan,
        routes=[
            Route("/settings.json", tell_settings),
            Route("/client/{name}", send_script),
            Route("/outage", stop_redis, methods=["POST"]),
            Mount("/hubs", hubs),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        # The page comes from one node and talks to both: the other one is another origin to the browser.
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origin_regex=rf"https?://[^/]+:({ports})",
                allow_credentials=True,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type", "x-requested-with", "x-signalr-user-agent"],
            )
        ],
    )
