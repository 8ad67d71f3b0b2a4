"""What an edge gives a connection to write on, and what the connection offers the edge.

Source: signalr-server section 2; docs/architecture.md, "Corked fan-out".
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

__all__ = [
    "CloseReason",
    "OutboundBatch",
    "Transport",
    "TransportKind",
    "TransportListener",
    "Verdict",
    "WebSocketTransport",
]


class TransportKind(Enum):
    """How a client reached us; the value is negotiate's word for it."""

    WEB_SOCKETS = "WebSockets"
    SERVER_SENT_EVENTS = "ServerSentEvents"
    LONG_POLLING = "LongPolling"


class CloseReason(Enum):
    """Why a transport is closed; the value is the WebSocket close code."""

    NORMAL = 1000
    APPLICATION_ERROR = 1011


class Verdict(Enum):
    """Why the server itself ended a connection; the value is for metrics."""

    SHUTDOWN = "app_shutdown"
    SLOW = "slow_consumer"
    STUCK = "send_timeout"
    SILENT = "client_timeout"
    EXPIRED = "authentication_expired"


class OutboundBatch:
    """One or more whole hub messages that leave in one write, perhaps on many connections.

    Attributes:
        payload: The joined messages.
        text_frame: The payload framed as an unmasked text message, once an edge has made it.
        binary_frame: The same as a binary message.
    """

    __slots__ = ("binary_frame", "payload", "text_frame")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.text_frame: bytes | None = None
        self.binary_frame: bytes | None = None


class Transport(Protocol):
    """From the edge, for `HubConnection`. No method waits, none raises because the peer is gone."""

    @property
    def kind(self) -> TransportKind:
        """Which transport this is."""
        ...

    def set_binary(self, binary: bool) -> None:  # noqa: FBT001 - mirrors the wire's two opcodes
        """Frame what follows as binary (messagepack) or text (json); text until it is called."""
        ...

    def send(self, batch: OutboundBatch) -> None:
        """Hand a batch to the peer. A full socket is reported with `TransportListener.pause_writing`."""
        ...

    def pause_reading(self) -> None:
        """Stop delivering data until `resume_reading`; idempotent."""
        ...

    def resume_reading(self) -> None:
        """Deliver data again; idempotent."""
        ...

    def close(self, reason: CloseReason) -> None:
        """Begin the closing handshake behind everything sent so far; idempotent."""
        ...

    def abort(self) -> None:
        """Drop the peer at once, without a closing handshake; idempotent."""
        ...


class WebSocketTransport(Transport, Protocol):
    """A transport that can break off."""

    @property
    def torn(self) -> bool:
        """Whether it ended without a word: no Close frame came or went, no rule was broken, and nobody cut it here.

        To be read once the listener knows the end. Only then may a client with stateful reconnect come back.
        """
        ...


class TransportListener(Protocol):
    """`HubConnection`, as the edge sees it. Called on the event loop; nothing here waits or raises."""

    def data_received(self, data: bytes) -> None:
        """Bytes arrived; message boundaries of the transport mean nothing."""
        ...

    def pause_writing(self) -> None:
        """The peer does not take bytes at the moment: send nothing until `resume_writing`."""
        ...

    def resume_writing(self) -> None:
        """The peer takes bytes again."""
        ...

    def shutting_down(self) -> None:
        """The server stops: say goodbye with permission to reconnect, then close the transport."""
        ...

    def transport_lost(self, error: Exception | None) -> None:
        """The transport has ended: by the peer, by an error, or after `close` or `abort`. Called exactly once."""
        ...
