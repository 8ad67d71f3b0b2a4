"""A whole hub with stateful reconnect on a fake clock, and clients whose sockets tests break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any  # JSON and scopes

from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.stateful import StatefulConnection
from hubplane.connection.transport import TransportListener, WebSocketTransport
from hubplane.endpoint.endpoint import HubEndpoint, HubRuntime, HubSettings
from hubplane.endpoint.heartbeat import Heartbeat
from hubplane.errors import ConnectionClosedError
from hubplane.hubs.hub import Hub
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.telemetry.base import NO_TELEMETRY, Telemetry
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingTransport

__all__ = ["Node", "Socket", "StatefulHub", "node"]

RS = b"\x1e"


class StatefulHub(Hub):
    """Writes down what happens to it."""

    log: list[object]
    gate: asyncio.Event
    farewell: asyncio.Event
    slow_start: asyncio.Event | None = None

    async def on_connected(self) -> None:
        if self.slow_start is not None:
            await self.slow_start.wait()
        self.log.append("connected")
        await self.groups.add(self.context.connection_id, "everybody")

    async def on_disconnected(self, error: Exception | None) -> None:
        await self.farewell.wait()
        self.log.append(("gone", None if error is None else str(error)))

    async def echo(self, text: str) -> str:
        self.log.append(text)
        return text

    async def slow(self, text: str) -> str:
        await self.gate.wait()
        return text

    async def whoami(self) -> list[str | None]:
        header = self.context.request.header("x-mark")
        return [self.context.connection_id, header]

    async def role(self) -> object:
        return self.context.user["role"]  # type: ignore[index]  # claims

    async def slow_role(self) -> object:
        await self.gate.wait()
        return await self.role()

    async def on_authentication_refreshed(self) -> None:
        self.log.append(("login", await self.role()))

    async def count(self, items: int, size: int) -> AsyncIterator[str]:
        for number in range(items):
            self.log.append(number)
            yield str(number).rjust(size)

    async def tell(self, count: int, size: int) -> str:
        for number in range(count):
            self.log.append(number)
            await self.clients.caller.send("M", str(number).rjust(size))
        return "told"

    async def ask(self) -> str:
        answer = await self.clients.caller.invoke("Question", result=str, timeout=100)
        self.log.append(answer)
        return answer

    async def total(self, numbers: AsyncIterator[int]) -> list[int]:
        return [number async for number in numbers]

    async def add(self, a: int, b: int) -> int:
        return a + b


class EdgeTransport(RecordingTransport):
    """A transport whose end is told."""

    def __init__(self, ended: Callable[[], None]) -> None:
        super().__init__()
        self._ended = ended

    def abort(self) -> None:
        """Drop the peer."""
        if not self.aborted:
            super().abort()
            asyncio.get_running_loop().call_soon(self._ended)


class Socket:
    """One WebSocket of a client, from its request on: the edge and the client behind it.

    Attributes:
        rejected: The status, where there is no socket.
        finishing: The seconds for the closing handshake, once the endpoint waits for it.
        early: Bytes that arrive in the same moment as the socket opens.
        opening: Cleared to hold the upgrade up.
    """

    def __init__(self, node: Node, query: str, scope: dict[str, object], early: bytes) -> None:
        self._node = node
        self.request = ConnectionRequest(
            {"type": "websocket", "path": "/hub", "headers": [], "query_string": query.encode(), **scope}
        )
        self.rejected: int | None = None
        self.transport = EdgeTransport(self.close)
        self.finishing: float | None = None
        self.early = early
        self.opening = asyncio.Event()
        self.opening.set()
        self.lost_early = False
        self.listener: TransportListener | None = None
        self._closed = asyncio.Event()
        self.task = asyncio.ensure_future(node.endpoint.router.websocket(self))

    # -- the edge --

    async def reject(self, status: int, body: bytes, *, content_type: str | None = "text/plain") -> None:
        self.rejected = status

    async def accept(
        self, connect: Callable[[WebSocketTransport], TransportListener], *, subprotocol: str | None = None
    ) -> WebSocketTransport:
        await self.opening.wait()
        if self.lost_early:
            raise ConnectionClosedError("")
        self.listener = connect(self.transport)
        if self.early:
            self.listener.data_received(self.early)
        return self.transport

    async def finish(self, timeout: float) -> None:
        self.finishing = timeout
        await self._closed.wait()

    def _end(self, *, torn: bool) -> None:
        assert self.listener is not None
        if not self._closed.is_set():
            self._closed.set()
            self.transport.torn = torn
            self.listener.transport_lost(None)

    # -- the client --

    def cut(self) -> None:
        """The network breaks."""
        self._end(torn=True)

    def close(self) -> None:
        """The client sends a Close frame, or answers ours."""
        self._end(torn=False)

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        assert self.listener is not None
        self.listener.data_received(data)

    def take_no_more(self) -> None:
        """The client stops reading, as the edge notices."""
        assert self.listener is not None
        self.listener.pause_writing()

    def send(self, *messages: dict[str, Any]) -> None:
        """Send messages."""
        self.raw(b"".join(json.dumps(message).encode() + RS for message in messages))

    def call(self, target: str, *arguments: object, invocation_id: str | None = None) -> None:
        """Call a method."""
        message: dict[str, Any] = {"type": 1, "target": target, "arguments": arguments}
        if invocation_id is not None:
            message["invocationId"] = invocation_id
        self.send(message)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What the client has received."""
        return [json.loads(record) for record in self.transport.sent.split(RS)[:-1]]


class Node:
    """A hub on a fake clock."""

    def __init__(self, endpoint: HubEndpoint, clock: FakeClock, hub_type: type[StatefulHub]) -> None:
        self.endpoint = endpoint
        self.clock = clock
        self.hub_type = hub_type
        self.log = hub_type.log
        self.gate = hub_type.gate
        self.farewell = hub_type.farewell
        self.sockets: list[Socket] = []
        self.heartbeat = Heartbeat(clock, lambda: iter(endpoint.connections()), (endpoint.registry.tick,))
        self._tokens = 0

    def negotiate(self, *, stateful: bool = True) -> str:
        """A new token."""
        self._tokens += 1
        token = f"token{self._tokens}"
        self.endpoint.registry.add(token, f"id{self._tokens}", is_stateful=stateful)
        return token

    async def open(
        self, token: str, early: bytes = b"", *, held: bool = False, headers: object = (), **scope: object
    ) -> Socket:
        """A WebSocket request with this token, and what happens at once."""
        socket = Socket(self, f"id={token}", {"headers": headers, **scope}, early)
        if held:
            socket.opening.clear()
        self.sockets.append(socket)
        await self.settle()
        return socket

    async def client(self, version: int = 2, **scope: Any) -> tuple[str, Socket]:
        """A token, and its first socket after the handshake."""
        token = self.negotiate()
        socket = await self.open(token, b"", held=False, **scope)
        socket.send({"protocol": "json", "version": version})
        await self.settle()
        assert socket.messages == [{}]
        socket.transport.batches.clear()
        return token, socket

    def connection(self) -> StatefulConnection:
        """The only connection."""
        (connection,) = self.endpoint.connections()
        assert isinstance(connection, StatefulConnection)
        return connection

    async def settle(self) -> None:
        """Let everything that can happen now happen."""
        for _ in range(60):
            await asyncio.sleep(0)

    async def seconds(self, count: int) -> None:
        """Let time pass, with a heartbeat every second."""
        for _ in range(count):
            self.clock.advance(1)
            await self.heartbeat.beat()
            await self.settle()


@asynccontextmanager
async def node(
    *,
    grace: float = 5,
    options: HubOptions | None = None,
    settings: dict[str, Any] | None = None,
    telemetry: Telemetry = NO_TELEMETRY,
    **transport: Any,
) -> AsyncIterator[Node]:
    """A running hub; further keyword arguments are transport options."""
    farewell = asyncio.Event()
    farewell.set()
    hub_type = type("ThisHub", (StatefulHub,), {"log": [], "gate": asyncio.Event(), "farewell": farewell})
    clock = FakeClock()
    protocols = (JsonHubProtocol(), MessagePackHubProtocol())
    endpoint = HubEndpoint(
        hub_type,
        "stateful",
        lifetime=LocalHubLifetimeManager(protocols=protocols, ids=SeededIds()),
        settings=HubSettings(
            options=options or HubOptions(),
            transport_options=TransportOptions(**{"allow_stateful_reconnects": True, **transport}),
            **(settings or {}),
        ),
        runtime=HubRuntime(protocols=protocols, cork=Cork(), clock=clock, ids=SeededIds(), telemetry=telemetry),
    )
    running = Node(endpoint, clock, hub_type)
    async with endpoint.run(grace=grace):
        yield running
        running.gate.set()
    for socket in running.sockets:
        socket.task.cancel()
    await asyncio.gather(*(socket.task for socket in running.sockets), return_exceptions=True)
