"""`HubClient`: a SignalR client inside the test's process, for the application as its users reach it.

Nothing of the server is replaced: negotiation, middleware, authentication, handshake, dispatch, filters and the end of
a connection are the real ones. Only the sockets are missing.

Source: signalr-server sections 1.2, 2.1, 3 and 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, overload  # servers send whatever they like

from hubplane.errors import ConfigurationError, ConnectionClosedError, HubException, LocalProtocolError
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import (
    UNSET_RESULT,
    CancelInvocation,
    Close,
    Completion,
    Invocation,
    Ping,
    StreamInvocation,
)
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.testing.arrivals import ServerCall, shown
from hubplane.testing.client_connection import ClientConnection, ConnectionEnd
from hubplane.testing.client_negotiation import Connecting
from hubplane.testing.client_stream import ClientStream
from hubplane.testing.failures import NothingArrivedError
from hubplane.testing.memory_server import AsgiApp, MemoryServer

__all__ = ["FakeUser", "HubClient"]

T = TypeVar("T")

_PROTOCOLS: dict[str, Callable[[], HubProtocol]] = {"json": JsonHubProtocol, "messagepack": MessagePackHubProtocol}


@dataclass(frozen=True, slots=True)
class FakeUser:
    """A user who has logged in, as authentication middleware would have put it into the scope.

    Attributes:
        identity: Its id: what `user_identifier` becomes.
    """

    identity: str

    @property
    def is_authenticated(self) -> bool:
        """True."""
        return True

    @property
    def display_name(self) -> str:
        """The id again."""
        return self.identity


class HubClient:
    """A client of one hub: ``async with HubClient(app, "/chat") as client:``.

    Entering connects; leaving says goodbye and waits until the hub's `on_disconnected` has run.

    Args:
        app: The ASGI application with the hub in it, whose lifespan this client then runs for itself; or a
            `MemoryServer`, which several clients share.
        path: Where the hub is, seen from outside: with the path at which it is mounted.
        protocol: "json", "messagepack", or a hub protocol.
        headers: Sent with negotiation and WebSocket alike.
        user: Put into ``scope["user"]`` as authentication middleware would: any object, a mapping of claims, or a
            string for `FakeUser`. Middleware and authenticators of the application may put another one there.
        access_token: Sent as browsers do: in the header of the negotiation, in the query of the WebSocket.
        query: Further query parameters.
        skip_negotiation: Open the WebSocket at once.
        timeout: Seconds to wait for anything, at most; real ones, whatever clock the application has.

    Raises:
        ConnectError: On entering: the application did not start, or refused. An exception of the application comes out
            as it is.
    """

    def __init__(  # noqa: PLR0913 - settings, by name
        self,
        app: AsgiApp | MemoryServer,
        path: str,
        *,
        protocol: str | HubProtocol = "json",
        headers: Mapping[str, str] | None = None,
        user: object | None = None,
        access_token: str | None = None,
        query: Mapping[str, str] | None = None,
        skip_negotiation: bool = False,
        timeout: float = 5.0,
    ) -> None:
        self.path = path
        self.timeout = timeout
        self._own_server = not isinstance(app, MemoryServer)
        self._server = app if isinstance(app, MemoryServer) else MemoryServer(app, timeout=timeout)
        self._protocol = _protocol(protocol)
        self._how = Connecting(
            path=path,
            query=dict(query or {}),
            headers=dict(headers or {}),
            extra={} if user is None else {"user": FakeUser(user) if isinstance(user, str) else user},
            access_token=access_token,
            negotiates=not skip_negotiation,
        )
        self._handlers: dict[str, Callable[..., object]] = {}
        self._connection: ClientConnection | None = None

    # -- connecting ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """See `connect`."""
        if self._own_server:
            await self._server.start()
        try:
            await self.connect()
        except BaseException:
            if self._own_server:
                await self._server.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """See `close`; then an exception of a handler is raised, unless there is one already."""
        try:
            await self.close()
        finally:
            if self._own_server:
                await self._server.stop()
        error = None if self._connection is None else self._connection.handler_error
        if kind is None and error is not None:
            raise error

    async def connect(self) -> None:
        """Negotiate, open the WebSocket and shake hands; a client whose connection has ended may connect anew.

        Raises:
            ConnectError: The application refused; see `ConnectError.status`.
            LocalProtocolError: It is connected.
        """
        if self._connection is not None and self._connection.end is None:
            raise LocalProtocolError("The client is connected already.")
        connection = ClientConnection(self._server, self._protocol, self._handlers, self.timeout)
        if self._connection is not None:
            connection.handler_error = self._connection.handler_error
        await connection.open(self._how)
        self._connection = connection

    async def close(self) -> None:
        """Say goodbye as Microsoft's clients do, and wait until the application is done with this connection.

        Idempotent. Streams and uploads that still run are ended.

        Raises:
            NothingArrivedError: The application is not done within `timeout` seconds.
            Exception: What the application raised while it served this connection.
        """
        connection = self._connection
        if connection is None:
            return
        if connection.end is None:
            try:
                async with asyncio.timeout(self.timeout):
                    await connection.send(Close())
                    await connection.ended.wait()
            except (ConnectionClosedError, TimeoutError):
                pass  # an application that reads nothing still sees the socket end
        await connection.finish()

    async def drop(self) -> None:
        """Lose the connection without a goodbye, as a phone in a tunnel does; then wait as `close` does."""
        if self._connection is not None:
            self._connection.drop()
            await self._connection.finish()

    # -- what it knows ------------------------------------------------------------------------------------------

    @property
    def connection_id(self) -> str:
        """The public id, as `self.context.connection_id` says it.

        Raises:
            LocalProtocolError: Without negotiation a client is not told its id; before `connect` there is none.
        """
        found = None if self._connection is None else self._connection.connection_id
        if found is None:
            raise LocalProtocolError("The client does not know its connection id: it has not negotiated.")
        return found

    @property
    def is_connected(self) -> bool:
        """Whether the handshake is done and the connection has not ended."""
        return self._connection is not None and self._connection.is_open

    @property
    def end(self) -> ConnectionEnd | None:
        """How the connection ended; None while it has not."""
        return None if self._connection is None else self._connection.end

    @property
    def received(self) -> list[ServerCall]:
        """The calls of the server that have arrived, in order, and were neither taken nor handled."""
        return [] if self._connection is None else list(self._connection.arrivals.calls)

    @property
    def pings(self) -> int:
        """How many pings have arrived."""
        return 0 if self._connection is None else self._connection.pings

    def _current(self) -> ClientConnection:
        if self._connection is None:
            raise LocalProtocolError("The client has not connected: enter it with `async with` first.")
        return self._connection

    # -- calling the server -------------------------------------------------------------------------------------

    @overload
    async def invoke(self, target: str, *arguments: object, result: type[T], timeout: float | None = None) -> T: ...

    @overload
    async def invoke(
        self, target: str, *arguments: object, result: object = ..., timeout: float | None = None
    ) -> Any: ...

    async def invoke(
        self, target: str, *arguments: object, result: object = Any, timeout: float | None = None
    ) -> object:
        """Call a hub method and return its result.

        Args:
            target: The method.
            arguments: What it is called with; an async iterable is streamed to the method.
            result: The type that the result is converted to; plain values by default.
            timeout: Seconds to wait, instead of the client's.

        Raises:
            HubException: The server answered with an error, whose text this is.
            ConnectionClosedError: The connection ended meanwhile.
            NothingArrivedError: No answer came in time.
            BindingError: What came is no `result`.
            TypeError, ValueError, OverflowError: `result` cannot be read, or an argument cannot be written.
        """
        connection = self._current()
        decode = self._protocol.value_decoder(result)
        seconds = self.timeout if timeout is None else timeout
        invocation_id, plain, uploads = connection.numbered(arguments)
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        connection.calls[invocation_id] = answer
        try:
            async with asyncio.timeout(seconds):
                await connection.send(Invocation(target, plain, invocation_id, tuple(uploads)))
                connection.start_uploads(uploads)
                completion = await answer
        except TimeoutError:
            text = f"No answer to {target!r} arrived within {seconds:g} s."
            raise NothingArrivedError(" ".join([text, *connection.hints()])) from None
        finally:
            connection.calls.pop(invocation_id, None)
        if completion.error is not None:
            raise HubException(completion.error)
        if completion.result is UNSET_RESULT:
            return None
        return decode(completion.result)  # type: ignore[arg-type]  # raw, since it was received

    async def send(self, target: str, *arguments: object) -> None:
        """Call a hub method without asking for an answer; the server tells nobody how it went.

        Calls of one client run in order, so an `invoke` behind it returns when this one has ended, too.

        Raises:
            ConnectionClosedError: The connection has ended.
            NothingArrivedError: The application took nothing for `timeout` seconds.
        """
        connection = self._current()
        _, plain, uploads = connection.numbered(arguments)
        await connection.send(Invocation(target, plain, None, tuple(uploads)), timeout=self.timeout)
        connection.start_uploads(uploads)

    @overload
    def stream(self, target: str, *arguments: object, result: type[T]) -> ClientStream[T]: ...

    @overload
    def stream(self, target: str, *arguments: object, result: object = ...) -> ClientStream[Any]: ...

    def stream(self, target: str, *arguments: object, result: object = Any) -> ClientStream[Any]:
        """The items of a method that streams; `result` is the type of one item.

        While more than 1,000 items wait to be read, the client reads nothing more from its socket.

        Raises:
            TypeError: `result` is no type that can be read.
        """
        connection = self._current()
        decode = self._protocol.value_decoder(result)
        invocation_id, plain, uploads = connection.numbered(arguments)

        async def start(stream: ClientStream[Any]) -> None:
            connection.streams[invocation_id] = (stream, decode)
            try:
                call = StreamInvocation(invocation_id, target, plain, tuple(uploads))
                await connection.send(call, timeout=self.timeout)
            except BaseException:
                connection.streams.pop(invocation_id, None)
                stream.end(None)
                raise
            connection.start_uploads(uploads)

        async def cancel() -> None:
            if connection.end is None:
                await connection.send(CancelInvocation(invocation_id), timeout=self.timeout)

        return ClientStream(target, timeout=self.timeout, start=start, cancel=cancel, room=connection.room)

    async def ping(self) -> None:
        """Send a Ping: from the first one on, the server expects to hear from this client.

        The client sends none by itself.
        """
        await self._current().send(Ping(), timeout=self.timeout)

    # -- being called -------------------------------------------------------------------------------------------

    def on(self, target: str, handler: Callable[..., object]) -> None:
        """Let `handler` take the server's calls of `target`, instead of `receive`; before or after `connect`.

        What it returns answers a server that asks (`clients.client(id).invoke`), and what it raises does, too. Its
        exception in a call that nobody waits for is raised when the client's ``async with`` block ends.

        Args:
            target: Compared exactly.
            handler: A plain or an async function of the arguments.
        """
        self._handlers[target] = handler

    async def receive(self, target: str, *, timeout: float | None = None) -> list[Any]:
        """The arguments of the server's next call of `target`; calls of other methods stay where they are.

        Args:
            target: The client's method, compared exactly.
            timeout: Seconds to wait, instead of the client's.

        Raises:
            NothingArrivedError: None came; the text says what did.
        """
        connection = self._current()
        others = [f"A handler takes {target!r}: see `on`."] if target in self._handlers else []
        seconds = self.timeout if timeout is None else timeout
        call = await connection.arrivals.take(target, seconds, lambda: [*others, *connection.hints()])
        return call.arguments

    async def receive_nothing(self, target: str | None = None, *, within: float = 0.05) -> None:
        """Make sure that for `within` seconds nothing arrives, or no call of `target`, and that nothing has yet.

        Where possible, rather wait for something that comes behind what must not come, and look at `received`.

        Raises:
            AssertionError: Something did.
        """
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        timer = loop.call_later(within, over.set_result, None)
        try:
            await over
        finally:
            timer.cancel()
        came = [call for call in self.received if target is None or call.target == target]
        if came:
            texts = [f"{call.target}({', '.join(map(repr, call.arguments))})" for call in came]
            raise AssertionError(f"Nothing was to arrive, but there is {shown(texts)}.")

    async def receive_ping(self, *, timeout: float | None = None) -> None:
        """Wait for the next ping of the server; one that has arrived already does not count.

        Raises:
            NothingArrivedError: None came in time.
        """
        connection = self._current()
        connection.pinged.clear()
        await self._within(connection.pinged, timeout, "No ping arrived")

    async def wait_closed(self, *, timeout: float | None = None) -> ConnectionEnd:
        """Wait until the connection has ended, and say how.

        Raises:
            NothingArrivedError: It did not end in time.
        """
        connection = self._current()
        await self._within(connection.ended, timeout, "The connection did not end")
        assert connection.end is not None
        return connection.end

    async def _within(self, event: asyncio.Event, timeout: float | None, what: str) -> None:
        seconds = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            text = f"{what} within {seconds:g} s."
            raise NothingArrivedError(" ".join([text, *self._current().hints()])) from None


def _protocol(chosen: str | HubProtocol) -> HubProtocol:
    if not isinstance(chosen, str):
        return chosen
    make = _PROTOCOLS.get(chosen.lower())
    if make is None:
        raise ConfigurationError(f"The protocol is one of {', '.join(_PROTOCOLS)}, or a HubProtocol, not {chosen!r}.")
    return make()
