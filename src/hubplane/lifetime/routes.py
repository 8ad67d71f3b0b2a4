"""From a channel to whoever serves it: the one sink that all hubs of a process share.

Source: docs/architecture.md, walk two; redis-backplane sections 3.14 and 5.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeAlias

from hubplane.errors import BackplaneError, ConfigurationError
from hubplane.lifetime import redis_log

__all__ = ["BackplaneListener", "BackplaneRoutes", "ChannelHandler"]

logger = logging.getLogger(__name__)

ChannelHandler: TypeAlias = Callable[[str, bytes], None]
"""Takes the name given with `BackplaneRoutes.add`, and a payload; must not block."""


class BackplaneListener(Protocol):
    """Wants to know when the broker comes and goes."""

    def backplane_lost(self, error: BackplaneError) -> None:
        """The broker was lost."""
        ...

    def backplane_restored(self, *, gap: bool) -> None:
        """Every wanted channel is confirmed again; `gap` says whether messages may have been missed."""
        ...


class BackplaneRoutes:
    """Channel to handler, a dictionary and no string parsing; a `BackplaneSink` for one backplane.

    Since a process has one connection to its broker, it also has one voice in the log about it.

    Attributes:
        published: Messages that its hubs have given to the backplane so far.
        received: Messages that the backplane has brought so far.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[ChannelHandler, str]] = {}
        self._listeners: dict[BackplaneListener, None] = {}
        self._reached = False
        self._away = False
        self.published = 0
        self.received = 0

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there, as far as is known."""
        return self._reached and not self._away

    def claim(self, handlers: Mapping[str, ChannelHandler]) -> None:
        """Let each handler serve its channel, all of them or none.

        Raises:
            ConfigurationError: A channel is taken: two hubs have one name on the backplane.
        """
        for channel in handlers:
            if channel in self._handlers:
                raise ConfigurationError(
                    f"The channel '{channel}' is already in use: two hubs share one hub_name. Give each hub its own."
                )
        for channel, handler in handlers.items():
            self.add(channel, handler, "")

    def add(self, channel: str, handler: ChannelHandler, name: str) -> None:
        """Let `handler` serve `channel`, instead of whoever did; it gets `name` with each payload."""
        self._handlers[channel] = (handler, name)

    def discard(self, channels: Collection[str]) -> None:
        """Forget `channels`; what still arrives on them is dropped."""
        for channel in channels:
            self._handlers.pop(channel, None)

    def listen(self, listener: BackplaneListener) -> None:
        """Tell `listener` about losses and recoveries."""
        self._listeners[listener] = None

    def forget(self, listener: BackplaneListener) -> None:
        """Tell `listener` nothing more."""
        self._listeners.pop(listener, None)

    def __len__(self) -> int:
        """How many channels are served."""
        return len(self._handlers)

    def answered(self) -> None:
        """A subscription has ended, and not because the broker is away: that is logged the first time."""
        if not self._reached and not self._away:
            self._reached = True
            redis_log.connected()

    # -- BackplaneSink ------------------------------------------------------------------------------------------

    def deliver(self, channel: str, payload: bytes) -> None:
        """A message arrived. A handler's failure is logged and harms no other message."""
        self.received += 1
        entry = self._handlers.get(channel)
        if entry is None:
            return
        handler, name = entry
        try:
            handler(name, payload)
        except Exception:
            # The reader of the broker must go on whatever one message does.
            logger.exception("Serving a message on channel %s failed.", channel)

    def lost(self, error: BackplaneError) -> None:
        """The broker was lost, or could not be reached at the start: said once per outage."""
        if not self._away:
            self._away = True
            if self._reached:
                redis_log.connection_failed(error)
            else:
                # The original says the first when a connect throws, the second when it gives up and goes on without.
                redis_log.error_connecting(error)
                redis_log.not_connected()
        for listener in list(self._listeners):
            listener.backplane_lost(error)

    def restored(self, *, gap: bool) -> None:
        """All wanted channels are confirmed again."""
        was_away, self._away = self._away, False
        self.answered()
        if was_away:
            redis_log.connection_restored()
        for listener in list(self._listeners):
            listener.backplane_restored(gap=gap)
