"""A node of the soak: the hub that its clients use, and what they judge the node by.

Served by ``hubplane serve soak_node:app``. ``GET /state`` answers with every table of the node; a gap, as `on_gap` is
told, is one line of JSON on stdout.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from hubplane import (
    BackplaneUnavailableError,
    ClientResultError,
    Hub,
    HubApp,
    HubException,
    HubOptions,
    TransportOptions,
)
from hubplane.backplane.redis.events import RedisGap
from hubplane.errors import AckTimeoutError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class SoakHub(Hub):
    """What the clients call. Failures of Redis and of other clients are told, and no errors of the node."""

    async def echo(self, value: Any) -> Any:
        """The same."""
        return value

    async def publish(self, kind: str, name: str, channel: str, number: int, pad: str) -> None:
        """Send message `number` of the caller to an audience."""
        clients = self.clients
        audience = {
            "all": lambda: clients.all,
            "group": lambda: clients.group(name),
            "user": lambda: clients.user(name),
            "connection": lambda: clients.client(name),
        }[kind]()
        with told():
            await audience.send("Message", self.context.connection_id, channel, number, pad)

    async def join(self, connection_id: str, group: str) -> None:
        """Put a connection, wherever it lives, into a group."""
        with told():
            await self.groups.add(connection_id, group)

    async def leave(self, connection_id: str, group: str) -> None:
        """Take it out."""
        with told():
            await self.groups.remove(connection_id, group)

    async def ask(self, connection_id: str, number: int) -> int:
        """Ask a client, wherever it lives."""
        with told():
            return await self.clients.client(connection_id).invoke("Ask", number, result=int, timeout=12)

    async def counter(self, count: int) -> AsyncIterator[int]:
        """Numbers from zero."""
        for number in range(count):
            yield number
            if number % 16 == 0:
                await asyncio.sleep(0.01)

    async def total(self, items: AsyncIterator[int]) -> list[int]:
        """What a client streams, as it came."""
        return [item async for item in items]

    async def both(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        """A stream in each direction."""
        async for item in items:
            yield item


class told:  # noqa: N801 - reads as a word in `with told():`
    """Turns what may happen to a caller into an error that the caller is told."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Tell."""
        if isinstance(error, (BackplaneUnavailableError, ClientResultError, AckTimeoutError)):
            raise HubException(f"{type(error).__name__}: {error}") from error


def on_gap(gap: RedisGap) -> None:
    """Write a gap down."""
    line = {"since": gap.since.timestamp(), "until": gap.until.timestamp(), "channels": gap.channels}
    os.write(1, json.dumps(line).encode() + b"\n")


hubs = HubApp(
    options=HubOptions(
        keep_alive_interval=2,
        client_timeout_interval=6,
        enable_detailed_errors=True,
    ),
    transport_options=TransportOptions(
        allow_stateful_reconnects=True,
        disconnect_timeout=8,
        transport_send_timeout=5,
        close_timeout=2,
        poll_timeout=5,
        outbound_buffer_limit=1_000_000,
    ),
)
hubs.add_redis(on_gap=on_gap)
hubs.add_hub(
    "/soak",
    SoakHub,
    hub_name="Soak",
    user_id_provider=lambda connection: connection.request.query_value("user"),
)


def state() -> dict[str, Any]:
    """Every table of the node, by what it holds."""
    gc.collect()
    (endpoint,) = hubs._endpoints.values()  # noqa: SLF001 - here and below: the tables are nobody's interface
    lifetime: Any = endpoint.lifetime
    table = lifetime._table  # noqa: SLF001
    membership = lifetime._membership  # noqa: SLF001
    results = lifetime._questions.results  # noqa: SLF001
    health = hubs.redis_health()
    objects = Counter(
        kind.__qualname__ for kind in map(type, gc.get_objects()) if str(kind.__module__)[:8] == "hubplane"
    )
    return {
        "tables": {
            "endpoint connections": len(endpoint._connections),  # noqa: SLF001
            "connections": len(table.connections),
            "users": len(table._users),  # noqa: SLF001
            "groups": len(table._groups),  # noqa: SLF001
            "memberships": len(table._memberships),  # noqa: SLF001
            "registry": len(endpoint.registry),
            "unclaimed": endpoint.registry.unclaimed,
            "watched": len(endpoint.registry._watched),  # noqa: SLF001
            "group channels": len(membership._groups),  # noqa: SLF001
            "interest": len(membership._interest.channels()),  # noqa: SLF001
            "calls": len(results._calls),  # noqa: SLF001
            "errands": len(results._errands),  # noqa: SLF001
            "left": len(lifetime._left),  # noqa: SLF001
            "routes": len(hubs._routes),  # noqa: SLF001
            "wanted channels": health.channels if health else 0,
            "unconfirmed": health.unconfirmed if health else 0,
        },
        "tasks": sorted(Counter(task_kind(task) for task in asyncio.all_tasks()).items()),
        "connected": hubs.is_connected,
        "objects": dict(objects),
        "all objects": len(gc.get_objects()),
        "files": len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0,  # noqa: PTH208 - names only
        "resident": resident_kb(),
    }


def task_kind(task: asyncio.Task[Any]) -> str:
    """A task's name; its coroutine's where it has none of its own."""
    name = task.get_name()
    return getattr(task.get_coro(), "__qualname__", "?") if name.startswith("Task-") else name


def resident_kb() -> int:
    """Resident memory; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The hubs, and `/state` beside them."""
    if scope["type"] == "http" and scope["path"] == "/state":
        body = json.dumps(state()).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})
        return
    await hubs(scope, receive, send)
