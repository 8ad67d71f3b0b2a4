"""The application's class derives from `Hub`.

Source: signalr-server sections 5.2, 5.9 and 5.10; design.md section 3.
"""

from __future__ import annotations

from hubplane.hubs.call import HubCall
from hubplane.hubs.clients import HubCallerClients
from hubplane.hubs.context import HubCallerContext, caller_context
from hubplane.hubs.groups import GroupManager
from hubplane.hubs.methods import hub_method

__all__ = ["Hub", "hub_method"]


class Hub:
    """Base of hubs: its public methods are what clients call.

    A new instance is made for each call and for each lifecycle callback, so state belongs into ``self.context.items``
    or outside. A subclass with ``__init__`` need not call this class's.

    Methods: ``async def`` runs on the event loop, plain ``def`` in a worker thread, an async generator streams its
    items. Arguments are bound by annotation; a client must send all of them.
    """

    __slots__ = ("_hub_call",)

    _hub_call: HubCall

    @property
    def context(self) -> HubCallerContext:
        """The connection that calls."""
        return caller_context(self._bound().site)

    @property
    def clients(self) -> HubCallerClients:
        """Choose who hears a message."""
        return HubCallerClients(self._bound())

    @property
    def groups(self) -> GroupManager:
        """Change who belongs to which group."""
        return GroupManager(self._bound().site.port)

    def _bound(self) -> HubCall:
        try:
            return self._hub_call
        except AttributeError:
            raise RuntimeError(
                f"{type(self).__name__} is not in a call: context, clients and groups are set after it was made."
            ) from None

    async def on_connected(self) -> None:
        """Called once per connection, after its handshake and before any of its calls.

        An exception ends the connection; the client is told not to reconnect, and `on_disconnected` is not called.
        """

    async def on_authentication_refreshed(self) -> None:
        """Called when a client that stays connected has a new login, which `context.user` is from here on.

        It runs like a call of the client's, in front of those that wait. An exception is logged, nothing more. Needs
        `TransportOptions.enable_authentication_refresh`.
        """

    async def on_disconnected(self, error: Exception | None) -> None:
        """Called once when a connection ends whose `on_connected` did not fail.

        Args:
            error: What ended the connection; None for an orderly end (signalr-server section 5.8).
        """
