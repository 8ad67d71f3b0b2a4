"""The commands of a `Subscriber` that are under way, and what is said of those that wait for them."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from hubplane.backplane.redis.wanted import Channel, Subscribe, Ticket
from hubplane.errors import BackplaneUnavailableError

__all__ = ["Batch", "Kind", "SubscriptionWatcher", "describe_lateness"]


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


def describe_lateness(ticket: Ticket, seconds: float, *, away: bool, error: BackplaneUnavailableError | None) -> str:
    """Why a call of `subscribe` has ended without an answer.

    Args:
        ticket: The call.
        seconds: How long it has waited.
        away: There is no connection.
        error: Why there is none, if that is known.
    """
    milliseconds = round(seconds * 1000)
    if not away:
        return f"Timeout awaiting confirmation of {len(ticket.waiting)} channels ({milliseconds}ms)."
    text = "The subscription timed out in the backlog attempting to send because no connection became available"
    return f"{text} ({milliseconds}ms)" + (f" - Last Connection Exception: {error}" if error is not None else "")
