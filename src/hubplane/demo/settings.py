"""What `hubplane demo` tells its two nodes, through one environment variable."""

from __future__ import annotations

import os

import msgspec

from hubplane.errors import ConfigurationError

__all__ = ["VARIABLE", "DemoNode", "DemoSettings"]

VARIABLE = "HUBPLANE_DEMO"


class DemoNode(msgspec.Struct, frozen=True):
    """One of the nodes, as the page sees it."""

    name: str
    port: int


class DemoSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings of one node.

    Attributes:
        node: The name of the node that reads them.
        nodes: All nodes, in the order of the panes.
        client: Folder ``node_modules`` with Microsoft's client.
        broker: What is between the nodes, for people.
        outage_descriptor: File descriptor to write a line to when the page asks to stop Redis; None where Redis is
            not ours to stop.
        outage_seconds: For how long.
    """

    node: str
    nodes: tuple[DemoNode, ...]
    client: str
    broker: str
    outage_descriptor: int | None
    outage_seconds: int

    def to_environment(self) -> dict[str, str]:
        """The variable to start the node with."""
        return {VARIABLE: msgspec.json.encode(self).decode()}

    @classmethod
    def from_environment(cls) -> DemoSettings:
        """What this process was started with.

        Raises:
            ConfigurationError: It was not started by `hubplane demo`.
        """
        try:
            return msgspec.json.decode(os.environ[VARIABLE], type=cls)
        except (KeyError, msgspec.DecodeError) as error:
            raise ConfigurationError("The demo's nodes are started by: hubplane demo") from error
