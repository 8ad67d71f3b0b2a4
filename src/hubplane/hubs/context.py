"""What a hub method knows about its caller, and the door for code that is in no call.

Source: signalr-server sections 5.10 and 5.12.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any  # user code may keep anything in `items`

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import TransportKind
from hubplane.hubs.clients import HubClients
from hubplane.hubs.groups import GroupManager
from hubplane.hubs.port import HubPort
from hubplane.lifetime.base import HubLifetimeManager

if TYPE_CHECKING:
    from hubplane.hubs.call import CallSite

__all__ = ["HubCallerContext", "HubContext", "caller_context"]


class HubCallerContext:
    """The connection that calls, the same object for all its calls."""

    __slots__ = ("_connection", "_port")

    def __init__(self, connection: HubConnection, port: HubPort) -> None:
        self._connection = connection
        self._port = port

    @property
    def connection_id(self) -> str:
        """The public id: other code may send to it."""
        return self._connection.connection_id

    @property
    def user_identifier(self) -> str | None:
        """The user's id, computed once at the handshake; None for nobody."""
        return self._connection.user_identifier

    @property
    def user(self) -> object | None:
        """What authentication middleware put into ``scope["user"]``, or None; a new login changes it between calls."""
        return self._connection.request.user

    @property
    def items(self) -> dict[Any, Any]:
        """A place for the application's own data; it lives as long as the connection (row B101)."""
        return self._connection.items

    @property
    def request(self) -> ConnectionRequest:
        """The HTTP request that opened the connection: path, query, headers."""
        return self._connection.request

    @property
    def transport(self) -> TransportKind | None:
        """How the client is connected at the moment; None while it is not."""
        return self._connection.transport_kind

    @property
    def protocol(self) -> str:
        """The name of the hub protocol: ``json`` or ``messagepack``."""
        return self._connection.protocol_name

    @property
    def is_aborted(self) -> bool:
        """Whether the connection has ended or its client is gone: nothing reaches it any more."""
        return self._connection.closed

    async def wait_aborted(self) -> None:
        """Return when `is_aborted` has become true, for whatever reason; cancellation just stops waiting."""
        connection = self._connection
        if connection.closed:
            return
        ended = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not ended.done():
                ended.set_result(None)

        connection.on_abort(wake)
        try:
            await ended
        finally:
            connection.remove_on_abort(wake)

    def abort(self) -> None:
        """End the connection without allowing the client to reconnect (row B128).

        The calling method goes on; its completion is dropped. Also from a worker thread, where it takes effect soon
        after.
        """
        self._port.call_soon(self._connection.abort)


def caller_context(site: CallSite) -> HubCallerContext:
    """The context of a connection's calls, made when first asked for."""
    context = site.context
    if context is None:
        context = site.context = HubCallerContext(site.connection, site.port)
    return context


class HubContext:
    """Sends to the clients of a hub and changes groups from outside a call: background jobs, web views, scripts.

    It serves code on the hub's event loop, on other loops, and in threads without one, where its calls block.

    Args:
        lifetime: The lifetime manager of the hub.
    """

    __slots__ = ("_clients", "_groups", "_port")

    def __init__(self, lifetime: HubLifetimeManager) -> None:
        self._port = HubPort(lifetime)
        self._clients = HubClients(self._port)
        self._groups = GroupManager(self._port)

    def open(self) -> None:
        """Remember the running event loop as the hub's, so that threads may use this context from now on.

        Its first use on an event loop does the same.

        Raises:
            RuntimeError: No event loop runs in this thread.
        """
        self._port.open()

    @property
    def clients(self) -> HubClients:
        """Choose who hears a message."""
        return self._clients

    @property
    def groups(self) -> GroupManager:
        """Change who belongs to which group."""
        return self._groups
