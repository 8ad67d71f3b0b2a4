"""`Standing`: how a run of the backplane stands towards its application, whatever it is made of."""

from __future__ import annotations

import asyncio
import logging

from hubplane.backplane.base import BackplaneSink
from hubplane.backplane.redis.connection import unavailable
from hubplane.backplane.redis.options import RedisOptions
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError

__all__ = ["Standing"]

logger = logging.getLogger(__name__)

# How long publishes wait, once Redis takes commands again, for this node's own subscriptions, so that it hears itself.
_HOLD_SECONDS = 1.0
_NEVER_THERE = (
    "It was not possible to connect to the redis server(s). There was an error: to start without Redis and connect "
    "when it comes, set abort_on_connect_fail to False (abortConnect=false)."
)


class Standing:
    """Whether Redis counts as lost, how the start went, and whether publishes are held back.

    Args:
        options: Of the backplane.
        sink: Is told of outages.
        clock: For the deadlines.

    Attributes:
        outage: Why Redis counts as lost; None while it does not.
        is_over: `end` was called.
    """

    def __init__(self, options: RedisOptions, sink: BackplaneSink, clock: Clock) -> None:
        self._options = options
        self._sink = sink
        self._clock = clock
        self._first: asyncio.Future[None] | None = None
        # Until when the first attempts to connect may be undecided.
        self._undecided_until: float | None = None
        self._hold_until: float | None = None
        self.outage: BackplaneUnavailableError | None = None
        self.is_over = False

    @property
    def is_undecided(self) -> bool:
        """The first attempts to connect have neither succeeded nor failed."""
        return self._undecided_until is not None and self.outage is None

    def succeed(self, old: Standing) -> None:
        """Go on where another one stood."""
        self.outage, self._first = old.outage, old._first

    def end(self) -> None:
        """Tell nobody anything more."""
        self.is_over = True

    def begin(self) -> None:
        """The first attempts to connect are made now; they may take `async_timeout`."""
        self._undecided_until = self._clock.monotonic() + self._options.async_timeout

    def decided(self) -> None:
        """They have succeeded."""
        self._undecided_until = None

    def give_up(self, now: float) -> BackplaneUnavailableError | None:
        """They have not in their time: why, once. Whoever waits for them must not take that for an answer."""
        if self._undecided_until is None or now < self._undecided_until:
            return None
        self._undecided_until = None
        return BackplaneUnavailableError(f"No connection to Redis within {self._options.async_timeout:g} s.")

    def first(self) -> asyncio.Future[None]:
        """Resolves when nothing is missing for the first time; fails as `failed` says."""
        self._first = self._first or asyncio.get_running_loop().create_future()
        return self._first

    def lose(self, error: BackplaneUnavailableError) -> None:
        """Something is missing; the sink is told, once per outage."""
        if self.outage is None and not self.is_over:
            self.outage = error
            self._sink.lost(error)

    def blame(self, error: BackplaneUnavailableError) -> None:
        """The newest reason of an outage is the one to mend: a Redis that is back may refuse a login."""
        if self.outage is not None and not self.is_over:
            self.outage = error

    def whole(self, *, gap: bool) -> None:
        """Nothing is missing.

        Args:
            gap: Messages may have been missed.
        """
        self._undecided_until = None
        if self.outage is not None:
            self.outage = None
            logger.info("The Redis backplane is whole again%s.", "; messages may have been missed" if gap else "")
            self._sink.restored(gap=gap)
        if self._first is not None and not self._first.done():
            self._first.set_result(None)

    def failed(self, attempts: int) -> None:
        """So many attempts to connect have failed in a row: with `connect_retry` of them a start has."""
        first, enough = self._first, max(self._options.connect_retry, 1)
        if first is not None and not first.done() and self.outage is not None and attempts >= enough:
            first.set_exception(unavailable(_NEVER_THERE, self.outage))

    def holds(self, *, answered: bool, takes: bool) -> bool:
        """Whether publishes are to be kept back while our own subscriptions are on their way; not for long.

        Args:
            answered: They are no longer.
            takes: Redis takes commands.
        """
        if answered or self._options.backlog == "fail_fast":
            self._hold_until = None
            return False
        if not takes:
            # Nothing can be sent; this is for the moment when that changes.
            self._hold_until = None
            return True
        now = self._clock.monotonic()
        if self._hold_until is None:
            self._hold_until = now + _HOLD_SECONDS
        return now < self._hold_until
