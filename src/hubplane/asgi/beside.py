"""Hubs beside an application that serves HTTP and nothing else, such as Django's.

Such an application can mount nothing, fails on WebSockets and on the lifespan. So the hubs stand in front of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias  # ASGI messages hold what servers and middleware put there

from hubplane.asgi.websocket import AsgiWebSocketExchange
from hubplane.errors import ConfigurationError

__all__ = ["AsgiApp", "Beside"]

_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]

AsgiApp: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]
"""An ASGI 3 application."""


class Beside:
    """Sends requests below a path to the hubs, and those of other paths to the application.

    WebSockets of other paths are refused with 404, and the lifespan is that of the hubs.

    Args:
        hubs: The hubs, as an ASGI application.
        app: The other application.
        at: The path of the hubs, such as ``/hubs``.

    Raises:
        ConfigurationError: `at` does not begin with a slash, or ends with one.
    """

    __slots__ = ("_app", "_at", "_hubs")

    def __init__(self, hubs: AsgiApp, app: AsgiApp, at: str) -> None:
        if not at.startswith("/") or at.endswith("/"):
            raise ConfigurationError(f"Hubs stand at a path that starts with '/' and does not end with it, not {at!r}.")
        self._hubs = hubs
        self._app = app
        self._at = at

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await self._hubs(scope, receive, send)
        elif (inside := self._inside(scope)) is not None:
            await self._hubs(inside, receive, send)
        elif scope["type"] == "websocket":
            await AsgiWebSocketExchange(scope, receive, send).reject(404, b"", content_type=None)
        else:
            await self._app(scope, receive, send)

    def _inside(self, scope: _Message) -> _Message | None:
        """The scope for the hubs, with the path as their root; None where it is not theirs."""
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        # Some servers leave the root out of the path; a root that ends within a name is none of ours.
        if root and path.startswith(root) and path[len(root) : len(root) + 1] in {"", "/"}:
            path = path[len(root) :]
        if path != self._at and not path.startswith(f"{self._at}/"):
            return None
        return {**scope, "path": root + path, "root_path": root + self._at}
