"""A hub served in memory: the real dispatcher, runner, connections and protocols, over transports that remember."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import CloseReason, OutboundBatch
from hubplane.endpoint.runner import ConnectionRunner
from hubplane.hubs.context import HubContext
from hubplane.hubs.dispatcher import HubDispatcher
from hubplane.hubs.filters import AuthorizeHook, FilterFactory
from hubplane.hubs.hub import Hub
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.session import HubSession
from hubplane.supervisor import Supervisor
from hubplane.testing.fakes import SeededIds
from hubplane.testing.recording import RecordingTransport

__all__ = ["Client", "Server", "serve"]

Json = dict[str, Any]


class ToldTransport(RecordingTransport):
    """Tells its client when something was sent or the transport was closed."""

    def __init__(self, told: asyncio.Event) -> None:
        super().__init__()
        self._told = told

    def send(self, batch: OutboundBatch) -> None:
        super().send(batch)
        self._told.set()

    def close(self, reason: CloseReason) -> None:
        super().close(reason)
        self._told.set()


class Client:
    """The client's side of a connection."""

    def __init__(self, connection: HubConnection, protocol: HubProtocol) -> None:
        self.connection = connection
        self.protocol = protocol
        self.told = asyncio.Event()
        self.transport = ToldTransport(self.told)
        connection.attach(self.transport)
        self.run: asyncio.Task[None] | None = None
        self._taken = 0
        self._ids = 0

    @property
    def connection_id(self) -> str:
        return self.connection.connection_id

    def write(self, *messages: Json) -> None:
        """Send JSON messages, all in one piece."""
        self.connection.data_received(b"".join(json.dumps(message).encode() + b"\x1e" for message in messages))

    def call(self, target: str, *arguments: object, **more: object) -> str:
        """Send a call that wants an answer; returns its id."""
        self._ids += 1
        invocation_id = str(self._ids)
        self.write({"type": 1, "invocationId": invocation_id, "target": target, "arguments": arguments} | more)
        return invocation_id

    def notify(self, target: str, *arguments: object, **more: object) -> None:
        """Send a call that wants none."""
        self.write({"type": 1, "target": target, "arguments": arguments} | more)

    def stream(self, target: str, *arguments: object, **more: object) -> str:
        """Ask for a stream; returns its id."""
        self._ids += 1
        invocation_id = str(self._ids)
        self.write({"type": 4, "invocationId": invocation_id, "target": target, "arguments": arguments} | more)
        return invocation_id

    async def invoke(self, target: str, *arguments: object) -> Json:
        """Call and wait for the completion, which must be the next message."""
        invocation_id = self.call(target, *arguments)
        message = await self.receive()
        assert message["type"] == 3, message
        assert message["invocationId"] == invocation_id
        return message

    async def complete(self, target: str, *arguments: object) -> Json:
        """Call and wait for the completion, whatever comes before it; what came stays to be received."""
        invocation_id = self.call(target, *arguments)
        async with asyncio.timeout(10):
            while True:
                for message in self.received():
                    if message["type"] == 3 and message["invocationId"] == invocation_id:
                        return message
                self.told.clear()
                await self.told.wait()

    def received(self) -> list[Json]:
        """All messages so far, without the handshake's answer."""
        records = self.transport.sent.split(b"\x1e")[1:-1]
        return [json.loads(record) for record in records]

    async def receive(self) -> Json:
        """The next message."""
        return (await self.receive_many(1))[0]

    async def receive_many(self, count: int) -> list[Json]:
        """The next messages."""
        async with asyncio.timeout(10):
            while len(messages := self.received()) < self._taken + count:
                self.told.clear()
                await self.told.wait()
        taken = messages[self._taken : self._taken + count]
        self._taken += count
        return taken

    def unread(self) -> list[Json]:
        """What has come behind the messages received."""
        return self.received()[self._taken :]

    async def leave(self) -> None:
        """Drop the socket, and wait until the server is done with this client."""
        self.connection.transport_lost(None)
        await self.gone()

    async def gone(self) -> None:
        """Wait until the server is done with this client."""
        assert self.run is not None
        async with asyncio.timeout(10):
            await self.run


class Server:
    """One hub on one node."""

    def __init__(
        self,
        hub_type: type[Hub],
        *,
        options: HubOptions,
        filters: Sequence[FilterFactory],
        authorize: AuthorizeHook | None,
        hub_factory: Callable[[], Hub] | None,
    ) -> None:
        self.protocols: tuple[HubProtocol, ...] = (JsonHubProtocol(), MessagePackHubProtocol())
        self.options = options
        self.ids = SeededIds("c")
        self.cork = Cork()
        self.supervisor = Supervisor("test")
        self.lifetime = LocalHubLifetimeManager(protocols=self.protocols, ids=self.ids)
        self.dispatcher = HubDispatcher(
            hub_type,
            options=options,
            lifetime=self.lifetime,
            protocols=self.protocols,
            filters=filters,
            authorize=authorize,
            hub_factory=hub_factory,
            supervisor=self.supervisor,
        )
        self.context = HubContext(self.lifetime)
        self.clients: list[Client] = []

    def open(
        self, *, user: str | None = None, protocol: str = "json", transport_options: TransportOptions | None = None
    ) -> Client:
        """Let a client connect and send its handshake; does not wait for the answer."""
        found = next(each for each in self.protocols if each.name == protocol)
        connection = HubConnection(
            self.ids.connection_id(),
            request=ConnectionRequest({"type": "websocket", "path": "/hub", "headers": [], "query_string": b""}),
            session=HubSession(
                {each.name: each for each in self.protocols},
                self.options,
                now=0.0,
                transfer_formats=(TransferFormat.TEXT, TransferFormat.BINARY),
            ),
            cork=self.cork,
            options=transport_options or TransportOptions(),
        )
        client = Client(connection, found)
        runner = ConnectionRunner(
            connection,
            dispatcher=self.dispatcher,
            lifetime=self.lifetime,
            supervisor=self.supervisor,
            detailed_errors=self.options.enable_detailed_errors,
            slots=self.options.maximum_parallel_invocations_per_client,
            user_id=lambda _: user,
        )
        client.run = self.supervisor.start(runner.run(), "connection")
        connection.data_received(b'{"protocol":"%b","version":1}\x1e' % protocol.encode())
        self.clients.append(client)
        return client

    async def connect(
        self, *, user: str | None = None, protocol: str = "json", transport_options: TransportOptions | None = None
    ) -> Client:
        """Let a client connect, and wait until its calls are served."""
        client = self.open(user=user, protocol=protocol, transport_options=transport_options)
        async with asyncio.timeout(10):
            while b"{}\x1e" not in client.transport.sent:
                client.told.clear()
                await client.told.wait()
        return client


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Lets the event loop turn until something is so."""

    async def turning(is_so: Callable[[], bool]) -> None:
        for _ in range(100_000):
            if is_so():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never was so")

    return turning


@pytest.fixture
def serve() -> Callable[..., AbstractAsyncContextManager[Server]]:
    """Serves a hub while inside; options of the hub are keywords, and so are the dispatcher's parts."""

    @asynccontextmanager
    async def serving(
        hub_type: type[Hub],
        *,
        filters: Sequence[FilterFactory] = (),
        authorize: AuthorizeHook | None = None,
        hub_factory: Callable[[], Hub] | None = None,
        **options: Any,
    ) -> AsyncIterator[Server]:
        server = Server(
            hub_type, options=HubOptions(**options), filters=filters, authorize=authorize, hub_factory=hub_factory
        )
        async with server.lifetime.run():
            try:
                yield server
            finally:
                for client in server.clients:
                    client.connection.transport_lost(None)
                async with asyncio.timeout(10):
                    await asyncio.gather(*(client.run for client in server.clients if client.run is not None))
                    await server.supervisor.close()

    return serving
