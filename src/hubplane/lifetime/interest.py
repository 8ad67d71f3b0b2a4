"""Which group channels this node needs: the first local member subscribes, the last one to leave unsubscribes.

Each channel has its own state, and no lock is shared between channels. Whatever order joins and leaves come in, a
channel ends in the state that was wanted last; everybody who waits for the same subscription shares its outcome.

Source: redis-backplane section 3.12, and rows X8, X9, X11.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hubplane.backplane.base import Backplane
from hubplane.errors import BackplaneError, BackplaneUnavailableError
from hubplane.lifetime import redis_log
from hubplane.supervisor import Supervisor

__all__ = ["Interest"]


_STOPPING = "The hub is shutting down."


class _Channel:
    """What is wanted of a channel, what the broker confirmed, and who waits for it."""

    __slots__ = ("confirmed", "joining", "leaving", "settling", "wanted")

    def __init__(self) -> None:
        self.wanted = False
        self.confirmed = False
        self.settling = False
        self.joining: list[asyncio.Future[None]] = []
        self.leaving: list[asyncio.Future[None]] = []


class Interest:
    """Subscriptions that come and go with their local members.

    Args:
        backplane: Where to subscribe.
        supervisor: Owns the work on each channel that is not settled; it is not started for one that is.
        on_refused: Called with a channel that could not be subscribed, before anybody who waits learns of it: nobody
            can be a member of its group.
    """

    __slots__ = ("_backplane", "_channels", "_on_refused", "_supervisor")

    def __init__(self, backplane: Backplane, supervisor: Supervisor, *, on_refused: Callable[[str], None]) -> None:
        self._backplane = backplane
        self._supervisor = supervisor
        self._on_refused = on_refused
        self._channels: dict[str, _Channel] = {}

    def want(self, channel: str) -> asyncio.Future[None] | None:
        """Somebody joins. None when the channel is subscribed; else a future that ends with the broker's word.

        The future fails with `BackplaneUnavailableError`. It is the caller's own: cancelling it only ends the waiting.
        """
        state = self._channels.get(channel)
        if state is None:
            state = self._channels[channel] = _Channel()
        state.wanted = True
        if state.confirmed:
            return None
        return self._wait(channel, state, state.joining)

    def release(self, channel: str) -> asyncio.Future[None] | None:
        """The last member has left. None when nothing is to be done; else a future that ends when it is done."""
        state = self._channels.get(channel)
        if state is None:
            return None
        state.wanted = False
        return self._wait(channel, state, state.leaving)

    def channels(self) -> list[str]:
        """The channels that are subscribed, or not settled yet."""
        return list(self._channels)

    def _wait(self, channel: str, state: _Channel, waiters: list[asyncio.Future[None]]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(future)
        if not state.settling:
            state.settling = True
            try:
                self._supervisor.start(self._settle(channel, state), f"settle {channel}")
            except RuntimeError:
                self._settled(channel, state, BackplaneUnavailableError(_STOPPING))
        return future

    async def _settle(self, channel: str, state: _Channel) -> None:
        outcome: BackplaneError | None = BackplaneUnavailableError(_STOPPING)
        try:
            while state.wanted is not state.confirmed:
                if state.wanted:
                    redis_log.subscribing(channel)
                    try:
                        await self._backplane.subscribe((channel,))
                    except BackplaneError as error:
                        outcome = error
                        break
                    else:
                        state.confirmed = True
                        _end(state.joining, None)
                else:
                    redis_log.unsubscribe(channel)
                    # From here on messages may be missed, so whoever joins now has to wait for a new subscription.
                    state.confirmed = False
                    await self._backplane.unsubscribe((channel,))
                    _end(state.leaving, None)
            else:
                outcome = None
        finally:
            self._settled(channel, state, outcome)

    def _settled(self, channel: str, state: _Channel, outcome: BackplaneError | None) -> None:
        state.settling = False
        if not state.confirmed:
            if state.wanted:
                self._on_refused(channel)
            self._channels.pop(channel, None)
        _end(state.leaving, None)
        _end(state.joining, outcome)


def _end(waiters: list[asyncio.Future[None]], error: Exception | None) -> None:
    for future in waiters:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
    waiters.clear()
