"""The rules of long polling: what waits for the client leaves in the answer to its next GET.

The connection lives longer than any of its requests: its life is a task of the endpoint. Between two polls the
connection keeps what it has to say, within the limit of its outbound buffer, and ends when no poll comes in time.

Source: signalr-server sections 1.5, 1.6 and 2.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import Any  # what a coroutine yields and is sent is the event loop's matter

from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import CloseReason, OutboundBatch, TransportKind, TransportListener
from hubplane.options import TransportOptions
from hubplane.transports.exchange import HttpExchange
from hubplane.transports.registry import ConnectionEntry, ConnectionRegistry, EntryState

__all__ = ["NO_CACHE", "LongPolling", "StartTask", "serve_poll"]

logger = logging.getLogger(__name__)

StartTask = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Starts a task of the endpoint: the work and its name."""

NO_CACHE = (
    ("cache-control", "no-cache, no-store"),
    ("pragma", "no-cache"),
    ("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
)
"""Headers of every answer to a poll, errors included."""

_DATA = "application/octet-stream"


async def serve_poll(
    exchange: HttpExchange,
    entry: ConnectionEntry,
    registry: ConnectionRegistry,
    *,
    options: TransportOptions,
    clock: Clock,
    connect: Callable[[ConnectionRequest, str, TransportKind], HubConnection],
    serve: Callable[[HubConnection], Awaitable[None]],
    start_task: StartTask,
) -> None:
    """Answer one poll. The first one starts the connection and is answered at once, empty.

    Cancellation leaves the connection without a poll.

    Args:
        exchange: The GET.
        entry: The connection it names.
        registry: Where that is.
        options: The time limits.
        clock: For them.
        connect: Makes the connection from the first poll's request, its id and its transport.
        serve: Runs the connection's life and returns after its goodbye.
        start_task: Starts that life, and watches polls.
    """
    if entry.kind not in {None, TransportKind.LONG_POLLING}:
        await exchange.respond(400, b"Cannot change transports mid-connection", headers=NO_CACHE)
        return
    if entry.state is EntryState.DISPOSED:
        await exchange.respond(404, headers=NO_CACHE)
        return
    transport = entry.connection.transport if entry.connection is not None else None
    if isinstance(transport, LongPolling):
        await transport.poll(exchange)
        return
    registry.claim(entry, TransportKind.LONG_POLLING)
    try:
        connection = entry.connection = connect(exchange.request, entry.connection_id, TransportKind.LONG_POLLING)
        transport = LongPolling(entry, registry, connection, options=options, clock=clock, start_task=start_task)
        start_task(transport.live(serve, connection), "connection")
    except BaseException:
        registry.dispose(entry)
        raise
    connection.attach(transport)
    transport.begin(connection)
    await exchange.respond(200, content_type=_DATA, headers=NO_CACHE)


class _Outcome(Enum):
    """Why a poll is answered without data."""

    TIMEOUT = auto()
    REPLACED = auto()
    ENDED = auto()
    GONE = auto()


class _Poll:
    """One open poll.

    Attributes:
        since: When it came, then when its answer began, in monotonic seconds.
        outcome: What it is answered with.
        done: Done when it has been.
        answering: The task that writes the answer.
        cut: That task was cancelled because the client does not take the answer.
    """

    __slots__ = ("answering", "cut", "done", "outcome", "since")

    def __init__(self, now: float) -> None:
        loop = asyncio.get_running_loop()
        self.since = now
        self.outcome: asyncio.Future[bytes | _Outcome] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.answering: asyncio.Task[object] | None = None
        self.cut = False

    def settle(self, outcome: bytes | _Outcome) -> bool:
        """Decide the answer; False when it was decided before."""
        if self.outcome.done():
            return False
        self.outcome.set_result(outcome)
        return True


class LongPolling:
    """`Transport` whose peer comes now and then.

    Args:
        entry: Its token.
        registry: Forgets the entry when the transport ends, and calls `tick` before that.
        listener: The connection.
        options: The time limits.
        clock: For them.
        start_task: Starts the task that notices when a poll's client leaves.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_deleted",
        "_ended",
        "_entry",
        "_idle_since",
        "_listener",
        "_open",
        "_options",
        "_queued",
        "_registry",
        "_replacing",
        "_start_task",
    )

    def __init__(
        self,
        entry: ConnectionEntry,
        registry: ConnectionRegistry,
        listener: TransportListener,
        *,
        options: TransportOptions,
        clock: Clock,
        start_task: StartTask,
    ) -> None:
        self._entry = entry
        self._registry = registry
        self._listener = listener
        self._options = options
        self._clock = clock
        self._start_task = start_task
        self._open: _Poll | None = None
        self._replacing = False
        # The connection keeps what waits for a poll. Here is only what it hands over without one: its goodbye.
        self._queued: list[bytes] = []
        self._closed = False
        self._deleted = False
        self._ended = False
        self._idle_since = clock.monotonic()

    async def live(self, serve: Callable[[HubConnection], Awaitable[None]], connection: HubConnection) -> None:
        """Run the connection's life; its failure, or cancellation, ends the transport."""
        try:
            await serve(connection)
        except BaseException:
            self.abort()
            raise

    def begin(self, connection: HubConnection) -> None:
        """The first poll was there: wait for the next, and take what was posted before."""
        self._entry.state = EntryState.INACTIVE
        self._registry.watch(self._entry, self.tick)
        self._listener.pause_writing()
        self._registry.upload_of(self._entry).attach(connection)

    # -- the connection's side: Transport -----------------------------------------------------------------------

    @property
    def kind(self) -> TransportKind:
        """Long polling."""
        return TransportKind.LONG_POLLING

    def set_binary(self, binary: bool) -> None:  # noqa: FBT001 - mirrors the wire's two opcodes
        """Nothing: the body of an answer is bytes."""

    def send(self, batch: OutboundBatch) -> None:
        """Answer the open poll, and ask the listener to keep what comes behind until the next one."""
        if self._ended:
            return
        self._queued.append(batch.payload)
        self._listener.pause_writing()
        if self._open is not None:
            self._give(self._open)

    def pause_reading(self) -> None:
        """Let POSTs wait."""
        self._registry.upload_of(self._entry).pause()

    def resume_reading(self) -> None:
        """Let POSTs go on."""
        self._registry.upload_of(self._entry).resume()

    def close(self, reason: CloseReason) -> None:
        """Let a poll fetch what is left, and the one behind it learn that this is the end; idempotent."""
        if self._closed or self._ended:
            return
        self._closed = True
        if self._deleted or (self._open is not None and not self._queued and self._open.settle(_Outcome.ENDED)):
            self._end()

    def abort(self) -> None:
        """Drop the peer at once; an open poll learns that this is the end. Idempotent."""
        self._end()

    # -- the client's side --------------------------------------------------------------------------------------

    async def poll(self, exchange: HttpExchange) -> None:
        """Answer a poll that is not the first, when there is something to say.

        A poll that is open already is answered first, with 204. Of several that replace it, one does, the others
        are refused with 409.
        """
        # Also when none is open: the one that replaces it may not have woken yet, and would forget this one.
        if self._replacing:
            await exchange.respond(409, headers=NO_CACHE)
            return
        before = self._open
        if before is not None:
            self._replacing = True
            before.settle(_Outcome.REPLACED)
            try:
                await asyncio.shield(before.done)
            finally:
                self._replacing = False
        if self._ended:
            await exchange.respond(204, headers=NO_CACHE)
            return
        poll = self._open = _Poll(self._clock.monotonic())
        self._entry.state = EntryState.ACTIVE
        try:
            if not self._give(poll):
                await self._wait(exchange, poll)
            await self._answer(exchange, poll)
        finally:
            self._answered(poll)

    def delete(self) -> None:
        """The client is done: an open poll gets the goodbye, and nothing else is answered any more."""
        self._deleted = True
        self._registry.dispose(self._entry)
        if self._closed:
            self._end()

    def tick(self, now: float) -> None:
        """Once a second: answer a poll that has waited too long, end what has had none for too long."""
        poll = self._open
        if poll is None:
            if now - self._idle_since > self._options.disconnect_timeout:
                logger.debug("Connection %s was not polled any more.", self._entry.connection_id)
                self._end(timed_out=True)
        elif not poll.outcome.done():
            if now - poll.since >= self._options.poll_timeout:
                poll.settle(_Outcome.TIMEOUT)
        elif poll.answering is not None and now - poll.since > self._options.transport_send_timeout:
            poll.cut = True
            poll.answering.cancel()
            self._end()

    def _give(self, poll: _Poll) -> bool:
        """Settle a poll with what there is to say, if there is anything; else let the connection speak."""
        if self._queued:
            if poll.settle(b"".join(self._queued)):
                self._queued = []
        elif self._closed:
            poll.settle(_Outcome.ENDED)
            self._end()
        else:
            self._listener.resume_writing()
        return poll.outcome.done()

    async def _wait(self, exchange: HttpExchange, poll: _Poll) -> None:
        watching = self._start_task(self._watch(exchange, poll), "poll")
        exchange.on_stop(self._listener.shutting_down)
        try:
            await poll.outcome
        finally:
            exchange.forget_stop(self._listener.shutting_down)
            watching.cancel()

    @staticmethod
    async def _watch(exchange: HttpExchange, poll: _Poll) -> None:
        await exchange.wait_gone()
        poll.settle(_Outcome.GONE)

    async def _answer(self, exchange: HttpExchange, poll: _Poll) -> None:
        outcome = poll.outcome.result()
        task = poll.answering = asyncio.current_task()
        poll.since = self._clock.monotonic()
        try:
            if isinstance(outcome, bytes):
                await exchange.respond(200, outcome, content_type=_DATA, headers=NO_CACHE)
            elif outcome is _Outcome.TIMEOUT:
                await exchange.respond(200, headers=NO_CACHE)
            elif outcome is not _Outcome.GONE:
                await exchange.respond(204, headers=NO_CACHE)
        except asyncio.CancelledError:
            # The server drops the client when we return without an answer.
            if not poll.cut or task is None or task.uncancel() > 0:
                raise
            logger.debug("The client did not take the answer to its poll.")

    def _answered(self, poll: _Poll) -> None:
        poll.settle(_Outcome.GONE)
        poll.done.set_result(None)
        if self._open is poll:
            self._open = None
            self._idle_since = self._clock.monotonic()
            if not self._ended:
                # What comes from here on waits for the next poll.
                self._listener.pause_writing()
            if self._entry.state is EntryState.ACTIVE:
                self._entry.state = EntryState.INACTIVE

    def _end(self, *, timed_out: bool = False) -> None:
        if self._ended:
            return
        self._ended = True
        self._queued.clear()
        if self._open is not None:
            self._open.settle(_Outcome.ENDED)
        self._registry.unwatch(self._entry)
        self._registry.dispose(self._entry, timed_out=timed_out)
        self._listener.transport_lost(None)
