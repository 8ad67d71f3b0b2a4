"""Transports and backplanes that remember what they were given, and clients that stand behind such a transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from hubplane.backplane.base import BackplaneSink, BackplaneTraits
from hubplane.connection.hub_connection import HubConnection, Refreshed
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import CloseReason, OutboundBatch, TransportKind
from hubplane.errors import BackplaneUnavailableError
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.messages import HandshakeRequest, HubMessage, Invocation
from hubplane.protocol.session import HubSession

__all__ = ["RecordedClient", "RecordingBackplane", "RecordingTransport"]


class RecordingTransport:
    """A transport whose peer takes everything at once, and that keeps what it was given.

    Attributes:
        batches: In order of their sending.
        binary: What `set_binary` said last.
        closed: Why it was closed, None while it was not.
        aborted: Whether it was aborted.
        reading: Whether it delivers data.
        on_send: Called after each batch.
        torn: What a stateful connection is told of its end.
    """

    def __init__(self, kind: TransportKind = TransportKind.WEB_SOCKETS) -> None:
        self.kind = kind
        self.batches: list[OutboundBatch] = []
        self.binary = False
        self.closed: CloseReason | None = None
        self.aborted = False
        self.reading = True
        self.on_send: Callable[[], None] | None = None
        self.torn = False

    @property
    def sent(self) -> bytes:
        """Everything sent, joined."""
        return b"".join(batch.payload for batch in self.batches)

    def set_binary(self, binary: bool) -> None:  # noqa: FBT001 - as in the interface
        """Remember the opcode."""
        self.binary = binary

    def send(self, batch: OutboundBatch) -> None:
        """Remember a batch; dropped after `close` or `abort`."""
        if self.closed is None and not self.aborted:
            self.batches.append(batch)
            if self.on_send is not None:
                self.on_send()

    def pause_reading(self) -> None:
        """Remember it."""
        self.reading = False

    def resume_reading(self) -> None:
        """Remember it."""
        self.reading = True

    def close(self, reason: CloseReason) -> None:
        """Remember the first reason."""
        if self.closed is None:
            self.closed = reason

    def abort(self) -> None:
        """Remember it."""
        self.aborted = True


class RecordedClient:
    """A real `HubConnection` after its handshake, with the client's side in the hands of a test.

    Args:
        connection_id: Its public id.
        protocol: The hub protocol that the client speaks.
        user: Its user id.
        cork: Shared with other clients of a node; one of its own by default.
        transport_options: The limits of its buffers.
        on_answer: Called with the messages that the client sends; the endpoint's part in a real server.
    """

    def __init__(
        self,
        connection_id: str,
        protocol: HubProtocol,
        *,
        user: str | None = None,
        cork: Cork | None = None,
        transport_options: TransportOptions | None = None,
        on_answer: Callable[[HubConnection, HubMessage], None] | None = None,
    ) -> None:
        self.protocol = protocol
        self.transport = RecordingTransport()
        self._on_answer = on_answer
        session = HubSession(
            {protocol.name: protocol},
            HubOptions(),
            now=0.0,
            transfer_formats=(TransferFormat.TEXT, TransferFormat.BINARY),
        )
        self.connection = HubConnection(
            connection_id,
            request=ConnectionRequest({"type": "websocket", "path": "/hub", "headers": [], "query_string": b""}),
            session=session,
            cork=cork or Cork(),
            options=transport_options or TransportOptions(),
        )
        self.connection.attach(self.transport)
        self.connection.data_received(b'{"protocol":"%b","version":1}\x1e' % protocol.name.encode())
        handshake = self.connection.inbox.pop(0)
        assert isinstance(handshake, HandshakeRequest)
        self.connection.user_identifier = user
        self.connection.handshake_done()
        self.connection.on_input = self._input

    @property
    def connection_id(self) -> str:
        """The public id."""
        return self.connection.connection_id

    def received(self) -> list[bytes]:
        """The bodies of the hub messages that reached the client, in order."""
        self.connection.outbound.flush()
        bodies, rest = self.protocol.split(self.transport.sent, None)
        assert rest == b"", "half a message was sent"
        return bodies

    async def wait_for(self, count: int) -> list[bytes]:
        """The same, as soon as there are `count` of them.

        Raises:
            TimeoutError: There are fewer after ten seconds.
        """
        async with asyncio.timeout(10):
            while len(bodies := self.received()) < count:
                sent = asyncio.Event()
                self.transport.on_send = sent.set
                await sent.wait()
        return bodies

    def messages(self) -> list[HubMessage | None]:
        """The same, decoded."""
        return [self.protocol.decode(body) for body in self.received()]

    def invocations(self) -> list[tuple[str, Sequence[object]]]:
        """Targets and arguments of the invocations that reached the client."""
        decode = self.protocol.value_decoder(list[object])
        calls: list[tuple[str, Sequence[object]]] = []
        for message in self.messages():
            assert isinstance(message, Invocation)
            arguments = decode(message.arguments)  # type: ignore[arg-type]  # raw, since it was received
            assert isinstance(arguments, list)
            calls.append((message.target, arguments))
        return calls

    def questions(self) -> list[str]:
        """The invocation ids of the questions that reached the client."""
        return [
            message.invocation_id
            for message in self.messages()
            if isinstance(message, Invocation) and message.invocation_id is not None
        ]

    def send(self, message: HubMessage) -> None:
        """Let the client send a message."""
        self.connection.data_received(self.protocol.encode(message))

    def send_raw(self, data: bytes) -> None:
        """Let the client send bytes."""
        self.connection.data_received(data)

    def stop_reading(self) -> None:
        """Let the client take nothing more from its socket."""
        self.connection.pause_writing()

    def disconnect(self) -> None:
        """Let the client's socket end."""
        self.connection.transport_lost(None)

    def _input(self) -> None:
        inbox = self.connection.inbox
        while inbox:
            message = inbox.pop(0)
            if self._on_answer is not None and not isinstance(message, (HandshakeRequest, Refreshed)):
                self._on_answer(self.connection, message)
        self.connection.inbox_empty()


class RecordingBackplane:
    """A carrier that carries nothing: it keeps what is asked of it and answers as it is told.

    Attributes:
        sink: Who runs it; call its `deliver` to bring a message.
        subscribed: The channels subscribed now.
        commands: ``("subscribe" or "unsubscribe", channel)`` in order of their confirmation.
        published: Channel and payload, in order.
        counted: The channels that `count_subscribers` was asked for, in order.
        receivers: What `publish` answers.
        counts: What `count_subscribers` answers; None for a carrier that cannot tell.
        default_count: What it answers for channels that `counts` leaves out.
        refusal: Raised by subscriptions (without `keep`) and publications, unless it is None.
        connected: What `is_connected` says.
    """

    def __init__(self) -> None:
        self.sink: BackplaneSink | None = None
        self.subscribed: set[str] = set()
        self.commands: list[tuple[str, str]] = []
        self.published: list[tuple[str, bytes]] = []
        self.receivers: int | None = 1
        self.counts: dict[str, int] | None = {}
        self.default_count = 1
        self.refusal: BackplaneUnavailableError | None = None
        self.connected = True
        self.counted: list[tuple[str, ...]] = []
        self._gate: asyncio.Future[None] | None = None
        self._asked = asyncio.Event()

    async def published_count(self, count: int) -> None:
        """Return when there were so many publications."""
        await self._until(lambda: len(self.published) >= count)

    async def confirmed_count(self, count: int) -> None:
        """Return when so many subscriptions and unsubscriptions were confirmed."""
        await self._until(lambda: len(self.commands) >= count)

    async def counted_count(self, count: int) -> None:
        """Return when subscribers were counted so often."""
        await self._until(lambda: len(self.counted) >= count)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._asked.clear()
                await self._asked.wait()

    @property
    def traits(self) -> BackplaneTraits:
        """Those of Redis."""
        return BackplaneTraits(name="recording", counts_receivers=True, resumes_after_loss=False)

    @property
    def is_connected(self) -> bool:
        """As it was told."""
        return self.connected

    def run(self, sink: BackplaneSink) -> AbstractAsyncContextManager[None]:
        """Remember the sink while inside."""
        return self._run(sink)

    @asynccontextmanager
    async def _run(self, sink: BackplaneSink) -> AsyncIterator[None]:
        self.sink = sink
        try:
            yield
        finally:
            self.sink = None

    def hold(self) -> None:
        """Let commands wait until `let_go`."""
        self._gate = asyncio.get_running_loop().create_future()

    def let_go(self) -> None:
        """Let the commands that wait be answered."""
        if self._gate is not None:
            self._gate.set_result(None)
            self._gate = None

    async def subscribe(self, channels: Collection[str], *, keep: bool = False) -> None:
        """Confirm, or refuse as told."""
        await self._wait()
        if self.refusal is not None and not keep:
            raise self.refusal
        for channel in channels:
            self.subscribed.add(channel)
            self.commands.append(("subscribe", channel))
        self._asked.set()

    async def unsubscribe(self, channels: Collection[str]) -> None:
        """Confirm."""
        await self._wait()
        for channel in channels:
            self.subscribed.discard(channel)
            self.commands.append(("unsubscribe", channel))
        self._asked.set()

    def publish(self, channel: str, payload: bytes) -> Awaitable[int | None]:
        """Remember, and confirm or refuse as told."""
        confirmed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._asked.set()
        if self.refusal is not None:
            confirmed.set_exception(self.refusal)
        else:
            self.published.append((channel, payload))
            confirmed.set_result(self.receivers)
        return confirmed

    async def count_subscribers(self, channels: Collection[str]) -> dict[str, int] | None:
        """Answer as told."""
        self.counted.append(tuple(channels))
        self._asked.set()
        if self.refusal is not None:
            raise self.refusal
        if self.counts is None:
            return None
        return {channel: self.counts.get(channel, self.default_count) for channel in channels}

    async def _wait(self) -> None:
        if self._gate is not None:
            await asyncio.shield(self._gate)
