"""The connections of one hub on this node, by id, by user and by group, and the one loop that serves many of them.

Everything here is synchronous: nobody joins or leaves while a message goes round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from hubplane.connection.hub_connection import HubConnection
from hubplane.protocol.serialized import SerializedHubMessage

__all__ = ["ConnectionTable", "Departure"]

_NOBODY: Mapping[str, HubConnection] = {}

# Up to here a scan of the ids themselves is quicker than building a set of them.
_FEW = 4


class Departure(NamedTuple):
    """What a leaving connection leaves behind.

    Attributes:
        groups: The groups that it was the last local member of.
        user: Its user, if it was the user's last local connection.
    """

    groups: tuple[str, ...]
    user: str | None


class ConnectionTable:
    """Who is here.

    Attributes:
        connections: By public id.
    """

    __slots__ = ("_groups", "_memberships", "_users", "connections")

    def __init__(self) -> None:
        self.connections: dict[str, HubConnection] = {}
        self._users: dict[str, dict[str, HubConnection]] = {}
        self._groups: dict[str, dict[str, HubConnection]] = {}
        self._memberships: dict[str, set[str]] = {}

    def add(self, connection: HubConnection) -> None:
        """Know `connection`, and its user if it has one."""
        self.connections[connection.connection_id] = connection
        if user := connection.user_identifier:
            self._users.setdefault(user, {})[connection.connection_id] = connection

    def remove(self, connection: HubConnection) -> Departure | None:
        """Forget `connection` and its memberships; None when it is not (or no longer) here."""
        connection_id = connection.connection_id
        if self.connections.get(connection_id) is not connection:
            return None
        del self.connections[connection_id]
        groups = tuple(
            group for group in self._memberships.pop(connection_id, ()) if _discard(self._groups, group, connection_id)
        )
        user = connection.user_identifier
        return Departure(groups, user if user and _discard(self._users, user, connection_id) else None)

    def join(self, connection: HubConnection, group: str) -> bool:
        """Make `connection`, which is here, a member; False when it is one already."""
        groups = self._memberships.setdefault(connection.connection_id, set())
        if group in groups:
            return False
        groups.add(group)
        self._groups.setdefault(group, {})[connection.connection_id] = connection
        return True

    def leave(self, connection_id: str, group: str) -> bool:
        """End a membership; True when that was the group's last local member."""
        groups = self._memberships.get(connection_id)
        if groups is None or group not in groups:
            return False
        groups.discard(group)
        if not groups:
            del self._memberships[connection_id]
        return _discard(self._groups, group, connection_id)

    def drop_group(self, group: str) -> None:
        """End all memberships of a group."""
        for connection_id in list(self._groups.get(group, ())):
            self.leave(connection_id, group)

    def has_group(self, group: str) -> bool:
        """Whether a group has a local member."""
        return group in self._groups

    def has_user(self, user: str) -> bool:
        """Whether a user has a local connection."""
        return user in self._users

    def users(self) -> list[str]:
        """The users with a local connection."""
        return list(self._users)

    def to_all(self, message: SerializedHubMessage, excluded: Collection[str] = ()) -> None:
        """Write to every connection that is not excluded."""
        _fan_out(self.connections, message, excluded)

    def to_group(self, group: str, message: SerializedHubMessage, excluded: Collection[str] = ()) -> None:
        """Write to the members of a group that are not excluded."""
        _fan_out(self._groups.get(group, _NOBODY), message, excluded)

    def to_user(self, user: str, message: SerializedHubMessage) -> None:
        """Write to the connections of a user."""
        _fan_out(self._users.get(user, _NOBODY), message, ())


def _fan_out(recipients: Mapping[str, HubConnection], message: SerializedHubMessage, excluded: Collection[str]) -> None:
    if not excluded:
        for connection in recipients.values():
            connection.write_serialized(message)
        return
    if len(excluded) > _FEW:
        excluded = frozenset(excluded)
    for connection_id, connection in recipients.items():
        if connection_id not in excluded:
            connection.write_serialized(message)


def _discard(index: dict[str, dict[str, HubConnection]], name: str, connection_id: str) -> bool:
    """Take a connection out of a named set; True when the set is empty now, and gone."""
    members = index.get(name)
    if members is None or members.pop(connection_id, None) is None or members:
        return False
    del index[name]
    return True
