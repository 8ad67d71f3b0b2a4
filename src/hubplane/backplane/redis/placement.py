"""`Placement`: the channels a node wants, each subscribed at the server where it belongs, and moved when that changes.

What callers want is kept once, in a `WantedChannels`; each server's `Subscriber` keeps its part true. A channel has a
home, where it shall be subscribed, and a server that is heard, whose deliveries count. They differ while it moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from hubplane.backplane.redis.batches import describe_lateness
from hubplane.backplane.redis.connection import describe_error, unavailable
from hubplane.backplane.redis.handover import Handover, Passage
from hubplane.backplane.redis.hearing import Hearing
from hubplane.backplane.redis.homes import Home
from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.subscriber import Subscriber
from hubplane.backplane.redis.wanted import Channel, Leaving, Subscribe, Ticket, WantedChannels
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError

__all__ = ["Placement"]

# A channel that moved stays subscribed where it was, unheard, for so long: .NET's client learns only after up to a
# minute (configCheckSeconds) that a slot has another owner, and believes until then what the old one counts.
_COURTESY_SECONDS = 90.0


class _Place(Subscribe):
    """Where a channel shall be subscribed."""

    __slots__ = ("home",)

    def __init__(self, home: Home) -> None:
        self.home = home


class Placement:
    """The incoming half of a backplane with several servers.

    Args:
        options: Prefix, deadline and policy.
        clock: For deadlines.
        deliver: Gets every message on a wanted channel, once.
        locate: The home of a channel at present; None while it has none.
        related: Whether two servers are, or were a moment ago, of one shard.
        on_settled: Called when the last channel that had to be restored is.
        on_misplaced: Called when a server says that a channel is not its own.

    Attributes:
        missed: A channel that is wanted was without a server since this was last set to False.
        regained: The channels that were, and are heard again since somebody emptied this: since when they were not,
            monotonic.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Clock,
        deliver: Callable[[str, bytes], None],
        *,
        locate: Callable[[str], Home | None],
        related: Callable[[Home, Home], bool],
        on_settled: Callable[[], None],
        on_misplaced: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._locate = locate
        self._related = related
        self._on_settled = on_settled
        self._on_misplaced = on_misplaced
        self._sharded = options.mode == "sharded"
        self._word = "SSUBSCRIBE" if self._sharded else "SUBSCRIBE"
        self._timeout = options.async_timeout
        self._fail_fast = options.backlog == "fail_fast"
        self._loop = asyncio.get_running_loop()
        self._wanted = WantedChannels(options.channel_prefix.encode(), self._changed)
        self._hearing = Hearing(clock, deliver, self._home_of, sharded=self._sharded)
        self._heard, self._moves, self._openings = self._hearing.heard, self._hearing.moves, self._hearing.openings
        self._courtesies: dict[str, tuple[Home, float]] = {}
        self._restoring: set[Channel] = set()
        self._refused: set[Channel] = set()
        self._postponed = False
        self._leavings: list[Leaving] | None = None
        self._error: BackplaneUnavailableError | None = None
        self.missed = False
        self._deaf: dict[str, float] = {}
        self.regained: dict[str, float] = {}

    @property
    def wanted(self) -> int:
        """How many channels are wanted."""
        return len(self._wanted.names)

    @property
    def restoring(self) -> int:
        """How many of them wait to be heard again."""
        return len(self._restoring)

    @property
    def refusals(self) -> int:
        """How many wanted channels are refused at present."""
        return len(self._refused)

    @property
    def is_restored(self) -> bool:
        """No channel waits to be heard again."""
        return not self._restoring

    @property
    def is_answered(self) -> bool:
        """As `is_restored`, but a refusal counts as an answer."""
        return self._restoring <= self._refused

    # What callers want

    def adopt(self, subscriber: Subscriber, error: BackplaneUnavailableError, deaf_since: float | None) -> None:
        """Take over what callers want of a subscriber.

        Args:
            subscriber: The subscriber.
            error: Why it has no use any more.
            deaf_since: When it began to miss messages, monotonic; None if nothing can have been missed.
        """
        subscriber.hand_over(self._wanted, error)
        for channel in list(self._wanted.channels.values()):
            if channel.kept:
                self._restoring.add(channel)
                self.missed = True
                if deaf_since is not None:
                    self._deaf[channel.name] = deaf_since
            self._changed(channel)

    async def subscribe(self, names: Collection[str], *, keep: bool, away: BackplaneUnavailableError | None) -> None:
        """Want channels and wait until they are confirmed; see `Backplane.subscribe`.

        Args:
            names: The channels.
            keep: As there.
            away: Why no server is there; None if one is, or if that is not decided.
        """
        self._error = away
        if away is not None and keep:
            self.keep(names, heeded=True)
            return
        if away is not None and self._fail_fast:
            raise self._unavailable(f"No connection is active/available to service this operation: {self._word}")
        ticket = self._wanted.request(names, self._clock.monotonic() + self._timeout, keep=keep)
        try:
            await ticket.done
        except asyncio.CancelledError:
            if ticket in self._wanted.tickets:
                self._wanted.finish(ticket, self._unavailable("The call was cancelled."))
            raise

    def keep(self, names: Collection[str], *, heeded: bool = False) -> None:
        """Want channels without waiting for them.

        Args:
            names: The channels.
            heeded: Somebody counts on them from now on, and is told what was missed.
        """
        self._wanted.keep(names)
        for name in names:
            if not (channel := self._wanted.channels[name]).confirmed:
                self._restoring.add(channel)
                self.missed = True
                if heeded:
                    self._deaf.setdefault(name, self._clock.monotonic())

    def deafen(self, since: float) -> None:
        """Nobody was found from the start on, monotonic: messages on all that callers want have been missed."""
        for name, channel in self._wanted.channels.items():
            if channel.kept and not channel.confirmed:
                self._deaf.setdefault(name, since)

    async def unsubscribe(self, names: Collection[str]) -> None:
        """No longer want channels and wait until Redis knows; not longer than the connection or the deadline."""
        leavings: list[Leaving] = []
        self._leavings = leavings
        self._wanted.drop(names, 0.0)
        self._leavings = None
        for leaving in leavings:
            if leaving.remaining:
                await asyncio.wait([leaving.done])

    def tick(self, now: float) -> None:
        """End what has waited too long, and what has moved."""
        self._wanted.expire(now, self._late)
        for name, (old, move) in list(self._moves.items()):
            if move.is_due(now):
                if move.is_settled:
                    del self._moves[name]
                else:
                    self._settle(name, old, move)
        if self._postponed:
            self._postponed = False
            self.relocate()
        while self._courtesies:
            name = next(iter(self._courtesies))
            if self._courtesies[name][1] > now:
                break
            self._end_courtesy(name)

    def close(self, error: BackplaneUnavailableError) -> None:
        """Forget everything; whoever still waits fails."""
        self._error = error
        for ticket in list(self._wanted.tickets):
            ticket.keep = False
            self._wanted.finish(ticket, self._unavailable(f"Not confirmed: {error}"))
        self._wanted.clear()
        self._hearing.clear()
        self._courtesies.clear()

    def give_up(self, error: BackplaneUnavailableError) -> None:
        """No server is there: end the calls that are not to wait for one."""
        self._error = error
        for ticket in list(self._wanted.tickets):
            if ticket.keep or self._fail_fast:
                self._wanted.finish(ticket, self._unavailable(f"Not confirmed: {describe_error(error)}."))
                if ticket.keep:
                    self.keep([channel.name for channel in ticket.channels], heeded=True)

    def _changed(self, channel: Channel) -> None:
        """Put a channel right whose wanted state may have changed."""
        if channel.wanted:
            if channel.sent is None:
                self._place(channel)
            return
        place, channel.sent, channel.confirmed = channel.sent, None, False
        name = channel.name
        self._refused.discard(channel)
        self._deaf.pop(name, None)
        self._openings.pop(name, None)
        self.regained.pop(name, None)
        if channel in self._restoring:
            self._restoring.discard(channel)
            self._loop.call_soon(self._on_settled)
        homes = [self._heard.pop(name, None), self._moves.pop(name, (None, None))[0]]
        homes.append(self._courtesies.pop(name, (None, 0.0))[0])
        homes.append(place.home if isinstance(place, _Place) else None)
        for home in dict.fromkeys(homes):
            if home is not None:
                leaving = home.subscriber.leave([name])
                if self._leavings is not None:
                    self._leavings.append(leaving)

    # Where it is

    def is_used(self, home: Home) -> bool:
        """Whether some channel is still subscribed at a server."""
        guests = (*self._moves.values(), *self._courtesies.values())
        return home in self._heard.values() or any(old is home for old, _ in guests)

    def relocate(self) -> None:
        """The homes of channels may have changed: move what is elsewhere."""
        for channel in list(self._wanted.channels.values()):
            if channel.wanted:
                home = self._locate(channel.name)
                here = channel.sent.home if isinstance(channel.sent, _Place) else None
                if home is here:
                    continue
                if here is not None and here.hears and (e := self._moves.get(channel.name)) and e[1].is_settled:
                    # Late copies of its last move are still to be told apart.
                    self._postponed = True
                else:
                    self._move(channel, here)

    def lost(self, home: Home) -> bool:
        """A server's subscriptions are gone, or cannot be trusted; returns whether some channel was heard there."""
        for name, (old, move) in list(self._moves.items()):
            if not move.is_settled and self._home_of(name) is home:
                del self._moves[name]  # the old one goes on being heard
            elif old is home and not move.is_settled:
                self._settle(name, old, move)
        unheard = [name for name, heard in self._heard.items() if heard is home]
        for name in unheard:
            self._unheard(self._wanted.channels[name])
        return bool(unheard)

    def found(self, home: Home) -> None:
        """A server's subscriptions can be trusted again, without having been made anew."""
        for channel in list(self._wanted.channels.values()):
            place = channel.sent
            if isinstance(place, _Place) and place.home is home and home.subscriber.has(channel.name):
                self._confirm(home, channel)

    def _place(self, channel: Channel) -> None:
        home = self._locate(channel.name)
        if home is None:
            return
        channel.sent = _Place(home)
        old = self._heard.get(channel.name)
        if self._sharded and old is not None and old is not home and self._related(old, home):
            self._openings[channel.name] = Handover(self._clock.monotonic(), shard=True)
        home.subscriber.keep([channel.name])
        if self._can_hear(home, channel.name):
            self._confirm(home, channel)

    def _home_of(self, name: str) -> Home | None:
        place = self._wanted.channels[name].sent
        return place.home if isinstance(place, _Place) else None

    @staticmethod
    def _can_hear(home: Home, name: str) -> bool:
        return home.hears and home.subscriber.has(name)

    def _move(self, channel: Channel, here: Home | None) -> None:
        name = channel.name
        # Not settled: the old server has been heard all the time, and goes on being heard.
        self._moves.pop(name, None)
        self._openings.pop(name, None)
        heard = self._heard.get(name)
        if here is not None and here is not heard:
            here.subscriber.leave([name])
        self._refused.discard(channel)
        channel.sent = None
        self._place(channel)

    def _unheard(self, channel: Channel) -> None:
        """Nobody brings the channel's messages any more."""
        name = channel.name
        home = self._heard.pop(name, None)
        since = self._clock.monotonic() if home is None else home.deaf_since
        self._deaf.setdefault(name, min(since, self.regained.pop(name, since)))
        channel.confirmed = False
        self._restoring.add(channel)
        self.missed = True
        for ticket in channel.tickets:
            ticket.waiting.add(channel)

    def _settle(self, name: str, old: Home, move: Handover) -> None:
        home = self._home_of(name)
        assert home is not None  # noqa: S101 - a channel that moves has somewhere to go
        self._hearing.settle(name, home, old, move)
        self._end_courtesy(name)
        if self._sharded:
            old.subscriber.leave([name])
        else:
            self._courtesies[name] = (old, self._clock.monotonic() + _COURTESY_SECONDS)

    def _end_courtesy(self, name: str) -> None:
        home, _ = self._courtesies.pop(name, (None, 0.0))
        if home is not None and self._home_of(name) is not home and self._heard.get(name) is not home:
            home.subscriber.leave([name])

    # What the servers say

    def receiver(self, home: Home) -> Callable[[str, bytes], None]:
        """Takes the messages of one server."""
        return self._hearing.receiver(home)

    def confirmed(self, home: Home, name: str) -> None:
        """A server has subscribed a channel."""
        channel = self._wanted.channels.get(name)
        if channel is None or not isinstance(channel.sent, _Place) or channel.sent.home is not home:
            return  # it moved on meanwhile
        self._confirm(home, channel)

    def _confirm(self, home: Home, channel: Channel) -> None:
        name = channel.name
        old = self._heard.get(name)
        if old is None or old is home or not self._can_hear(old, name):
            self._heard[name] = home
            self._moves.pop(name, None)
            if old is not None and old is not home:
                old.subscriber.leave([name])
                self.missed = True
                self.regained.setdefault(name, old.deaf_since)
        elif name not in self._moves:
            now = self._clock.monotonic()
            if (move := self._openings.pop(name, None)) is not None:
                move.begin(now)
            self._moves[name] = (old, move or (Passage(now) if self._sharded else Handover(now)))
        self._openings.pop(name, None)
        channel.confirmed = True
        self._refused.discard(channel)
        self._wanted.confirm(channel)
        if (since := self._deaf.pop(name, None)) is not None:
            self.regained[name] = since
        if channel in self._restoring:
            self._restoring.discard(channel)
            if self.is_answered:
                self._on_settled()

    def refused(self, home: Home, name: str, error: BackplaneUnavailableError) -> None:
        """A server refuses a channel, and is asked again from time to time."""
        channel = self._wanted.channels.get(name)
        if channel is None or not isinstance(channel.sent, _Place) or channel.sent.home is not home:
            return
        if channel.kept:
            self._refused.add(channel)
        self._wanted.refuse(channel, error)
        if self.is_answered:
            self._on_settled()

    def misplaced(self, home: Home, name: str) -> None:
        """A server says that a channel is not its own, or no longer."""
        channel = self._wanted.channels.get(name)
        if channel is None:
            return
        if isinstance(channel.sent, _Place) and channel.sent.home is home:
            channel.sent = None
        if self._heard.get(name) is home:
            entry = self._moves.get(name)
            if entry is not None and not entry[1].is_settled:
                self._settle(name, *entry)
            else:
                self._moves.pop(name, None)
                self._unheard(channel)
        self._on_misplaced()

    def _late(self, ticket: Ticket) -> BackplaneUnavailableError:
        error = self._error
        return self._unavailable(describe_lateness(ticket, self._timeout, away=error is not None, error=error))

    def _unavailable(self, text: str) -> BackplaneUnavailableError:
        return unavailable(text, self._error)
