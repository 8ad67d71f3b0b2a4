"""A WebSocket without a network: one side is ASGI's `receive` and `send`, the other a client's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias  # ASGI messages hold what applications put there

from hubplane.testing.failures import ConnectError

__all__ = ["MemoryResponse", "MemoryWebSocket", "Message"]

Message: TypeAlias = MutableMapping[str, Any]

_UNTAKEN = 16
"""Messages of the client that the application may leave untaken before the client waits."""


@dataclass(frozen=True, slots=True)
class MemoryResponse:
    """An answer to an HTTP request.

    Attributes:
        status: The status code.
        headers: Names in lower case; the last one of a name counts.
        body: All of it.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class MemoryWebSocket:
    """A client's end of a WebSocket. It runs on the event loop that made it.

    Attributes:
        on_data: Called with each message that arrives; set it before the first `await`.
        on_end: Called once with the close code, 1006 for a socket that ended without one; likewise.
        room: Awaited before a message of the application is taken: how a client that reads slowly slows it down.
        error: What the application raised.
    """

    def __init__(self) -> None:
        self.on_data: Callable[[bytes], None] = _ignore
        self.on_end: Callable[[int], None] = _ignore
        self.room: Callable[[], Awaitable[None]] | None = None
        self.error: BaseException | None = None
        self._incoming: deque[Message] = deque([{"type": "websocket.connect"}])
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._opened: asyncio.Future[MemoryResponse | None] = asyncio.get_running_loop().create_future()
        self._refusal: MemoryResponse | None = None
        self._gone: Message | None = None
        self._code: int | None = None
        self._returned = asyncio.Event()

    # -- the client's side --------------------------------------------------------------------------------------

    async def opened(self) -> MemoryResponse | None:
        """Wait for the answer to the upgrade request: None for an open socket, else the refusal.

        Raises:
            Exception: What the application raised instead of an answer.
        """
        return await asyncio.shield(self._opened)

    async def send(self, data: bytes | str) -> None:
        """Send one binary or text message; waits while the application takes none.

        Raises:
            ConnectionResetError: The socket has ended.
        """
        while len(self._incoming) >= _UNTAKEN and self._code is None:
            self._taken.clear()
            await self._taken.wait()
        if self._code is not None:
            raise ConnectionResetError("The WebSocket has ended.")
        self._incoming.append({"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data})
        self._arrived.set()

    def drop(self, code: int = 1006) -> None:
        """End the socket: without a goodbye (1006), or with a Close frame of another code; idempotent."""
        if self._gone is None:
            self._gone = {"type": "websocket.disconnect", "code": code, "reason": ""}
            self._end(code)

    async def returned(self) -> None:
        """Wait until the application has returned from this socket: until its hub's `on_disconnected` has ended."""
        await self._returned.wait()

    # -- the application's side ---------------------------------------------------------------------------------

    async def app_receives(self) -> Message:
        """ASGI's `receive`."""
        while not self._incoming:
            if self._code is not None:
                return self._gone or {"type": "websocket.disconnect", "code": self._code, "reason": ""}
            self._arrived.clear()
            await self._arrived.wait()
        self._taken.set()
        return self._incoming.popleft()

    async def app_sends(self, message: Message) -> None:
        """ASGI's `send`.

        Raises:
            OSError: The client has gone, as the specification asks since version 2.4.
        """
        kind = message["type"]
        if kind == "websocket.send" and self.room is not None and self._code is None:
            await self.room()
        if self._code is not None:
            raise ConnectionResetError("The client has gone.")
        if kind == "websocket.accept":
            self._open(None)
        elif kind == "websocket.send":
            data = message.get("bytes")
            self.on_data(message["text"].encode() if data is None else data)
        elif kind == "websocket.close":
            self._open(MemoryResponse(403))
            self._end(message.get("code", 1000))
        elif kind == "websocket.http.response.start":
            fields = message.get("headers", ())
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in fields}
            self._refusal = MemoryResponse(message["status"], headers)
        elif kind == "websocket.http.response.body" and self._refusal is not None:
            refusal = self._refusal
            body = refusal.body + message.get("body", b"")
            self._refusal = MemoryResponse(refusal.status, refusal.headers, body)
            if not message.get("more_body"):
                self._open(self._refusal)
                self._end(1006)

    def app_ended(self, error: BaseException | None) -> None:
        """The application has returned, or raised `error`."""
        self.error = error
        if not self._opened.done():
            self._opened.set_exception(error or ConnectError("The application returned without opening the WebSocket."))
            self._opened.exception()  # whoever waits gets it; nobody has to
        self._end(1006)
        self._returned.set()

    def _open(self, answer: MemoryResponse | None) -> None:
        if not self._opened.done():
            self._opened.set_result(answer)

    def _end(self, code: int) -> None:
        if self._code is None:
            self._code = code
            self._arrived.set()
            self._taken.set()
            self.on_end(code)


def _ignore(_value: object) -> None:
    pass
