"""`RedisSession`: one run of the backplane: its two links, what speaks through them, and when Redis counts as lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from random import Random

from hubplane.backplane.base import BackplaneSink
from hubplane.backplane.redis.connection import RedisConnection, describe_error, open_connection
from hubplane.backplane.redis.discovery import is_cluster
from hubplane.backplane.redis.events import (
    RedisConnectionError,
    RedisConnectionName,
    RedisEventQueue,
    RedisFailure,
)
from hubplane.backplane.redis.health import RedisHealth
from hubplane.backplane.redis.link import Link, LinkUser
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pipeline import CommandPipeline
from hubplane.backplane.redis.sentinel import Sentinels
from hubplane.backplane.redis.server_check import ServerCheck
from hubplane.backplane.redis.standing import Standing
from hubplane.backplane.redis.subscriber import Subscriber
from hubplane.backplane.redis.watch import ConnectionWatch
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = ["RedisSession"]

_LONGEST_TICK = 0.25
_GOODBYE_SECONDS = 0.25


class RedisSession:
    """What exists while a backplane runs.

    Redis counts as lost, once per outage, when one of the two connections is; and as back when both are up and every
    channel that was wanted then is confirmed.

    Args:
        options: Of the backplane.
        sink: Gets messages, and is told of outages.
        clock: For all deadlines and pauses.
        random: Jitter between attempts to connect.
        events: Takes what happens to the connections.
        connect: Opens a connection to a server; Sentinels are reached as the options say.
        on_cluster: Called once, in place of using the connection, when the server turns out to be part of a Cluster.
    """

    def __init__(
        self,
        options: RedisOptions,
        sink: BackplaneSink,
        *,
        clock: Clock,
        random: Random,
        events: RedisEventQueue,
        connect: Callable[[Endpoint, RedisOptions], Awaitable[RedisConnection]] = open_connection,
        on_cluster: Callable[[], None] | None = None,
    ) -> None:
        self._options = options
        self._clock = clock
        self._random = random
        self._supervisor = Supervisor("redis backplane", on_failure=self._failed)
        self._connect = connect
        self._on_cluster = on_cluster
        self._sentinels: Sentinels | None = None
        if options.service_name:
            self._sentinels = Sentinels(options, clock, self._supervisor, self._switch)
        self.watch = ConnectionWatch(events, clock)
        self.pipeline = CommandPipeline(options, clock)
        self.subscriber = Subscriber(options, clock, sink.deliver, self._check)
        self._commands = self._link("commands", self.pipeline, "publishing")
        self._subscriptions = self._link("subscriptions", self.subscriber, "subscription")
        self._server = ServerCheck(options, self.pipeline, clock, self._supervisor)
        self.standing = Standing(options, sink, clock)

    @property
    def is_connected(self) -> bool:
        """Both connections are up, and no wanted channel is refused or still to be restored."""
        return (
            self.standing.outage is None
            and self._commands.is_up
            and self._subscriptions.is_up
            and self.subscriber.is_restored
            and not self.subscriber.refused
        )

    def health(self) -> RedisHealth:
        """How it is at this moment."""
        publishing = self._commands.connection if self._commands.is_up else None
        subscription = self._subscriptions.connection if self._subscriptions.is_up else None
        outage = self.standing.outage
        error = "" if outage is None else str(outage)
        if not error and self.subscriber.refused:
            error = f"Redis refuses {self.subscriber.refused} of {self.subscriber.wanted} channels."
        elif not error and not self.is_connected:
            error = "Connecting to Redis."
        return RedisHealth(
            is_connected=self.is_connected,
            publishing=publishing.endpoint if publishing else None,
            subscription=subscription.endpoint if subscription else None,
            channels=self.subscriber.wanted,
            unconfirmed=self.subscriber.restoring if subscription else self.subscriber.wanted,
            refused=self.subscriber.refused,
            server=f"{publishing.server} {publishing.version}".strip() if publishing else "",
            round_trip=self._server.round_trip if publishing else None,
            error=error,
        )

    def keep(self, names: Collection[str]) -> None:
        """Want channels without waiting for them."""
        self.subscriber.keep(names)

    def start(self) -> None:
        """Begin to connect."""
        self.standing.begin()
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
        first = self.standing.first()
        self._check()
        await first

    def resign(self, error: BackplaneUnavailableError) -> None:
        """Leave the run to another session: nothing that was sent is answered any more, the rest can be taken over."""
        self.standing.end()
        self.pipeline.detach(error)

    async def close(self) -> None:
        """Send what waits, fail what is unconfirmed, and close both connections; nothing is delivered any more."""
        self.standing.end()
        self.pipeline.close()
        self.subscriber.close()
        links = (self._commands, self._subscriptions)
        open_ones = [link.connection for link in links if link.connection is not None]
        await self._supervisor.close()
        if open_ones:
            # TLS says goodbye before it closes; a server that does not answer is not waited for.
            try:
                await asyncio.wait([connection.gone for connection in open_ones], timeout=_GOODBYE_SECONDS)
            finally:
                for connection in open_ones:
                    connection.abort()

    def _link(self, name: str, user: LinkUser, called: RedisConnectionName) -> Link:
        return Link(
            name,
            user,
            self._options,
            clock=self._clock,
            random=self._random,
            supervisor=self._supervisor,
            on_change=partial(self._changed, called),
            connect=self._connect,
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
                text = f"the primary is now {primary}"
                link.leave(RedisConnectionError(text, endpoint=link.endpoint, failure=RedisFailure.SOCKET_CLOSED))

    async def _tick(self) -> None:
        options = self._options
        interval = options.liveness_interval or _LONGEST_TICK
        seconds = min(_LONGEST_TICK, interval / 4, options.async_timeout / 4)
        while True:
            await self._clock.sleep(seconds)
            now = self._clock.monotonic()
            if (error := self.standing.give_up(now)) is not None:
                self.standing.lose(error)
                self._report_down(error)
            self.pipeline.expire(now)
            self.subscriber.tick(now)
            heard = self._subscriptions.connection
            self.watch.look(heard=heard is not None and heard.heard)
            self._commands.tick(now)
            self._subscriptions.tick(now)
            self._check()

    def _failed(self, error: BaseException) -> None:
        # None of our tasks ends by itself; should one, being lost is better than being deaf.
        self.standing.lose(BackplaneUnavailableError(f"The Redis backplane failed: {describe_error(error)}."))

    def _changed(self, name: RedisConnectionName, error: BackplaneUnavailableError | None) -> None:
        if error is not None:
            self.standing.lose(error)
            self.standing.blame(error)
            if not self.standing.is_over:
                self.watch.failed(name, error)
        self._check()

    def _report_down(self, error: BackplaneUnavailableError) -> None:
        if not self._commands.is_up:
            self.watch.failed("publishing", error)
        if not self._subscriptions.is_up:
            self.watch.failed("subscription", error)

    def _check(self) -> None:
        """Draw the conclusions of whatever changed."""
        standing = self.standing
        if standing.is_over:
            return
        answered = self.subscriber.is_answered
        self.pipeline.hold(held=standing.holds(answered=answered, takes=self._commands.is_up))
        self._watch_connections()
        up = self._commands.is_up and self._subscriptions.is_up
        if up:
            standing.decided()
        if up and self.subscriber.is_restored:
            # A gap is a matter of one outage; without one, nobody was there before who could have missed anything.
            gap, self.subscriber.missed = self.subscriber.missed, False
            standing.whole(gap=gap)
        else:
            standing.failed(max(self._commands.failures, self._subscriptions.failures))

    def _watch_connections(self) -> None:
        publishing, subscription = self._commands.connection, self._subscriptions.connection
        if self._commands.is_up and publishing is not None:
            self.watch.works("publishing", publishing.endpoint)
            if self.subscriber.is_answered or self._options.backlog == "fail_fast":
                # Not before: what waits until this node hears itself would be measured with it.
                self._server.look_at(publishing)
        if self._subscriptions.is_up and subscription is not None and self.subscriber.is_answered:
            self.watch.works("subscription", subscription.endpoint)
            self.watch.hears(self.subscriber.regained, all_of_them=self.subscriber.is_restored)
