"""The names of a hub's channels, exactly as ASP.NET Core writes them.

Names are without the channel prefix: the carrier adds it. There is no escaping, and everything behind the fixed part is
taken as it is.

Source: redis-backplane sections 1.1 and 1.2.
"""

from __future__ import annotations

__all__ = ["HubChannels"]


class HubChannels:
    """The channels of one hub on one node.

    Args:
        hub_name: The hub's name on the backplane; the .NET full type name when .NET nodes share it.
        node_name: Unique per hub and process.

    Attributes:
        node_name: As given.
        all: Messages to every connection of the hub.
        groups: Group commands for connections of other nodes.
        ack: Acknowledgements for this node's group commands.
        returns: Answers of clients that this node asked.
    """

    __slots__ = ("_ack", "_connection", "_group", "_user", "ack", "all", "groups", "node_name", "returns")

    def __init__(self, hub_name: str, node_name: str) -> None:
        self.node_name = node_name
        self.all = f"{hub_name}:all"
        self.groups = f"{hub_name}:internal:groups"
        self.returns = f"{hub_name}:internal:return:{node_name}"
        self._ack = f"{hub_name}:internal:ack:"
        self._connection = f"{hub_name}:connection:"
        self._group = f"{hub_name}:group:"
        self._user = f"{hub_name}:user:"
        self.ack = self.ack_of(node_name)

    def connection(self, connection_id: str) -> str:
        """Messages and questions to one connection."""
        return self._connection + connection_id

    def group(self, name: str) -> str:
        """Messages to the members of a group; the empty name is a name like any other."""
        return self._group + name

    def user(self, user_id: str) -> str:
        """Messages to the connections of a user."""
        return self._user + user_id

    def ack_of(self, node_name: str) -> str:
        """Acknowledgements for the node that sent a group command."""
        return self._ack + node_name
