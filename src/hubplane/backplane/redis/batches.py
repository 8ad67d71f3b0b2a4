"""The commands of a `Subscriber` that are under way, and who hears what became of single channels."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from hubplane.backplane.redis.wanted import Channel, Subscribe
from hubplane.errors import BackplaneUnavailableError

__all__ = ["Batch", "Kind", "SubscriptionWatcher"]


class Kind(Enum):
    """A command on this connection; its name is the command, its value the first word of the answer."""

    SUBSCRIBE = b"subscribe"
    UNSUBSCRIBE = b"unsubscribe"
    SSUBSCRIBE = b"ssubscribe"
    SUNSUBSCRIBE = b"sunsubscribe"
    PING = b"pong"


class Batch(Subscribe):
    """One command under way, and how many of its channels were answered."""

    __slots__ = ("channels", "kind", "position", "word")

    def __init__(self, kind: Kind, channels: list[Channel]) -> None:
        self.kind = kind
        self.word: bytes = kind.value
        self.channels = channels
        self.position = 0


class SubscriptionWatcher(Protocol):
    """Hears what becomes of single channels, where channels have more than one possible home."""

    def confirmed(self, name: str) -> None:
        """Redis confirmed a channel."""
        ...

    def refused(self, name: str, error: BackplaneUnavailableError) -> None:
        """Redis refused a channel, and is asked again from time to time."""
        ...

    def misplaced(self, name: str) -> None:
        """Redis says that the channel does not belong here, or no longer; it is wanted here no more."""
        ...
