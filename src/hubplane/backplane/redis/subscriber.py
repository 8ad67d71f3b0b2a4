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

from hubplane.backplane.redis.connection import RedisConnection, RedisProtocolError, describe_error
from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.resp import NOTHING, ReplyError, pack_command
from hubplane.backplane.redis.wanted import Batch, BatchKind, Channel, Leaving, Ticket
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


class Subscriber:
    """The incoming half of a backplane.

    Args:
        options: Prefix, deadline and policy.
        clock: For deadlines and retries.
        deliver: Gets every message on a wanted channel.
        on_settled: Called when Redis has answered for every channel that had to be restored on a new connection, and
            again when the last of those it refused is confirmed.

    Attributes:
        missed: Wanted channels were without a connection since this was last set to False.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Clock,
        deliver: Callable[[str, bytes], None],
        on_settled: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._deliver = deliver
        self._on_settled = on_settled
        self._prefix = options.channel_prefix.encode()
        self._timeout = options.async_timeout
        self._fail_fast = options.backlog == "fail_fast"
        self._commands = {kind: options.command(kind.name) or kind.name for kind in BatchKind}
        self._loop = asyncio.get_running_loop()
        self._connection: RedisConnection | None = None
        self._error: BackplaneUnavailableError | None = None
        self._channels: dict[str, Channel] = {}
        self._names: dict[bytes, str] = {}
        self._tickets: dict[Ticket, None] = {}
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

    @property
    def wanted(self) -> int:
        """How many channels are wanted."""
        return len(self._names)

    @property
    def refused(self) -> int:
        """How many wanted channels Redis refuses at present."""
        return len(self._refused)

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
            raise self._unavailable("No connection is active/available to service this operation: SUBSCRIBE")
        channels = [self._want(name) for name in dict.fromkeys(names)]
        if keep:
            for channel in channels:
                channel.kept = True
            if self._connection is None and self._error is not None:
                return  # away for sure; while the first attempt is undecided it may be worth the wait
        ticket = Ticket(channels, self._clock.monotonic() + self._timeout, keep=keep)
        for channel in channels:
            channel.tickets.append(ticket)
        if not ticket.waiting:
            self._finish(ticket, None)
            return
        self._tickets[ticket] = None
        try:
            await ticket.done
        except asyncio.CancelledError:
            if ticket in self._tickets:
                self._finish(ticket, self._unavailable("The call was cancelled."))
            raise

    def keep(self, names: Collection[str]) -> None:
        """Want channels without waiting for them."""
        for name in names:
            self._want(name).kept = True

    async def unsubscribe(self, names: Collection[str]) -> None:
        """No longer want channels and wait, as long as the connection lasts, until Redis has said so too."""
        leaving = Leaving()
        pending = {leaving}
        for name in dict.fromkeys(names):
            if (channel := self._channels.get(name)) is None:
                continue
            channel.kept = False
            for ticket in channel.tickets:
                # Overtaken by this call; what it still waits for decides how it ends.
                ticket.waiting.discard(channel)
                ticket.channels.remove(channel)
                if not ticket.waiting:
                    self._loop.call_soon(self._finish_if_ready, ticket)
            channel.tickets = []
            self._release(channel)
            if channel.sent is not None and self._connection is not None:
                if channel.leaving is None:
                    channel.leaving = leaving
                    leaving.remaining += 1
                pending.add(channel.leaving)
        for other in pending:
            if other.remaining:
                await asyncio.wait([other.done])

    def _want(self, name: str) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self._prefix + name.encode())
        channel.left()
        self._names[channel.wire] = name
        if channel.refusal is not None:
            self._forget_refusal(channel)
        if channel.sent is None:
            self._mark(channel)
        return channel

    def _release(self, channel: Channel) -> None:
        """Put a channel right after somebody stopped wanting it."""
        if channel.wanted:
            return
        self._names.pop(channel.wire, None)
        self._forget_refusal(channel)
        if channel.restoring:
            channel.restoring = False
            self._restoring -= 1
            self._loop.call_soon(self._on_settled)
        if channel.sent is not None:
            self._mark(channel)
        else:
            self._channels.pop(channel.name, None)

    def _finish_if_ready(self, ticket: Ticket) -> None:
        if ticket in self._tickets and not ticket.waiting:
            self._finish(ticket, None)

    def _finish(self, ticket: Ticket, error: BackplaneUnavailableError | None) -> None:
        """End a ticket; on an error what only it wanted is wanted no more."""
        self._tickets.pop(ticket, None)
        for channel in ticket.channels:
            if ticket in channel.tickets:
                channel.tickets.remove(ticket)
            if error is None:
                channel.kept = True
            else:
                self._release(channel)
        if not ticket.done.done():
            if error is None or ticket.keep:
                ticket.done.set_result(None)
            else:
                ticket.done.set_exception(error)

    # What Redis is told

    def attach(self, connection: RedisConnection) -> None:
        """Subscribe everything that is wanted on a new connection."""
        self._connection = connection
        self._error = None
        connection.drain = self._drain
        connection.on_writable = self._pump
        wanted = [channel for channel in self._channels.values() if channel.wanted]
        for channel in wanted:
            channel.restoring = channel.marked = True
        self._restoring = len(wanted)
        self._restoring_refused = 0
        self.missed = self.missed or bool(wanted)
        self._marked = deque(wanted)
        self._pump()
        if not wanted:
            self._on_settled()

    def detach(self, error: BackplaneUnavailableError) -> None:
        """There is no connection: nothing is subscribed, and what is wanted waits for the next one."""
        self._connection = None
        self._error = error
        under_way, self._under_way = self._under_way, deque()
        for batch in under_way:
            for channel in batch.channels:
                channel.left()
        for channel in self._marked:
            channel.left()
        self._marked.clear()
        self._split.clear()
        self._refused.clear()
        self._restoring = self._restoring_refused = 0
        for channel in list(self._channels.values()):
            channel.sent = channel.refusal = None
            channel.confirmed = channel.restoring = channel.marked = False
            if not channel.wanted:
                del self._channels[channel.name]
        for ticket in list(self._tickets):
            ticket.waiting = set(ticket.channels)
            if ticket.keep or self._fail_fast:
                self._finish(ticket, self._unavailable(f"Not confirmed: {describe_error(error)}."))

    def probe(self) -> None:
        """Send a PING."""
        if self._connection is not None and self._connection.writable:
            self._send(Batch(BatchKind.PING, []))

    def tick(self, now: float) -> None:
        """End what has waited too long, and ask again for refused channels."""
        while self._tickets and (ticket := next(iter(self._tickets))).deadline <= now:
            self._finish(ticket, self._unavailable(self._late(ticket)))
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
        for channel in self._channels.values():
            channel.kept = False
        for ticket in self._tickets:
            ticket.keep = False
        self.detach(BackplaneUnavailableError("The backplane is not running."))
        self._names.clear()
        self._channels.clear()

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
        while connection.writable and len(self._under_way) < _BATCHES_UNDER_WAY:
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
        while self._marked and len(add) < _BATCH_NAMES and len(remove) < _BATCH_NAMES:
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
                self._channels.pop(channel.name, None)
            self._send(Batch(BatchKind.UNSUBSCRIBE, remove))

    def _send_subscribe(self, channels: list[Channel]) -> None:
        if channels:
            batch = Batch(BatchKind.SUBSCRIBE, channels)
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
        names = self._names
        deliver = self._deliver
        while (reply := gets()) is not NOTHING:
            if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message":
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
        if not self._under_way:
            raise RedisProtocolError(f"Redis sent what nobody asked for: {str(reply)[:80]!r}")
        batch = self._under_way[0]
        if isinstance(reply, ReplyError):
            self._under_way.popleft()
            self._fail(batch, reply)
        elif batch.kind is BatchKind.PING:
            if reply != b"PONG" and not (isinstance(reply, list) and reply[:1] == [b"pong"]):
                raise RedisProtocolError(f"Redis answered PING with {str(reply)[:80]!r}")
            self._under_way.popleft()
        else:
            channel = batch.channels[batch.position]
            if not isinstance(reply, list) or reply[:2] != [batch.kind.value, channel.wire]:
                raise RedisProtocolError(f"Redis answered {batch.kind.name} with {str(reply)[:80]!r}")
            batch.position += 1
            if batch.kind is BatchKind.SUBSCRIBE:
                self._confirm(batch, channel)
            else:
                channel.left()
            if batch.position == len(batch.channels):
                self._under_way.popleft()
                self._pump()

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
        for ticket in channel.tickets[:]:
            ticket.waiting.discard(channel)
            if not ticket.waiting:
                self._finish(ticket, None)
        if channel.restoring:
            channel.restoring = False
            self._restoring -= 1
            if self._restoring == self._restoring_refused:
                self._on_settled()

    def _fail(self, batch: Batch, error: ReplyError) -> None:
        if batch.kind is BatchKind.PING:
            return
        if batch.kind is BatchKind.UNSUBSCRIBE:
            logger.warning("Redis refused to unsubscribe %d channels: %s", len(batch.channels), error)
            for channel in batch.channels[batch.position :]:
                channel.left()
            self._pump()
            return
        rest = [channel for channel in batch.channels[batch.position :] if channel.sent is batch]
        for channel in rest:
            channel.sent = None
        if len(rest) > 1 and str(error).startswith("NOPERM"):
            # Redis refuses the whole command for one name in it: halve until the culprits stand alone.
            self._split.appendleft(rest[len(rest) // 2 :])
            self._split.appendleft(rest[: len(rest) // 2])
        else:
            for channel in rest:
                if channel.wanted:
                    self._refuse(channel, error)
                else:
                    self._release(channel)
        self._pump()
        if self.is_answered:
            self._on_settled()

    def _refuse(self, channel: Channel, error: ReplyError) -> None:
        if not self._refused:
            # One record for all that are refused at a time; the count is in the health.
            logger.warning("Redis refuses subscriptions, the first of them to %s: %s", channel.name, error)
            self._retry_pause = _RETRY_FIRST
            self._retry_at = self._clock.monotonic() + _RETRY_FIRST
        if channel.refusal is None and channel.restoring:
            self._restoring_refused += 1
        channel.refusal = error
        self._refused[channel] = None
        for ticket in channel.tickets[:]:
            refusal = BackplaneUnavailableError(f"Redis refused to subscribe channel {channel.name}: {error}")
            refusal.__cause__ = error
            self._finish(ticket, refusal)

    def _forget_refusal(self, channel: Channel) -> None:
        if channel.refusal is not None:
            channel.refusal = None
            self._refused.pop(channel, None)
            if channel.restoring:
                self._restoring_refused -= 1

    def _late(self, ticket: Ticket) -> str:
        milliseconds = round(self._timeout * 1000)
        if self._connection is not None:
            return f"Timeout awaiting confirmation of {len(ticket.waiting)} channels ({milliseconds}ms)."
        text = (
            "The subscription timed out in the backlog attempting to send because no connection became available "
            f"({milliseconds}ms)"
        )
        return f"{text} - Last Connection Exception: {self._error}" if self._error is not None else text

    def _unavailable(self, text: str) -> BackplaneUnavailableError:
        error = BackplaneUnavailableError(text)
        error.__cause__ = self._error
        return error
