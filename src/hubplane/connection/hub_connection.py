"""One client across its life: identity, user, items, session, transport; what it sent, what it is to get.

Source: signalr-server sections 5.6-5.9.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any  # user code may keep anything in `items`

from hubplane.connection.outbound import Cork, OutboundBuffer
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import CloseReason, Transport, TransportKind, Verdict
from hubplane.errors import ClientTimeoutError, HandshakeError
from hubplane.options import TransportOptions
from hubplane.protocol.hub_protocol import UNWRITABLE, HubProtocol, TransferFormat
from hubplane.protocol.messages import HandshakeRequest, HubMessage
from hubplane.protocol.serialized import SerializedHubMessage
from hubplane.protocol.session import HubSession, ping_bytes

__all__ = ["HubConnection", "Refreshed"]

logger = logging.getLogger(__name__)


class Refreshed:
    """Stands in the inbox where the hub is to see a new login.

    Attributes:
        request: The request that brought it.
    """

    __slots__ = ("request",)

    def __init__(self, request: ConnectionRequest) -> None:
        self.request = request


class HubConnection:
    """One client. The edge feeds it as a `TransportListener`; the endpoint's runner takes messages from `inbox`.

    Writing never waits. `drain` waits until the peer has taken enough, for producers that can slow down.

    Attributes:
        connection_id: The public id.
        request: The HTTP request that opened the connection.
        user_identifier: The user's id, computed once at the handshake; None for nobody.
        session: Protocol state.
        inbox: Parsed messages in order of arrival, not yet taken. A list, though taken from its head: it is nearly
            always short, and an empty deque is thirteen times as large, for each idle connection.
        closed: No message but the final Close is written any more.
        lost: The transport is gone; what the client sent before is still served, nothing can be written.
        lost_error: What broke the transport, if anything did.
        ended: Nothing more is served.
        error: What ended the connection, if it was an error.
        allow_reconnect: What the Close message tells automatic clients.
        close_message: Whether a Close message is owed to the client.
        tell_error: Whether that message mentions `error`.
        expires_at: Monotonic seconds at which the connection's login expires and ends it; None for never.
        unsettled: Something is due as soon as the inbox is empty: to read on, or to end. Whoever takes the last message
            has to see that the runner looks.
        verdict: Why the server itself ended the connection; None when something else did.
    """

    __slots__ = (
        "__weakref__",
        "_abort_callbacks",
        "_blocked_since",
        "_drain_waiters",
        "_end_waiter",
        "_items",
        "_options",
        "_reading_paused",
        "_unread",
        "allow_reconnect",
        "close_message",
        "closed",
        "connection_id",
        "ended",
        "error",
        "expires_at",
        "inbox",
        "lost",
        "lost_error",
        "on_input",
        "outbound",
        "protocol_name",
        "request",
        "session",
        "tell_error",
        "transport",
        "unsettled",
        "user_identifier",
        "verdict",
    )

    def __init__(
        self,
        connection_id: str,
        *,
        request: ConnectionRequest,
        session: HubSession,
        cork: Cork,
        options: TransportOptions,
    ) -> None:
        self.connection_id = connection_id
        self.request = request
        self.session = session
        self.user_identifier: str | None = None
        self.inbox: list[HandshakeRequest | HubMessage | Refreshed] = []
        self._options = options
        self.outbound = self._make_outbound(cork)
        self.transport: Transport | None = None
        self.protocol_name = ""
        self.on_input: Callable[[], None] | None = None
        self.closed = False
        self.ended = False
        self.lost = False
        self.lost_error: Exception | None = None
        self.error: Exception | None = None
        self.allow_reconnect = False
        self.close_message = True
        self.tell_error = True
        self.expires_at: float | None = None
        self.unsettled = False
        self.verdict: Verdict | None = None
        self._items: dict[Any, Any] | None = None
        self._unread = 0
        self._reading_paused = False
        self._blocked_since: float | None = None
        self._drain_waiters: list[asyncio.Future[None]] = []
        self._end_waiter: asyncio.Future[None] | None = None
        self._abort_callbacks: dict[Callable[[], None], None] | None = None

    def _make_outbound(self, cork: Cork) -> OutboundBuffer:
        return OutboundBuffer(cork, self._options.outbound_buffer_limit, self._overflow)

    # -- what hub code sees -------------------------------------------------------------------------------------

    @property
    def items(self) -> dict[Any, Any]:
        """A place for the application's own data; it lives as long as the connection (row B101)."""
        if self._items is None:
            self._items = {}
        return self._items

    @property
    def protocol(self) -> HubProtocol:
        """The hub protocol agreed in the handshake.

        Raises:
            RuntimeError: The handshake has not been completed.
        """
        protocol = self.session.protocol
        if protocol is None:
            raise RuntimeError("The hub protocol is not known before the handshake.")
        return protocol

    @property
    def transport_kind(self) -> TransportKind | None:
        """The transport in use, None while there is none."""
        return self.transport.kind if self.transport is not None else None

    @property
    def timed_out(self) -> bool:
        """Whether it ended because a client that might have come back did not."""
        return False

    def abort(self) -> None:
        """End the connection: a Close message without reconnect, and nothing written after it (row B128)."""
        self.end(None, allow_reconnect=False)

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, payload: bytes) -> None:
        """Queue a framed message for this client alone; dropped when the connection is closed."""
        if not self.closed:
            self.outbound.append(payload)

    def write_message(self, message: HubMessage) -> None:
        """Encode and queue a message.

        A message that cannot be written closes the connection, because half an answer is worse (signalr-server 5.2).
        """
        if self.closed:
            return
        try:
            payload = self.protocol.encode(message)
        except UNWRITABLE as error:
            self.write_failed(error)
            return
        self.outbound.append(payload)

    def write_failed(self, error: Exception) -> None:
        """A message could not be encoded: log it as .NET does and end the connection."""
        logger.error("Failed writing message. Aborting connection.", exc_info=error, extra=self._log_extra(6))
        self.end(error, allow_reconnect=True)

    def write_serialized(self, message: SerializedHubMessage) -> None:
        """Queue a message made once for many clients.

        A message that lacks this client's protocol is skipped: the client misses it, and that is logged. (The original
        aborts every such client: docs/explanation/backplane.md.)
        """
        if self.closed:
            return
        payload = message.payloads.get(self.protocol_name)
        if payload:
            self.outbound.append_shared(payload)
        elif payload is None:
            logger.warning(
                "This message was received from another server that did not have the requested protocol available.",
                extra=self._log_extra(6),
            )

    @property
    def crowded(self) -> bool:
        """Whether a sender that awaits should wait: more than `transport_max_buffer_size` bytes have not left."""
        if self.closed:
            return False
        return self.outbound.blocked or self.outbound.size > self._options.transport_max_buffer_size > 0

    async def drain(self) -> None:
        """Wait until the peer has taken what was written, or the connection has ended.

        Cancellation just stops the waiting.
        """
        while self.outbound.blocked and not self.closed and not self._has_room_until_polled():
            waiter = asyncio.get_running_loop().create_future()
            self._drain_waiters.append(waiter)
            await waiter

    def _has_room_until_polled(self) -> bool:
        # A client that polls would otherwise fetch one item of a stream with each poll.
        limit = self._options.transport_max_buffer_size
        return self._is_polled() and (limit == 0 or self.outbound.size <= limit)

    def _is_polled(self) -> bool:
        return self.transport is not None and self.transport.kind is TransportKind.LONG_POLLING

    def _overflow(self) -> None:
        logger.warning(
            "Connection %s does not read: over %d bytes wait for it. It is disconnected.",
            self.connection_id,
            self._options.outbound_buffer_limit,
            extra=self._log_extra(None),
        )
        self.close_message = False
        self._decide(Verdict.SLOW)
        if self.transport is not None:
            self.transport.abort()

    # -- the edge's side: TransportListener ---------------------------------------------------------------------

    def attach(self, transport: Transport) -> None:
        """Use `transport` from now on."""
        self.transport = transport
        self.outbound.transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse what arrived and tell the runner; above the limit of unread bytes the transport stops reading."""
        if self.closed:
            return
        session = self.session
        messages = session.receive_data(data)
        if messages:
            self.inbox.extend(messages)
        elif session.failure is None:
            return
        if session.failure is not None:
            self.unsettled = True
        self._unread += len(data)
        on_input = self.on_input
        if on_input is not None:
            on_input()
        if self._unread > self._options.application_max_buffer_size > 0 and self.inbox:
            self._reading_paused = True
            self.unsettled = True
            if self.transport is not None:
                self.transport.pause_reading()

    def inbox_empty(self) -> None:
        """The runner has taken everything: count unread bytes anew and read on."""
        self._unread = 0
        self.unsettled = False
        if self._reading_paused:
            self._reading_paused = False
            if self.transport is not None:
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        """The peer does not take bytes."""
        self.outbound.block()

    def resume_writing(self) -> None:
        """The peer takes bytes again."""
        self._blocked_since = None
        self.outbound.unblock()
        self._wake_drain()

    def shutting_down(self) -> None:
        """The server stops: the client may come back at once."""
        self._decide(Verdict.SHUTDOWN)

    def transport_lost(self, error: Exception | None) -> None:
        """The transport has ended. Messages that came before are still served; then the connection ends."""
        self.lost = True
        self.unsettled = True
        self.lost_error = error
        self.closed = True
        self.outbound.clear()
        self.outbound.block()
        self._abort()
        if self.on_input is not None:
            self.on_input()

    # -- the end ------------------------------------------------------------------------------------------------

    def end(self, error: Exception | None, *, allow_reconnect: bool, tell_error: bool = True) -> None:
        """Let the connection end; the first call decides why. Its runner then says goodbye.

        Args:
            error: What was wrong; None for an orderly end.
            allow_reconnect: Whether automatic clients may come back.
            tell_error: Whether the Close message mentions `error`; not when it came from the client itself.
        """
        if self.ended:
            return
        self.ended = True
        self.closed = True
        self.error = error
        self.tell_error = tell_error
        self.allow_reconnect = allow_reconnect
        if self._end_waiter is not None and not self._end_waiter.done():
            self._end_waiter.set_result(None)
        self._abort()

    def _decide(self, verdict: Verdict, error: Exception | None = None) -> None:
        if not self.ended and not self.lost:
            self.verdict = verdict
        self.end(error, allow_reconnect=True)

    def _abort(self) -> None:
        self._wake_drain()
        callbacks, self._abort_callbacks = self._abort_callbacks, None
        for callback in callbacks or ():
            callback()

    def end_waiter(self) -> asyncio.Future[None]:
        """A future that is done when the connection ends, for one waiter: the connection's runner.

        A future rather than a coroutine, because one waits on every idle connection.
        """
        self._end_waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def on_abort(self, callback: Callable[[], None]) -> None:
        """Call `callback`, which must not raise, once when the connection ends or is lost; at once if that was so."""
        if self.closed:
            callback()
            return
        if self._abort_callbacks is None:
            self._abort_callbacks = {}
        self._abort_callbacks[callback] = None

    def remove_on_abort(self, callback: Callable[[], None]) -> None:
        """Forget `callback`; unknown ones are ignored."""
        if self._abort_callbacks is not None:
            self._abort_callbacks.pop(callback, None)

    def write_last(self, payload: bytes) -> None:
        """Write the final message behind everything pending; it leaves at once, if the peer takes it."""
        if not self.lost:
            self.outbound.append_uncounted(payload)
            self.outbound.flush_all()

    def close_transport(self, reason: CloseReason) -> None:
        """Begin to close the transport behind everything written."""
        if self.transport is not None and not self.lost:
            self.outbound.flush_all()
            self.transport.close(reason)

    # -- time ---------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second: ping, and give up on a client that is silent, takes no bytes, or whose login has expired."""
        if self.closed:
            return
        if self.expires_at is not None and now >= self.expires_at:
            self._decide(Verdict.EXPIRED)
            return
        outbound = self.outbound
        # Polls keep a connection alive without pings (row B55); its transport watches whether they come.
        polled = self._is_polled()
        if outbound.held and not polled:
            if self._blocked_since is None:
                self._blocked_since = now
            elif now - self._blocked_since > self._options.transport_send_timeout:
                self.close_message = False
                self._decide(Verdict.STUCK)
                if self.transport is not None:
                    self.transport.abort()
                return
        try:
            ping = self.session.tick(now, busy=polled or self._reading_paused or bool(self.inbox))
        except (ClientTimeoutError, HandshakeError) as error:
            self._decide(Verdict.SILENT, error)
            return
        if ping and not polled and not outbound.held:
            outbound.append_uncounted(ping_bytes(self.protocol))

    def handshake_done(self) -> None:
        """The handshake has chosen a protocol: frame accordingly."""
        protocol = self.protocol
        self.protocol_name = protocol.name
        if self.transport is not None:
            self.transport.set_binary(protocol.transfer_format is TransferFormat.BINARY)

    def _wake_drain(self) -> None:
        waiters = self._drain_waiters
        if waiters:
            self._drain_waiters = []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _log_extra(self, event_id: int | None) -> dict[str, object]:
        return {"connection_id": self.connection_id, "event_id": event_id}
