"""What the subscriber keeps track of: channels, the calls that wait for them, and the commands under way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import Enum

from hubplane.backplane.redis.resp import ReplyError

__all__ = ["Batch", "BatchKind", "Channel", "Leaving", "Ticket"]


class BatchKind(Enum):
    """A command on the subscriber's connection; its name is the command, its value the first word of the answer."""

    SUBSCRIBE = b"subscribe"
    UNSUBSCRIBE = b"unsubscribe"
    PING = b"pong"


class Batch:
    """One command under way, and how many of its channels were answered."""

    __slots__ = ("channels", "kind", "position")

    def __init__(self, kind: BatchKind, channels: list[Channel]) -> None:
        self.kind = kind
        self.channels = channels
        self.position = 0


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
        self.tickets: list[Ticket] = []
        self.leaving: Leaving | None = None
        self.sent: Batch | None = None
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
        self.channels = list(channels)
        self.waiting = {channel for channel in self.channels if not channel.confirmed}
        self.deadline = deadline
        self.keep = keep
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Leaving:
    """One call of `unsubscribe` that waits for `remaining` channels."""

    __slots__ = ("done", "remaining")

    def __init__(self) -> None:
        self.remaining = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
