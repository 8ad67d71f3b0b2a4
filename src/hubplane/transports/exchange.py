"""What an edge must offer: one HTTP exchange, or one WebSocket about to be opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import Transport, TransportListener

__all__ = ["HttpExchange", "WebSocketExchange"]


class HttpExchange(Protocol):
    """One HTTP request and its answer."""

    @property
    def request(self) -> ConnectionRequest:
        """The request's scope."""
        ...

    async def respond(
        self,
        status: int,
        body: bytes = b"",
        *,
        content_type: str | None = "text/plain",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send the whole answer, with Content-Length; once."""
        ...


class WebSocketExchange(Protocol):
    """One WebSocket request. Exactly one of `reject` and `accept` is called."""

    @property
    def request(self) -> ConnectionRequest:
        """The request's scope."""
        ...

    async def reject(self, status: int, body: bytes, *, content_type: str | None = "text/plain") -> None:
        """Answer the upgrade request with an HTTP status."""
        ...

    async def accept(
        self, connect: Callable[[Transport], TransportListener], *, subprotocol: str | None = None
    ) -> Transport:
        """Complete the upgrade; data goes to the listener that `connect` returns.

        Raises:
            ConnectionClosedError: The peer went away meanwhile.
        """
        ...

    async def finish(self, timeout: float) -> None:
        """Wait until the transport has ended, at most `timeout` seconds for the peer's Close frame, then cut it.

        Cancellation cuts it at once.
        """
        ...
