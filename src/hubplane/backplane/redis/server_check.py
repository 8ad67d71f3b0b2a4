"""`ServerCheck`: is the server behind a new connection recent enough, and is it near?"""

from __future__ import annotations

import logging
import re

from hubplane.backplane.redis.connection import RedisConnection
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pipeline import CommandPipeline
from hubplane.backplane.redis.resp import pack_command
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = ["OLDEST_VERSIONS", "ServerCheck"]

logger = logging.getLogger(__name__)

OLDEST_VERSIONS = {"redis": (6, 2), "valkey": (7, 2)}
"""The oldest servers that are supported; others are not compared."""

_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})")
# The quickest counts: the others waited for work of our own, or of the server's.
_ROUND_TRIPS = 5


class ServerCheck:
    """Looks at a server after each connect: is it recent enough, and is it near?

    Args:
        options: Of the backplane.
        pipeline: Sends the probes.
        clock: Measures them.
        supervisor: Owns the work.

    Attributes:
        round_trip: Seconds of the quickest probe to the present server; None while that is not known.
    """

    def __init__(self, options: RedisOptions, pipeline: CommandPipeline, clock: Clock, supervisor: Supervisor) -> None:
        self._options = options
        self._pipeline = pipeline
        self._clock = clock
        self._supervisor = supervisor
        self._seen: RedisConnection | None = None
        # By server, so that a flapping one does not fill the log.
        self._old: set[tuple[Endpoint, str]] = set()
        self._far: set[Endpoint] = set()
        self.round_trip: float | None = None

    def look_at(self, connection: RedisConnection) -> None:
        """Check the server behind a new connection; one that was seen before is not looked at again."""
        if connection is not self._seen:
            self._seen = connection
            self.round_trip = None
            self._check_version(connection)
            if self._options.command("PING"):
                self._supervisor.start(self._measure(connection), "round trip")

    def _check_version(self, connection: RedisConnection) -> None:
        oldest = OLDEST_VERSIONS.get(connection.server)
        found = _VERSION.match(connection.version)
        key = (connection.endpoint, connection.version)
        if oldest is None or found is None or key in self._old:
            return
        if (int(found[1]), int(found[2])) < oldest:
            self._old.add(key)
            logger.warning(
                "The server at %s is %s %s; hubplane supports it from version %d.%d on. Please update it.",
                connection.endpoint,
                connection.server.capitalize(),
                connection.version,
                *oldest,
            )

    async def _measure(self, connection: RedisConnection) -> None:
        ping = pack_command((self._options.command("PING"),))
        quickest: float | None = None
        for _ in range(_ROUND_TRIPS):
            start = self._clock.monotonic()
            try:
                await self._pipeline.submit(ping, "PING")
            except BackplaneUnavailableError:
                return  # forbidden, or gone again
            if connection is not self._seen:
                return
            took = self._clock.monotonic() - start
            quickest = took if quickest is None else min(quickest, took)
        self.round_trip = quickest
        limit = self._options.slow_round_trip
        if quickest is not None and limit and quickest > limit and connection.endpoint not in self._far:
            self._far.add(connection.endpoint)
            logger.warning(
                "Redis at %s is %.1f ms away, there and back; more than %g ms (slow_round_trip). Every message to more "
                "than one client takes this way: run Redis in the data centre of the nodes.",
                connection.endpoint,
                quickest * 1000,
                limit * 1000,
            )
