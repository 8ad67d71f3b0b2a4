"""The news that the server stops, for requests that would otherwise hold it up.

ASGI tells an application that the server stops only when all requests have ended; an event stream, or an open poll,
does not end by itself. A server that wants to end in time puts a `Stopping` into the scope.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias  # ASGI messages hold what servers and middleware put there

__all__ = ["STOPPING_EXTENSION", "Stopping", "announcing"]

STOPPING_EXTENSION = "hubplane.stopping"
"""The key in ``scope["extensions"]`` under which the server offers its `Stopping`."""

_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
_App: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class Stopping:
    """Tells the requests that have asked for it that the server stops; on the server's event loop only."""

    __slots__ = ("_callbacks", "_stopped")

    def __init__(self) -> None:
        self._callbacks: dict[Callable[[], None], None] = {}
        self._stopped = False

    def add(self, callback: Callable[[], None]) -> None:
        """Call `callback`, which must not raise, when the server stops; at once if it does so already."""
        if self._stopped:
            callback()
        else:
            self._callbacks[callback] = None

    def discard(self, callback: Callable[[], None]) -> None:
        """Forget `callback`; unknown ones are ignored."""
        self._callbacks.pop(callback, None)

    def stop(self) -> None:
        """The server stops now; idempotent."""
        self._stopped = True
        callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks:
            callback()


def announcing(app: _App, stopping: Stopping) -> _App:
    """The application `app`, whose HTTP requests learn of `stopping`."""

    async def announce(scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "http":
            scope["extensions"] = {**(scope.get("extensions") or {}), STOPPING_EXTENSION: stopping}
        await app(scope, receive, send)

    return announce
