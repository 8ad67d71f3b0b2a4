"""A connection that outlives its socket: it keeps what the client has not acknowledged, and takes the next socket.

The connection has one `ClientSocket` after the other. Between two of them it is *away*: everything goes on, what is
written is only kept. Sequence, replay and live messages leave in this order on a new socket, and nothing before them.

Source: signalr-server section 6; what writers meet is hubplane's own: docs/how-to/stateful-reconnect.md.
"""

from __future__ import annotations

import asyncio
import logging

from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.replay_buffer import ReplayBuffer
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import CloseReason, TransportKind, Verdict, WebSocketTransport
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.messages import Ack, Sequence_
from hubplane.protocol.replay import StatefulSession

__all__ = ["ClientSocket", "StatefulConnection"]

logger = logging.getLogger(__name__)

STALL_LIMIT = 5.0
"""Seconds that a client may leave the buffer over its limit without acknowledging anything (signalr-server 6.4)."""


class ClientSocket:
    """One socket of a stateful connection: the edge's `TransportListener`. What a replaced one still says is ignored.

    Attributes:
        transport: What it writes on.
        over: Done when the connection is done with it: lost, replaced, or its closing has begun.
    """

    __slots__ = ("_connection", "over", "transport")

    def __init__(self, connection: StatefulConnection, transport: WebSocketTransport) -> None:
        self._connection = connection
        self.transport = transport
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_current(self) -> bool:
        """Whether no other socket has taken its place."""
        return self._connection.socket is self

    def leave(self) -> None:
        """Nobody needs it any more; idempotent."""
        if not self.over.done():
            self.over.set_result(None)

    def cut(self) -> None:
        """Drop the peer, and tell the connection at once: its edge may do so a turn later. Idempotent."""
        self.transport.abort()
        if self.is_current:
            self.transport_lost(None)

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        if self.is_current:
            self._connection.data_received(data)

    def pause_writing(self) -> None:
        """The peer does not take bytes."""
        if self.is_current:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The peer takes bytes again."""
        if self.is_current:
            self._connection.resume_writing()

    def shutting_down(self) -> None:
        """The server stops."""
        if self.is_current:
            self._connection.shutting_down()

    def transport_lost(self, error: Exception | None) -> None:
        """The socket has ended."""
        self.leave()
        if self.is_current:
            self._connection.socket_lost(error, torn=self.transport.torn)


class StatefulConnection(HubConnection):
    """A connection whose client was promised stateful reconnect.

    Until the handshake has agreed on version 2, and with version 1 for good, it is a plain connection.

    Args:
        connection_id: The public id.
        request: The HTTP request that opened the connection.
        session: Protocol state, which counts.
        cork: Shared by the connections of a process.
        options: The limits of the transport.
        hub_options: The limit of the replay buffer.
        clock: How long the client is away.

    Attributes:
        socket: The one in use; None while the client is away.
    """

    __slots__ = ("_away_since", "_clock", "_hub_options", "_stalled_at", "_stalled_since", "_timed_out", "socket")

    session: StatefulSession
    outbound: ReplayBuffer

    def __init__(
        self,
        connection_id: str,
        *,
        request: ConnectionRequest,
        session: StatefulSession,
        cork: Cork,
        options: TransportOptions,
        hub_options: HubOptions,
        clock: Clock,
    ) -> None:
        self._hub_options = hub_options
        super().__init__(connection_id, request=request, session=session, cork=cork, options=options)
        self._clock = clock
        self._away_since = 0.0
        self._stalled_at = 0
        self._stalled_since: float | None = None
        self._timed_out = False
        self.socket: ClientSocket | None = None

    def _make_outbound(self, cork: Cork) -> ReplayBuffer:
        return ReplayBuffer(
            cork,
            self._options.outbound_buffer_limit,
            self._overflow,
            log=self.session.log,
            replay_limit=self._hub_options.stateful_reconnect_buffer_size,
        )

    @property
    def transport_kind(self) -> TransportKind:
        """WebSockets, also while the client is away."""
        return TransportKind.WEB_SOCKETS

    @property
    def timed_out(self) -> bool:
        """Whether it ended because the client did not come back in time."""
        return self._timed_out

    @property
    def can_resume(self) -> bool:
        """Whether the client may come with a new socket: always after the handshake, until the end has begun."""
        return self.outbound.counting and not self.closed

    # -- sockets ------------------------------------------------------------------------------------------------

    def take(self, transport: WebSocketTransport) -> ClientSocket:
        """Use `transport` from now on, instead of the socket there may be, which is closed whatever its peer does.

        After the handshake nothing is written on it before `resume`. A connection that has ended does not use it.
        """
        socket = ClientSocket(self, transport)
        if self.closed:
            socket.leave()
            return socket
        before, self.socket = self.socket, socket
        if not self.outbound.counting:
            self.attach(transport)
            return socket
        took_nothing = self.outbound.held
        self._detach()
        if before is not None:
            logger.debug("A new socket takes over from one that is still open.", extra=self._log_extra(None))
            if took_nothing:
                before.transport.abort()  # no Close frame would get through what waits there
            else:
                before.transport.close(CloseReason.NORMAL)
            before.leave()
        return socket

    def resume(self, socket: ClientSocket, request: ConnectionRequest, *, expires_at: float | None) -> None:
        """The new socket is open: replay, then go on, unless another one or the end was quicker.

        Args:
            socket: From `take`.
            request: Its request, which is the connection's from now on.
            expires_at: When its login expires, as in `HubConnection`.
        """
        if self.socket is not socket:
            socket.transport.close(CloseReason.NORMAL)
            return
        # What the client sent in the meantime may have ended the connection; then the goodbye still follows here.
        self.request = request
        self.expires_at = expires_at
        self.transport = transport = socket.transport
        self.handshake_done()
        if self._reading_paused:
            transport.pause_reading()
        self.outbound.resume(transport, self.protocol.encode(Sequence_(self.session.log.first)))

    def socket_lost(self, error: Exception | None, *, torn: bool) -> None:
        """The socket in use has ended. If it was torn the client may come back; else this is the end.

        Args:
            error: What broke it, if the client broke a rule.
            torn: See `WebSocketTransport`.
        """
        self.socket = None
        if not (torn and self.can_resume):
            self.transport_lost(error)
            return
        logger.debug("The socket broke off; the client may come back.", extra=self._log_extra(None))
        self._detach()

    def _detach(self) -> None:
        self.transport = None
        self._away_since = self._clock.monotonic()
        self._blocked_since = None
        self._stalled_since = None
        self.session.socket_lost()
        self.outbound.detach()
        self._wake_unblocked()

    # -- what a plain connection does differently -----------------------------------------------------------------

    def handshake_done(self) -> None:
        """The handshake has chosen a protocol, and perhaps agreed on counting."""
        super().handshake_done()
        self.outbound.counting = self.session.counts

    def data_received(self, data: bytes) -> None:
        """As for every connection; what the client has acknowledged may let senders go on."""
        super().data_received(data)
        if self.outbound.blocked:
            self._wake_unblocked()
            self._read_on()

    def resume_writing(self) -> None:
        """The peer takes bytes again."""
        self._blocked_since = None
        self.outbound.unblock()
        self._wake_unblocked()

    def _wake_unblocked(self) -> None:
        if self.outbound.settle():
            self._wake_drain()

    def _read_on(self) -> None:
        # Calls that wait for acknowledgements hold the reading up, and the acknowledgements stand behind calls.
        if self._reading_paused and self.outbound.is_over_limit and self._unread < self._options.outbound_buffer_limit:
            self._reading_paused = False
            if self.transport is not None:
                self.transport.resume_reading()

    def close_transport(self, reason: CloseReason) -> None:
        """Begin to close the socket, if there is one, behind everything written."""
        super().close_transport(reason)
        self.session.log.clear()
        if self.socket is not None:
            self.socket.leave()

    # -- time ---------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second: as for every connection; acknowledge; end a client that stays away or acknowledges nothing."""
        outbound = self.outbound
        if not outbound.counting:
            super().tick(now)
        elif self.socket is None:
            self._tick_away(now)
        else:
            super().tick(now)
            if not self.closed and outbound.transport is not None:
                self._acknowledge()
                self._read_on()
                self._judge(now)

    def _tick_away(self, now: float) -> None:
        if self.closed:
            return
        if self.expires_at is not None and now >= self.expires_at:
            self._decide(Verdict.EXPIRED)
        elif now - self._away_since > self._options.disconnect_timeout:
            logger.debug("The client did not come back.", extra=self._log_extra(None))
            self._timed_out = True
            self.end(None, allow_reconnect=True)
        else:
            # A client that cannot say anything is not silent.
            self.session.tick(now, busy=True)

    def _acknowledge(self) -> None:
        receipts = self.session.receipts
        number = receipts.due()
        if number is not None and not self.outbound.held:
            self.outbound.append_uncounted(self.protocol.encode(Ack(number)))
            receipts.acknowledged()

    def _judge(self, now: float) -> None:
        first = self.session.log.first
        if not self.outbound.is_over_limit:
            self._stalled_since = None
        elif self._stalled_since is None or first != self._stalled_at:
            self._stalled_at, self._stalled_since = first, now
        elif now - self._stalled_since > STALL_LIMIT:
            logger.warning(
                "Connection %s acknowledges nothing: over %d bytes are kept for it. It is disconnected.",
                self.connection_id,
                self._hub_options.stateful_reconnect_buffer_size,
                extra=self._log_extra(None),
            )
            self.close_message = False
            self._decide(Verdict.SLOW)
