"""Who is in which group: local changes with their subscriptions, and commands between nodes.

Commands of other nodes change the table in the order of their arrival, at once; only their acknowledgement waits for
the broker. So their order per connection and group is that of the channel, and no command waits for another one's round
trip to the broker.

Source: redis-backplane sections 3.8 to 3.10.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection

from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import AckTimeoutError, BackplaneError, BackplaneUnavailableError, EnvelopeError
from hubplane.lifetime import redis_log
from hubplane.lifetime.acks import PendingAcks
from hubplane.lifetime.envelope import (
    ADD_TO_GROUP,
    REMOVE_FROM_GROUP,
    GroupCommand,
    decode_ack,
    decode_group_command,
    encode_ack,
    encode_group_command,
)
from hubplane.lifetime.interest import Interest
from hubplane.lifetime.line import HubLine
from hubplane.lifetime.routes import ChannelHandler
from hubplane.lifetime.table import ConnectionTable

__all__ = ["Membership"]

logger = logging.getLogger(__name__)

_DOUBTS = (0.05, 0.2, 0.5)
"""Seconds between looks for a connection that seems to be nowhere."""
_PATIENCE = (0.5, 1.0, 2.0)
"""The same for one that was found, while its node does not acknowledge: after an outage that one may be back later."""


class Membership:
    """Adds connections to groups and removes them, wherever they live.

    Args:
        table: Where local memberships are kept.
        line: Where groups are subscribed and commands published.
        clock: Where deadlines are counted from.
        ack_timeout: Seconds that a command waits for another node.
        deliver: Serves the payloads on a group's channel.
        max_unacknowledged: Commands of other nodes that may be under way here at once. Further ones are dropped with a
            warning; the node that sent them learns it by its own deadline, as from a node that died.
    """

    def __init__(
        self,
        table: ConnectionTable,
        line: HubLine,
        *,
        clock: Clock,
        ack_timeout: float,
        deliver: ChannelHandler,
        max_unacknowledged: int = 65_536,
    ) -> None:
        self._table = table
        self._line = line
        self._channels = line.channels
        self._routes = line.routes
        self._deliver = deliver
        self._max_unacknowledged = max_unacknowledged
        self._unacknowledged = 0
        self._acks = PendingAcks(clock, timeout=ack_timeout)
        self._interest = Interest(line.backplane, line.supervisor, on_refused=self._refused)
        self._groups: dict[str, str] = {}

    # -- from this node -----------------------------------------------------------------------------------------

    async def add(self, connection_id: str, group: str) -> None:
        """Add a connection to a group, and return when messages to the group reach it.

        Cancelling only ends the waiting.

        Raises:
            BackplaneUnavailableError: The broker did not confirm; the connection is no member.
            AckTimeoutError: The connection is on no node, or its node did not acknowledge in time.
        """
        connection = self._table.connections.get(connection_id)
        if connection is None:
            await self._command(ADD_TO_GROUP, connection_id, group)
        elif (confirmed := self._join(connection, group)) is not None:
            await confirmed

    async def remove(self, connection_id: str, group: str) -> None:
        """Remove a connection from a group; raises as `add`."""
        if connection_id not in self._table.connections:
            await self._command(REMOVE_FROM_GROUP, connection_id, group)
        elif (released := self._leave(connection_id, group)) is not None:
            await released

    def abandoned(self, groups: Collection[str]) -> None:
        """The last local members of these groups have left with their connection."""
        for group in groups:
            self._release(group)

    def channels(self) -> list[str]:
        """The group channels that are wanted, or still subscribed."""
        return list(dict.fromkeys((*self._groups, *self._interest.channels())))

    def tick(self, now: float) -> None:
        """End the commands that no node acknowledged in time."""
        self._acks.tick(now)

    def close(self) -> None:
        """The node stops: end all commands."""
        self._acks.close(BackplaneUnavailableError("The hub is shutting down."))

    def _join(self, connection: HubConnection, group: str) -> asyncio.Future[None] | None:
        # A connection that is about to leave must not leave a subscription behind (row X8).
        if connection.closed:
            return None
        self._table.join(connection, group)
        channel = self._channels.group(group)
        if channel not in self._groups:
            self._groups[channel] = group
            self._routes.add(channel, self._deliver, group)
        return self._interest.want(channel)

    def _leave(self, connection_id: str, group: str) -> asyncio.Future[None] | None:
        return self._release(group) if self._table.leave(connection_id, group) else None

    def _release(self, group: str) -> asyncio.Future[None] | None:
        channel = self._channels.group(group)
        self._groups.pop(channel, None)
        self._routes.discard((channel,))
        return self._interest.release(channel)

    def _refused(self, channel: str) -> None:
        # Without a subscription there has been no member, so whoever is one has joined in vain.
        self._table.drop_group(self._groups.pop(channel))
        self._routes.discard((channel,))

    # -- to other nodes -----------------------------------------------------------------------------------------

    async def _command(self, action: int, connection_id: str, group: str) -> None:
        command_id, acknowledged = self._acks.create(connection_id, group)
        command = GroupCommand(command_id, self._channels.node_name, action, group, connection_id)
        payload = encode_group_command(command)
        try:
            await self._line.publish(self._channels.groups, payload)
            await self._doubt(connection_id, group, acknowledged, payload)
            await acknowledged
        finally:
            self._acks.forget(command_id)

    async def _doubt(self, connection_id: str, group: str, acknowledged: asyncio.Future[None], payload: bytes) -> None:
        """Return when the command has its outcome, or nobody can say where the connection is.

        The original waits 30 s or more for an id that exists nowhere, for one that leaves, with its node or alone, just
        when it is spoken of, and when the command or its acknowledgement is lost in an outage. Each node subscribes the
        ids it serves, so the broker can be asked; more than once, because a client knows its id a moment before its
        node has subscribed it. To one that is there the command is sent again: done twice it does no harm.

        Raises:
            AckTimeoutError: No node has the connection, or none any more.
            BackplaneUnavailableError: The broker did not answer the first look.
        """
        where = self._channels.connection(connection_id)
        missed = found = 0
        while missed < len(_DOUBTS):
            try:
                counts = await self._line.backplane.count_subscribers((where,))
            except BackplaneError:
                if not found:
                    raise
                counts = {where: 1}  # nobody can be counted while the broker is away
            if counts is None or acknowledged.done():
                return
            is_there = counts.get(where, 0) > 0
            found += is_there
            pauses = _PATIENCE if found else _DOUBTS
            delay = pauses[min(found - 1, len(pauses) - 1) if is_there else missed]
            missed = 0 if is_there else missed + 1
            await asyncio.wait((acknowledged,), timeout=delay)
            if acknowledged.done():
                return
            if is_there:
                with contextlib.suppress(BackplaneError):
                    await self._line.publish(self._channels.groups, payload)
        how = "is served by no node any more" if found else "does not exist on any node; its groups stay"
        raise AckTimeoutError(connection_id, group, f"Connection '{connection_id}' {how}.")

    def on_ack(self, _name: str, payload: bytes) -> None:
        """A node has carried out a command of this one."""
        try:
            command_id = decode_ack(payload)
        except EnvelopeError as error:
            # Silent in the original, so no event of .NET's.
            logger.debug("Dropped a malformed acknowledgement: %s", error)
            return
        self._acks.acknowledge(command_id)

    # -- for other nodes ----------------------------------------------------------------------------------------

    def on_command(self, _name: str, payload: bytes) -> None:
        """Another node (or this one) asks for a change: make it if the connection is here, and acknowledge it."""
        try:
            command = decode_group_command(payload)
        except EnvelopeError as error:
            redis_log.internal_message_failed(error)
            return
        connection = self._table.connections.get(command.connection_id)
        if connection is None:
            return
        if self._unacknowledged >= self._max_unacknowledged:
            logger.warning("Over %d group commands are under way; one is dropped.", self._max_unacknowledged)
            return
        settled: asyncio.Future[None] | None = None
        if command.action == ADD_TO_GROUP:
            settled = self._join(connection, command.group)
        elif command.action == REMOVE_FROM_GROUP:
            settled = self._leave(command.connection_id, command.group)
        self._unacknowledged += 1
        self._line.supervisor.start(self._acknowledge(command, settled), "acknowledge a group command")

    async def _acknowledge(self, command: GroupCommand, settled: asyncio.Future[None] | None) -> None:
        channel = self._channels.ack_of(command.node_name)
        try:
            if settled is not None:
                await settled
            await self._line.publish(channel, encode_ack(command.command_id))
        except BackplaneError as error:
            redis_log.internal_message_failed(error)
        finally:
            self._unacknowledged -= 1
