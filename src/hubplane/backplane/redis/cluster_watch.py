"""`ClusterWatch`: what the application hears and sees of a Cluster as a whole; of each server its `Shard` tells."""

from __future__ import annotations

from collections.abc import Sequence

from hubplane.backplane.redis.health import RedisHealth
from hubplane.backplane.redis.placement import Placement
from hubplane.backplane.redis.shard import Shard
from hubplane.backplane.redis.watch import ConnectionWatch
from hubplane.errors import BackplaneUnavailableError

__all__ = ["ClusterWatch"]


class ClusterWatch:
    """Tells of a Cluster that is not found, and of gaps.

    Args:
        placement: Knows what is wanted, and what was missed.
        watch: Speaks where there is no server yet, and of all channels together.
    """

    def __init__(self, placement: Placement, watch: ConnectionWatch) -> None:
        self._placement = placement
        self._watch = watch
        self._told = False

    def succeed(self, watch: ConnectionWatch) -> None:
        """Go on where another one stood."""
        self._watch = watch

    def not_found(self, error: BackplaneUnavailableError) -> None:
        """No server says who is in the Cluster, and none was ever known."""
        self._watch.failed("publishing", error)
        self._watch.failed("subscription", error)

    def look(self, shards: Sequence[Shard]) -> None:
        """Draw the conclusions of whatever changed."""
        if self._watch.is_away:
            for shard in shards:
                if shard.takes:
                    self._watch.works("publishing", shard.endpoint)
                if shard.hears and shard.subscriber.is_answered:
                    self._watch.works("subscription", shard.endpoint)
        placement = self._placement
        if not placement.is_answered:
            self._told = False
        elif placement.regained and (placement.is_restored or not self._told):
            # What is still refused is told together, once all of it is granted.
            self._told = not placement.is_restored
            regained, placement.regained = placement.regained, {}
            self._watch.missed(min(regained.values()), regained)

    def health(
        self, shards: Sequence[Shard], *, is_connected: bool, outage: BackplaneUnavailableError | None
    ) -> RedisHealth:
        """How it stands at this moment."""
        placement = self._placement
        servers = tuple(shard.health() for shard in shards)
        error = "" if outage is None else str(outage)
        if not error and placement.refusals:
            error = f"Redis refuses {placement.refusals} of {placement.wanted} channels."
        elif not error and not is_connected:
            error = "Connecting to Redis."
        times = [server.round_trip for server in servers if server.round_trip is not None]
        return RedisHealth(
            is_connected=is_connected,
            publishing=next((server.endpoint for server in servers if server.publishing), None),
            subscription=next((server.endpoint for server in servers if server.subscription), None),
            channels=placement.wanted,
            unconfirmed=placement.restoring,
            refused=placement.refusals,
            server=", ".join(dict.fromkeys(server.server for server in servers if server.server)),
            round_trip=max(times, default=None),
            error=error,
            servers=servers,
        )
