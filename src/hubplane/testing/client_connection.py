"""One connection of a `HubClient`: the client's half of the hub protocol over a socket in memory.

Source: signalr-server sections 1.2, 2.1, 3 and 4.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any  # servers send whatever they like
from urllib.parse import quote, urlencode

from hubplane.errors import ConnectionClosedError, HubException, HubplaneError, RemoteProtocolError
from hubplane.protocol.framing import RECORD_SEPARATOR
from hubplane.protocol.handshake import encode_handshake_request, parse_handshake_response
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat, ValueDecoder
from hubplane.protocol.messages import (
    Close,
    Completion,
    HandshakeRequest,
    HubMessage,
    Invocation,
    Ping,
    StreamItem,
)
from hubplane.supervisor import Supervisor
from hubplane.testing.arrivals import Arrivals, ServerCall
from hubplane.testing.client_negotiation import Connecting, negotiate, refused
from hubplane.testing.client_stream import ClientStream
from hubplane.testing.failures import ConnectError, NothingArrivedError
from hubplane.testing.memory_server import MemoryServer
from hubplane.testing.memory_socket import MemoryWebSocket

__all__ = ["ClientConnection", "Connecting", "ConnectionEnd"]

_UNREAD_ITEMS = 1_000
_NO_RESULT = "Client didn't provide a result."


@dataclass(frozen=True, slots=True)
class ConnectionEnd:
    """How a connection ended.

    Attributes:
        error: The text of the server's Close message; None without one.
        allow_reconnect: What that message allows; False without one.
        said_goodbye: Whether there was a Close message.
        code: The WebSocket's close code; 1006 for a socket that just ended.
    """

    error: str | None
    allow_reconnect: bool
    said_goodbye: bool
    code: int

    def __str__(self) -> str:
        """A sentence."""
        if not self.said_goodbye:
            return f"The connection ended without a Close message (WebSocket code {self.code})."
        reason = "without an error" if self.error is None else f"with the error {self.error!r}"
        allowed = ", and allows to come back" if self.allow_reconnect else ""
        return f"The server closed the connection {reason}{allowed} (WebSocket code {self.code})."


class ClientConnection:
    """From negotiation to the end.

    Args:
        server: Where the application runs.
        protocol: What to speak.
        handlers: The client's methods; may change meanwhile.
        timeout: Seconds to wait for anything.

    Attributes:
        connection_id: What the negotiation said.
        calls: Calls that wait for their completion, by id.
        streams: Streams under way, and what decodes their items, by id.
        arrivals: The server's calls.
        pings: How many have arrived.
        pinged: Set by each.
        end: How it ended; None while it has not.
        ended: Set with it.
        handler_error: What a handler raised that nobody waited for.
    """

    def __init__(
        self,
        server: MemoryServer,
        protocol: HubProtocol,
        handlers: Mapping[str, Callable[..., object]],
        timeout: float,
    ) -> None:
        self.connection_id: str | None = None
        self.calls: dict[str, asyncio.Future[Completion]] = {}
        self.streams: dict[str, tuple[ClientStream[Any], ValueDecoder]] = {}
        self.arrivals = Arrivals()
        self.pings = 0
        self.pinged = asyncio.Event()
        self.end: ConnectionEnd | None = None
        self.ended = asyncio.Event()
        self.handler_error: Exception | None = None
        self._server = server
        self._protocol = protocol
        self._handlers = handlers
        self._timeout = timeout
        self._ids = count(1)
        self._socket: MemoryWebSocket | None = None
        self._handshake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._close_message: Close | None = None
        self._room = asyncio.Event()
        self._supervisor = Supervisor("hub client")
        self._context = contextvars.copy_context()
        self._arguments = protocol.value_decoder(list[Any])

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and the connection has not ended."""
        return self._handshake.done() and self.end is None

    # -- its beginning and end ----------------------------------------------------------------------------------

    async def open(self, how: Connecting) -> None:
        """Negotiate, open the WebSocket, shake hands.

        Raises:
            ConnectError: The application refused, or did not answer in time.
        """
        query = dict(how.query)
        if how.negotiates:
            self.connection_id, query["id"] = await negotiate(self._server, how)
        if how.access_token is not None:
            query["access_token"] = how.access_token
        encoded = urlencode(query, quote_via=quote)
        socket = self._socket = self._server.websocket(how.path, query=encoded, headers=how.headers, extra=how.extra)
        socket.on_data = self._data
        socket.on_end = self._socket_ended
        socket.room = self._has_room
        try:
            async with asyncio.timeout(self._timeout):
                if (refusal := await socket.opened()) is not None:
                    raise refused(refusal, f"the WebSocket at {how.path}", how.path)
                with contextlib.suppress(ConnectionResetError):  # then the handshake says why
                    await socket.send(encode_handshake_request(HandshakeRequest(self._protocol.name, 1)).decode())
                await self._handshake
        except TimeoutError:
            socket.drop()
            raise ConnectError(f"No answer to the handshake at {how.path} within {self._timeout:g} s.") from None
        except BaseException:
            socket.drop()
            raise

    def drop(self, code: int = 1006) -> None:
        """End the socket from this side; idempotent."""
        if self._socket is not None:
            self._socket.drop(code)

    async def finish(self) -> None:
        """End the socket, and wait until the application is done with it.

        Raises:
            NothingArrivedError: It is not, in time.
            Exception: What the application raised while it served this connection.
        """
        socket = self._socket
        if socket is None:
            return
        socket.drop(1000)
        await self._supervisor.close()
        try:
            async with asyncio.timeout(self._timeout):
                await socket.returned()
        except TimeoutError:
            raise NothingArrivedError(
                f"The application was not done with the connection {self._timeout:g} s after its end. "
                "Does `on_disconnected` wait for something?"
            ) from None
        error, socket.error = socket.error, None
        if error is not None:
            raise error

    # -- sending ------------------------------------------------------------------------------------------------

    async def send(self, message: HubMessage, *, timeout: float | None = None) -> None:
        """Send one message, as soon as the application takes it.

        Args:
            message: What to send.
            timeout: Seconds to wait; None for as long as the connection lasts.

        Raises:
            ConnectionClosedError: The connection has ended, or never began.
            NothingArrivedError: The application took nothing in time.
            TypeError, ValueError, OverflowError: The message cannot be written in this protocol.
        """
        socket = self._socket
        if socket is None or not self.is_open:
            raise self.closed_error()
        data = self._protocol.encode(message)
        try:
            async with asyncio.timeout(timeout):
                await socket.send(data.decode() if self._protocol.transfer_format is TransferFormat.TEXT else data)
        except ConnectionResetError:
            raise self.closed_error() from None
        except TimeoutError:
            raise NothingArrivedError(
                f"The application has taken no message of this client for {timeout:g} s: it is busy with those before."
            ) from None

    def closed_error(self) -> ConnectionClosedError:
        """What to raise when the connection has ended."""
        text = "The client is not connected." if self.end is None else str(self.end)
        return ConnectionClosedError(self.connection_id or "", text)

    def numbered(self, arguments: tuple[object, ...]) -> tuple[str, list[object], dict[str, AsyncIterable[object]]]:
        """The id of a new call, its plain arguments, and its streams by their ids."""
        plain: list[object] = []
        uploads: dict[str, AsyncIterable[object]] = {}
        for argument in arguments:
            if isinstance(argument, AsyncIterable):
                uploads[str(next(self._ids))] = argument
            else:
                plain.append(argument)
        return str(next(self._ids)), plain, uploads

    def start_uploads(self, uploads: Mapping[str, AsyncIterable[object]]) -> None:
        """Stream the items of each, at the same time."""
        for stream_id, items in uploads.items():
            self._supervisor.start(self._upload(stream_id, items), "upload")

    async def _upload(self, stream_id: str, items: AsyncIterable[object]) -> None:
        error: str | None = None
        try:
            async for item in items:
                await self.send(StreamItem(stream_id, item))
        except ConnectionClosedError:
            return
        except Exception as failure:  # noqa: BLE001 - told to the server, as every client does
            error = str(failure) or type(failure).__name__
        await self._answer(Completion(stream_id, error))

    async def _answer(self, message: Completion) -> None:
        with contextlib.suppress(ConnectionClosedError):  # nobody is left to be told
            await self.send(message)

    # -- receiving ----------------------------------------------------------------------------------------------

    async def _has_room(self) -> None:
        while self.end is None and any(stream.unread > _UNREAD_ITEMS for stream, _ in self.streams.values()):
            self._room.clear()
            await self._room.wait()

    def room(self) -> None:
        """An item of a stream was taken."""
        self._room.set()

    def hints(self) -> list[str]:
        """What a test that waits in vain should know."""
        if self.end is not None:
            return [str(self.end)]
        if any(stream.unread > _UNREAD_ITEMS for stream, _ in self.streams.values()):
            return [f"The client reads nothing: more than {_UNREAD_ITEMS} items of a stream wait to be taken."]
        return []

    def _data(self, data: bytes) -> None:
        if self.end is not None:
            return
        buffer = self._buffer + data
        try:
            if not self._handshake.done():
                body, separator, buffer = buffer.partition(RECORD_SEPARATOR)
                if not separator:
                    self._buffer = body
                    return
                if (error := parse_handshake_response(body)) is not None:
                    self._refuse(f"The server refused the handshake: {error}")
                    return
                self._handshake.set_result(None)
            bodies, self._buffer = self._protocol.split(buffer, None)
            for body in bodies:
                if (message := self._protocol.decode(body)) is not None:
                    self._message(message)
        except RemoteProtocolError as fault:
            self._close_message = Close(f"The client does not understand the server: {fault}")
            self.drop(1002)

    def _refuse(self, text: str) -> None:
        self._handshake.set_exception(ConnectError(text))
        self._handshake.exception()  # whoever waits gets it; nobody has to

    def _message(self, message: HubMessage) -> None:
        if isinstance(message, Completion):
            self._completed(message)
        elif isinstance(message, StreamItem):
            self._item(message)
        elif isinstance(message, Invocation):
            self._called(message)
        elif isinstance(message, Ping):
            self.pings += 1
            self.pinged.set()
        elif isinstance(message, Close):
            self._close_message = message

    def _completed(self, message: Completion) -> None:
        answer = self.calls.pop(message.invocation_id, None)
        if answer is not None and not answer.done():
            answer.set_result(message)
        if (found := self.streams.pop(message.invocation_id, None)) is not None:
            found[0].end(None if message.error is None else HubException(message.error))

    def _item(self, message: StreamItem) -> None:
        if (found := self.streams.get(message.invocation_id)) is not None:
            stream, decode = found
            try:
                stream.add(decode(message.item))  # type: ignore[arg-type]  # raw, since it was received
            except HubplaneError as error:
                stream.fail(error)

    def _called(self, message: Invocation) -> None:
        arguments = self._arguments(message.arguments)  # type: ignore[arg-type]  # raw, since it was received
        call = ServerCall(message.target, arguments)  # type: ignore[arg-type]  # a list, by its decoder
        handler = self._handlers.get(call.target)
        if handler is not None:
            self._start(self._handle(handler, call, message.invocation_id), "handler")
            return
        if not self.arrivals.add(call):
            self._close_message = Close("The client has too many calls that no test has taken; see `receive`.")
            self.drop()
        elif message.invocation_id is not None:
            self._start(self._answer(Completion(message.invocation_id, _NO_RESULT)), "answer")

    def _start(self, work: Any, name: str) -> None:  # Any: a coroutine of any kind
        # Not in the context of the application, which is what calls here.
        self._supervisor.start(work, name, context=self._context.copy())

    async def _handle(self, handler: Callable[..., object], call: ServerCall, invocation_id: str | None) -> None:
        try:
            value = handler(*call.arguments)
            if inspect.isawaitable(value):
                value = await value
        except Exception as error:  # noqa: BLE001 - told to the server, or to the test when its block ends
            if invocation_id is not None:
                await self._answer(Completion(invocation_id, str(error) or type(error).__name__))
            elif self.handler_error is None:
                self.handler_error = error
            return
        if invocation_id is not None:
            try:
                await self._answer(Completion(invocation_id, result=value))
            except (TypeError, ValueError, OverflowError) as error:  # no protocol writes such a value
                await self._answer(Completion(invocation_id, str(error)))

    def _socket_ended(self, code: int) -> None:
        said = self._close_message
        self.end = ConnectionEnd(
            error=None if said is None else said.error,
            allow_reconnect=said is not None and said.allow_reconnect,
            said_goodbye=said is not None,
            code=code,
        )
        if not self._handshake.done():
            self._refuse(f"No answer to the handshake. {self.end}")
        for answer in self.calls.values():
            if not answer.done():
                answer.set_exception(self.closed_error())
        for stream, _ in self.streams.values():
            stream.end(self.closed_error())
        self.arrivals.end(str(self.end))
        self._room.set()
        self.ended.set()
