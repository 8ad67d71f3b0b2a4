"""What an edge must offer: one HTTP exchange, or one WebSocket about to be opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import TransportListener, WebSocketTransport

__all__ = ["HttpExchange", "LoginRefresh", "WebSocketExchange"]


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
        """Send the whole answer, with Content-Length; once. A client that has gone gets none."""
        ...

    async def read(self) -> bytes:
        """The next piece of the body, as large as the server cuts it; nothing at its end.

        Raises:
            ConnectionClosedError: The client went away before the end.
        """
        ...

    async def start(self, status: int, *, content_type: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Begin an answer of unknown length, instead of `respond`.

        Raises:
            ConnectionClosedError: The client has gone.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of the answer that `start` began; returns when the server has room for more.

        Raises:
            ConnectionClosedError: The client has gone.
        """
        ...

    async def finish(self) -> None:
        """End the answer that `start` began.

        Raises:
            ConnectionClosedError: The client has gone.
        """
        ...

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback`, which must not raise, when the server stops, if the server can tell."""
        ...

    def forget_stop(self, callback: Callable[[], None]) -> None:
        """The end of `on_stop`; idempotent."""
        ...

    async def wait_gone(self) -> None:
        """Return when the client has gone; what is left of the body is passed over. Cancellation just stops waiting."""
        ...


class LoginRefresh(Protocol):
    """Gives connections new logins; the endpoint's, handed down."""

    @property
    def is_enabled(self) -> bool:
        """Whether the hub takes new logins."""
        ...

    async def handle(self, exchange: HttpExchange) -> None:
        """Answer a request to ``refresh``."""
        ...

    async def reauthenticate(self, connection: HubConnection, request: ConnectionRequest) -> bool:
        """A later request takes a connection on; False when its new login was refused, which has ended it."""
        ...

    def lifetime(self, request: ConnectionRequest) -> int | None:
        """Seconds that the login of a request lasts."""
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
        self, connect: Callable[[WebSocketTransport], TransportListener], *, subprotocol: str | None = None
    ) -> WebSocketTransport:
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
