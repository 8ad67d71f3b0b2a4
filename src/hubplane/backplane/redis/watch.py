"""`ConnectionWatch`: turns what happens to the connections of a session into events for the application."""

from __future__ import annotations

from collections.abc import Collection

from hubplane.backplane.redis.events import (
    RedisConnectionError,
    RedisConnectionFailed,
    RedisConnectionName,
    RedisConnectionRestored,
    RedisEventQueue,
    RedisFailure,
    RedisGap,
    moment,
)
from hubplane.backplane.redis.options import Endpoint
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError

__all__ = ["ConnectionWatch"]


class ConnectionWatch:
    """Remembers who is away since when, and since when this node may have missed messages.

    Args:
        events: Takes the events.
        clock: Dates them.
    """

    def __init__(self, events: RedisEventQueue, clock: Clock) -> None:
        self._events = events
        self._clock = clock
        # Monotonic; events need the time of day, which may have been set meanwhile.
        self._away: dict[RedisConnectionName, float] = {}
        self._heard_at = self._looked_at = clock.monotonic()
        self._deaf_since: float | None = None
        self._refused_since: float | None = None

    @property
    def deaf_since(self) -> float:
        """Monotonic: nothing that was published before was missed here."""
        return self._heard_at if self._deaf_since is None else self._deaf_since

    @property
    def is_away(self) -> bool:
        """A connection is away."""
        return bool(self._away)

    def inherit(self, other: ConnectionWatch) -> None:
        """Take the place of `other`, whose server is given up: what works here next restores what failed there."""
        for name, since in other._away.items():
            self._away.setdefault(name, since)
        other._away.clear()

    def look(self, *, heard: bool) -> None:
        """Several times a second: something came on the subscription since the last look."""
        now = self._clock.monotonic()
        if heard:
            # It came after the last look, and what was published since may be lost.
            self._heard_at = self._looked_at
        self._looked_at = now

    def failed(
        self, name: RedisConnectionName, error: BackplaneUnavailableError, *, deaf_since: float | None = None
    ) -> None:
        """A connection is lost, or could not be opened; only the first report counts until it is restored.

        Args:
            name: Which one.
            error: What happened.
            deaf_since: When it began, monotonic, where the connection itself does not show that.
        """
        if name in self._away:
            return
        self._away[name] = self._clock.monotonic()
        if name == "subscription" and self._deaf_since is None:
            heard_at = self._heard_at if deaf_since is None else min(self._heard_at, deaf_since)
            self._deaf_since = heard_at if self._refused_since is None else self._refused_since
            self._refused_since = None
        known = error if isinstance(error, RedisConnectionError) else None
        self._events.put(
            RedisConnectionFailed(
                connection=name,
                endpoint=known.endpoint if known else None,
                failure=known.failure if known else RedisFailure.UNABLE_TO_CONNECT,
                error=error,
                at=moment(self._clock.wall()),
            )
        )

    def works(self, name: RedisConnectionName, endpoint: Endpoint | None) -> None:
        """A connection works: an event if it had not."""
        since = self._away.pop(name, None)
        if since is not None:
            self._events.put(
                RedisConnectionRestored(
                    connection=name,
                    endpoint=endpoint,
                    at=moment(self._clock.wall()),
                    seconds=self._clock.monotonic() - since,
                )
            )

    def hears(self, regained: list[str], *, all_of_them: bool) -> None:
        """The subscription works, and these channels are confirmed since it does: an event if they had not been.

        Args:
            regained: Emptied here when they were reported, or nothing was missed.
            all_of_them: No channel is refused any more.
        """
        since = self._deaf_since
        if since is not None:
            self._deaf_since = None
            if not all_of_them:
                self._refused_since = since
        elif all_of_them:
            since, self._refused_since = self._refused_since, None
        elif self._refused_since is not None:
            return  # the rest together, once all are granted
        if since is not None:
            self._heard_at = self._looked_at = self._clock.monotonic()
        if since is not None and regained:
            self.missed(since, regained)
        regained.clear()

    def missed(self, since: float, channels: Collection[str]) -> None:
        """What others published on these channels from `since`, monotonic, until now has not come."""
        now = self._clock.monotonic()
        wall = self._clock.wall()
        self._events.put(RedisGap(since=moment(wall - (now - since)), until=moment(wall), channels=tuple(channels)))
