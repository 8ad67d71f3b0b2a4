"""A hub's router over exchanges that remember their answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any  # scopes, and the bodies of answers

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import Transport, TransportKind, TransportListener
from hubplane.errors import ConnectionClosedError
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.hub_protocol import TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.session import HubSession
from hubplane.supervisor import Supervisor
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingTransport
from hubplane.transports.registry import ConnectionRegistry
from hubplane.transports.router import TransportRouter

__all__ = ["HttpAnswer", "Hub", "WebSocketRequest", "make_hub"]


def request_of(method: str, target: str, headers: dict[str, str]) -> ConnectionRequest:
    """A request as an edge would present it."""
    path, _, query = target.partition("?")
    return ConnectionRequest(
        {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )


class HttpAnswer:
    """An HTTP exchange, and what was answered.

    Attributes:
        parts: What was written of an answer without a length.
        finished: Whether that answer has ended.
        chunks: The body; an empty piece is its end, None a client that leaves.
        stops: Called when the server stops.
        gone: Set when the client has left.
        gate: Clear it, and the client takes nothing.
    """

    def __init__(self, request: ConnectionRequest) -> None:
        self.request = request
        self.status = 0
        self.body = b""
        self.content_type: str | None = None
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.finished = False
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.stops: list[Callable[[], None]] = []
        self.gone = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self) -> bytes:
        chunk = await self.chunks.get()
        if chunk is None:
            raise ConnectionClosedError("")
        return chunk

    async def start(self, status: int, *, content_type: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        assert not self.status, "answered twice"
        self.status, self.content_type, self.headers = status, content_type, dict(headers)

    async def write(self, data: bytes) -> None:
        await self.gate.wait()
        if self.gone.is_set():
            raise ConnectionClosedError("")
        self.parts.append(data)

    async def finish(self) -> None:
        self.finished = True

    def on_stop(self, callback: Callable[[], None]) -> None:
        self.stops.append(callback)

    def forget_stop(self, callback: Callable[[], None]) -> None:
        if callback in self.stops:
            self.stops.remove(callback)

    async def wait_gone(self) -> None:
        await self.gone.wait()

    async def respond(
        self,
        status: int,
        body: bytes = b"",
        *,
        content_type: str | None = "text/plain",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        assert not self.status, "answered twice"
        await self.gate.wait()
        self.status, self.body, self.content_type, self.headers = status, body, content_type, dict(headers)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def outcome(self) -> tuple[int, str | None, bytes]:
        """Status, media type and body."""
        return self.status, self.content_type, self.body


class WebSocketRequest:
    """A WebSocket exchange, and what became of it.

    Attributes:
        left: The client has gone before the answer.
        outcome: Status, media type and body of a rejection.
        listener: Who listens to the accepted socket.
        finished: The limit that the transport's end was waited for.
    """

    def __init__(self, request: ConnectionRequest) -> None:
        self.request = request
        self.left = False
        self.outcome: tuple[int, str | None, bytes] | None = None
        self.transport = RecordingTransport()
        self.listener: TransportListener | None = None
        self.subprotocol: str | None = None
        self.finished: float | None = None

    async def reject(self, status: int, body: bytes, *, content_type: str | None = "text/plain") -> None:
        assert self.outcome is None
        self.outcome = status, content_type, body

    async def accept(
        self, connect: Callable[[Transport], TransportListener], *, subprotocol: str | None = None
    ) -> Transport:
        if self.left:
            raise ConnectionClosedError("")
        self.subprotocol = subprotocol
        self.listener = connect(self.transport)
        return self.transport

    async def finish(self, timeout: float) -> None:
        self.finished = timeout


class Hub:
    """One hub's registry and router.

    Attributes:
        served: The connections served so far.
        kinds: The transports they were made for.
        release: Set it to let the connections end.
        failure: Raised by the connections' lives, if set.
    """

    def __init__(self, options: TransportOptions, *, max_unclaimed: int, stateful_reconnect: bool) -> None:
        self.clock = FakeClock()
        self.options = options
        self.registry = ConnectionRegistry(self.clock, options, max_unclaimed=max_unclaimed)
        self.served: list[HubConnection] = []
        self.kinds: list[TransportKind] = []
        self.release = asyncio.Event()
        self.failure: Exception | None = None
        self.supervisor = Supervisor("hub")
        self.router = TransportRouter(
            self.registry,
            options,
            connect=self._connect,
            serve=self._serve,
            ids=SeededIds(),
            clock=self.clock,
            start_task=self.supervisor.start,
            stateful_reconnect=stateful_reconnect,
        )

    def _connect(self, request: ConnectionRequest, connection_id: str, kind: TransportKind) -> HubConnection:
        self.kinds.append(kind)
        json_protocol = JsonHubProtocol()
        session = HubSession(
            {"json": json_protocol},
            HubOptions(),
            now=self.clock.monotonic(),
            transfer_formats=(TransferFormat.TEXT, TransferFormat.BINARY),
        )
        return HubConnection(connection_id, request=request, session=session, cork=Cork(), options=self.options)

    async def _serve(self, connection: HubConnection) -> None:
        self.served.append(connection)
        await self.release.wait()
        if self.failure is not None:
            raise self.failure

    async def http(self, method: str, target: str, **headers: str) -> HttpAnswer:
        """One request, relative to the hub: ``/negotiate?...`` or ``?id=...``."""
        answer = HttpAnswer(request_of(method, "/hub" + target, headers))
        answer.chunks.put_nowait(b"")
        await self.router.http(answer, target.partition("?")[0])
        return answer

    def websocket(self, target: str = "") -> tuple[WebSocketRequest, Awaitable[None]]:
        """One upgrade request, and the coroutine that serves it."""
        exchange = WebSocketRequest(request_of("GET", "/hub" + target, {}))
        return exchange, self.router.websocket(exchange, target.partition("?")[0])

    async def negotiate(self, query: str = "?negotiateVersion=1") -> Any:
        """The body of a negotiate answer."""
        return (await self.http("POST", "/negotiate" + query)).json


@pytest.fixture
def make_hub() -> Callable[..., Hub]:
    """Makes a hub; keyword arguments are transport options."""

    def make(*, max_unclaimed: int = 1_000, stateful_reconnect: bool = False, **options: Any) -> Hub:
        return Hub(TransportOptions(**options), max_unclaimed=max_unclaimed, stateful_reconnect=stateful_reconnect)

    return make
