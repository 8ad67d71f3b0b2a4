"""One HTTP exchange over ASGI's scope, receive and send.

Source: the ASGI 3 HTTP specification.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias  # ASGI messages hold what servers and middleware put there

from hubplane.asgi.stopping import STOPPING_EXTENSION, Stopping
from hubplane.connection.request import ConnectionRequest
from hubplane.errors import ConnectionClosedError

__all__ = ["AsgiHttpExchange", "Receive", "Scope", "Send"]

logger = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiHttpExchange:
    """`HttpExchange` of one ASGI ``http`` scope."""

    __slots__ = ("_more", "_receive", "_request", "_send")

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self._request = ConnectionRequest(scope)
        self._receive = receive
        self._send = send
        self._more = True

    @property
    def request(self) -> ConnectionRequest:
        """The request's scope."""
        return self._request

    async def respond(
        self,
        status: int,
        body: bytes = b"",
        *,
        content_type: str | None = "text/plain",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send the whole answer, with Content-Length; once. A client that has gone gets none."""
        fields = [] if content_type is None else [(b"content-type", content_type.encode("latin-1"))]
        if status != 204:
            fields.append((b"content-length", b"%d" % len(body)))
        fields += _encoded(headers)
        try:
            await self._send({"type": "http.response.start", "status": status, "headers": fields})
            await self._send({"type": "http.response.body", "body": body})
        except OSError:
            logger.debug("The client went away before its answer.", exc_info=True)

    async def read(self) -> bytes:
        """The next piece of the body, as large as the server cuts it; nothing at its end.

        Raises:
            ConnectionClosedError: The client went away before the end.
        """
        while self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ConnectionClosedError("", "The client went away within its request.")
            self._more = bool(message.get("more_body", False))
            body: bytes = message.get("body", b"")
            if body:
                return body
        return b""

    async def start(self, status: int, *, content_type: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Begin an answer of unknown length, instead of `respond`.

        Raises:
            ConnectionClosedError: The client has gone.
        """
        fields = [(b"content-type", content_type.encode("latin-1")), *_encoded(headers)]
        await self._send_part({"type": "http.response.start", "status": status, "headers": fields})

    async def write(self, data: bytes) -> None:
        """Send a part of the answer that `start` began; returns when the server has room for more.

        Raises:
            ConnectionClosedError: The client has gone.
        """
        await self._send_part({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        """End the answer that `start` began.

        Raises:
            ConnectionClosedError: The client has gone.
        """
        await self._send_part({"type": "http.response.body", "body": b""})

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback`, which must not raise, when the server stops, if the server can tell."""
        if (stopping := self._stopping()) is not None:
            stopping.add(callback)

    def forget_stop(self, callback: Callable[[], None]) -> None:
        """The end of `on_stop`; idempotent."""
        if (stopping := self._stopping()) is not None:
            stopping.discard(callback)

    def _stopping(self) -> Stopping | None:
        offered: Stopping | None = (self._request.scope.get("extensions") or {}).get(STOPPING_EXTENSION)
        return offered

    async def wait_gone(self) -> None:
        """Return when the client has gone; what is left of the body is passed over. Cancellation just stops waiting."""
        while (await self._receive())["type"] == "http.request":
            pass

    async def _send_part(self, message: MutableMapping[str, Any]) -> None:
        try:
            await self._send(message)
        except OSError as error:  # what servers raise since version 2.4 of the specification; before, nothing
            raise ConnectionClosedError("", "The client went away within its answer.") from error


def _encoded(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
