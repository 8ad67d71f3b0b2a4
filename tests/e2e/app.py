"""The hubs of the end-to-end tests: the methods of the ASP.NET Core node of the mixed fleet, in Python.

`Interop.ChatHub` at ``/chat`` is for anyone, `Interop.StrictHub` at ``/strict`` wants a token. The token is
``user:NAME``, in the header ``Authorization: Bearer`` or in the query's ``access_token``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any  # what clients send through Echo and Broadcast
from urllib.parse import parse_qs

from hubplane import (
    ClientResultError,
    ConnectionRequest,
    Hub,
    HubApp,
    HubException,
    HubOptions,
    NegotiateRedirect,
    TransportOptions,
)

MESSAGE = "ReceiveMessage"
NODE = os.environ.get("NODE", "hubplane")
endless_streams: set[str] = set()


class InteropHub(Hub):
    """Every method that sends delivers ReceiveMessage(user, text), unless it says otherwise."""

    async def echo(self, value: Any) -> Any:
        return value

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def who_am_i(self) -> dict[str, str | None]:
        return {
            "connectionId": self.context.connection_id,
            "userId": self.context.user_identifier,
            "node": NODE,
        }

    async def query(self, name: str) -> str | None:
        return self.context.request.query_value(name)

    async def process(self) -> int:
        return os.getpid()

    async def sleep(self, milliseconds: int) -> int:
        await asyncio.sleep(milliseconds / 1000)
        return milliseconds

    async def abort(self) -> None:
        self.context.abort()

    async def fail(self, kind: str) -> None:
        if kind == "hub":
            raise HubException("a hub failure")
        raise ValueError("a failure")

    async def send_message(self, user: str, text: str) -> None:
        await self.clients.all.send(MESSAGE, user, text)

    async def send_to_caller(self, user: str, text: str) -> None:
        await self.clients.caller.send(MESSAGE, user, text)

    async def send_to_others(self, user: str, text: str) -> None:
        await self.clients.others.send(MESSAGE, user, text)

    async def send_to_all_except(self, ids: list[str], user: str, text: str) -> None:
        await self.clients.all_except(ids).send(MESSAGE, user, text)

    async def send_to_connection(self, connection_id: str, user: str, text: str) -> None:
        await self.clients.client(connection_id).send(MESSAGE, user, text)

    async def send_to_connections(self, ids: list[str], user: str, text: str) -> None:
        await self.clients.clients(ids).send(MESSAGE, user, text)

    async def send_to_group(self, group: str, user: str, text: str) -> None:
        await self.clients.group(group).send(MESSAGE, user, text)

    async def send_to_groups(self, groups: list[str], user: str, text: str) -> None:
        await self.clients.groups(groups).send(MESSAGE, user, text)

    async def send_to_group_except(self, group: str, ids: list[str], user: str, text: str) -> None:
        await self.clients.group_except(group, ids).send(MESSAGE, user, text)

    async def send_to_others_in_group(self, group: str, user: str, text: str) -> None:
        await self.clients.others_in_group(group).send(MESSAGE, user, text)

    async def send_to_user(self, user_id: str, user: str, text: str) -> None:
        await self.clients.user(user_id).send(MESSAGE, user, text)

    async def send_to_users(self, user_ids: list[str], user: str, text: str) -> None:
        await self.clients.users(user_ids).send(MESSAGE, user, text)

    async def broadcast(self, method: str, args: list[Any]) -> None:
        await self.clients.all.send(method, *args)

    async def join(self, group: str) -> None:
        await self.groups.add(self.context.connection_id, group)

    async def leave(self, group: str) -> None:
        await self.groups.remove(self.context.connection_id, group)

    async def add_other(self, connection_id: str, group: str) -> None:
        await self.groups.add(connection_id, group)

    async def remove_other(self, connection_id: str, group: str) -> None:
        await self.groups.remove(connection_id, group)

    async def counter(self, count: int, delay_ms: int) -> AsyncIterator[int]:
        for number in range(count):
            if delay_ms:
                await asyncio.sleep(delay_ms / 1000)
            yield number

    async def failing_stream(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        raise HubException("the stream failed")

    async def endless(self, name: str) -> AsyncIterator[int]:
        """Counts until somebody stops it; `running` tells whether it does."""
        endless_streams.add(name)
        try:
            for number in itertools.count():
                yield number
                await asyncio.sleep(0.01)
        finally:
            endless_streams.discard(name)

    async def running(self, name: str) -> bool:
        return name in endless_streams

    async def upload(self, texts: AsyncIterator[str]) -> str:
        return ",".join([text async for text in texts])

    async def echo_stream(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item

    async def repeat(self, text: str, count: int) -> str:
        return text * count

    async def ask(self, connection_id: str, question: str) -> str:
        return await self.clients.client(connection_id).invoke("Ask", question, result=str, timeout=10)

    async def ask_int(self, connection_id: str, question: str) -> int:
        return await self.clients.client(connection_id).invoke("AskInt", question, result=int, timeout=10)

    async def ask_within(self, connection_id: str, milliseconds: int) -> str:
        """What became of a question, in words."""
        client = self.clients.client(connection_id)
        try:
            return str(await client.invoke("Ask", "anybody?", result=str, timeout=milliseconds / 1000))
        except (HubException, ClientResultError) as error:
            return f"{type(error).__name__}: {error}"


class ChatHub(InteropHub):
    """For anyone."""


class StrictHub(InteropHub):
    """For users only."""


class DoorHub(Hub):
    """Sends everybody to the address in the query, as the user in the query, or away."""


async def door(request: ConnectionRequest) -> NegotiateRedirect:
    """What `DoorHub` answers to negotiate."""
    url = request.query_value("to")
    if url is None:
        raise HubException("Nobody is let in here.")
    return NegotiateRedirect(url=url, access_token=f"user:{request.query_value('as')}")


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Bearer:
    """Puts the user of a token into ``scope["user"]``, and keeps everybody else out of ``/strict``."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        name = self._user(scope)
        if name:
            scope["user"] = {"sub": name}
        elif scope["path"].startswith("/strict"):
            kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
            if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1008})
                return
            await send({"type": f"{kind}.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": f"{kind}.body", "body": b""})
            return
        await self._app(scope, receive, send)

    @staticmethod
    def _user(scope: Scope) -> str:
        header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        token = header[7:].strip() if header.lower().startswith("bearer ") else ""
        token = token or parse_qs(scope["query_string"].decode("latin-1")).get("access_token", [""])[0]
        return token.removeprefix("user:") if token.startswith("user:") else ""


hubs = HubApp(
    options=HubOptions(enable_detailed_errors=bool(os.environ.get("DETAILED_ERRORS"))),
    transport_options=TransportOptions(allow_stateful_reconnects=True),
)
hubs.add_hub("/chat", ChatHub, hub_name="Interop.ChatHub")
hubs.add_hub("/strict", StrictHub, hub_name="Interop.StrictHub")
hubs.add_hub("/door", DoorHub, negotiate=door)

app = Bearer(hubs)
