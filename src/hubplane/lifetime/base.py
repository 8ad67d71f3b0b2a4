"""The contract of a lifetime manager: who is here, who shall hear, on this node and on others.

Source: signalr-server section 5.12; redis-backplane section 3.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from hubplane.connection.hub_connection import HubConnection
from hubplane.lifetime.audience import Audience
from hubplane.protocol.messages import Completion

__all__ = ["HubLifetimeManager"]


class HubLifetimeManager(Protocol):
    """Knows the connections of one hub. Tested by `hubplane.testing.lifetime_contract`."""

    def run(self) -> AbstractAsyncContextManager[None]:
        """Serve while inside; entering never waits for a broker that is away."""
        ...

    async def on_connected(self, connection: HubConnection) -> None:
        """Add a connection, after its handshake and before the hub's own callback.

        Returns when the node hears messages for it; with the broker away at once, as the rest is reconciled later.
        """
        ...

    async def on_disconnected(self, connection: HubConnection) -> None:
        """Remove a connection and its memberships. Never fails."""
        ...

    async def add_to_group(self, connection_id: str, group: str) -> None:
        """Add a connection, wherever it lives, to a group; idempotent.

        Raises:
            BackplaneUnavailableError: The broker did not confirm; the membership was rolled back.
            AckTimeoutError: The connection is not on this node and no other node acknowledged.
        """
        ...

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        """Remove a connection, wherever it lives, from a group; idempotent. Raises as `add_to_group`."""
        ...

    def send(self, audience: Audience, target: str, arguments: Sequence[object]) -> Awaitable[None]:
        """Send an invocation to everybody in `audience`; unknown ids, groups and users are no error.

        The message is encoded in the call; the awaitable ends when the broker took it. Local single connections are
        written directly.

        Raises:
            TypeError, ValueError, OverflowError: An argument cannot be written; nothing was sent. From the call.
            BackplaneUnavailableError: Not confirmed. From the awaitable.
        """
        ...

    async def invoke_connection(
        self,
        connection_id: str,
        target: str,
        arguments: Sequence[object],
        result_type: object,
        *,
        timeout: float | None,
    ) -> object:
        """Ask one client and wait for its answer.

        Args:
            connection_id: Public id, on any node.
            target: The client's method.
            arguments: Its arguments.
            result_type: What the answer is converted to.
            timeout: Seconds; None waits until the client answers, leaves, or its node dies.

        Returns:
            The answer; None when the client answered without a value (where .NET raises).

        Raises:
            HubException: The client answered with an error or with a value of another type, or it left its node
                without an answer.
            ConnectionClosedError: The client, of this node, left without an answer.
            ClientResultError: There is no such connection, its node died, or `timeout` has passed.
            BackplaneUnavailableError: The question was not confirmed by the broker.
        """
        ...

    def set_connection_result(self, connection: HubConnection, completion: Completion) -> bool:
        """A client answered; False when nobody waits for it.

        A client that answers a question put to another one has broken the protocol: its connection ends.
        """
        ...

    def tick(self, now: float) -> None:
        """Once a second, with monotonic seconds: end what has waited too long for other nodes."""
        ...

    def connections(self) -> Iterator[HubConnection]:
        """A snapshot of the connections of this node."""
        ...
