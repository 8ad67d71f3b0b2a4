"""Our node of the mixed fleet: the hubs of the end-to-end tests, and the ASP.NET Core node's HTTP API in Python.

`POST /send`, `/groups/add`, `/groups/remove` and `/invoke` act from outside any hub method, as `README.md` says; `GET
/healthz` tells whether Redis is connected. HUB_NAME renames the chat hub.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any  # JSON, and hub methods' arguments

from tests.e2e.app import Bearer, InteropHub, Receive, Scope, Send

from hubplane import ClientProxy, Hub, HubApp, HubOptions, HubplaneError

TYPES: dict[str, Any] = {"object": object, "string": str, "int": int, "bool": bool}


class ChatHub(InteropHub):
    """For anyone."""

    async def ask(self, connection_id: str, question: str) -> str:
        return await self.clients.client(connection_id).invoke("Ask", question, result=str, timeout=10.0)

    async def ask_int(self, connection_id: str, question: str) -> int:
        return await self.clients.client(connection_id).invoke("AskInt", question, result=int, timeout=10.0)


class StrictHub(InteropHub):
    """For users only."""


hubs = HubApp(options=HubOptions(enable_detailed_errors=True))
hubs.add_hub("/chat", ChatHub, hub_name=os.environ.get("HUB_NAME") or "Interop.ChatHub")
hubs.add_hub("/strict", StrictHub, hub_name="Interop.StrictHub")


def audience(hub: type[Hub], to: dict[str, Any]) -> ClientProxy:
    """The clients that a body's ``to`` names."""
    clients = hubs.context(hub).clients
    ((kind, value),) = to.items()
    choose: dict[str, Callable[[], ClientProxy]] = {
        "all": lambda: clients.all,
        "except": lambda: clients.all_except(value),
        "connection": lambda: clients.client(value),
        "connections": lambda: clients.clients(value),
        "group": lambda: clients.group(value),
        "groups": lambda: clients.groups(value),
        "groupExcept": lambda: clients.group_except(value["group"], value["except"]),
        "user": lambda: clients.user(value),
        "users": lambda: clients.users(value),
    }
    return choose[kind]()


async def act(path: str, body: dict[str, Any]) -> Any:
    """Do what a request wants; the answer's body."""
    hub = StrictHub if body.get("hub") == "strict" else ChatHub
    context = hubs.context(hub)
    if path == "/healthz":
        backplane: Any = hubs.backplane
        return {"connected": backplane.is_connected}
    if path == "/send":
        return await audience(hub, body["to"]).send(body["method"], *body["args"])
    if path == "/groups/add":
        return await context.groups.add(body["connectionId"], body["group"])
    if path == "/groups/remove":
        return await context.groups.remove(body["connectionId"], body["group"])
    client = context.clients.client(body["connectionId"])
    kind = TYPES[body.get("resultType", "object")]
    result = await client.invoke(body["method"], *body["args"], result=kind, timeout=body["timeoutMs"] / 1000)
    return {"result": result}


PATHS = {"/healthz", "/send", "/groups/add", "/groups/remove", "/invoke"}


class Control:
    """Answers the HTTP API, and leaves everything else to the hubs."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status = 200
        try:
            answer = await act(scope["path"], json.loads(body or b"{}"))
        except HubplaneError as error:
            status, answer = 503, {"error": {"type": type(error).__name__, "message": str(error)}}
        text = json.dumps(answer).encode()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": text})


app = Control(Bearer(hubs))
