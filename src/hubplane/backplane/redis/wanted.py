"""`WantedChannels`: which channels callers want, and the calls that wait until Redis agrees."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable

from hubplane.backplane.redis.resp import ReplyError
from hubplane.errors import BackplaneUnavailableError

__all__ = ["Channel", "Leaving", "Subscribe", "Ticket", "WantedChannels"]


class Subscribe:
    """One SUBSCRIBE that was sent; a channel remembers its last one."""

    __slots__ = ()


class Channel:
    """One channel: who wants it, and what Redis was last told about it.

    Attributes:
        name: As callers know it.
        wire: As Redis knows it, with the prefix.
        kept: Wanted until somebody unsubscribes.
        tickets: Calls that want it and still wait.
        leaving: The calls that wait for it to be unsubscribed.
        sent: The SUBSCRIBE that was sent last and not taken back since.
        confirmed: Redis confirmed that one.
        refusal: Redis refused it last time.
        restoring: It was wanted when the connection came and is not confirmed yet.
        marked: It is queued, because what is wanted and what was sent may differ.
    """

    __slots__ = ("confirmed", "kept", "leaving", "marked", "name", "refusal", "restoring", "sent", "tickets", "wire")

    def __init__(self, name: str, wire: bytes) -> None:
        self.name = name
        self.wire = wire
        self.kept = False
        # A tuple, because nearly all of many thousand channels have none.
        self.tickets: tuple[Ticket, ...] = ()
        self.leaving: Leaving | None = None
        self.sent: Subscribe | None = None
        self.confirmed = False
        self.refusal: ReplyError | None = None
        self.restoring = False
        self.marked = False

    @property
    def wanted(self) -> bool:
        """Somebody wants it."""
        return self.kept or bool(self.tickets)

    def left(self) -> None:
        """It is unsubscribed, or wanted again: nobody needs to wait for that any more."""
        leaving, self.leaving = self.leaving, None
        if leaving is not None:
            leaving.remaining -= 1
            if not leaving.remaining and not leaving.done.done():
                leaving.done.set_result(None)


class Ticket:
    """One call of `subscribe` that waits for its channels until `deadline`, monotonic seconds."""

    __slots__ = ("channels", "deadline", "done", "keep", "waiting")

    def __init__(self, channels: Iterable[Channel], deadline: float, *, keep: bool) -> None:
        self.channels = dict.fromkeys(channels)
        self.waiting = {channel for channel in self.channels if not channel.confirmed}
        self.deadline = deadline
        self.keep = keep
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Leaving:
    """One call of `unsubscribe` that waits for `remaining` channels until `deadline`, monotonic seconds."""

    __slots__ = ("deadline", "done", "remaining")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.remaining = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class WantedChannels:
    """The callers' side of a subscriber; it sends nothing.

    Args:
        prefix: Put in front of every name.
        on_change: Called with each channel whose wanted state may have changed.

    Attributes:
        names: Name of each wanted channel by its bytes on the wire.
        channels: By name: all that are wanted, and those that Redis has still to be told are not.
        tickets: Calls of `subscribe` that wait, oldest first.
        leavings: Calls of `unsubscribe` that wait or waited, oldest first.
    """

    def __init__(self, prefix: bytes, on_change: Callable[[Channel], None]) -> None:
        self._prefix = prefix
        self._on_change = on_change
        self.names: dict[bytes, str] = {}
        self.channels: dict[str, Channel] = {}
        self.tickets: dict[Ticket, None] = {}
        self.leavings: deque[Leaving] = deque()

    def keep(self, names: Collection[str]) -> None:
        """Want channels until they are dropped."""
        for channel in self._channels(names):
            channel.kept = True
            self._wanted(channel)

    def request(self, names: Collection[str], deadline: float, *, keep: bool) -> Ticket:
        """Want channels on behalf of a call that waits for them; it may be served at once."""
        ticket = Ticket(self._channels(names), deadline, keep=keep)
        for channel in ticket.channels:
            channel.kept = channel.kept or keep
            channel.tickets += (ticket,)
            self._wanted(channel)
        if ticket.waiting:
            self.tickets[ticket] = None
        else:
            self.finish(ticket, None)
        return ticket

    def drop(self, names: Collection[str], deadline: float) -> tuple[Leaving, set[Leaving]]:
        """No longer want channels; returns what to wait for until Redis knows: the call's own, and those of others."""
        own = Leaving(deadline)
        others: set[Leaving] = set()
        for name in dict.fromkeys(names):
            if (channel := self.channels.get(name)) is None:
                continue
            channel.kept = False
            tickets, channel.tickets = channel.tickets, ()
            for ticket in tickets:
                # Overtaken by this call; what it still waits for decides how it ends.
                ticket.waiting.discard(channel)
                ticket.channels.pop(channel)
                if not ticket.waiting:
                    self.finish(ticket, None)
            if channel.sent is not None:
                if channel.leaving is None:
                    channel.leaving = own
                    own.remaining += 1
                elif channel.leaving is not own:
                    others.add(channel.leaving)
            self._released(channel)
        if own.remaining:
            self.leavings.append(own)
        return own, others

    def confirm(self, channel: Channel) -> None:
        """Redis confirmed a channel."""
        for ticket in channel.tickets:
            ticket.waiting.discard(channel)
            if not ticket.waiting:
                self.finish(ticket, None)

    def refuse(self, channel: Channel, error: BackplaneUnavailableError) -> None:
        """Redis refused a channel: the calls that wait for it end, and with them what only they wanted."""
        for ticket in channel.tickets:
            self.finish(ticket, error)
        self._released(channel)

    def disconnect(self) -> None:
        """Nothing is subscribed any more; the calls wait for all their channels anew."""
        for channel in list(self.channels.values()):
            channel.left()
            channel.sent = channel.refusal = None
            channel.confirmed = channel.restoring = channel.marked = False
            if not channel.wanted:
                del self.channels[channel.name]
        for ticket in self.tickets:
            ticket.waiting = set(ticket.channels)

    def finish(self, ticket: Ticket, error: BackplaneUnavailableError | None) -> None:
        """End a call; on an error what only it wanted is wanted no more."""
        self.tickets.pop(ticket, None)
        for channel in ticket.channels:
            channel.tickets = tuple(other for other in channel.tickets if other is not ticket)
            if error is None:
                channel.kept = True
            else:
                self._released(channel)
        if not ticket.done.done():
            if error is None or ticket.keep:
                ticket.done.set_result(None)
            else:
                ticket.done.set_exception(error)

    def expire(self, now: float, error: Callable[[Ticket], BackplaneUnavailableError]) -> None:
        """End the calls whose deadline has passed: `subscribe` with an error, `unsubscribe` without."""
        while self.tickets and (ticket := next(iter(self.tickets))).deadline <= now:
            self.finish(ticket, error(ticket))
        while self.leavings and (self.leavings[0].done.done() or self.leavings[0].deadline <= now):
            if not (done := self.leavings.popleft().done).done():
                done.set_result(None)

    def hand_over(self, other: WantedChannels) -> None:
        """Let `other`, which wants nothing yet, want all this; Redis must have been told of none of it.

        From here on this one is another name for `other`, for the calls that still wait on it.
        """
        other.names.update(self.names)
        other.channels.update(self.channels)
        other.tickets.update(self.tickets)
        other.leavings.extend(self.leavings)
        self.names, self.channels, self.tickets, self.leavings = (
            other.names,
            other.channels,
            other.tickets,
            other.leavings,
        )
        self._on_change = other._on_change

    def clear(self) -> None:
        """Want nothing."""
        self.names.clear()
        self.channels.clear()

    def _channels(self, names: Collection[str]) -> list[Channel]:
        # All are made before any is wanted: a name that cannot be encoded must leave no trace.
        wires = {name: self._prefix + name.encode() for name in names}
        for name, wire in wires.items():
            if name not in self.channels:
                self.channels[name] = Channel(name, wire)
        return [self.channels[name] for name in wires]

    def _wanted(self, channel: Channel) -> None:
        channel.left()
        self.names[channel.wire] = channel.name
        self._on_change(channel)

    def _released(self, channel: Channel) -> None:
        """Put a channel right after somebody stopped wanting it."""
        if not channel.wanted:
            self.names.pop(channel.wire, None)
            self._on_change(channel)
            if channel.sent is None:
                channel.left()
                self.channels.pop(channel.name, None)
