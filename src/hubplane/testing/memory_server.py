"""`MemoryServer`: an ASGI application that runs without a port, in the event loop of its test.

It does what a server does: it runs the application's lifespan in a task of its own, and each request in another. What
it leaves out is the network.

Source: the ASGI 3 specifications of lifespan, HTTP and WebSockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias  # ASGI messages hold what applications put there

from hubplane.errors import LocalProtocolError
from hubplane.supervisor import Supervisor
from hubplane.testing.failures import ConnectError
from hubplane.testing.memory_socket import MemoryResponse, MemoryWebSocket, Message

if TYPE_CHECKING:
    from hubplane.testing.hub_client import HubClient

__all__ = ["AsgiApp", "MemoryServer"]

AsgiApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application: a `HubApp`, or the FastAPI, Starlette, Django or Litestar application around it."""

HOST = "testserver"


class MemoryServer:
    """Runs an ASGI application in memory: ``async with MemoryServer(app) as server:``.

    Entering runs the application's start-up, leaving its shutdown, which says goodbye to the clients that are still
    there. Several clients share one server, and with it the application's one lifespan.

    Args:
        app: Any ASGI application.
        root_path: Where a proxy would have mounted it.
        timeout: Seconds that start-up, shutdown and each request may take.

    Raises:
        ConnectError: On entering: the application's start-up failed.
        LocalProtocolError: On entering: it runs already.
    """

    def __init__(self, app: AsgiApp, *, root_path: str = "", timeout: float = 5.0) -> None:
        self.app = app
        self.timeout = timeout
        self._root_path = root_path
        self._state: dict[str, object] = {}
        self._supervisor = Supervisor("memory server")
        self._lifespan: _Lifespan | None = None
        self._sockets: set[MemoryWebSocket] = set()

    @property
    def is_running(self) -> bool:
        """Between `start` and `stop`."""
        return self._lifespan is not None

    async def __aenter__(self) -> Self:
        """See `start`."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """See `stop`."""
        await self.stop()

    async def start(self) -> None:
        """Run the application's start-up. An application without a lifespan is served as it is.

        Raises:
            ConnectError: The start-up failed, or took longer than `timeout`.
            LocalProtocolError: The server runs already.
        """
        if self._lifespan is not None:
            raise LocalProtocolError("This MemoryServer is already running.")
        self._supervisor.open()
        self._state.clear()
        lifespan = self._lifespan = _Lifespan()
        scope = {"type": "lifespan", "asgi": _ASGI, "state": self._state}
        self._run(scope, lifespan.receive, lifespan.send, lifespan.ended, "lifespan")
        try:
            await lifespan.until_started(self.timeout)
        except BaseException:
            self._lifespan = None
            await self._supervisor.close()
            raise

    async def stop(self) -> None:
        """Run the application's shutdown, and wait until every request has ended; idempotent.

        WebSockets that the application has left open are closed as servers close them, with code 1012.

        Raises:
            ConnectError: The shutdown failed, or took longer than `timeout` and what the application has as its own
                deadline; what still ran is cancelled.
        """
        lifespan, self._lifespan = self._lifespan, None
        if lifespan is None:
            return
        try:
            await lifespan.stop(self.timeout + _SHUTDOWN)
        finally:
            for socket in tuple(self._sockets):
                socket.drop(1012)
            await self._supervisor.close(grace=self.timeout)

    def client(self, path: str, **options: Any) -> HubClient:
        """A client of the hub at `path`; `options` are those of `HubClient`."""
        from hubplane.testing.hub_client import HubClient  # noqa: PLC0415 - each of the two makes the other

        return HubClient(self, path, **options)

    async def http(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        extra: Mapping[str, object] | None = None,
    ) -> MemoryResponse:
        """Send one request and return its answer.

        Args:
            method: In capitals.
            path: Of the whole application.
            query: Encoded, without the question mark.
            headers: On top of ``host``.
            body: All of it.
            extra: Further members of the scope, as middleware outside would have set them.

        Raises:
            TimeoutError: No answer within `timeout` seconds.
            Exception: Whatever the application raises.
        """
        request = _HttpRequest(body)
        scope = self._scope("http", path, query, headers, extra) | {"method": method, "scheme": "http"}
        self._run(scope, request.receive, request.send, request.ended, f"{method} {path}")
        try:
            async with asyncio.timeout(self.timeout):
                return await asyncio.shield(request.answer)
        finally:
            request.leave()

    def websocket(
        self,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> MemoryWebSocket:
        """Ask for a WebSocket; `MemoryWebSocket.opened` waits for the answer.

        Args:
            path: Of the whole application.
            query: Encoded, without the question mark.
            headers: On top of those of the upgrade.
            extra: Further members of the scope.
        """
        socket = MemoryWebSocket()
        scope = self._scope("websocket", path, query, headers, extra) | {
            "scheme": "ws",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }

        def ended(error: BaseException | None) -> None:
            self._sockets.discard(socket)
            socket.app_ended(error)

        self._run(scope, socket.app_receives, socket.app_sends, ended, f"websocket {path}")
        self._sockets.add(socket)
        return socket

    def _scope(
        self,
        kind: str,
        path: str,
        query: str,
        headers: Mapping[str, str] | None,
        extra: Mapping[str, object] | None,
    ) -> dict[str, Any]:
        fields = {"host": HOST, **{name.lower(): value for name, value in (headers or {}).items()}}
        return {
            "type": kind,
            "asgi": _ASGI,
            "http_version": "1.1",
            "path": path,
            "raw_path": path.encode(),
            "root_path": self._root_path,
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()],
            "client": ("testclient", 50_000),
            "server": (HOST, 80),
            "state": dict(self._state),
            **(extra or {}),
        }

    def _run(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        ended: Callable[[BaseException | None], None],
        name: str,
    ) -> None:
        """One task that calls the application; what it raises is the test's to see, not the log's."""

        async def call() -> None:
            try:
                await self.app(scope, receive, send)
            except asyncio.CancelledError:
                ended(None)
                raise
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for this request
                ended(error)
            else:
                ended(None)

        if not self._lifespan:
            raise LocalProtocolError("This MemoryServer is not running: enter it with `async with` first.")
        self._supervisor.start(call(), name)


_ASGI = {"version": "3.0", "spec_version": "2.4"}
_SHUTDOWN = 10.0


class _Lifespan:
    """The server's side of a lifespan."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Message] = asyncio.Queue(2)
        self._events.put_nowait({"type": "lifespan.startup"})
        self._answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._supported = False
        self._error: BaseException | None = None

    async def receive(self) -> Message:
        return await self._events.get()

    async def send(self, message: Message) -> None:
        if not self._answer.done():
            self._answer.set_result(message)

    def ended(self, error: BaseException | None) -> None:
        self._error = error
        self._ended.set()
        if not self._answer.done():
            self._answer.set_result({"type": "ended"})

    async def until_started(self, timeout: float) -> None:
        answer = await self._answered(timeout, "start")
        self._supported = answer["type"] != "ended"

    async def stop(self, timeout: float) -> None:
        if not self._supported or self._ended.is_set():
            return
        self._answer = asyncio.get_running_loop().create_future()
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await self._answered(timeout, "shut down")

    async def _answered(self, timeout: float, what: str) -> Message:
        try:
            async with asyncio.timeout(timeout):
                answer = await asyncio.shield(self._answer)
                if answer["type"].endswith(".failed"):
                    await self._ended.wait()  # its exception says more than the message, which may be a traceback
        except TimeoutError as error:
            raise ConnectError(f"The application did not {what} within {timeout:g} s.") from error
        if answer["type"].endswith(".failed"):
            text = str(self._error) if self._error is not None else answer.get("message", "")
            raise ConnectError(f"The application did not {what}: {text}") from self._error
        return answer


class _HttpRequest:
    """One request whose body is there at once, and whose answer is collected."""

    def __init__(self, body: bytes) -> None:
        self.answer: asyncio.Future[MemoryResponse] = asyncio.get_running_loop().create_future()
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        self._start: Message | None = None
        self._parts: list[bytes] = []

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._parts.append(message.get("body", b""))
            if not message.get("more_body"):
                self.leave()

    def leave(self) -> None:
        """The client has all it wants."""
        self._gone.set()

    def ended(self, error: BaseException | None) -> None:
        """The application has returned or raised; its exception says more than the 500 that a framework made of it."""
        if self.answer.done():
            return
        if error is not None or self._start is None:
            self.answer.set_exception(error or ConnectError("The application returned without an answer."))
            self.answer.exception()  # whoever waits gets it; nobody has to
        else:
            fields = self._start.get("headers", ())
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in fields}
            self.answer.set_result(MemoryResponse(self._start["status"], headers, b"".join(self._parts)))
