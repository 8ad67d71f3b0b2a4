"""`Home`: what `Placement` needs to know of a server at which channels may be subscribed."""

from __future__ import annotations

from typing import Protocol

from hubplane.backplane.redis.options import Endpoint
from hubplane.backplane.redis.subscriber import Subscriber

__all__ = ["Home"]


class Home(Protocol):
    """A server at which channels may be subscribed."""

    endpoint: Endpoint

    @property
    def subscriber(self) -> Subscriber:
        """What speaks to it."""
        ...

    @property
    def deaf_since(self) -> float:
        """Monotonic: nothing that was published before was missed here; the past, also while it hears."""
        ...

    @property
    def hears(self) -> bool:
        """Its subscriptions can be trusted now."""
        ...
