"""One hub's line to the other nodes: what the rooms of its lifetime manager share."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

from hubplane.backplane.base import Backplane
from hubplane.lifetime import redis_log
from hubplane.lifetime.channels import HubChannels
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.supervisor import Supervisor

__all__ = ["HubLine"]


@dataclass(frozen=True, slots=True)
class HubLine:
    """Where a hub's messages go, and who works for it.

    Attributes:
        channels: Their names.
        backplane: The carrier.
        routes: Who serves what it brings.
        supervisor: Owns the hub's work in the background; closed while the hub is not served.
    """

    channels: HubChannels
    backplane: Backplane
    routes: BackplaneRoutes
    supervisor: Supervisor

    def publish(self, channel: str, payload: bytes) -> Awaitable[int | None]:
        """Publish and say so in the log; see `Backplane.publish`."""
        redis_log.publish_to_channel(channel)
        self.routes.published += 1
        return self.backplane.publish(channel, payload)
