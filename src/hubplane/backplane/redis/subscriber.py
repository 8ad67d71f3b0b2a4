"""`Subscriber`: the channels a node wants, made true at Redis and kept true.

Each channel has a wanted state, which the callers set, and a sent state, which follows it: whatever differs is put
right by the next batch. Commands are answered in order on one socket, so a batch never waits for the one before it,
and the last wanted state always wins.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection
from itertools import islice

from hubplane.backplane.redis.access import refusal
from hubplane.backplane.redis.batches import Batch, Kind, SubscriptionWatcher, describe_lateness
from hubplane.backplane.redis.connection import RedisConnection, RedisProtocolError, describe_error, unavailable
from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.resp import NOTHING, ReplyError, pack_command
from hubplane.backplane.redis.wanted import Channel, Leaving, Ticket, WantedChannels
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError

__all__ = ["Subscriber"]

logger = logging.getLogger(__name__)

# Names per command, and commands under way at once: 16,000 confirmations stay far below the 8 MB of output that Redis
# tolerates for a minute (client-output-buffer-limit pubsub).
_BATCH_NAMES = 1_000
_BATCHES_UNDER_WAY = 16
# After a refusal, one round asks for so many of the refused channels, each in a command of its own.
_RETRIES_PER_ROUND = 16
_RETRY_FIRST = 0.25
_RETRY_LONGEST = 2.0
# What a node of a Cluster says of a shard channel that is not its own, or not yet, or of any while it is cut off.
_ELSEWHERE = ("MOVED ", "ASK ", "CLUSTERDOWN", "TRYAGAIN")


class Subscriber:
    """The incoming half of a backplane.

    Args:
        options: Prefix, deadline and policy.
        clock: For deadlines and retries.
        deliver: Gets every message on a wanted channel.
        on_settled: Called when Redis has answered for every channel that had to be restored on a new connection, and
            again when the last of those it refused is confirmed.
        watcher: Hears of single channels; None where nobody needs to.

    Attributes:
        missed: Wanted channels were without a connection since this was last set to False.
        regained: The channels that were, and are confirmed since somebody emptied this.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Clock,
        deliver: Callable[[str, bytes], None],
        on_settled: Callable[[], None],
        watcher: SubscriptionWatcher | None = None,
    ) -> None:
        self._watcher = watcher
        sharded = options.mode == "sharded"
        self._subscribe = Kind.SSUBSCRIBE if sharded else Kind.SUBSCRIBE
        self._unsubscribe = Kind.SUNSUBSCRIBE if sharded else Kind.UNSUBSCRIBE
        self._message = b"smessage" if sharded else b"message"
        # All names of one SSUBSCRIBE must be of one slot, so each goes alone.
        self._batch_names = 1 if sharded else _BATCH_NAMES
        self._batches = _BATCH_NAMES * _BATCHES_UNDER_WAY if sharded else _BATCHES_UNDER_WAY
        self._clock = clock
        self._deliver = deliver
        self._on_settled = on_settled
        self._options = options
        self._timeout = options.async_timeout
        self._fail_fast = options.backlog == "fail_fast"
        self._commands = {kind: options.command(kind.name) or kind.name for kind in Kind}
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        self._error: BackplaneUnavailableError | None = None
        self._wanted = WantedChannels(options.channel_prefix.encode(), self._changed)
        self._marked: deque[Channel] = deque()
        self._split: deque[list[Channel]] = deque()
        self._under_way: deque[Batch] = deque()
        self._refused: dict[Channel, None] = {}
        self._retry_at = 0.0
        self._retry_pause = _RETRY_FIRST
        self._restoring = 0
        self._restoring_refused = 0
        self._pumping = False
        self.missed = False
        self.regained: list[str] = []

    @property
    def wanted(self) -> int:
        """How many channels are wanted."""
        return len(self._wanted.names)

    @property
    def refused(self) -> int:
        """How many wanted channels Redis refuses at present."""
        return len(self._refused)

    @property
    def restoring(self) -> int:
        """How many of the channels that were wanted when the connection came are not confirmed yet."""
        return self._restoring

    @property
    def is_restored(self) -> bool:
        """There is a connection, and every channel wanted when it came is confirmed."""
        return self._connection is not None and not self._restoring

    @property
    def is_answered(self) -> bool:
        """As `is_restored`, but a refusal counts as an answer."""
        return self._connection is not None and self._restoring == self._restoring_refused

    # What callers want

    async def subscribe(self, names: Collection[str], *, keep: bool) -> None:
        """Want channels and wait until they are confirmed; see `Backplane.subscribe`."""
        if self._connection is None and not keep and self._fail_fast:
            text = "No connection is active/available to service this operation:"
            raise self._unavailable(f"{text} {self._subscribe.name}")
        if keep and self._connection is None and self._error is not None:
            # Away for sure; while the first attempt is undecided it may be worth the wait.
            self._wanted.keep(names)
            return
        wanted = self._wanted
        ticket = wanted.request(names, self._clock.monotonic() + self._timeout, keep=keep)
        try:
            await ticket.done
        except asyncio.CancelledError:
            if ticket in wanted.tickets:
                wanted.finish(ticket, self._unavailable("The call was cancelled."))
            raise

    def keep(self, names: Collection[str]) -> None:
        """Want channels without waiting for them."""
        self._wanted.keep(names)

    def leave(self, names: Collection[str]) -> Leaving:
        """No longer want channels; what is returned ends when Redis knows, or cannot know."""
        own, _ = self._wanted.drop(names, self._clock.monotonic() + self._timeout)
        if not own.remaining:
            own.done.set_result(None)
        return own

    def hand_over(self, other: WantedChannels, error: BackplaneUnavailableError) -> None:
        """Let `other` want all that callers want, who go on waiting, and want nothing any more."""
        self._disconnect(error)
        wanted, self._wanted = self._wanted, WantedChannels(b"", self._changed)
        wanted.hand_over(other)

    def has(self, name: str) -> bool:
        """Whether a channel is wanted here and confirmed."""
        channel = self._wanted.channels.get(name)
        return channel is not None and channel.confirmed and channel.wanted

    async def unsubscribe(self, names: Collection[str]) -> None:
        """No longer want channels and wait until Redis knows; not longer than the connection or the deadline."""
        own, others = self._wanted.drop(names, self._clock.monotonic() + self._timeout)
        for other in others:
            await asyncio.wait([other.done])
        if own.remaining:
            await own.done

    def _changed(self, channel: Channel) -> None:
        """Queue a channel whose wanted state no longer is what Redis was told."""
        self._forget_refusal(channel)
        if channel.restoring and not channel.wanted:
            channel.restoring = False
            self._restoring -= 1
            self._loop.call_soon(self._on_settled)
        if channel.wanted is (channel.sent is None):
            self._mark(channel)

    # What Redis is told

    def attach(self, connection: RedisConnection) -> None:
        """Subscribe everything that is wanted on a new connection."""
        self._connection = connection
        self._error = None
        connection.drain = self._drain
        connection.on_writable = self._pump
        wanted = [channel for channel in self._wanted.channels.values() if channel.wanted]
        for channel in wanted:
            channel.restoring = channel.marked = True
        self._restoring = len(wanted)
        self._restoring_refused = 0
        self.regained.clear()
        self.missed = self.missed or bool(wanted)
        self._marked = deque(wanted)
        self._pump()
        if not wanted:
            self._on_settled()

    def detach(self, error: BackplaneUnavailableError) -> None:
        """There is no connection: nothing is subscribed, and what is wanted waits for the next one."""
        self._disconnect(error)
        for ticket in list(self._wanted.tickets):
            if ticket.keep or self._fail_fast:
                self._wanted.finish(ticket, self._unavailable(f"Not confirmed: {describe_error(error)}."))

    def _disconnect(self, error: BackplaneUnavailableError) -> None:
        self._connection = None
        self._error = error
        for batch in self._under_way:
            for channel in batch.channels:
                channel.left()
        self._under_way.clear()
        self._marked.clear()
        self._split.clear()
        self._refused.clear()
        self._restoring = self._restoring_refused = 0
        self._wanted.disconnect()

    def probe(self) -> None:
        """Send a PING."""
        if self._connection is not None and self._connection.writable:
            self._send(Batch(Kind.PING, []))

    def tick(self, now: float) -> None:
        """End what has waited too long, and ask again for refused channels."""
        self._wanted.expire(now, self._late)
        if self._refused and now >= self._retry_at and self._connection is not None:
            self._retry_at = now + self._retry_pause
            self._retry_pause = min(self._retry_pause * 2, _RETRY_LONGEST)
            for channel in list(islice(self._refused, _RETRIES_PER_ROUND)):
                if channel.sent is None:
                    # To the end of the line, so that the others have their turn in the next round.
                    self._refused[channel] = self._refused.pop(channel)
                    self._split.append([channel])
            self._pump()

    def close(self) -> None:
        """Forget everything; whoever still waits fails."""
        self._fail_fast = True
        for ticket in self._wanted.tickets:
            ticket.keep = False
        self.detach(BackplaneUnavailableError("The backplane is not running."))
        self._wanted.clear()

    def _mark(self, channel: Channel) -> None:
        if self._connection is not None and not channel.marked:
            channel.marked = True
            self._marked.append(channel)
            if not self._pumping:
                self._pumping = True
                self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send what differs, in batches, a bounded number of them under way."""
        self._pumping = False
        connection = self._connection
        if connection is None:
            return
        while connection.writable and len(self._under_way) < self._batches:
            if self._split:
                names = [channel for channel in self._split.popleft() if channel.wanted and channel.sent is None]
                self._send_subscribe(names)
            elif self._marked:
                self._send_marked()
            else:
                return

    def _send_marked(self) -> None:
        add: list[Channel] = []
        remove: list[Channel] = []
        while self._marked and len(add) < self._batch_names and len(remove) < self._batch_names:
            channel = self._marked.popleft()
            channel.marked = False
            if channel.wanted and channel.sent is None:
                add.append(channel)
            elif not channel.wanted and channel.sent is not None:
                remove.append(channel)
        self._send_subscribe(add)
        if remove:
            for channel in remove:
                channel.sent = None
                channel.confirmed = False
                self._wanted.channels.pop(channel.name, None)
            self._send(Batch(self._unsubscribe, remove))

    def _send_subscribe(self, channels: list[Channel]) -> None:
        if channels:
            batch = Batch(self._subscribe, channels)
            for channel in channels:
                channel.sent = batch
            self._send(batch)

    def _send(self, batch: Batch) -> None:
        assert self._connection is not None  # noqa: S101 - all callers looked
        self._under_way.append(batch)
        self._connection.write(
            pack_command((self._commands[batch.kind], *[channel.wire for channel in batch.channels]))
        )

    # What Redis says

    def _drain(self, gets: Callable[[], object]) -> None:
        names = self._wanted.names
        deliver = self._deliver
        message = self._message
        while (reply := gets()) is not NOTHING:
            if isinstance(reply, list) and len(reply) == 3 and reply[0] == message:
                # No name: another prefix, or unsubscribed a moment ago.
                if (name := names.get(reply[1])) is not None:
                    try:
                        deliver(name, reply[2])
                    except Exception:
                        # The sink broke its word; the messages behind this one must not pay for it.
                        logger.exception("A sink failed on channel %s.", name)
            else:
                self._answer(reply)

    def _answer(self, reply: object) -> None:
        if self._is_eviction(reply):
            return
        if not self._under_way:
            raise RedisProtocolError(f"Redis sent what nobody asked for: {str(reply)[:80]!r}")
        batch = self._under_way[0]
        if isinstance(reply, ReplyError):
            self._under_way.popleft()
            self._fail(batch, reply)
        elif batch.kind is Kind.PING:
            if reply != b"PONG" and not (isinstance(reply, list) and reply[:1] == [b"pong"]):
                raise RedisProtocolError(f"Redis answered PING with {str(reply)[:80]!r}")
            self._under_way.popleft()
            self._pump()
        else:
            channel = batch.channels[batch.position]
            if not isinstance(reply, list) or len(reply) != 3 or reply[0] != batch.word or reply[1] != channel.wire:
                raise RedisProtocolError(f"Redis answered {batch.kind.name} with {str(reply)[:80]!r}")
            batch.position += 1
            if batch.kind is self._subscribe:
                self._confirm(batch, channel)
            else:
                channel.left()
            if batch.position == len(batch.channels):
                # A channel remembers its command for long; the command must not keep the others of its batch.
                batch.channels = []
                self._under_way.popleft()
                self._pump()

    def _is_eviction(self, reply: object) -> bool:
        """Whether a Cluster took a shard channel away, because its slot moved; it says so unasked."""
        if self._watcher is None or not isinstance(reply, list) or len(reply) != 3 or reply[0] != b"sunsubscribe":
            return False
        batch = self._under_way[0] if self._under_way else None
        if batch is not None and batch.kind is Kind.SUNSUBSCRIBE and batch.channels[batch.position].wire == reply[1]:
            return False
        channel = self._wanted.channels.get(self._wanted.names.get(reply[1], ""))
        # One that is being asked for is about to be answered with an error.
        if channel is not None and channel.confirmed:
            channel.confirmed = False
            channel.sent = None
            self._misplace(channel)
        return True

    def _misplace(self, channel: Channel) -> None:
        assert self._watcher is not None  # noqa: S101 - both callers looked
        self.leave([channel.name])
        self._watcher.misplaced(channel.name)

    def _confirm(self, batch: Batch, channel: Channel) -> None:
        if channel.sent is not batch:
            return  # taken back since; a later command decides
        channel.confirmed = True
        if channel.refusal is not None:
            # The rule that refused it may be gone: ask for the others in full batches.
            self._forget_refusal(channel)
            for other in self._refused:
                if other.sent is None:
                    self._mark(other)
        self._wanted.confirm(channel)
        if self._watcher is not None:
            self._watcher.confirmed(channel.name)
        if channel.restoring:
            channel.restoring = False
            self._restoring -= 1
            self.regained.append(channel.name)
            if self._restoring == self._restoring_refused:
                self._on_settled()

    def _fail(self, batch: Batch, error: ReplyError) -> None:
        if batch.kind is Kind.PING:
            self._pump()
            return
        if batch.kind is self._unsubscribe:
            logger.warning("Redis refused to unsubscribe %d channels: %s", len(batch.channels), error)
            for channel in batch.channels[batch.position :]:
                channel.left()
            self._pump()
            return
        rest = [channel for channel in batch.channels[batch.position :] if channel.sent is batch]
        for channel in rest:
            channel.sent = None
        if self._watcher is not None and str(error).startswith(_ELSEWHERE):
            for channel in rest:
                self._misplace(channel)
        elif len(rest) > 1 and str(error).startswith("NOPERM"):
            # Redis refuses the whole command for one name in it: halve until the culprits stand alone.
            self._split.appendleft(rest[len(rest) // 2 :])
            self._split.appendleft(rest[: len(rest) // 2])
        else:
            for channel in rest:
                self._refuse(channel, error)
        self._pump()
        if self.is_answered:
            self._on_settled()

    def _refuse(self, channel: Channel, error: ReplyError) -> None:
        if channel.wanted:
            if not self._refused:
                # One record for all that are refused at a time; their number is in the health.
                logger.warning("Redis refuses subscriptions, the first of them to %s: %s", channel.name, error)
                self._retry_pause = _RETRY_FIRST
                self._retry_at = self._clock.monotonic() + _RETRY_FIRST
            if channel.refusal is None and channel.restoring:
                self._restoring_refused += 1
            channel.refusal = error
            self._refused[channel] = None
        text = f"Redis refused to subscribe channel {channel.name}"
        wire, command = channel.wire.decode(), self._subscribe.name
        refused = refusal(text, error, self._options, command=command, channel=wire)
        self._wanted.refuse(channel, refused)
        if self._watcher is not None:
            self._watcher.refused(channel.name, refused)

    def _forget_refusal(self, channel: Channel) -> None:
        if channel.refusal is not None:
            channel.refusal = None
            self._refused.pop(channel, None)
            if channel.restoring:
                self._restoring_refused -= 1

    def _late(self, ticket: Ticket) -> BackplaneUnavailableError:
        away = self._connection is None
        return self._unavailable(describe_lateness(ticket, self._timeout, away=away, error=self._error))

    def _unavailable(self, text: str) -> BackplaneUnavailableError:
        return unavailable(text, self._error)
