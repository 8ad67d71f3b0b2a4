"""A connection from handshake to goodbye.

The request that opened the connection runs `ConnectionRunner.run`. Hub methods run in worker tasks, at most
`maximum_parallel_invocations_per_client` of them, which take calls from the inbox in order; everything else in the
inbox is handled the moment it reaches the head, while calls are running or not.

Source: signalr-server sections 3.4, 5.4, 5.8, 5.9.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable

from hubplane.connection.hub_connection import HubConnection, Refreshed
from hubplane.connection.request import HubConnectionContext
from hubplane.connection.transport import CloseReason
from hubplane.errors import HandshakeError, HubException, wire_error_name
from hubplane.hubs.dispatcher import HubDispatcher
from hubplane.lifetime.base import HubLifetimeManager
from hubplane.protocol.handshake import HANDSHAKE_FAILED, HANDSHAKE_SUCCESS, encode_handshake_error
from hubplane.protocol.messages import Close, HandshakeRequest, HubMessage, Invocation, Ping, StreamItem
from hubplane.supervisor import Supervisor

__all__ = ["ConnectionRunner"]

logger = logging.getLogger(__name__)

CLOSED_WITH_ERROR = "Connection closed with an error."


class ConnectionRunner:
    """Runs one connection.

    Args:
        connection: The client; its transport is attached.
        dispatcher: The hub's dispatcher.
        lifetime: Where the connection is known while it lives.
        supervisor: Owner of the worker tasks.
        detailed_errors: Send exception types and texts to the client.
        user_id: Computes the user's identifier from the connection, once.

    Attributes:
        looking: See `CallGate`, which this is to the dispatcher.
    """

    __slots__ = (
        "_connection",
        "_context",
        "_detailed_errors",
        "_dispatcher",
        "_handshake_waiter",
        "_idle",
        "_lifetime",
        "_slots",
        "_supervisor",
        "_user_id",
        "_workers",
        "looking",
    )

    def __init__(
        self,
        connection: HubConnection,
        *,
        dispatcher: HubDispatcher,
        lifetime: HubLifetimeManager,
        supervisor: Supervisor,
        detailed_errors: bool,
        slots: int,
        user_id: Callable[[HubConnectionContext], str | None],
    ) -> None:
        self._connection = connection
        self._dispatcher = dispatcher
        self._lifetime = lifetime
        self._supervisor = supervisor
        self._detailed_errors = detailed_errors
        self._user_id = user_id
        self._slots = slots
        self._workers = 0
        self.looking = False
        self._idle: list[asyncio.Future[None]] = []
        self._handshake_waiter: asyncio.Future[None] | None = None
        self._context: contextvars.Context | None = None

    async def run(self) -> None:
        """Serve the connection until it has ended and its transport is closing.

        Cancellation ends the connection at once; the hub's disconnect callback still runs.
        """
        connection = self._connection
        if not await self._shake_hands():
            return
        self._context = contextvars.copy_context()
        reason = CloseReason.NORMAL
        try:
            await self._lifetime.on_connected(connection)
            if await self._hub_connected():
                try:
                    connection.on_input = self._input
                    self._input()
                    if not connection.ended:
                        await connection.end_waiter()
                finally:
                    self._write_close()
                    if not await self._hub_disconnected():
                        reason = CloseReason.APPLICATION_ERROR
        except Exception as error:
            # Not the user's callback: the connection could not be registered. .NET ends it without a Close message.
            logger.exception("Error when processing requests.", extra={"connection_id": connection.connection_id})
            connection.end(error, allow_reconnect=True)
            reason = CloseReason.APPLICATION_ERROR
        finally:
            connection.end(None, allow_reconnect=True)
            connection.on_input = None
            self._wake_all()
            await self._lifetime.on_disconnected(connection)
            connection.close_transport(reason)

    # -- handshake ----------------------------------------------------------------------------------------------

    async def _shake_hands(self) -> bool:
        connection = self._connection
        loop = asyncio.get_running_loop()
        connection.on_input = self._handshake_input
        connection.on_abort(self._handshake_input)
        while not connection.inbox and connection.session.failure is None and not connection.closed:
            self._handshake_waiter = loop.create_future()
            await self._handshake_waiter
        connection.remove_on_abort(self._handshake_input)
        self._handshake_waiter = None
        failure = connection.session.failure if not connection.inbox else None
        if failure is None and (connection.ended or (connection.lost and not connection.inbox)):
            failure = connection.error if isinstance(connection.error, HandshakeError) else None
            if failure is None:
                connection.close_transport(CloseReason.NORMAL)
                return False
        if failure is None:
            connection.inbox.pop(0)
            failure = self._identify()
        if failure is not None:
            logger.debug("Failed connection handshake: %s", failure, extra={"connection_id": connection.connection_id})
            connection.end(failure, allow_reconnect=False)
            answer = failure.answer if isinstance(failure, HandshakeError) else None
            if answer is not None:
                detail = f" {wire_error_name(failure)}: {failure.detail}" if self._tells_detail(failure) else ""
                connection.write_last(encode_handshake_error(answer + detail))
            connection.close_transport(CloseReason.NORMAL)
            return False
        # It leaves at the end of the turn, framed as the protocol demands; with stateful reconnect counting begins
        # behind it.
        connection.write(HANDSHAKE_SUCCESS)
        connection.handshake_done()
        return True

    def _identify(self) -> HandshakeError | None:
        """Ask whose the connection is; what the application's answer fails with is the handshake's failure."""
        connection = self._connection
        try:
            connection.user_identifier = self._user_id(connection)
        except Exception as error:
            logger.exception("The user id provider failed.", extra={"connection_id": connection.connection_id})
            return HandshakeError(HANDSHAKE_FAILED, str(error), error_type=type(error).__name__)
        return None

    def _tells_detail(self, failure: HandshakeError | Exception) -> bool:
        return self._detailed_errors and isinstance(failure, HandshakeError) and failure.detail != failure.answer

    def _handshake_input(self) -> None:
        waiter = self._handshake_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- the hub's callbacks ------------------------------------------------------------------------------------

    async def _hub_connected(self) -> bool:
        connection = self._connection
        connection.on_input = None
        try:
            await self._dispatcher.on_connected(connection)
        except asyncio.CancelledError:
            self._write_close()
            raise
        except Exception as error:
            logger.exception(
                "Error when dispatching 'OnConnectedAsync' on hub.",
                extra={"connection_id": connection.connection_id, "event_id": 1},
            )
            connection.end(error, allow_reconnect=False)
            self._write_close()
            return False
        return True

    async def _hub_disconnected(self) -> bool:
        connection = self._connection
        try:
            await self._dispatcher.on_disconnected(connection, connection.error)
        except Exception:
            logger.exception(
                "Error when dispatching 'OnDisconnectedAsync' on hub.",
                extra={"connection_id": connection.connection_id, "event_id": 2},
            )
            return False
        return True

    def _write_close(self) -> None:
        connection = self._connection
        connection.end(None, allow_reconnect=True)
        if not connection.close_message or connection.lost:
            return
        text = None
        error = connection.error
        if error is not None and connection.tell_error:
            text = CLOSED_WITH_ERROR
            if self._detailed_errors or isinstance(error, HubException):
                text = f"{text} {wire_error_name(error)}: {error}"
        connection.write_last(connection.protocol.encode(Close(text, connection.allow_reconnect)))

    # -- messages -----------------------------------------------------------------------------------------------

    def _input(self) -> None:
        """Messages arrived: handle what needs no slot, and see that somebody takes the calls."""
        if self._connection.ended:
            return  # what is left in the inbox is dropped, also the streams that it would start
        if self._idle:
            self._wake()
        elif self._at_head_of_line() and self._workers < self._slots:
            self._workers += 1
            # A copy for each: calls that run at the same time must not see what the others set.
            context = None if self._context is None else self._context.copy()
            self._supervisor.start(self._work(), "hub methods", context=context)

    def look_behind(self) -> None:
        """What stands behind a call and needs no slot is handled as soon as the call waits; so is the inbox's end."""
        self.looking = True
        asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self.looking = False
        connection = self._connection
        if (connection.inbox or connection.unsettled) and not connection.ended:
            self._input()

    def _at_head_of_line(self) -> bool:
        """Handle messages until a call is at the head; False when there is none."""
        connection = self._connection
        inbox = connection.inbox
        while inbox:
            message = inbox[0]
            if type(message) is Invocation and self._dispatcher.needs_slot(connection, message):
                return True
            if type(message) is Refreshed:
                return True
            if type(message) is StreamItem and not self._dispatcher.has_room(connection, message):
                # The method does not read its upload: the item waits here, and everything behind it (row B112).
                return False
            inbox.pop(0)
            self._handle(message)
        connection.inbox_empty()
        failure = connection.session.failure
        if failure is not None:
            connection.end(failure, allow_reconnect=True)
        elif connection.lost:
            connection.end(connection.lost_error, allow_reconnect=True)
        return False

    def _handle(self, message: HandshakeRequest | HubMessage | Refreshed) -> None:
        if type(message) is Ping or isinstance(message, (HandshakeRequest, Refreshed)):
            return
        if type(message) is Close:
            error = HubException(message.error) if message.error else None
            self._connection.end(error, allow_reconnect=False, tell_error=False)
            return
        self._dispatcher.handle(self._connection, message)

    async def _work(self) -> None:
        connection = self._connection
        loop = asyncio.get_running_loop()
        try:
            while not connection.ended:
                if connection.inbox:
                    if type(connection.inbox[0]) is Refreshed:
                        await self._refreshed(connection.inbox.pop(0))
                    else:
                        await self._dispatcher.take_calls(connection, self)
                    if self._workers > self._slots:
                        return
                if not self._at_head_of_line() and not connection.ended:
                    waiter = loop.create_future()
                    self._idle.append(waiter)
                    await waiter
        finally:
            self._workers -= 1

    async def _refreshed(self, login: HandshakeRequest | HubMessage | Refreshed) -> None:
        """The hub sees a new login from here on, and is told so."""
        if isinstance(login, Refreshed):
            self._connection.request.take_login(login.request)
            await self._dispatcher.on_authentication_refreshed(self._connection, self)

    def has_surplus(self) -> bool:
        """Whether there are more workers than slots, because a slot was handed back meanwhile."""
        return self._workers > self._slots

    def release_slot(self) -> Callable[[], None]:
        """A running call waits for its client: let the next call start; the result takes the slot back in the end."""
        self._slots += 1
        self._input()
        return self._take_slot

    def _take_slot(self) -> None:
        self._slots -= 1

    def _wake(self) -> None:
        waiter = self._idle.pop()
        if not waiter.done():
            waiter.set_result(None)

    def _wake_all(self) -> None:
        while self._idle:
            self._wake()
