"""Who belongs to which group.

Source: signalr-server section 5.12; redis-backplane sections 3.8-3.10.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from hubplane.hubs.port import HubPort

__all__ = ["GroupManager"]


class GroupManager:
    """Adds connections to groups and removes them. Groups exist while they have members."""

    __slots__ = ("_port",)

    def __init__(self, port: HubPort) -> None:
        self._port = port

    def add(self, connection_id: str, group: str) -> Awaitable[None]:
        """Add a connection, on any node, to a group; idempotent.

        When the awaitable ends, a message sent to the group reaches the connection. In a thread without an event loop
        the call blocks until then. Membership ends with the connection: a client that reconnects is in no group.

        Raises:
            TypeError, ValueError: An argument is no string, or is empty.
            BackplaneUnavailableError: The broker did not confirm; nothing has changed.
            AckTimeoutError: The connection is not on this node and no other node acknowledged.
        """
        _check(connection_id, group)
        return self._port.run(partial(self._port.lifetime.add_to_group, connection_id, group))

    def remove(self, connection_id: str, group: str) -> Awaitable[None]:
        """Remove a connection, on any node, from a group; idempotent. Raises as `add`."""
        _check(connection_id, group)
        return self._port.run(partial(self._port.lifetime.remove_from_group, connection_id, group))


def _check(connection_id: object, group: object) -> None:
    for value, what in ((connection_id, "connection id"), (group, "group")):
        if not isinstance(value, str):
            raise TypeError(f"A {what} is a string, not {value!r}.")
        if not value:
            raise ValueError(f"A {what} must not be empty.")
