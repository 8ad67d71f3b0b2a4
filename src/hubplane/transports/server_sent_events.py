"""The rules of Server-Sent Events: one answer that never ends, an event for each write; the client sends by POST.

Source: signalr-server sections 1.5, 1.6 and 2.2.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import CloseReason, OutboundBatch, TransportKind, TransportListener
from hubplane.errors import ConnectionClosedError
from hubplane.supervisor import Supervisor
from hubplane.transports.exchange import HttpExchange
from hubplane.transports.pump import Pump
from hubplane.transports.registry import ConnectionEntry, ConnectionRegistry, EntryState
from hubplane.transports.upload import Upload

__all__ = ["EventStream", "encode_event", "serve_events"]

logger = logging.getLogger(__name__)

_HEADERS = (
    ("cache-control", "no-cache,no-store"),
    ("pragma", "no-cache"),
    ("content-encoding", "identity"),
    # Not the original's: it keeps nginx from collecting events before it passes them on.
    ("x-accel-buffering", "no"),
)
_OPENING = b":\r\n"


async def serve_events(
    exchange: HttpExchange,
    entry: ConnectionEntry,
    registry: ConnectionRegistry,
    *,
    connect: Callable[[ConnectionRequest, str, TransportKind], HubConnection],
    serve: Callable[[HubConnection], Awaitable[None]],
    close_timeout: float,
) -> None:
    """Answer a GET for events: stay until the stream has ended, or refuse it.

    Cancellation, as by a server that stops, ends the connection with its goodbye and is raised on.

    Args:
        exchange: The GET.
        entry: The connection it names.
        registry: Where that is.
        connect: Makes the connection from the request, its id and its transport.
        serve: Runs the connection's life and returns after its goodbye.
        close_timeout: Seconds that the client has to take what is left.
    """
    if entry.kind not in {None, TransportKind.SERVER_SENT_EVENTS}:
        await exchange.respond(400, b"Cannot change transports mid-connection")
        return
    if entry.state is not EntryState.INACTIVE:
        await exchange.respond(409 if entry.state is EntryState.ACTIVE else 404)
        return
    registry.claim(entry, TransportKind.SERVER_SENT_EVENTS)
    supervisor = Supervisor("server-sent events")
    try:
        connection = entry.connection = connect(exchange.request, entry.connection_id, TransportKind.SERVER_SENT_EVENTS)
        upload = registry.upload_of(entry)
        stream = EventStream(exchange, connection, upload)
        connection.attach(stream)
        stream.start(supervisor)
        upload.attach(connection)
        exchange.on_stop(connection.shutting_down)
        try:
            await serve(connection)
        finally:
            exchange.forget_stop(connection.shutting_down)
            entry.state = EntryState.DISPOSED
            await stream.wait_ended(close_timeout)
            stream.abort()
    finally:
        registry.dispose(entry)
        await supervisor.close()


def encode_event(payload: bytes) -> bytes:
    r"""One event. Each line of the payload gets its own ``data:``; hub messages in JSON have only one."""
    if b"\n" not in payload:
        return b"data: " + payload + b"\r\n\r\n"
    lines = payload.removesuffix(b"\n").split(b"\n")
    return b"".join([b"data: " + line.removesuffix(b"\r") + b"\r\n" for line in lines]) + b"\r\n"


class EventStream:
    """`Transport` over the answer to one GET.

    One task writes, one notices that the client leaves. While a write is held up, the connection keeps what it has.
    """

    __slots__ = (
        "_blocked",
        "_closing",
        "_exchange",
        "_listener",
        "_outgoing",
        "_pump",
        "_upload",
        "_writing",
    )

    def __init__(self, exchange: HttpExchange, listener: TransportListener, upload: Upload) -> None:
        self._exchange = exchange
        self._listener = listener
        self._upload = upload
        self._outgoing: list[bytes] = []
        self._writing = False
        self._blocked = False
        self._closing = False
        self._pump = Pump()

    def start(self, supervisor: Supervisor) -> None:
        """Begin the answer; the tasks belong to `supervisor`."""
        self._pump.start(supervisor, self._write_all(), "write")
        self._pump.start(supervisor, self._watch(), "watch")

    @property
    def kind(self) -> TransportKind:
        """Server-Sent Events."""
        return TransportKind.SERVER_SENT_EVENTS

    def set_binary(self, binary: bool) -> None:  # noqa: FBT001 - mirrors the wire's two opcodes
        """Nothing: the handshake lets no binary protocol through."""

    def send(self, batch: OutboundBatch) -> None:
        """Hand a batch to the writing task; while that is held up, the listener is asked to pause."""
        if self._pump.ended or self._closing:
            return
        self._outgoing.append(batch.payload)
        self._pump.wake()
        if self._writing and not self._blocked:
            self._blocked = True
            self._listener.pause_writing()

    def pause_reading(self) -> None:
        """Let POSTs wait."""
        self._upload.pause()

    def resume_reading(self) -> None:
        """Let POSTs go on."""
        self._upload.resume()

    def close(self, reason: CloseReason) -> None:
        """End the answer behind everything sent so far; idempotent."""
        if not self._closing and not self._pump.ended:
            self._closing = True
            self._pump.wake()

    def abort(self) -> None:
        """Stop at once; the server drops the client when the application returns."""
        self._end()

    async def wait_ended(self, timeout: float) -> None:
        """Return when the stream has ended, or after `timeout` seconds; at once if nobody has closed it."""
        if self._closing and not await self._pump.wait_ended(timeout):
            logger.debug("The client did not take what was written before the end of its stream.")

    async def _write_all(self) -> None:
        exchange = self._exchange
        try:
            self._writing = True
            await exchange.start(200, content_type="text/event-stream", headers=_HEADERS)
            await exchange.write(_OPENING)
            while True:
                self._written()
                if self._outgoing:
                    outgoing, self._outgoing = self._outgoing, []
                    payload = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
                    self._writing = True
                    await exchange.write(encode_event(payload))
                elif self._closing:
                    await exchange.finish()
                    return
                else:
                    await self._pump.sleep()
        except ConnectionClosedError:
            logger.debug("The client went away from its event stream.", exc_info=True)
        finally:
            self._end()

    def _written(self) -> None:
        self._writing = False
        if self._blocked and not self._pump.ended:
            self._blocked = False
            self._listener.resume_writing()

    async def _watch(self) -> None:
        try:
            await self._exchange.wait_gone()
        finally:
            self._end()

    def _end(self) -> None:
        if self._pump.end():
            self._outgoing.clear()
            self._upload.end()
            self._listener.transport_lost(None)
