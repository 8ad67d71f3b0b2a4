"""`Shard`: one primary of a Cluster as this node uses it: a link that publishes and a link that is subscribed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from hubplane.backplane.redis.link import Link, LinkUser
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pipeline import CommandPipeline
from hubplane.backplane.redis.placement import Placement
from hubplane.backplane.redis.subscriber import Subscriber
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
        on_change: Called after every change of `hears` or `takes`, with the error when one went down.
        on_failure: Called when a task fails that never should.

    Attributes:
        endpoint: The server.
        cut_off: The other servers hold it to have failed, or it cannot send to one of them.
        failed: A link was lost, or could not be made at first; before that it is only on its way.
        was_up: What `is_up` was when its owner last looked.
        heard: What `hears` was then.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: RedisOptions,
        placement: Placement,
        *,
        clock: Clock,
        random: Random,
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
        self.pipeline = CommandPipeline(self._options, clock)
        self.subscriber = Subscriber(
            self._options, clock, placement.receiver(self), _nothing, watcher=_Watcher(placement, self)
        )
        self._commands = self._link("commands", self.pipeline)
        self._subscriptions = self._link("subscriptions", self.subscriber)

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
    def answers(self) -> bool:
        """It takes commands, whatever the others think of it."""
        return self._commands.is_up

    @property
    def failures(self) -> int:
        """Attempts to connect that failed in a row."""
        return max(self._commands.failures, self._subscriptions.failures)

    def start(self) -> None:
        """Begin to connect."""
        self._supervisor.start(self._commands.run(), "commands", vital=True)
        self._supervisor.start(self._subscriptions.run(), "subscriptions", vital=True)

    def abandon(self, reason: BackplaneUnavailableError) -> None:
        """Fail what was sent and not answered; the server may be frozen, and carry it out much later."""
        self._commands.leave(reason)

    def tick(self, now: float) -> None:
        """Look at deadlines and probes; call it several times per interval."""
        self.pipeline.expire(now)
        self.subscriber.tick(now)
        self._commands.tick(now)
        self._subscriptions.tick(now)

    async def close(self) -> None:
        """Send what waits, fail what is unconfirmed, and close both links."""
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
        )

    def _changed(self, error: BackplaneUnavailableError | None) -> None:
        self.failed = self.failed or error is not None
        self._on_change(self, error)


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


def _nothing() -> None:
    """The placement knows when all channels are back."""
