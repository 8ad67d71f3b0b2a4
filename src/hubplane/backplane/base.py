"""The contract of a backplane: payloads on named channels between nodes, and nothing else.

What every carrier promises, tested by `hubplane.testing.BackplaneContract`:

1. A publisher that is subscribed to the channel hears itself, so local and remote members are served by one path.
2. Order holds per publisher and channel; carriers with one pipeline also keep it across the channels of a publisher.
3. `subscribe` returns once the broker confirmed, so that nothing published after it is missed.
4. A failed publish raises; it is never only logged.
5. After an outage all wanted channels are restored before `restored` is called, and its `gap` tells the truth.
6. Leaving `run` is prompt, and nothing is delivered after it.
7. `publish` returns a receiver count only as a hint, None where the carrier cannot know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from hubplane.errors import BackplaneError

__all__ = ["Backplane", "BackplaneSink", "BackplaneTraits"]


@dataclass(frozen=True, slots=True)
class BackplaneTraits:
    """What a carrier can do.

    Attributes:
        name: Short name for logs: "memory", "redis".
        counts_receivers: `publish` returns how many subscribers the broker knew of.
        resumes_after_loss: Messages published during an outage are delivered after it.
        max_payload_bytes: Largest payload accepted; None for no limit of its own.
    """

    name: str
    counts_receivers: bool
    resumes_after_loss: bool
    max_payload_bytes: int | None = None


class BackplaneSink(Protocol):
    """Receives what the backplane brings; called on the event loop, must not block and must not raise."""

    def deliver(self, channel: str, payload: bytes) -> None:
        """A message arrived on a channel this node subscribed to."""
        ...

    def lost(self, error: BackplaneError) -> None:
        """The broker was lost; called once per outage, also when the first connect fails."""
        ...

    def restored(self, *, gap: bool) -> None:
        """Every wanted channel is confirmed again; `gap` says whether messages may have been missed meanwhile."""
        ...


class Backplane(Protocol):
    """A carrier of payloads between nodes. One instance serves all hubs of a process."""

    @property
    def traits(self) -> BackplaneTraits:
        """What this carrier can do."""
        ...

    @property
    def is_connected(self) -> bool:
        """The broker is reachable and every wanted channel is confirmed."""
        ...

    def run(self, sink: BackplaneSink) -> AbstractAsyncContextManager[None]:
        """Connect in the background and deliver to `sink` while inside.

        Entering never waits for the broker and never fails because of it: a broker that is away is reported through
        `sink.lost` and tried again until it answers.
        """
        ...

    async def subscribe(self, channels: Collection[str], *, keep: bool = False) -> None:
        """Want `channels`; return once the broker confirmed all of them.

        Args:
            channels: Exact names, without any prefix.
            keep: If the broker is away or refuses, stay wanting them: they are reconciled until confirmed, and the
                call returns at once without an error. Otherwise a failure is rolled back and raised.

        Raises:
            BackplaneUnavailableError: The broker did not confirm; nothing is left subscribed (unless `keep`).
        """
        ...

    async def unsubscribe(self, channels: Collection[str]) -> None:
        """No longer want `channels`. Never fails: with the broker away they are simply not restored."""
        ...

    def publish(self, channel: str, payload: bytes) -> Awaitable[int | None]:
        """Hand `payload` to the broker, in the order of calls; the awaitable ends when the broker confirmed.

        Calls made in one turn of the event loop leave in one write.

        Raises:
            BackplaneUnavailableError: Not confirmed: from the awaitable, never from the call.
        """
        ...

    async def count_subscribers(self, channels: Collection[str]) -> dict[str, int] | None:
        """How many nodes are subscribed to each channel now; None where the carrier cannot tell.

        Raises:
            BackplaneUnavailableError: The broker is away.
        """
        ...
