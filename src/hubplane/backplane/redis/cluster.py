"""`ClusterSession`: one run of the backplane over several servers, or over one whose kind is not known yet.

It keeps a picture of the Cluster, a `Shard` for each primary in it, and decides where each slot is at home. In compat
mode every server hears what is published on any, so while a primary is away another one stands in for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from random import Random

from hubplane.backplane.base import BackplaneSink
from hubplane.backplane.redis.cluster_watch import ClusterWatch
from hubplane.backplane.redis.connection import describe_error
from hubplane.backplane.redis.counting import SubscriberCount
from hubplane.backplane.redis.discovery import ClusterDiscovery
from hubplane.backplane.redis.events import RedisEventQueue
from hubplane.backplane.redis.health import RedisHealth
from hubplane.backplane.redis.homes import Home
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.placement import Placement
from hubplane.backplane.redis.routes import SlotRoutes
from hubplane.backplane.redis.session import RedisSession
from hubplane.backplane.redis.shard import Shard
from hubplane.backplane.redis.slots import SLOTS, ClusterView
from hubplane.backplane.redis.standing import Standing
from hubplane.backplane.redis.watch import ConnectionWatch
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = ["ClusterSession"]

logger = logging.getLogger(__name__)

_TICK = 0.1
# Between two looks at the Cluster: when all is well, and when something is not.
_LOOK_SECONDS = 1.0
_LOOK_SECONDS_TROUBLED = 0.1
# So many servers are asked at a look.
_ASKED = 5
# A server that another one suspects, or cannot reach, for so long counts as cut off.
_DOUBT_SECONDS = 1.0


class ClusterSession:
    """What exists while a backplane runs over a Cluster.

    Redis counts as lost, once per outage, when the link to a primary is; and as back when every wanted channel is
    confirmed again, the servers reach each other, and, in sharded mode, all primaries are there.

    Args:
        options: Of the backplane.
        sink: Gets messages, and is told of outages.
        clock: For all deadlines and pauses.
        random: Jitter between attempts to connect, and who is asked.
        events: Takes what happens to the connections.
    """

    def __init__(
        self, options: RedisOptions, sink: BackplaneSink, *, clock: Clock, random: Random, events: RedisEventQueue
    ) -> None:
        self._options = options
        self._clock = clock
        self._random = random
        self._sharded = options.mode == "sharded"
        self._supervisor = Supervisor("redis cluster", on_failure=self._failed)
        self._discovery = ClusterDiscovery(options, self._supervisor)
        self._count = SubscriberCount(options, self._discovery)
        self.routes = SlotRoutes(options, clock, self._look_soon)
        self.placement = Placement(
            options,
            clock,
            sink.deliver,
            locate=self._locate,
            related=self._related,
            on_settled=self._check,
            on_misplaced=self._misplaced,
        )
        self._events = events
        self._watch = ClusterWatch(self.placement, ConnectionWatch(events, clock))
        self._view: ClusterView | None = None
        # As the owners of slots were before they last changed.
        self._before: ClusterView | None = None
        self._shards: dict[Endpoint, Shard] = {}
        self._retired: list[Shard] = []
        self._homes: list[Shard | None] = [None] * SLOTS
        self._doubts: dict[Endpoint, float] = {}
        self._split: BackplaneUnavailableError | None = None
        # The last look began after the last loss, and found most primaries alive and in touch with one another.
        self._calm = False
        self._losses = 0
        self._looking = False
        self._began = self._look_at = 0.0
        # A server said that channels are not its own, and no look that began later has shown whose they are.
        self._moved = False
        self._misplacements = 0
        self._failures = 0
        self.standing = Standing(options, sink, clock)

    @property
    def is_connected(self) -> bool:
        """All that is wanted is confirmed, and no wanted channel is refused."""
        return self.standing.outage is None and self._is_whole() and not self.placement.refusals

    def health(self) -> RedisHealth:
        """How it is at this moment."""
        nodes = self._view.primaries if self._view is not None else ()
        shards = [self._shards[node.endpoint] for node in nodes if node.endpoint in self._shards]
        return self._watch.health(shards, is_connected=self.is_connected, outage=self.standing.outage)

    def succeed(self, old: RedisSession) -> None:
        """Go on where a session stood that has found its server to be part of a Cluster, and begin."""
        error = BackplaneUnavailableError("The server has become part of a Redis Cluster.")
        old.resign(error)
        self.standing.succeed(old.standing)
        self._watch.succeed(old.watch)
        self.placement.adopt(old.subscriber, error, None if self.standing.outage is None else old.watch.deaf_since)
        self.routes.adopt(old.pipeline)
        self._supervisor.start(old.close(), "close the first connections")
        self.start()

    def keep(self, names: Collection[str]) -> None:
        """Want channels without waiting for them."""
        self.placement.keep(names)

    def start(self) -> None:
        """Begin to connect."""
        self._began = self._clock.monotonic()
        self.standing.begin()
        self._check()
        self._supervisor.start(self._tick(), "deadlines", vital=True)

    async def connected(self) -> None:
        """Return when the Cluster is there for the first time.

        Raises:
            BackplaneUnavailableError: `connect_retry` attempts failed.
        """
        first = self.standing.first()
        self._check()
        await first

    async def close(self) -> None:
        """Send what waits, fail what is unconfirmed, and close all connections; nothing is delivered any more."""
        self.standing.end()
        self.placement.close(BackplaneUnavailableError("The backplane is not running."))
        self.routes.close()
        shards = [*self._shards.values(), *self._retired]
        self._shards.clear()
        self._retired.clear()
        for shard in shards:
            await shard.close()
        await self._supervisor.close()

    # What callers want

    async def subscribe(self, names: Collection[str], *, keep: bool) -> None:
        """Want channels; see `Backplane.subscribe`."""
        somebody = self.standing.is_undecided or any(shard.hears for shard in self._shards.values())
        nobody = self.standing.outage or BackplaneUnavailableError("There is no connection to Redis.")
        await self.placement.subscribe(names, keep=keep, away=None if somebody else nobody)

    async def unsubscribe(self, names: Collection[str]) -> None:
        """No longer want channels; see `Backplane.unsubscribe`."""
        await self.placement.unsubscribe(names)

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[int]:
        """Send a message; see `Backplane.publish`."""
        return self.routes.publish(channel, payload)

    async def count_subscribers(self, names: Sequence[str]) -> dict[str, int]:
        """How many nodes are subscribed to each channel, wherever they are; see `SubscriberCount`."""
        others = self._view.others if self._view is not None else ()
        return await self._count.ask(names, list(self._shards.values()), others, outage=self.standing.outage)

    # The Cluster

    async def _tick(self) -> None:
        seconds = min(_TICK, self._options.async_timeout / 4)
        while True:
            now = self._clock.monotonic()
            if not self._looking and now >= self._look_at:
                self._looking = True
                self._supervisor.start(self._look(), "look at the cluster", vital=True)
            if (error := self.standing.give_up(now)) is not None and self._view is None:
                self._lose(error)
                self._not_found(error)
            for shard in [*self._shards.values(), *self._retired]:
                shard.tick(now)
            self.routes.tick(now)
            self.placement.tick(now)
            self._bury()
            self._check()
            await self._clock.sleep(seconds)

    def _look_soon(self) -> None:
        self._look_at = 0.0

    def _not_found(self, error: BackplaneUnavailableError) -> None:
        if not self.standing.is_over:
            self.placement.deafen(self._began)
            self._watch.not_found(error)

    def _misplaced(self) -> None:
        self._moved = True
        self._misplacements += 1
        self._look_soon()
        if not self.placement.is_restored:
            self._lose(BackplaneUnavailableError("A slot of the Redis Cluster has moved; its channels follow."))

    async def _look(self) -> None:
        self._look_at = float("inf")
        losses, self._calm = self._losses, False
        misplacements = self._misplacements
        try:
            shards = [shard for shard in self._shards.values() if shard.answers]
            views = await self._discovery.ask_shards(self._random.sample(shards, min(_ASKED, len(shards))))
            if not views:
                known = [node.endpoint for node in self._view.nodes] if self._view is not None else []
                views = await self._discovery.ask(list(dict.fromkeys([*self._options.addresses, *known])))
            best = max(views, key=lambda view: view.rank)
            # Else they may have been asked too early, and a channel would go back to the server that sent it away.
            seen = misplacements == self._misplacements and self._adopt(best, views)
            self._calm = seen and losses == self._losses
            self._failures = 0
        except BackplaneUnavailableError as error:
            self._failures += 1
            if self._failures == 1:
                logger.warning("%s", error)
            self._lose(error)
            self.standing.blame(error)
            if self._view is None:
                self._not_found(error)
        finally:
            self._looking = False
            well = self.standing.outage is None and not self._moved and not self._doubts
            pause = _LOOK_SECONDS if well else min(_LOOK_SECONDS_TROUBLED * max(1, self._failures), _LOOK_SECONDS)
            self._look_at = min(self._look_at, self._clock.monotonic() + pause)
            self._check()

    def _adopt(self, best: ClusterView, views: Sequence[ClusterView]) -> bool:
        """Take over what was seen; returns whether most primaries are alive and in touch with one another."""
        if self.standing.is_over:
            return False
        if not best.primaries:
            raise BackplaneUnavailableError(f"The Redis Cluster of {best.asked} has no slots yet.")
        endpoints = [node.endpoint for node in best.primaries]
        if self._view is None or endpoints != [node.endpoint for node in self._view.primaries]:
            logger.info("The primaries of the Redis Cluster: %s.", ", ".join(map(str, endpoints)))
        changed = self._view is None or self._view.owners() != best.owners() or self._moved
        before, self._view = self._view, best
        self._before = before if changed else self._before
        self._moved = False
        for endpoint in endpoints:
            if endpoint not in self._shards:
                shard = self._shards[endpoint] = Shard(
                    endpoint,
                    self._options,
                    self.placement,
                    clock=self._clock,
                    random=self._random,
                    events=self._events,
                    on_change=self._changed,
                    on_failure=self._failed,
                )
                shard.start()
        for endpoint in [endpoint for endpoint in self._shards if endpoint not in endpoints]:
            shard = self._shards.pop(endpoint)
            shard.retire(self._heir(before, endpoint))
            self._retired.append(shard)
        calm = self._doubt(best, views)
        if changed:
            self._settle()
        return calm

    def _heir(self, before: ClusterView | None, endpoint: Endpoint) -> Shard | None:
        """Who has the slots now, or some of them, that a server had; where nobody has them, anybody."""
        lost = [node.slots[0][0] for node in before.primaries if node.endpoint == endpoint] if before else []
        owner = self._view.owners()[lost[0]] if lost and self._view is not None else None
        heir = self._shards.get(owner) if owner is not None else None
        return heir or next(iter(self._shards.values()), None)

    def _doubt(self, best: ClusterView, views: Sequence[ClusterView]) -> bool:
        """See which primaries the others cannot reach: what is published there does not get around."""
        now = self._clock.monotonic()
        failed = {node.endpoint for node in best.primaries if node.failed}
        doubted = {node.endpoint for node in best.primaries if node.doubted or node.failed}
        alive = {endpoint for endpoint in self._shards if endpoint not in doubted}
        torn: list[tuple[Endpoint, Endpoint]] = []
        for view in views:
            if view.asked in alive:
                torn += [(view.asked, n.endpoint) for n in view.primaries if n.doubted and n.endpoint in alive]
        for _, endpoint in torn:
            doubted.add(endpoint)
        self._doubts = {endpoint: self._doubts.get(endpoint, now) for endpoint in doubted}
        lasting = {endpoint for endpoint, since in self._doubts.items() if now - since >= _DOUBT_SECONDS} | failed
        self._split = None
        for one, other in torn:
            if other in lasting:
                self._split = BackplaneUnavailableError(f"Redis at {one} does not reach its Cluster's {other}.")
                self._lose(self._split)
        turned = False
        for endpoint, shard in self._shards.items():
            cut_off = endpoint in lasting and len(lasting) < len(self._shards)
            if cut_off is not shard.cut_off:
                turned = True
                shard.cut(self._doubts[endpoint] if cut_off else None)
        if turned:
            self._turned(BackplaneUnavailableError("Servers of the Redis Cluster are cut off from the others."))
        return not torn and 2 * len(alive) > len(best.primaries)

    def _changed(self, shard: Shard, error: BackplaneUnavailableError | None) -> None:
        if self.standing.is_over or shard in self._retired:
            return
        if error is not None:
            self.standing.blame(error)
        self._turned(error)

    def _turned(self, error: BackplaneUnavailableError | None) -> None:
        """A server came or went: draw the conclusions."""
        turned = False
        for shard in self._shards.values():
            if shard.heard is not shard.hears:
                shard.heard = shard.hears
                turned = True
                if shard.heard:
                    self.placement.found(shard)
                else:
                    self.placement.lost(shard)
            if shard.was_up is not shard.is_up:
                shard.was_up = shard.is_up
                turned = True
                if not shard.was_up:
                    lost = error or BackplaneUnavailableError(f"Redis at {shard.endpoint} is away.")
                    self._lose(lost)
                    others = any(other.is_up for other in self._shards.values())
                    if others and not self._sharded and not shard.takes:
                        # Another one takes its place; what this one does later must not count as confirmed in order.
                        shard.abandon(lost)
        if turned:
            self._look_soon()
            self._settle()
        self._check()

    def _settle(self) -> None:
        """Decide where each slot is at home, and let messages and channels follow."""
        view = self._view
        assert view is not None  # noqa: S101 - there are shards only where there is a view
        shards = [self._shards[node.endpoint] for node in view.primaries]
        up = [shard for shard in shards if shard.is_up]
        owners = view.owners()
        homes: dict[Endpoint | None, Shard | None] = {None: up[0] if up and not self._sharded else None}
        for number, shard in enumerate(shards):
            home = shard
            if up and not shard.is_up and shard.failed and not self._sharded:
                # The next one in line: the same for every node that sees the same.
                home = next(other for other in (*shards[number:], *shards) if other.is_up)
            homes[shard.endpoint] = home
        self._homes = [homes[endpoint] for endpoint in owners]
        self._hold()
        self.placement.relocate()
        self.routes.set_homes(self._homes)

    def _locate(self, name: str) -> Shard | None:
        return self._homes[self.routes.slot_of(name)]

    def _related(self, one: Home, other: Home) -> bool:
        views = (self._view, self._before)
        return any(view is not None and view.related(one.endpoint, other.endpoint) for view in views)

    def _bury(self) -> None:
        """Close servers that left the Cluster, once no channel is heard there."""
        for shard in [shard for shard in self._retired if not (shard.hears and self.placement.is_used(shard))]:
            self._retired.remove(shard)
            if self.placement.lost(shard):
                self._lose(BackplaneUnavailableError(f"Redis at {shard.endpoint} has left the Cluster."))
            self._supervisor.start(shard.close(), f"close {shard.endpoint}")

    # Outages

    def _failed(self, error: BaseException) -> None:
        # None of our tasks ends by itself; should one, being lost is better than being deaf.
        self._lose(BackplaneUnavailableError(f"The Redis backplane failed: {describe_error(error)}."))

    def _lose(self, error: BackplaneUnavailableError) -> None:
        self._losses += 1
        self._calm = False
        self._look_soon()
        if not any(shard.is_up for shard in self._shards.values()):
            self.routes.lobby.detach(error)
            self.placement.give_up(error)
        self.standing.lose(error)

    def _is_whole(self) -> bool:
        shards = self._shards.values()
        up = [shard for shard in shards if shard.is_up]
        there = bool(up) and (not self._sharded or len(up) == len(shards))
        # Who comes back into a Cluster that is not one yet would publish for itself.
        agreed = self._calm or self.standing.outage is None
        torn = self._split is not None or self._moved
        return there and agreed and not torn and self.placement.is_restored

    def _check(self) -> None:
        """Draw the conclusions of whatever changed."""
        if self.standing.is_over:
            return
        self._hold()
        self._watch.look(list(self._shards.values()))
        if self._is_whole():
            gap, self.placement.missed = self.placement.missed, False
            self.standing.whole(gap=gap)
        else:
            self.standing.failed(max([self._failures, *[shard.failures for shard in self._shards.values()]]))

    def _hold(self) -> None:
        takes = any(shard.takes for shard in self._shards.values())
        self.routes.hold(held=self.standing.holds(answered=self.placement.is_answered, takes=takes))
