"""`RedisSession`: one run of the backplane: its two links, what speaks through them, and when Redis counts as lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from random import Random

from hubplane.backplane.base import BackplaneSink
from hubplane.backplane.redis.connection import RedisConnection, describe_error
from hubplane.backplane.redis.discovery import is_cluster
from hubplane.backplane.redis.link import Link, LinkUser
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pipeline import CommandPipeline
from hubplane.backplane.redis.sentinel import Sentinels
from hubplane.backplane.redis.subscriber import Subscriber
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = ["RedisSession"]

logger = logging.getLogger(__name__)

# How long publishes wait, once Redis takes commands again, for this node's own subscriptions, so that it hears itself.
_HOLD_SECONDS = 1.0
_LONGEST_TICK = 0.25


class RedisSession:
    """What exists while a backplane runs.

    Redis counts as lost, once per outage, when one of the two connections is; and as back when both are up and every
    channel that was wanted then is confirmed.

    Args:
        options: Of the backplane.
        sink: Gets messages, and is told of outages.
        clock: For all deadlines and pauses.
        random: Jitter between attempts to connect.
        on_cluster: Called once, in place of using the connection, when the server turns out to be part of a Cluster.
    """

    def __init__(
        self,
        options: RedisOptions,
        sink: BackplaneSink,
        *,
        clock: Clock,
        random: Random,
        on_cluster: Callable[[], None] | None = None,
    ) -> None:
        self._options = options
        self._sink: BackplaneSink | None = sink
        self._clock = clock
        self._random = random
        self._supervisor = Supervisor("redis backplane", on_failure=self._failed)
        self._on_cluster = on_cluster
        self._sentinels: Sentinels | None = None
        if options.service_name:
            self._sentinels = Sentinels(options, clock, self._supervisor, self._switch)
        self.pipeline = CommandPipeline(options, clock)
        self.subscriber = Subscriber(options, clock, sink.deliver, self._check)
        self._commands = self._link("commands", self.pipeline)
        self._subscriptions = self._link("subscriptions", self.subscriber)
        self.outage: BackplaneUnavailableError | None = None
        self._hold_until: float | None = None
        # Until when the first attempts to connect may be undecided.
        self._undecided_until: float | None = None
        self.first: asyncio.Future[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Both connections are up, and no wanted channel is refused or still to be restored."""
        return (
            self.outage is None
            and self._commands.is_up
            and self._subscriptions.is_up
            and self.subscriber.is_restored
            and not self.subscriber.refused
        )

    def keep(self, names: Collection[str]) -> None:
        """Want channels without waiting for them."""
        self.subscriber.keep(names)

    def start(self) -> None:
        """Begin to connect."""
        self._undecided_until = self._clock.monotonic() + self._options.async_timeout
        self._check()
        self._supervisor.start(self._commands.run(), "commands", vital=True)
        self._supervisor.start(self._subscriptions.run(), "subscriptions", vital=True)
        self._supervisor.start(self._tick(), "deadlines", vital=True)
        if self._sentinels is not None:
            self._sentinels.watch()

    async def connected(self) -> None:
        """Return when both connections are up for the first time.

        Raises:
            BackplaneUnavailableError: `connect_retry` attempts failed.
        """
        self.first = asyncio.get_running_loop().create_future()
        self._check()
        await self.first

    def resign(self, error: BackplaneUnavailableError) -> None:
        """Leave the run to another session: nothing that was sent is answered any more, the rest can be taken over."""
        self._sink = None
        self.pipeline.detach(error)

    async def close(self) -> None:
        """Send what waits, fail what is unconfirmed, and close both connections; nothing is delivered any more."""
        self._sink = None
        self.pipeline.close()
        self.subscriber.close()
        await self._supervisor.close()

    def _link(self, name: str, user: LinkUser) -> Link:
        return Link(
            name,
            user,
            self._options,
            clock=self._clock,
            random=self._random,
            supervisor=self._supervisor,
            on_change=self._changed,
            dial=self._sentinels.open_primary if self._sentinels is not None else None,
            accept=self._accept if self._on_cluster is not None else None,
        )

    async def _accept(self, connection: RedisConnection) -> RedisConnection:
        if not await is_cluster(connection, self._options):
            return connection
        connection.close()
        if self._on_cluster is not None:
            found, self._on_cluster = self._on_cluster, None
            found()
        # This session is about to be closed.
        never: asyncio.Future[RedisConnection] = asyncio.get_running_loop().create_future()
        return await never

    def _switch(self, primary: Endpoint) -> None:
        """A Sentinel says that the primary is another one: follow it, also where the old one still answers."""
        for link in (self._commands, self._subscriptions):
            if link.endpoint not in {None, primary}:
                link.leave(BackplaneUnavailableError(f"the primary is now {primary}"))

    async def _tick(self) -> None:
        options = self._options
        interval = options.liveness_interval or _LONGEST_TICK
        seconds = min(_LONGEST_TICK, interval / 4, options.async_timeout / 4)
        while True:
            await self._clock.sleep(seconds)
            now = self._clock.monotonic()
            if self._undecided_until is not None and now >= self._undecided_until:
                self._undecided_until = None
                # Whoever waits for a first subscription gives up now, and must not take that for an answer.
                self._lose(BackplaneUnavailableError(f"No connection to Redis within {options.async_timeout:g} s."))
            self.pipeline.expire(now)
            self.subscriber.tick(now)
            self._commands.tick(now)
            self._subscriptions.tick(now)
            self._check()

    def _failed(self, error: BaseException) -> None:
        # None of our tasks ends by itself; should one, being lost is better than being deaf.
        self._lose(BackplaneUnavailableError(f"The Redis backplane failed: {describe_error(error)}."))

    def _changed(self, error: BackplaneUnavailableError | None) -> None:
        if error is not None:
            self._lose(error)
        self._check()

    def _lose(self, error: BackplaneUnavailableError) -> None:
        if self.outage is None and self._sink is not None:
            self.outage = error
            self._sink.lost(error)

    def _check(self) -> None:
        """Draw the conclusions of whatever changed."""
        if self._sink is None:
            return
        self._hold()
        if self._commands.is_up and self._subscriptions.is_up:
            self._undecided_until = None
        if self._commands.is_up and self._subscriptions.is_up and self.subscriber.is_restored:
            # A gap is a matter of one outage; without one, nobody was there before who could have missed anything.
            gap, self.subscriber.missed = self.subscriber.missed, False
            if self.outage is not None:
                self.outage = None
                logger.info("The Redis backplane is whole again%s.", "; messages may have been missed" if gap else "")
                self._sink.restored(gap=gap)
            if self.first is not None and not self.first.done():
                self.first.set_result(None)
        elif self.first is not None and not self.first.done():
            failures = max(self._commands.failures, self._subscriptions.failures)
            if failures >= max(self._options.connect_retry, 1):
                error = BackplaneUnavailableError(
                    "It was not possible to connect to the redis server(s). There was an error: to start without "
                    "Redis and connect when it comes, set abort_on_connect_fail to False (abortConnect=false)."
                )
                error.__cause__ = self.outage
                self.first.set_exception(error)

    def _hold(self) -> None:
        """Keep publishes back while our own subscriptions are on their way, but not for long."""
        if self.subscriber.is_answered or self._options.backlog == "fail_fast":
            self._hold_until = None
            self.pipeline.hold(held=False)
        elif not self._commands.is_up:
            # Nothing can be sent; this is for the moment when that changes.
            self._hold_until = None
            self.pipeline.hold(held=True)
        else:
            now = self._clock.monotonic()
            if self._hold_until is None:
                self._hold_until = now + _HOLD_SECONDS
            self.pipeline.hold(held=now < self._hold_until)
