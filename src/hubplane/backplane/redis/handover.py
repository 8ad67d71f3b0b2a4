"""`Handover`: one channel changes its server while messages flow, and each arrives once and in order.

For a while a channel is subscribed at two. Where both bring the same messages, the old one is listened to; what the
new one brings is only remembered. At the end whatever the new one had and the old one had not is delivered, and what
the old one brought last is not taken from the new one again. Where each brings its own messages, both are listened to.
"""

from __future__ import annotations

from collections import Counter, deque

__all__ = ["Handover", "Passage"]

# A message reaches this node from both servers within so long; the bus between servers may be slower by tens of
# milliseconds than the link to the one that it was published on.
_LAG = 0.5
# How long both are compared, and for how long after it late copies from the new one are recognised.
_OVERLAP = 1.0
_ECHO = 1.0
# More than that is not remembered: the old one is given up at once.
_LIMIT_BYTES = 4_194_304


class Handover:
    """Decides message by message; it neither subscribes nor reads a clock.

    In compat mode every primary hears what is published on any: what the new one brings at first may be a copy of what
    the old one brought before, and nothing is lost by not looking at it. In sharded mode that is so within a shard,
    where a primary and its replica change roles; but the old one may not get copies any more. There it begins when the
    new one is asked to subscribe: only a copy that takes longer than that to the new one would be taken for a message.

    Args:
        now: Monotonic seconds: the new one has subscribed, or, within a shard, is about to.
        shard: They are primary and replica of one shard, in sharded mode.
    """

    __slots__ = ("_begins", "_bytes", "_ends", "_new", "_old", "_recent", "_settled")

    def __init__(self, now: float, *, shard: bool = False) -> None:
        # What the new one brings before is not looked at.
        self._begins = now if shard else now + _LAG
        self._ends = self._begins + _OVERLAP
        self._old: Counter[bytes] = Counter()
        self._recent: deque[tuple[float, bytes]] = deque()
        self._new: list[bytes] = []
        self._bytes = 0
        self._settled = False

    @property
    def is_settled(self) -> bool:
        """The new server is the one that is heard."""
        return self._settled

    def begin(self, now: float) -> None:
        """Within a shard: the new one has subscribed."""
        self._ends = now + _OVERLAP

    def is_due(self, now: float) -> bool:
        """It is time to `settle`, or, when that is done, to forget all this."""
        return now >= self._ends or (self._bytes > _LIMIT_BYTES and not self._settled)

    def from_old(self, payload: bytes, now: float) -> bool:
        """Whether to deliver what the old server brought."""
        if self._settled:
            return False
        self._old[payload] += 1
        self._recent.append((now, payload))
        self._bytes += len(payload)
        return True

    def from_new(self, payload: bytes, now: float) -> bool:
        """Whether to deliver what the new server brought."""
        if self._settled:
            if self._old[payload] > 0:
                self._old[payload] -= 1
                return False
            return True
        if now >= self._begins:
            self._new.append(payload)
            self._bytes += len(payload)
        return False

    def settle(self, now: float) -> list[bytes]:
        """From here on the new server is heard; returns what the old one has missed."""
        missed: list[bytes] = []
        for payload in self._new:
            if self._old[payload] > 0:
                self._old[payload] -= 1
            else:
                missed.append(payload)
        self._old &= Counter(payload for when, payload in self._recent if when > now - _LAG)
        self._new.clear()
        self._recent.clear()
        self._settled = True
        self._ends = now + _ECHO
        return missed


class Passage(Handover):
    """A shard channel moves to another shard with its slot: no message comes from both."""

    def from_old(self, payload: bytes, now: float) -> bool:
        """Always."""
        return True

    def from_new(self, payload: bytes, now: float) -> bool:
        """Always."""
        return True
