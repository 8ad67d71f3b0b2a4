"""`Shard`: one primary of a Cluster as this node uses it: a link that publishes and a link that is subscribed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from hubplane.backplane.redis.connection import describe_error
from hubplane.backplane.redis.events import RedisConnectionError, RedisConnectionName, RedisEventQueue, RedisFailure
from hubplane.backplane.redis.health import RedisServerHealth
from hubplane.backplane.redis.link import Link, LinkUser
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pipeline import CommandPipeline
from hubplane.backplane.redis.placement import Placement
from hubplane.backplane.redis.server_check import ServerCheck
from hubplane.backplane.redis.subscriber import Subscriber
from hubplane.backplane.redis.watch import ConnectionWatch
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = ["Shard"]


class Shard:
    """Two links to one server, and what speaks through them.

    Args:
        endpoint: The server.
        options: Of the backplane.
        placement: Says what is wanted here, and hears what comes.
        clock: For all deadlines and pauses.
        random: Jitter between attempts to connect.
        events: Takes what happens to the connections.
        on_change: Called after every change of `hears` or `takes`, with the error when one went down.
        on_failure: Called when a task fails that never should.

    Attributes:
        endpoint: The server.
        cut_off: The other servers hold it to have failed, or it cannot send to one of them.
        failed: A link was lost, or could not be made at first; before that it is only on its way.
        was_up: What `is_up` was when its owner last looked.
        heard: What `hears` was then.
        watch: Tells the application of the two links.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: RedisOptions,
        placement: Placement,
        *,
        clock: Clock,
        random: Random,
        events: RedisEventQueue,
        on_change: Callable[[Shard, BackplaneUnavailableError | None], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.endpoint = endpoint
        self.cut_off = False
        self.failed = False
        self.was_up = False
        self.heard = False
        self._options = replace(options, endpoints=(endpoint,))
        self._clock = clock
        self._random = random
        self._on_change = on_change
        self._supervisor = Supervisor(f"redis {endpoint}", on_failure=on_failure)
        self._error: BackplaneUnavailableError | None = None
        self.watch = ConnectionWatch(events, clock)
        self.pipeline = CommandPipeline(self._options, clock)
        self.subscriber = Subscriber(
            self._options, clock, placement.receiver(self), self._observe, watcher=_Watcher(placement, self)
        )
        self._commands = self._link("commands", self.pipeline, "publishing")
        self._subscriptions = self._link("subscriptions", self.subscriber, "subscription")
        self._server = ServerCheck(self._options, self.pipeline, clock, self._supervisor)
        self._watched = True

    @property
    def hears(self) -> bool:
        """Its subscriptions can be trusted now."""
        return self._subscriptions.is_up and not self.cut_off

    @property
    def takes(self) -> bool:
        """It takes commands now."""
        return self._commands.is_up and not self.cut_off

    @property
    def is_up(self) -> bool:
        """Both."""
        return self.hears and self.takes

    @property
    def deaf_since(self) -> float:
        """Monotonic: nothing that was published before was missed here."""
        return self.watch.deaf_since

    @property
    def answers(self) -> bool:
        """It takes commands, whatever the others think of it."""
        return self._commands.is_up

    @property
    def failures(self) -> int:
        """Attempts to connect that failed in a row."""
        return max(self._commands.failures, self._subscriptions.failures)

    def health(self) -> RedisServerHealth:
        """How it is at this moment."""
        connection = self._commands.connection if self._commands.is_up else None
        error = "" if self.is_up else "Connecting." if self._error is None else str(self._error)
        return RedisServerHealth(
            endpoint=self.endpoint,
            publishing=self.takes,
            subscription=self.hears,
            server=f"{connection.server} {connection.version}".strip() if connection else "",
            round_trip=self._server.round_trip if connection else None,
            error=error,
        )

    def start(self) -> None:
        """Begin to connect."""
        self._supervisor.start(self._commands.run(), "commands", vital=True)
        self._supervisor.start(self._subscriptions.run(), "subscriptions", vital=True)

    def abandon(self, reason: BackplaneUnavailableError) -> None:
        """Fail what was sent and not answered; the server may be frozen, and carry it out much later."""
        failure = reason.failure if isinstance(reason, RedisConnectionError) else RedisFailure.SOCKET_FAILURE
        self._commands.leave(RedisConnectionError(describe_error(reason), endpoint=self.endpoint, failure=failure))

    def cut(self, since: float | None) -> None:
        """The others say that it is cut off from them since then, monotonic, or, with None, that it no longer is."""
        self.cut_off = since is not None
        if since is not None and self._watched:
            lost = self._error = RedisConnectionError(
                f"Redis at {self.endpoint} is cut off from other servers of its Cluster.",
                endpoint=self.endpoint,
                failure=RedisFailure.SOCKET_FAILURE,
            )
            self.watch.failed("publishing", lost)
            self.watch.failed("subscription", lost, deaf_since=since)
        self._observe()

    def retire(self, heir: Shard | None) -> None:
        """Its server is no primary any more: say nothing more of it, and let `heir` restore what failed here."""
        self._watched = False
        if heir is not None:
            heir.watch.inherit(self.watch)

    def tick(self, now: float) -> None:
        """Look at deadlines and probes; call it several times per interval."""
        self.pipeline.expire(now)
        self.subscriber.tick(now)
        heard = self._subscriptions.connection
        self.watch.look(heard=heard is not None and heard.heard)
        self._commands.tick(now)
        self._subscriptions.tick(now)
        self._observe()

    async def close(self) -> None:
        """Send what waits, fail what is unconfirmed, and close both links."""
        self._watched = False
        self.pipeline.close()
        self.subscriber.close()
        await self._supervisor.close()

    def _link(self, name: str, user: LinkUser, called: RedisConnectionName) -> Link:
        return Link(
            name,
            user,
            self._options,
            clock=self._clock,
            random=self._random,
            supervisor=self._supervisor,
            on_change=partial(self._changed, called),
        )

    def _changed(self, name: RedisConnectionName, error: BackplaneUnavailableError | None) -> None:
        self.failed = self.failed or error is not None
        if error is not None and self._watched:
            self._error = error
            self.watch.failed(name, error)
        self._on_change(self, error)
        self._observe()

    def _observe(self) -> None:
        """Tell the application what works again."""
        if not self._watched:
            return
        connection = self._commands.connection
        if self.takes and connection is not None:
            self.watch.works("publishing", self.endpoint)
            self._server.look_at(connection)
        if self.hears and self.subscriber.is_answered:
            self.watch.works("subscription", self.endpoint)
            # Gaps are told by channel, wherever it is heard next: the placement knows.
            self.subscriber.regained.clear()
            self.watch.hears([], all_of_them=True)


class _Watcher:
    """Tells a placement what one server says of single channels."""

    def __init__(self, placement: Placement, shard: Shard) -> None:
        self._placement = placement
        self._shard = shard

    def confirmed(self, name: str) -> None:
        self._placement.confirmed(self._shard, name)

    def refused(self, name: str, error: BackplaneUnavailableError) -> None:
        self._placement.refused(self._shard, name, error)

    def misplaced(self, name: str) -> None:
        self._placement.misplaced(self._shard, name)
