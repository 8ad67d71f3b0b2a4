"""What happens, told to whoever wants to know: connections, spans around hub code, counters. Off by default.

Source: signalr-server section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context
from types import TracebackType
from typing import Final, Self

__all__ = [
    "BACKPLANE_CONNECTED",
    "BACKPLANE_PUBLISHED",
    "BACKPLANE_RECEIVED",
    "DROPPED_CONNECTIONS",
    "NO_TELEMETRY",
    "Span",
    "SpanKind",
    "Telemetry",
]

DROPPED_CONNECTIONS: Final = "hubplane.server.dropped_connections"
"""Connections that the server gave up; tag ``hubplane.reason``."""
BACKPLANE_CONNECTED: Final = "hubplane.backplane.connected"
"""1 while the broker is there, 0 while it is away."""
BACKPLANE_PUBLISHED: Final = "hubplane.backplane.published"
"""Messages that this process has given to the backplane."""
BACKPLANE_RECEIVED: Final = "hubplane.backplane.received"
"""Messages that the backplane has brought to this process."""


class SpanKind:
    """The operations of .NET's activity source that spans are made for."""

    INVOCATION: Final = "InvocationIn"
    CONNECTED: Final = "OnConnected"
    DISCONNECTED: Final = "OnDisconnected"
    AUTHENTICATION_REFRESHED: Final = "OnAuthenticationRefreshed"


class Span:
    """The time in which something is done; as a context manager it is the current one inside. This one is nothing."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it; an exception makes it a failed one, and goes on."""


class Telemetry:
    """Hears what happens in a `HubApp`, and forgets it; derive from it to report to a system of your own.

    Methods are called on the event loop. They must neither wait nor raise.

    Attributes:
        traces: Whether spans are wanted. Without them calls are not even asked about.
    """

    traces: bool = False

    def connection_started(self, transport: str) -> None:
        """A transport has claimed a connection.

        Args:
            transport: ``web_sockets``, ``server_sent_events`` or ``long_polling``.
        """

    def connection_stopped(self, transport: str, status: str, seconds: float) -> None:
        """A connection that had started is gone.

        Args:
            transport: As in `connection_started`.
            status: ``normal_closure``; ``timeout`` when its client stayed away; ``app_shutdown`` when the server stops.
            seconds: Since it started.
        """

    def count(self, name: str, tags: Mapping[str, str]) -> None:
        """Something rare has happened once more: one of the counters ``hubplane.*``."""

    def observe(self, name: str, read: Callable[[], int]) -> Callable[[], None]:
        """Read a number whenever the numbers are collected, until the returned function is called.

        Args:
            name: One of the gauges and counters ``hubplane.backplane.*``.
            read: Tells the present value; from any thread.
        """
        return _nothing

    def span(
        self,
        kind: str,
        service: str,
        method: str,
        *,
        request: Context | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Span:
        """A span around hub code, not yet entered; asked for only where `traces` is True.

        Args:
            kind: One of `SpanKind`.
            service: The hub's name.
            method: The method's declared name.
            request: The context variables of the request that opened the connection, whose span is linked to; the new
                span is then the child of `headers`, or of nothing. None makes it a child of the current span.
            headers: Headers of the invocation message, among them a caller's ``traceparent``.
        """
        return _NO_SPAN


def _nothing() -> None:
    """Nothing to forget."""


_NO_SPAN = Span()
NO_TELEMETRY: Final = Telemetry()
