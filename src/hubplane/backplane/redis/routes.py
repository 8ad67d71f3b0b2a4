"""`SlotRoutes`: publishes through several servers, each through the one that its channel's slot belongs to.

The messages of one channel leave in the order of calls, also while their slot changes servers: what was not sent moves
along, and what follows waits until the old server has answered for what it got. Between channels of different slots no
order is kept.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any  # a reply is whatever the command answers

from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.pipeline import CommandPipeline
from hubplane.backplane.redis.resp import ReplyError, new_reader, pack_command
from hubplane.backplane.redis.shard import Shard
from hubplane.backplane.redis.slots import SLOTS, slot_of
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError

__all__ = ["SlotRoutes"]

# What a node says to SPUBLISH when the slot is not its own, or not yet, or when the cluster is not whole.
_ELSEWHERE = ("MOVED ", "ASK ", "CLUSTERDOWN", "TRYAGAIN")
# Seconds before such a message is sent again, and before the first one goes to the new server of its slot: what the old
# one got last may still be on the bus between them.
_PAUSE = 0.1


@dataclass(slots=True, eq=False)
class _Sent:
    """A message on a shard channel that may have to be sent again."""

    command: bytes
    channel: str
    slot: int
    deadline: float
    future: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class _Hold:
    """Slots whose messages wait until their old server has answered for what it got.

    What a server sent back goes first, and of that the first one alone: its new server may not know of its office yet.
    """

    slots: list[int]
    waiting: CommandPipeline
    not_before: float
    fenced: bool = False
    returned: list[_Sent] = field(default_factory=list)
    probe: _Sent | None = None


class SlotRoutes:
    """The outgoing half of a backplane with several servers.

    Args:
        options: Prefix, limits, deadline and policy.
        clock: For deadlines.
        on_elsewhere: Called when a server says that a message belongs elsewhere.

    Attributes:
        lobby: Where messages wait while no server is known, or while this node cannot hear itself yet.
    """

    def __init__(self, options: RedisOptions, clock: Clock, on_elsewhere: Callable[[], None]) -> None:
        self._options = options
        self._clock = clock
        self._on_elsewhere = on_elsewhere
        self._sharded = options.mode == "sharded"
        self._word = "SPUBLISH" if self._sharded else "PUBLISH"
        self._command = options.command(self._word)
        self._prefix = options.channel_prefix.encode()
        self._ping = pack_command((options.command("PING") or "PING",))
        self.lobby = CommandPipeline(options, clock)
        self._homes: Sequence[Shard | None] | None = None
        self._lines: list[CommandPipeline | None] = [None] * SLOTS
        self._holds: list[_Hold] = []
        self._held = False

    def slot_of(self, channel: str) -> int:
        """The slot of a channel.

        ASP.NET Core's Redis client, up to the version that .NET 10 comes with, leaves the prefix out, and only the
        place where all publish makes its receiver counts right. Shard channels are judged by the servers, whole.
        """
        name = channel.encode()
        return slot_of(self._prefix + name if self._sharded else name)

    def publish(self, channel: str, payload: bytes) -> asyncio.Future[int]:
        """Send a message, now or when there is a server for it; see `Backplane.publish`."""
        name = channel.encode()
        wire = self._prefix + name
        slot = slot_of(wire if self._sharded else name)
        command = pack_command((self._command, wire, payload))
        if self._homes is None or self._held:
            future = self.lobby.submit(command, self._word, channel)
        else:
            future = self._submit(command, channel, slot)
        if not self._sharded:
            return future
        deadline = self._clock.monotonic() + self._options.async_timeout
        sent = _Sent(command, channel, slot, deadline, future.get_loop().create_future())
        future.add_done_callback(partial(self._answered, sent))
        return sent.future

    def adopt(self, pipeline: CommandPipeline) -> None:
        """Take over what waits in a pipeline that has no connection and will have none."""
        for command, future in pipeline.take_unsent():
            self.lobby.submit(command, self._word, future=future)

    def set_homes(self, homes: Sequence[Shard | None]) -> None:
        """From here on these servers, by slot, get the messages."""
        old, self._homes = self._homes or [None] * SLOTS, homes
        leaving: dict[Shard, list[int]] = defaultdict(list)
        held = {slot for hold in self._holds for slot in hold.slots}
        for slot, (before, now) in enumerate(zip(old, homes, strict=True)):
            if before is now:
                continue
            if slot not in held:
                self._lines[slot] = now.pipeline if now is not None else None
            if before is not None:
                leaving[before].append(slot)
        unsent = [command for shard in leaving for command in shard.pipeline.take_unsent()]
        for shard, slots in leaving.items():
            if shard.answers:
                self._hold([slot for slot in slots if slot not in held], shard, _PAUSE)
        self._resubmit(unsent)
        if not self._held:
            self._resubmit(self.lobby.take_unsent())

    def hold(self, *, held: bool) -> None:
        """Keep messages back, or let them go."""
        if held is not self._held:
            self._held = held
            if not held and self._homes is not None:
                self._resubmit(self.lobby.take_unsent())

    def tick(self, now: float) -> None:
        """Look at deadlines."""
        self.lobby.expire(now)
        for hold in list(self._holds):
            hold.waiting.expire(now)
        self._release(now)

    def close(self) -> None:
        """Fail everything that waits."""
        self._homes = None
        self.lobby.close()
        error = BackplaneUnavailableError("The backplane is not running.")
        for hold in self._holds:
            hold.waiting.close()
            for sent in [*hold.returned, *([hold.probe] if hold.probe is not None else [])]:
                if not sent.future.done():
                    sent.future.set_exception(error)
        self._holds.clear()

    def _submit(
        self, command: bytes, channel: str, slot: int, future: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        line = self._lines[slot]
        if line is not None:
            return line.submit(command, self._word, channel, future)
        failed = future or asyncio.get_running_loop().create_future()
        if not failed.done():
            failed.set_exception(self._no_owner(slot))
        return failed

    @staticmethod
    def _no_owner(slot: int) -> BackplaneUnavailableError:
        return BackplaneUnavailableError(f"No server of the Redis Cluster owns slot {slot}.")

    def _resubmit(self, unsent: Sequence[tuple[bytes, asyncio.Future[Any]]]) -> None:
        """Send what was not sent through those that are its homes now."""
        for command, future in unsent:
            reader = new_reader()
            reader.feed(command)
            words = reader.gets()
            if isinstance(words, list) and len(words) == 3 and words[0].decode() == self._command:
                name = words[1][len(self._prefix) :]
                self._submit(command, name.decode(), slot_of(words[1] if self._sharded else name), future)
            elif not future.done():
                future.set_exception(BackplaneUnavailableError("Not sent: the server has left the Redis Cluster."))

    # Slots that change servers

    def _hold(self, slots: list[int], shard: Shard, pause: float) -> _Hold:
        waiting = CommandPipeline(replace(self._options, backlog="wait"), self._clock)
        hold = _Hold(slots, waiting, self._clock.monotonic() + pause)
        self._holds.append(hold)
        for slot in slots:
            self._lines[slot] = waiting
        # Answered after everything that this server got before it.
        shard.pipeline.submit(self._ping, "PING").add_done_callback(partial(self._fenced, hold))
        return hold

    def _fenced(self, hold: _Hold, answer: asyncio.Future[Any]) -> None:
        if not answer.cancelled():
            answer.exception()  # whether it succeeded does not matter
        hold.fenced = True
        self._release(self._clock.monotonic())

    def _release(self, now: float) -> None:
        homes = self._homes
        if homes is None:
            return
        for hold in list(self._holds):
            if not hold.fenced or now < hold.not_before or hold.probe is not None:
                continue
            if len(hold.slots) > 1 or not hold.returned:
                self._end(hold, homes)
            else:
                hold.probe = hold.returned.pop(0)
                self._send_again(hold.probe, homes)

    def _end(self, hold: _Hold, homes: Sequence[Shard | None]) -> None:
        """Let everything go, but what was sent back of many slots: that goes on slot by slot."""
        self._holds.remove(hold)
        for slot in hold.slots:
            home = homes[slot]
            self._lines[slot] = home.pipeline if home is not None else None
        if len(hold.slots) > 1:
            apart: dict[int, list[_Sent]] = defaultdict(list)
            for sent in hold.returned:
                apart[sent.slot].append(sent)
            for slot, returned in apart.items():
                waiting = self._lines[slot] = CommandPipeline(replace(self._options, backlog="wait"), self._clock)
                self._holds.append(_Hold([slot], waiting, 0.0, fenced=True, returned=returned))
        else:
            for sent in hold.returned:
                self._send_again(sent, homes)
        self._resubmit(hold.waiting.take_unsent())

    def _send_again(self, sent: _Sent, homes: Sequence[Shard | None]) -> None:
        home = homes[sent.slot]
        if home is not None:
            answer = home.pipeline.submit(sent.command, self._word, sent.channel)
            answer.add_done_callback(partial(self._answered, sent))
        elif not sent.future.done():
            sent.future.set_exception(self._no_owner(sent.slot))

    def _answered(self, sent: _Sent, answer: asyncio.Future[Any]) -> None:
        """Pass on what became of a message on a shard channel, or send it again elsewhere."""
        error = None if answer.cancelled() else answer.exception()
        hold = next((hold for hold in self._holds if sent.slot in hold.slots), None)
        probing = hold is not None and hold.probe is sent
        if hold is not None and probing:
            hold.probe = None
        now, homes = self._clock.monotonic(), self._homes
        if error is not None and homes is not None and self._is_elsewhere(error) and now < sent.deadline:
            self._on_elsewhere()
            if hold is None and (home := homes[sent.slot]) is not None:
                hold = self._hold([sent.slot], home, _PAUSE)
            if hold is not None:
                hold.returned.insert(0 if probing else len(hold.returned), sent)
                hold.not_before = now + _PAUSE if probing else hold.not_before
                return
        if not sent.future.done():
            if error is not None:
                sent.future.set_exception(error)
            else:
                sent.future.set_result(None if answer.cancelled() else answer.result())
        if hold is not None and probing and homes is not None:
            if error is None:
                self._end(hold, homes)
            else:
                self._release(now)

    def _is_elsewhere(self, error: BaseException) -> bool:
        cause = error.__cause__
        return self._options.backlog == "wait" and isinstance(cause, ReplyError) and str(cause).startswith(_ELSEWHERE)
