"""`Link`: keeps one connection to Redis alive for a user who is told when it comes and goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Protocol

from hubplane.backplane.redis.connection import RedisConnection, open_connection
from hubplane.backplane.redis.events import RedisConnectionError, RedisFailure
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = ["Link", "LinkUser"]

logger = logging.getLogger(__name__)

# A connection that was silent for this many intervals after the probe's own is no longer trusted.
_SILENT_INTERVALS = 3


class LinkUser(Protocol):
    """Whoever speaks through a link; called on the event loop."""

    def attach(self, connection: RedisConnection) -> None:
        """There is a connection, logged in and idle: set its `drain` and use it."""
        ...

    def detach(self, error: BackplaneUnavailableError) -> None:
        """There is no connection; called when one is lost and after every failed attempt to open one."""
        ...

    def probe(self) -> None:
        """Send something harmless that Redis answers."""
        ...


class Link:
    """One connection, kept up: opened, probed, distrusted when silent, replaced when lost.

    A connection that falls silent is not closed at once, because a frozen server that wakes up has lost nothing: it is
    reported as down, a second one is opened beside it, and whichever shows life first is used.

    Args:
        name: For logs and errors: "commands", "subscriptions".
        user: Speaks through it.
        options: Addresses, timeouts, back-off.
        clock: Sleeps between attempts.
        random: Jitter.
        supervisor: Owns the attempt that runs beside a silent connection.
        on_change: Called after every change of `is_up`, with the error when it went down.
        connect: Opens a connection; a test has its own.
        dial: Finds the server and opens a connection, in place of trying the addresses in turn.
        accept: Looks at each new connection before it is used, and returns it.
    """

    def __init__(  # noqa: PLR0913 - each is one decision of its owner's
        self,
        name: str,
        user: LinkUser,
        options: RedisOptions,
        *,
        clock: Clock,
        random: Random,
        supervisor: Supervisor,
        on_change: Callable[[BackplaneUnavailableError | None], None],
        connect: Callable[[Endpoint, RedisOptions], Awaitable[RedisConnection]] = open_connection,
        dial: Callable[[], Awaitable[RedisConnection]] | None = None,
        accept: Callable[[RedisConnection], Awaitable[RedisConnection]] | None = None,
    ) -> None:
        self._name = name
        self._user = user
        self._options = options
        self._clock = clock
        self._random = random
        self._supervisor = supervisor
        self._on_change = on_change
        self._connect = connect
        self._dial_once = dial or self._open_any
        self._accept = accept
        self._connection: RedisConnection | None = None
        self._suspected = False
        self._interval = options.liveness_interval or max(options.keep_alive, 0.0)
        self._next_check = 0.0
        self._silent = 0
        self._failures = 0
        self._opened_at = 0.0
        self._recovered: asyncio.Future[None] | None = None

    @property
    def is_up(self) -> bool:
        """There is a connection, and it is trusted."""
        return self._connection is not None and not self._suspected

    @property
    def connection(self) -> RedisConnection | None:
        """The connection, if there is one, trusted or not."""
        return self._connection

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it is connected to; None when it is not."""
        return self._connection.endpoint if self._connection is not None else None

    @property
    def failures(self) -> int:
        """Attempts that failed since the last one that lasted."""
        return self._failures

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        connection = await self._dial()
        try:
            while True:
                self._attach(connection)
                connection = await self._serve(connection)
        finally:
            if self._connection is not None:
                self._connection.close()

    def leave(self, reason: BackplaneUnavailableError) -> None:
        """Give up the present connection, if there is one, for a new one."""
        if self._connection is not None:
            self._connection.abort(reason)

    def tick(self, now: float) -> None:
        """Probe an idle connection, and distrust a silent one; call it several times per interval."""
        connection = self._connection
        if connection is None or not self._interval:
            return
        if connection.heard:
            connection.heard = False
            self._silent = 0
            self._next_check = now + self._interval
            if self._recovered is not None and not self._recovered.done():
                self._recovered.set_result(None)
        elif now >= self._next_check:
            # Counted in calls and not read off the clock: after our own process slept, the answer may lie unread.
            self._next_check = now + self._interval
            self._silent += 1
            if self._silent == 1 or self._suspected:
                self._user.probe()
            elif self._silent >= _SILENT_INTERVALS:
                connection.suspect()

    def _attach(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._suspected = False
        self._silent = 0
        now = self._opened_at = self._clock.monotonic()
        self._next_check = now + self._interval
        logger.info("Connected to Redis at %s (%s, RESP%d).", connection.endpoint, self._name, connection.resp)
        self._user.attach(connection)
        self._on_change(None)

    def _detach(self, error: BackplaneUnavailableError) -> None:
        self._connection = None
        self._suspected = False
        if self._clock.monotonic() - self._opened_at < self._options.retry_max:
            self._failures += 1
        else:
            self._failures = 0
        self._user.detach(error)
        self._on_change(error)

    async def _serve(self, connection: RedisConnection) -> RedisConnection:
        """Return the connection to use next, once this one is of no more use."""
        while True:
            await connection.trouble
            if connection.error is not None:
                logger.warning("%s (%s)", connection.error, self._name)
                self._detach(connection.error)
                return await self._dial()
            silence = self._interval * _SILENT_INTERVALS
            error = RedisConnectionError(
                f"Redis at {connection.endpoint} did not answer for {silence:g} s ({self._name}).",
                endpoint=connection.endpoint,
                failure=RedisFailure.SOCKET_FAILURE,
            )
            logger.warning("%s Trying a second connection.", error)
            self._suspected = True
            connection.trust()
            self._on_change(error)
            if (other := await self._race(connection, error)) is not None:
                return other
            logger.info("Redis at %s answers again (%s).", connection.endpoint, self._name)
            self._suspected = False
            self._on_change(None)

    async def _race(self, silent: RedisConnection, error: BackplaneUnavailableError) -> RedisConnection | None:
        """Open a second connection and return it, or None when the silent one spoke first."""
        recovered = self._recovered = silent.trouble.get_loop().create_future()
        attempt = self._supervisor.start(self._dial(), f"{self._name}, second connection")
        used = False
        try:
            await asyncio.wait({attempt, recovered, silent.trouble}, return_when=asyncio.FIRST_COMPLETED)
            if silent.error is None and (silent.heard or not attempt.done()):
                return None
            silent.abort(error)
            self._detach(silent.error or error)
            other: RedisConnection = await attempt
            used = True
            return other
        finally:
            self._recovered = None
            if not used and not attempt.cancel() and not attempt.cancelled():
                attempt.result().close()

    async def _dial(self) -> RedisConnection:
        """Try until a connection is there; never fails."""
        while True:
            if self._failures:
                await self._clock.sleep(self._pause())
            try:
                return await self._accepted(await self._dial_once())
            except BackplaneUnavailableError as error:
                level = logging.WARNING if not self._failures else logging.DEBUG
                logger.log(level, "%s (%s)", error, self._name)
                self._failures += 1
                if self._connection is None:
                    self._user.detach(error)
                    self._on_change(error)

    async def _accepted(self, connection: RedisConnection) -> RedisConnection:
        if self._accept is None:
            return connection
        accepted = False
        try:
            used = await self._accept(connection)
            accepted = True
            return used
        finally:
            if not accepted:
                connection.close()

    def _pause(self) -> float:
        options = self._options
        longest = min(options.retry_max, options.retry_base * 2.0 ** min(self._failures - 1, 30))
        return longest * self._random.uniform(0.5, 1.0)

    async def _open_any(self) -> RedisConnection:
        """Connect to the first address that is not a replica; a single address may be one."""
        addresses = self._options.addresses
        failure: BackplaneUnavailableError | None = None
        for address in addresses:
            try:
                connection = await self._connect(address, self._options)
            except BackplaneUnavailableError as error:
                failure = error
                continue
            # Any node of a Cluster can tell who the others are.
            if len(addresses) == 1 or connection.role in {"", "master"} or connection.mode == "cluster":
                return connection
            connection.close()
            failure = failure or RedisConnectionError(
                f"Redis at {address} is a replica.", endpoint=address, failure=RedisFailure.UNABLE_TO_CONNECT
            )
        assert failure is not None  # noqa: S101 - there is at least one address
        raise failure
