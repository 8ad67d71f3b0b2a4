"""One node, no broker: from audience to table at once.

Source: signalr-server sections 5.12 and 5.13.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import ClientResultError
from hubplane.ids import IdSource
from hubplane.lifetime.audience import Audience, AudienceKind
from hubplane.lifetime.completed import DONE, TURN, Taken
from hubplane.lifetime.results import ClientResults
from hubplane.lifetime.table import ConnectionTable
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.messages import Completion, Invocation
from hubplane.protocol.serialized import SerializedHubMessage

__all__ = ["LocalHubLifetimeManager"]

BYTES_PER_TURN = 65_536
"""Sent to audiences before awaiting senders let the event loop write."""


class LocalHubLifetimeManager:
    """Knows the connections of one hub, all of them on this node.

    Args:
        protocols: The hub protocols that the hub speaks, in order.
        ids: Makes invocation ids.
    """

    def __init__(self, *, protocols: Sequence[HubProtocol], ids: IdSource) -> None:
        self._protocols = tuple(protocols)
        self._ids = ids
        self._table = ConnectionTable()
        self._results = ClientResults()
        self._burst = 0

    def run(self) -> AbstractAsyncContextManager[None]:
        """Serve while inside; leaving ends all waiting for clients."""
        return self._run()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._results.close()

    def tick(self, now: float) -> None:
        """Nothing here has a deadline."""

    # -- who is here --------------------------------------------------------------------------------------------

    async def on_connected(self, connection: HubConnection) -> None:
        """Add a connection."""
        self._table.add(connection)

    async def on_disconnected(self, connection: HubConnection) -> None:
        """Remove a connection and its memberships."""
        self._table.remove(connection)

    async def add_to_group(self, connection_id: str, group: str) -> None:
        """Add a connection to a group; one that is unknown, or about to leave, is ignored."""
        connection = self._table.connections.get(connection_id)
        if connection is not None and not connection.closed:
            self._table.join(connection, group)

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        """Remove a connection from a group; one that is unknown is ignored."""
        self._table.leave(connection_id, group)

    def connections(self) -> Iterator[HubConnection]:
        """A snapshot of the connections."""
        return iter(tuple(self._table.connections.values()))

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, audience: Audience, target: str, arguments: Sequence[object]) -> Awaitable[None]:
        """Write an invocation to everybody in `audience` before returning.

        Overlapping groups get it once per group; users and connections once, however often they are named. Awaiting it
        waits for a single connection that takes nothing; for an audience, now and then, only for the event loop.

        Raises:
            ValueError: The target is empty, or one of several groups is.
            TypeError, ValueError, OverflowError: An argument cannot be written; nothing was sent.
        """
        if not target:
            raise ValueError("The value cannot be an empty string. (Parameter 'target')")
        kind = audience.kind
        if kind is AudienceKind.GROUPS and "" in audience.names:
            raise ValueError("Cannot send to an empty group name.")
        message = SerializedHubMessage.of(Invocation(target, arguments), self._protocols)
        table = self._table
        if kind is AudienceKind.ALL:
            table.to_all(message, audience.excluded)
        elif kind in {AudienceKind.GROUP, AudienceKind.GROUPS}:
            for group in audience.names:
                table.to_group(group, message, audience.excluded)
        elif kind in {AudienceKind.USER, AudienceKind.USERS}:
            for user in dict.fromkeys(audience.names):
                table.to_user(user, message)
        else:
            for connection_id in dict.fromkeys(audience.names):
                connection = table.connections.get(connection_id)
                if connection is not None:
                    connection.write_serialized(message)
                    if kind is AudienceKind.CONNECTION:
                        return Taken(connection) if connection.crowded else DONE
        self._burst += sum(map(len, message.payloads.values()))
        if self._burst > BYTES_PER_TURN:
            self._burst = 0
            return TURN
        return DONE

    # -- client results -----------------------------------------------------------------------------------------

    async def invoke_connection(
        self,
        connection_id: str,
        target: str,
        arguments: Sequence[object],
        result_type: object,
        *,
        timeout: float | None,
    ) -> object:
        """Ask one client and wait for its answer; see `HubLifetimeManager.invoke_connection`."""
        connection = self._table.connections.get(connection_id)
        if connection is None:
            raise ClientResultError(f"Connection '{connection_id}' does not exist.")
        invocation_id = self._ids.invocation_id()
        payload = connection.protocol.encode(Invocation(target, arguments, invocation_id))
        try:
            async with asyncio.timeout(timeout):
                return await self._results.ask_local(
                    invocation_id, connection, result_type, lambda: connection.write(payload)
                )
        except TimeoutError:
            raise ClientResultError(f"Connection '{connection_id}' did not answer within {timeout:g} s.") from None

    def set_connection_result(self, connection: HubConnection, completion: Completion) -> bool:
        """A client answered; see `HubLifetimeManager.set_connection_result`."""
        return self._results.answer(connection, completion)
