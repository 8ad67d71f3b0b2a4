"""One HTTP exchange over ASGI's scope, receive and send.

Source: the ASGI 3 HTTP specification.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias  # ASGI messages hold what servers and middleware put there

from hubplane.connection.request import ConnectionRequest

__all__ = ["AsgiHttpExchange", "Receive", "Scope", "Send"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiHttpExchange:
    """`HttpExchange` of one ASGI ``http`` scope."""

    __slots__ = ("_receive", "_request", "_send")

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self._request = ConnectionRequest(scope)
        self._receive = receive
        self._send = send

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
        """Send the whole answer, with Content-Length; once."""
        fields = [] if content_type is None else [(b"content-type", content_type.encode("latin-1"))]
        if status != 204:
            fields.append((b"content-length", b"%d" % len(body)))
        fields += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": fields})
        await self._send({"type": "http.response.body", "body": body})
