"""A hub's router over exchanges that remember their answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any  # scopes, and the bodies of answers

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.stateful import StatefulConnection
from hubplane.connection.transport import TransportKind, TransportListener, WebSocketTransport
from hubplane.endpoint.endpoint import HubEndpoint, HubRuntime, HubSettings
from hubplane.endpoint.heartbeat import Heartbeat
from hubplane.errors import ConnectionClosedError
from hubplane.hubs.hub import Hub as HubBase
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.hub_protocol import TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.replay import StatefulSession
from hubplane.protocol.session import HubSession
from hubplane.supervisor import Supervisor
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingTransport
from hubplane.transports.ownership import Ownership
from hubplane.transports.registry import ConnectionRegistry
from hubplane.transports.router import TransportRouter

__all__ = ["HttpAnswer", "Hub", "Live", "WebSocketRequest", "make_hub", "running"]


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
        self, connect: Callable[[WebSocketTransport], TransportListener], *, subprotocol: str | None = None
    ) -> WebSocketTransport:
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
        renewed: Those to which a later request came, which may bring a login.
        release: Set it to let the connections end.
        failure: Raised by the connections' lives, if set.
    """

    def __init__(self, options: TransportOptions, *, max_unclaimed: int, stateful_reconnect: bool) -> None:
        self.clock = FakeClock()
        self.options = options
        self.registry = ConnectionRegistry(self.clock, options, max_unclaimed=max_unclaimed)
        self.served: list[HubConnection] = []
        self.kinds: list[TransportKind] = []
        self.renewed: list[HubConnection] = []
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
            ownership=Ownership(lambda request, _: str(request.user)),
            renew=lambda connection, _: self.renewed.append(connection),
            stateful=self if stateful_reconnect else None,
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

    def connect_stateful(self, request: ConnectionRequest, connection_id: str) -> StatefulConnection:
        """As `StatefulHub`."""
        json_protocol = JsonHubProtocol()
        return StatefulConnection(
            connection_id,
            request=request,
            session=StatefulSession(
                {"json": json_protocol},
                HubOptions(),
                now=self.clock.monotonic(),
                transfer_formats=(TransferFormat.TEXT, TransferFormat.BINARY),
            ),
            cork=Cork(),
            options=self.options,
            hub_options=HubOptions(),
            clock=self.clock,
        )

    async def may_resume(self, connection: StatefulConnection, request: ConnectionRequest) -> bool:
        """As `StatefulHub`."""
        return connection.request.user == request.user

    def resumed(self, connection: StatefulConnection, request: ConnectionRequest) -> float | None:
        """As `StatefulHub`."""
        return None

    async def _serve(self, connection: HubConnection) -> None:
        self.served.append(connection)
        await self.release.wait()
        if self.failure is not None:
            raise self.failure

    async def http(self, method: str, target: str, body: bytes = b"", **headers: str) -> HttpAnswer:
        """One request, relative to the hub: ``/negotiate?...`` or ``?id=...``."""
        answer = HttpAnswer(request_of(method, "/hub" + target, headers))
        if "user" in headers:
            answer.request.authenticated_as(headers["user"])
        for chunk in filter(None, (body,)):
            answer.chunks.put_nowait(chunk)
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


# -- a whole hub behind the router -------------------------------------------------------------------------------------

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'


class LiveHub(HubBase):
    """Writes down what happens to it.

    Attributes:
        log: Of one test.
        gate: What `wait` waits for.
    """

    log: list[object]
    gate: asyncio.Event

    async def on_disconnected(self, error: Exception | None) -> None:
        self.log.append(("gone", error))

    async def echo(self, text: str) -> str:
        return text

    async def note(self, value: object) -> None:
        self.log.append(value)

    async def wait(self, value: object) -> object:
        await self.gate.wait()
        self.log.append(value)
        return value

    async def count(self, items: int) -> AsyncIterator[int]:
        for number in range(items):
            self.log.append(number)
            yield number


class Request:
    """A request under way to a `Live` hub."""

    def __init__(self, live: Live, method: str, query: str, accept: str) -> None:
        self.answer = HttpAnswer(request_of(method, "/live" + query, {"accept": accept}))
        self.task = asyncio.ensure_future(live.endpoint.router.http(self.answer))

    @property
    def pending(self) -> bool:
        """Whether nothing was answered yet."""
        return not self.answer.status

    @property
    def stream(self) -> bytes:
        """What was written of an answer without a length."""
        return b"".join(self.answer.parts)

    def feed(self, *chunks: bytes, end: bool = True) -> None:
        """Pieces of the body, and its end."""
        for chunk in chunks:
            self.answer.chunks.put_nowait(chunk)
        if end:
            self.answer.chunks.put_nowait(b"")

    def leave(self) -> None:
        """Let the client go away."""
        self.answer.gone.set()
        self.answer.chunks.put_nowait(None)


class Live:
    """A running hub with time in the test's hands, and one negotiated connection."""

    def __init__(self, endpoint: HubEndpoint, clock: FakeClock, hub_type: type[LiveHub]) -> None:
        self.endpoint = endpoint
        self.clock = clock
        self.hub_type = hub_type
        self.log = hub_type.log
        self.gate = hub_type.gate
        self.requests: list[Request] = []
        self.heartbeat = Heartbeat(clock, lambda: iter(endpoint.connections()), (endpoint.registry.tick,))
        self.entry = endpoint.registry.add("token", "id")

    async def begin(self, method: str, *chunks: bytes, query: str = "?id=token", accept: str = "*/*") -> Request:
        """Send a request, and let happen what can; without `chunks` a POST's body stays open."""
        request = Request(self, method, query, accept)
        self.requests.append(request)
        if chunks:
            request.feed(*chunks)
        await self.settle()
        return request

    async def poll(self) -> Request:
        """A GET for what there is."""
        return await self.begin("GET")

    async def events(self) -> Request:
        """A GET for events."""
        return await self.begin("GET", accept="text/event-stream")

    async def post(self, *chunks: bytes) -> Request:
        """A POST."""
        return await self.begin("POST", *chunks)

    async def polling(self) -> None:
        """The first poll, and a handshake whose answer was fetched."""
        await self.poll()
        await self.post(HANDSHAKE)
        assert (await self.poll()).answer.body == b"{}\x1e"

    async def call(self, target: str, *arguments: object, invocation_id: str | None = None) -> Request:
        """A POST with one call."""
        message: dict[str, object] = {"type": 1, "target": target, "arguments": arguments}
        if invocation_id is not None:
            message["invocationId"] = invocation_id
        return await self.post(json.dumps(message).encode() + b"\x1e")

    async def settle(self) -> None:
        """Let everything that can happen now happen."""
        for _ in range(40):
            await asyncio.sleep(0)

    async def seconds(self, count: int) -> None:
        """Let time pass, with a heartbeat every second."""
        for _ in range(count):
            self.clock.advance(1)
            await self.heartbeat.beat()
            await self.settle()


@pytest.fixture
def running() -> Callable[..., AbstractAsyncContextManager[Live]]:
    """Runs a whole hub; keyword arguments are transport options."""

    @asynccontextmanager
    async def run(**options: Any) -> AsyncIterator[Live]:
        hub_type = type("ThisHub", (LiveHub,), {"log": [], "gate": asyncio.Event()})
        clock = FakeClock()
        protocols = (JsonHubProtocol(), MessagePackHubProtocol())
        endpoint = HubEndpoint(
            hub_type,
            "live",
            lifetime=LocalHubLifetimeManager(protocols=protocols, ids=SeededIds()),
            settings=HubSettings(options=HubOptions(), transport_options=TransportOptions(**options)),
            runtime=HubRuntime(protocols=protocols, cork=Cork(), clock=clock, ids=SeededIds()),
        )
        live = Live(endpoint, clock, hub_type)
        async with endpoint.run(grace=0.1):
            yield live
            live.gate.set()
            for request in live.requests:
                request.answer.gate.set()
        for request in live.requests:
            request.leave()
        await asyncio.gather(*(request.task for request in live.requests), return_exceptions=True)

    return run
