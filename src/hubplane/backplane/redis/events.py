"""What the application can hear about its connections to Redis: losses, returns and gaps.

Source: redis-backplane sections 3.14 and 6.5 (S42, S44, S50).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Literal, TypeAlias

from hubplane.backplane.redis.options import Endpoint
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = [
    "RedisConnectionError",
    "RedisConnectionFailed",
    "RedisConnectionName",
    "RedisConnectionRestored",
    "RedisEventQueue",
    "RedisFailure",
    "RedisGap",
    "RedisHandlers",
    "moment",
]

logger = logging.getLogger(__name__)

RedisConnectionName: TypeAlias = Literal["publishing", "subscription"]
"""Which of the two connections; .NET's "Interactive" and "Subscription"."""

# Events that wait for a handler that does not return; a flapping server makes two a second.
_WAITING_LIMIT = 1_000
_GRACE_SECONDS = 1.0
# Beyond .NET's own numbers, which end at 15; another port of the original uses the same one.
_GAP = {"event_id": 16, "event_name": "DeliveryGap"}


class RedisFailure(Enum):
    """Why a connection failed, in the words of StackExchange.Redis' `ConnectionFailureType`."""

    UNABLE_TO_CONNECT = "UnableToConnect"
    """Nobody answers there, or only a replica."""
    SOCKET_FAILURE = "SocketFailure"
    """The socket reported an error, or the server fell silent."""
    SOCKET_CLOSED = "SocketClosed"
    """The server closed the connection."""
    AUTHENTICATION_FAILURE = "AuthenticationFailure"
    """User, password or a TLS certificate was refused, by the server or by us."""
    PROTOCOL_FAILURE = "ProtocolFailure"
    """What answered does not speak as Redis does."""
    LOADING = "Loading"
    """The server still reads its data set."""
    INTERNAL_FAILURE = "InternalFailure"
    """An error of hubplane's or of a connection factory."""


class RedisConnectionError(BackplaneUnavailableError):
    """A connection could not be made, or was lost.

    Attributes:
        endpoint: Where to; None where that is not known, because a connection factory failed.
        failure: What kind of failure it was.
    """

    def __init__(self, text: str, *, endpoint: Endpoint | None, failure: RedisFailure) -> None:
        super().__init__(text)
        self.endpoint = endpoint
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConnectionFailed:
    """A connection to Redis was lost, or could not be made at the start; told once until it is restored.

    Attributes:
        connection: "publishing" or "subscription".
        endpoint: The server; None where that is not known.
        failure: What kind of failure it was.
        error: What happened; the cause is in `__cause__`.
        at: When it was noticed, in UTC.
    """

    connection: RedisConnectionName
    endpoint: Endpoint | None
    failure: RedisFailure
    error: BackplaneUnavailableError
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConnectionRestored:
    """A connection that had failed works again. The subscription does when Redis has answered for every channel.

    Attributes:
        connection: "publishing" or "subscription".
        endpoint: The server, perhaps another one than before.
        at: When, in UTC.
        seconds: How long the connection was away.
    """

    connection: RedisConnectionName
    endpoint: Endpoint | None
    at: datetime
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisGap:
    """What others published in this time on these channels has not reached this node, and will not.

    Attributes:
        since: Nothing that was published before was missed, in UTC; up to a quarter of a second early.
        until: Nothing published from here on is missed, in UTC.
        channels: The channels, as hubplane names them, without the prefix.
        hubs: The names of the hubs that they belong to.
    """

    since: datetime
    until: datetime
    channels: tuple[str, ...]
    hubs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisHandlers:
    """Who wants to hear of what: functions, plain or async. Plain ones run on the event loop and must not block."""

    on_connection_failed: Callable[[RedisConnectionFailed], Awaitable[None] | None] | None = None
    on_connection_restored: Callable[[RedisConnectionRestored], Awaitable[None] | None] | None = None
    on_gap: Callable[[RedisGap], Awaitable[None] | None] | None = None


_Event: TypeAlias = RedisConnectionFailed | RedisConnectionRestored | RedisGap


class RedisEventQueue:
    """Hands events to the handlers, in their order and one at a time, in a task of its own.

    A handler that fails is logged. One that does not return keeps further events waiting, up to a limit, above which
    they are dropped and logged; Redis never waits for a handler.

    Args:
        handlers: Who wants to hear.
    """

    def __init__(self, handlers: RedisHandlers) -> None:
        self._handlers = handlers
        self._supervisor = Supervisor("redis events")
        self._waiting: deque[_Event] = deque()
        self._working = False
        self._dropped = 0

    def put(self, event: _Event) -> None:
        """Hand over an event, soon."""
        if isinstance(event, RedisGap):
            logger.warning(
                "Messages may have been missed on %d channels between %s and %s.",
                len(event.channels),
                event.since.isoformat(timespec="milliseconds"),
                event.until.isoformat(timespec="milliseconds"),
                extra=_GAP,
            )
        if self._handler(event) is None:
            return
        if len(self._waiting) >= _WAITING_LIMIT:
            if not self._dropped:
                logger.error("A handler of Redis events does not return; events are dropped from here on.")
            self._dropped += 1
            return
        self._waiting.append(event)
        if not self._working:
            self._working = True
            self._supervisor.start(self._work(), "handlers")

    async def close(self) -> None:
        """Give the handlers a second for what waits, then cancel them."""
        await self._supervisor.close(grace=_GRACE_SECONDS)

    def _handler(self, event: _Event) -> Callable[..., Awaitable[None] | None] | None:
        if isinstance(event, RedisConnectionFailed):
            return self._handlers.on_connection_failed
        if isinstance(event, RedisConnectionRestored):
            return self._handlers.on_connection_restored
        return self._handlers.on_gap

    async def _work(self) -> None:
        try:
            while self._waiting:
                event = self._waiting.popleft()
                handler = self._handler(event)
                if handler is None:
                    continue
                try:
                    result = handler(event)
                    if inspect.isawaitable(result):
                        await result
                except (Exception, asyncio.CancelledError):
                    # The application's own code; neither Redis nor the next event may pay for it.
                    if (task := asyncio.current_task()) is not None and task.cancelling():
                        raise
                    logger.exception("A handler of %s failed.", type(event).__name__)
                if self._dropped:
                    logger.error("%d Redis events were dropped.", self._dropped)
                    self._dropped = 0
        finally:
            self._working = False


def moment(wall: float) -> datetime:
    """A time of the clock's `wall` as users read it."""
    return datetime.fromtimestamp(wall, UTC)
