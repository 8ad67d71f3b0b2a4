"""`Hearing`: whose messages count on each channel, of one server or, while a channel moves, of two."""

from __future__ import annotations

import logging
from collections.abc import Callable

from hubplane.backplane.redis.handover import Handover
from hubplane.backplane.redis.homes import Home
from hubplane.clock import Clock

__all__ = ["Hearing"]

logger = logging.getLogger(__name__)


class Hearing:
    """What `Placement` has decided about incoming messages, and the way they take.

    Args:
        clock: For moves.
        deliver: Gets every message that counts.
        home_of: Where a channel shall be subscribed at present.
        sharded: The channels are shard channels.

    Attributes:
        heard: The server whose messages count, by channel.
        moves: The old server of a channel that is subscribed at two, and who decides what is a copy.
        openings: Moves within a shard whose new server has not subscribed yet.
    """

    def __init__(
        self,
        clock: Clock,
        deliver: Callable[[str, bytes], None],
        home_of: Callable[[str], Home | None],
        *,
        sharded: bool,
    ) -> None:
        self._clock = clock
        self._deliver = deliver
        self._home_of = home_of
        self._sharded = sharded
        self.heard: dict[str, Home] = {}
        self.moves: dict[str, tuple[Home, Handover]] = {}
        self.openings: dict[str, Handover] = {}

    def receiver(self, home: Home) -> Callable[[str, bytes], None]:
        """Takes the messages of one server."""
        heard, moves, openings, deliver = self.heard, self.moves, self.openings, self._deliver

        def receive_sharded(name: str, payload: bytes) -> None:
            # Unless it moves within its shard, a message on a shard channel comes from one server only.
            if name in moves:
                self._receive(home, name, payload)
                return
            if (opening := openings.get(name)) is not None:
                now = self._clock.monotonic()
                if opening.is_due(now):  # the new server takes its time: what is older has had enough to get there
                    opening = openings[name] = Handover(now, shard=True)
                opening.from_old(payload, now)
            deliver(name, payload)

        def receive(name: str, payload: bytes) -> None:
            if not moves and heard.get(name) is home:
                deliver(name, payload)
            else:
                self._receive(home, name, payload)

        return receive_sharded if self._sharded else receive

    def _receive(self, home: Home, name: str, payload: bytes) -> None:
        entry, now = self.moves.get(name), self._clock.monotonic()
        if entry is None:
            wanted = self.heard.get(name) is home
        elif entry[0] is home:
            wanted = entry[1].from_old(payload, now)
        else:
            wanted = self._home_of(name) is home and entry[1].from_new(payload, now)
        if wanted:
            self._deliver(name, payload)

    def settle(self, name: str, home: Home, old: Home, move: Handover) -> None:
        """From here on the new server is heard; what only that one has brought until now is delivered."""
        self.heard[name] = home
        for payload in move.settle(self._clock.monotonic()):
            try:
                self._deliver(name, payload)
            except Exception:
                # The sink broke its word; the messages behind this one must not pay for it.
                logger.exception("A sink failed on channel %s.", name)
        self.moves[name] = (old, move)

    def clear(self) -> None:
        """Forget everything."""
        self.heard.clear()
        self.moves.clear()
        self.openings.clear()
