"""`RedisBackplane`: plain PUBLISH and SUBSCRIBE, the same channels and bytes as ASP.NET Core's backplane.

One connection for commands and one for subscriptions per process, whatever the number of hubs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from random import Random

from hubplane.backplane.base import BackplaneSink, BackplaneTraits
from hubplane.backplane.redis.client import ClientSource
from hubplane.backplane.redis.cluster import ClusterSession
from hubplane.backplane.redis.connection import open_connection
from hubplane.backplane.redis.events import RedisEventQueue, RedisHandlers
from hubplane.backplane.redis.health import RedisHealth
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.resp import pack_command
from hubplane.backplane.redis.session import RedisSession
from hubplane.backplane.redis.tls import make_tls_context
from hubplane.clock import Clock, SystemClock
from hubplane.errors import BackplaneUnavailableError, ConfigurationError, LocalProtocolError

__all__ = ["RedisBackplane"]

_NOT_RUNNING = "The backplane is not running."
_REQUIRED_COMMANDS = {
    "compat": ("PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE", "PUBSUB"),
    "sharded": ("SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE", "PUBSUB"),
}
_NAMES_PER_COMMAND = 1_000
# proto-max-bulk-len of an unchanged Redis.
_LARGEST_PAYLOAD = 536_870_912


class RedisBackplane:
    """A backplane over Redis pub/sub, shared with ASP.NET Core nodes or not.

    All channels are literal (never patterns). Messages of one publisher keep their order, also across channels. What
    others publish while this node is cut off is lost, and reported as a gap.

    Args:
        options: How to reach Redis; its `channel_prefix` is put on and taken off here, callers never see it.
        clock: For all deadlines and pauses.
        random: Jitter between attempts to connect.
        handlers: Who wants to hear about losses, returns and gaps.
        source: A redis-py client of the application's; its settings count instead of those of `options`.

    Raises:
        ConfigurationError: The options ask for what this backplane cannot do, or name a certificate that cannot be
            read.
    """

    def __init__(
        self,
        options: RedisOptions,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        handlers: RedisHandlers | None = None,
        source: ClientSource | None = None,
    ) -> None:
        for name in _REQUIRED_COMMANDS[options.mode]:
            if not options.command(name):
                raise ConfigurationError(f"The backplane needs the command {name}, which the command map disables.")
        if options.tls and source is None:
            make_tls_context(options)
        if source is not None:
            if options.topology == "cluster":
                raise ConfigurationError(
                    "A Redis client leads to one server, and RedisOptions.topology says cluster. Name the Cluster's "
                    "addresses in the configuration instead."
                )
            # One nominal address, whatever the options say: the client knows the real one.
            options = replace(options, endpoints=(Endpoint(),), service_name=None, tls=False, topology="single")
        self._options = options
        self._handlers = handlers
        self._source = source
        self._clock = clock or SystemClock()
        self._random = random or Random()  # noqa: S311 - it spreads reconnects, it guards nothing
        self._prefix = options.channel_prefix
        sharded = options.mode == "sharded"
        self._word = "SPUBLISH" if sharded else "PUBLISH"
        self._publish = options.command(self._word)
        self._numsub = "SHARDNUMSUB" if sharded else "NUMSUB"
        # One of both while it runs: over one server, or over a Cluster.
        self._session: RedisSession | None = None
        self._cluster: ClusterSession | None = None
        self._early: dict[str, None] = {}

    @property
    def traits(self) -> BackplaneTraits:
        """Receivers as counted by the Redis node asked; an outage leaves a gap."""
        return BackplaneTraits(
            name="redis", counts_receivers=True, resumes_after_loss=False, max_payload_bytes=_LARGEST_PAYLOAD
        )

    @property
    def endpoints(self) -> Sequence[str]:
        """The servers it connects to, for logs: ``localhost:6379``. None with a client of the application's."""
        return [] if self._source is not None else [str(address) for address in self._options.addresses]

    @property
    def is_connected(self) -> bool:
        """Both connections are up, and every wanted channel is confirmed."""
        session = self._session or self._cluster
        return session is not None and session.is_connected

    @property
    def options(self) -> RedisOptions:
        """How it was configured."""
        return self._options

    def health(self) -> RedisHealth:
        """How it stands with Redis at this moment."""
        session = self._session or self._cluster
        return RedisHealth(error=_NOT_RUNNING) if session is None else session.health()

    def run(self, sink: BackplaneSink) -> AbstractAsyncContextManager[None]:
        """Connect in the background and deliver to `sink` while inside; see `Backplane.run`.

        What is wanted is forgotten when it ends. It may be entered again then.

        Raises:
            LocalProtocolError: It is running already.
            BackplaneUnavailableError: Only with `abort_on_connect_fail`: Redis was not there at the start.
        """
        return self._run(sink)

    @asynccontextmanager
    async def _run(self, sink: BackplaneSink) -> AsyncIterator[None]:
        if self._session is not None or self._cluster is not None:
            raise LocalProtocolError("The backplane is already running.")
        options = self._options
        events = RedisEventQueue(self._handlers or RedisHandlers())
        session: RedisSession | ClusterSession
        if options.topology == "cluster":
            session = self._cluster = ClusterSession(
                options, sink, clock=self._clock, random=self._random, events=events
            )
        else:
            asks = options.topology == "auto" and not options.service_name
            session = self._session = RedisSession(
                options,
                sink,
                clock=self._clock,
                random=self._random,
                events=events,
                connect=open_connection if self._source is None else self._source.connect,
                on_cluster=partial(self._found_cluster, sink, events) if asks else None,
            )
        try:
            session.keep(self._early)
            session.start()
            if options.abort_on_connect_fail:
                await session.connected()
            yield
        finally:
            running = self._session or self._cluster
            self._session = self._cluster = None
            self._early.clear()
            if running is not None:
                await running.close()
            await events.close()
            if self._source is not None:
                await self._source.close()

    def _found_cluster(self, sink: BackplaneSink, events: RedisEventQueue) -> None:
        """The server is part of a Cluster: a session for that goes on with what waits."""
        old, self._session = self._session, None
        if old is not None:
            self._cluster = ClusterSession(self._options, sink, clock=self._clock, random=self._random, events=events)
            self._cluster.succeed(old)

    async def subscribe(self, channels: Collection[str], *, keep: bool = False) -> None:
        """Want `channels`; see `Backplane.subscribe`.

        Without `keep` it waits up to `async_timeout` while Redis is away, or fails at once with the policy "fail_fast".
        """
        if self._session is not None:
            await self._session.subscriber.subscribe(channels, keep=keep)
        elif self._cluster is not None:
            await self._cluster.subscribe(channels, keep=keep)
        elif keep:
            self._early.update(dict.fromkeys(channels))
        else:
            raise BackplaneUnavailableError(_NOT_RUNNING)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        """No longer want `channels`; returns when Redis confirmed it, or cannot. See `Backplane.unsubscribe`."""
        if self._session is not None:
            await self._session.subscriber.unsubscribe(channels)
        elif self._cluster is not None:
            await self._cluster.unsubscribe(channels)
        for channel in channels:
            self._early.pop(channel, None)

    def publish(self, channel: str, payload: bytes) -> Awaitable[int]:
        """Hand `payload` to Redis; see `Backplane.publish`.

        The result is how many subscribers the asked Redis node counted. While Redis is away the message waits up to
        `async_timeout`, in order, or fails at once with the policy "fail_fast". Cancelling the awaitable does not take
        the message back.
        """
        if self._session is None:
            return _not_running() if self._cluster is None else self._cluster.publish(channel, payload)
        command = pack_command((self._publish, self._prefix + channel, payload))
        return self._session.pipeline.submit(command, self._word, channel)

    async def count_subscribers(self, channels: Collection[str]) -> dict[str, int] | None:
        """How many nodes are subscribed to each channel, as the asked Redis node counts; see the contract.

        Raises:
            BackplaneUnavailableError: As for `publish`.
        """
        names = list(dict.fromkeys(channels))
        if self._cluster is not None:
            return await self._cluster.count_subscribers(names)
        counts: dict[str, int] = {}
        for start in range(0, len(names), _NAMES_PER_COMMAND):
            part = names[start : start + _NAMES_PER_COMMAND]
            if self._session is None:
                raise BackplaneUnavailableError(_NOT_RUNNING)
            words = (self._options.command("PUBSUB"), self._numsub, *[self._prefix + name for name in part])
            reply = await self._session.pipeline.submit(pack_command(words), "PUBSUB NUMSUB")
            if not isinstance(reply, list) or len(reply) != 2 * len(part):
                raise BackplaneUnavailableError(f"Redis answered PUBSUB NUMSUB with {str(reply)[:80]!r}.")
            counts.update(zip(part, reply[1::2], strict=True))
        return counts


def _not_running() -> asyncio.Future[int]:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_exception(BackplaneUnavailableError(_NOT_RUNNING))
    return future
