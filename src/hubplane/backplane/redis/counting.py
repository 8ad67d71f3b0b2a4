"""`SubscriberCount`: asks all servers of a Cluster who is subscribed, because the count of one of them says nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from hubplane.backplane.redis.discovery import ClusterDiscovery
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.resp import pack_command
from hubplane.backplane.redis.shard import Shard
from hubplane.errors import BackplaneUnavailableError

__all__ = ["SubscriberCount"]

logger = logging.getLogger(__name__)

_NAMES_PER_COMMAND = 1_000


class SubscriberCount:
    """Adds up what servers say; a node whose channel is on the move counts at both of its places.

    Args:
        options: Prefix and mode.
        discovery: Reaches servers that there is no link to.
    """

    def __init__(self, options: RedisOptions, discovery: ClusterDiscovery) -> None:
        self._discovery = discovery
        self._prefix = options.channel_prefix
        self._sharded = options.mode == "sharded"
        self._command = options.command("PUBSUB")

    async def ask(
        self,
        names: Sequence[str],
        shards: Sequence[Shard],
        others: Sequence[Endpoint],
        *,
        outage: BackplaneUnavailableError | None,
    ) -> dict[str, int]:
        """How many nodes are subscribed to each channel.

        Args:
            names: The channels.
            shards: The primaries.
            others: Asked about the channels that nobody has at a primary: clients of other kinds may flee to a replica,
                or sit where a primary has just stepped down.
            outage: Why not all can be asked.

        Raises:
            BackplaneUnavailableError: Nobody answers, or nothing was found where not all can be asked.
        """
        counts = dict.fromkeys(names, 0)
        for start in range(0, len(names), _NAMES_PER_COMMAND):
            await self._ask(names[start : start + _NAMES_PER_COMMAND], counts, shards, others, outage)
        return counts

    async def _ask(
        self,
        names: Sequence[str],
        counts: dict[str, int],
        shards: Sequence[Shard],
        others: Sequence[Endpoint],
        outage: BackplaneUnavailableError | None,
    ) -> None:
        command = pack_command(self._words(names))
        # One that is on its way at the start is waited for: subscribers may be there.
        asked = [shard for shard in shards if shard.answers or not shard.failed]
        futures = [shard.pipeline.submit(command, "PUBSUB NUMSUB") for shard in asked]
        if futures:
            await asyncio.wait(futures)
        errors = [error for future in futures if (error := future.exception()) is not None]
        answered = sum(_add(counts, names, future.result()) for future in futures if future.exception() is None)
        missing = [name for name in names if not counts[name]]
        if missing and (not answered or errors or outage is not None):
            reason = errors[0] if errors else outage
            text = f"Not all servers of the Redis Cluster can be asked: {reason or 'there is no connection to Redis.'}"
            raise BackplaneUnavailableError(text) from reason
        if missing and not self._sharded:
            words = self._words(missing)
            for other in others:
                try:
                    _add(counts, missing, await self._discovery.call(other, *words))
                except BackplaneUnavailableError as error:
                    logger.debug("A server without slots cannot be asked for subscribers: %s", error)

    def _words(self, names: Sequence[str]) -> tuple[str, ...]:
        subcommand = "SHARDNUMSUB" if self._sharded else "NUMSUB"
        return (self._command, subcommand, *[self._prefix + name for name in names])


def _add(counts: dict[str, int], names: Sequence[str], reply: object) -> bool:
    """Add what a server says; returns whether it is an answer."""
    if not isinstance(reply, list) or len(reply) != 2 * len(names):
        return False
    for name, count in zip(names, reply[1::2], strict=True):
        counts[name] += count
    return True
