"""Many nodes behind one backplane: table, channels and envelopes, over any carrier.

Everything but a message to a single connection of this node travels through the backplane, also to local members, so
that all members of a group see one order.

Source: redis-backplane section 3; docs/architecture.md, walk two.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

from hubplane.backplane.base import Backplane
from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import EnvelopeError
from hubplane.ids import IdSource
from hubplane.lifetime import redis_log
from hubplane.lifetime.audience import Audience, AudienceKind
from hubplane.lifetime.channels import HubChannels
from hubplane.lifetime.completed import DONE, AllOf, Taken
from hubplane.lifetime.envelope import InvocationEnvelope, decode_invocation, encode_invocation
from hubplane.lifetime.line import HubLine
from hubplane.lifetime.membership import Membership
from hubplane.lifetime.questions import Questions
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.table import ConnectionTable
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.messages import Completion, Invocation
from hubplane.protocol.serialized import SerializedHubMessage
from hubplane.supervisor import Supervisor

__all__ = ["ScaleoutHubLifetimeManager"]

logger = logging.getLogger(__name__)


class ScaleoutHubLifetimeManager:
    """Knows the connections of one hub on this node, and reaches those of all other nodes.

    Args:
        hub_name: The hub's name on the backplane.
        backplane: Carries the payloads; its sink is `routes`.
        routes: Shared by the hubs of the process.
        protocols: The hub protocols that the hub speaks, in order. Every message is written in all of them, since any
            node may have a client of any.
        clock: Where time comes from.
        ids: Where node name and invocation ids come from.
        ack_timeout: Seconds that a group command waits for another node.
        patience: Seconds that starting, and each of the two steps of stopping, wait for the broker's word at most.
    """

    def __init__(
        self,
        hub_name: str,
        *,
        backplane: Backplane,
        routes: BackplaneRoutes,
        protocols: Sequence[HubProtocol],
        clock: Clock,
        ids: IdSource,
        ack_timeout: float = 30.0,
        patience: float = 1.0,
    ) -> None:
        self.hub_name = hub_name
        self.channels = HubChannels(hub_name, ids.node_name())
        self._supervisor = Supervisor(f"lifetime of {hub_name}")
        self._line = HubLine(self.channels, backplane, routes, self._supervisor)
        self._protocols = tuple(protocols)
        self._table = ConnectionTable()
        self._membership = Membership(
            self._table, self._line, clock=clock, ack_timeout=ack_timeout, deliver=self._on_group
        )
        self._questions = Questions(self._table, self._line, protocols=self._protocols, ids=ids, clock=clock)
        self._patience = patience
        self._serving = False
        # Connections and users that have left, and whose channels are still subscribed.
        self._left: list[tuple[str, str | None]] = []
        self._releasing = False

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> AbstractAsyncContextManager[None]:
        """Serve while inside.

        Entering waits for the broker to confirm the hub's own channels, for `patience` at most, and not at all when it
        is away; they are reconciled later.

        Raises:
            ConfigurationError: Another hub of this process has the same name.
        """
        return self._run()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        channels = self.channels
        routes = self._line.routes
        # In this order, as the original subscribes them (1.4).
        own = {
            channels.all: self._on_all,
            channels.groups: self._membership.on_command,
            channels.ack: self._membership.on_ack,
            channels.returns: self._questions.on_completion,
        }
        routes.claim(own)
        routes.listen(self._questions)
        self._supervisor.open()
        self._serving = True
        # Only carriers with a broker have endpoints, so the contract leaves them out.
        if endpoints := getattr(self._line.backplane, "endpoints", None):
            redis_log.connecting_to_endpoints([str(endpoint) for endpoint in endpoints], channels.node_name)
        try:
            subscribing = self._supervisor.start(self._subscribe_own(tuple(own)), "subscribe own channels")
            await asyncio.wait((subscribing,), timeout=self._patience)
            yield
        finally:
            self._serving = False
            self._membership.close()
            self._questions.close()
            subscribed = self._subscribed(own)
            routes.discard(subscribed)
            routes.forget(self._questions)
            await self._supervisor.close(grace=self._patience)
            await self._unsubscribe(subscribed)

    async def _subscribe_own(self, own: Collection[str]) -> None:
        for channel in own:
            redis_log.subscribing(channel)
        await self._line.backplane.subscribe(own, keep=True)
        self._line.routes.answered()

    def _subscribed(self, own: Collection[str]) -> list[str]:
        return [
            *map(self.channels.connection, self._table.connections),
            *map(self.channels.user, self._table.users()),
            *self._membership.channels(),
            *own,
        ]

    async def _unsubscribe(self, channels: Collection[str]) -> None:
        for channel in channels:
            redis_log.unsubscribe(channel)
        try:
            async with asyncio.timeout(self._patience):
                await self._line.backplane.unsubscribe(channels)
        except TimeoutError:
            logger.debug("The broker did not confirm within %s s that %s leaves.", self._patience, self.hub_name)

    def tick(self, now: float) -> None:
        """Once a second: end what has waited too long for other nodes."""
        self._membership.tick(now)
        self._questions.tick(now)

    # -- who is here --------------------------------------------------------------------------------------------

    async def on_connected(self, connection: HubConnection) -> None:
        """Add a connection; with the broker there, return when this node hears messages for it and its user."""
        user = connection.user_identifier
        is_users_first = not (user and self._table.has_user(user))
        self._table.add(connection)
        routes = self._line.routes
        connection_id = connection.connection_id
        channels = [self.channels.connection(connection_id)]
        routes.add(channels[0], self._on_connection, connection_id)
        redis_log.subscribing(channels[0])
        if user:
            # Wanted anew for each connection of the user: so each waits for it, whoever came first.
            channels.append(self.channels.user(user))
            routes.add(channels[1], self._on_user, user)
            if is_users_first:
                redis_log.subscribing(channels[1])
        await self._line.backplane.subscribe(channels, keep=True)

    async def on_disconnected(self, connection: HubConnection) -> None:
        """Remove a connection and its memberships; what this node need not hear any more is unsubscribed soon after."""
        departure = self._table.remove(connection)
        if departure is None:
            return
        self._membership.abandoned(departure.groups)
        channels = [self.channels.connection(connection.connection_id)]
        if departure.user is not None:
            channels.append(self.channels.user(departure.user))
        self._line.routes.discard(channels)
        if not self._serving:
            return
        self._left.append((connection.connection_id, departure.user))
        if not self._releasing:
            self._releasing = True
            self._supervisor.start(self._release(), "unsubscribe who left")

    async def _release(self) -> None:
        # Together, because clients leave together. Whoever is back by now is left out: a new want must not be undone.
        try:
            while self._left:
                left, self._left = self._left, []
                channels: list[str] = []
                for connection_id, user in left:
                    if connection_id not in self._table.connections:
                        channels.append(self.channels.connection(connection_id))
                    if user is not None and not self._table.has_user(user):
                        channels.append(self.channels.user(user))
                for channel in channels:
                    redis_log.unsubscribe(channel)
                await self._line.backplane.unsubscribe(channels)
        finally:
            self._releasing = False

    async def add_to_group(self, connection_id: str, group: str) -> None:
        """Add a connection, wherever it lives, to a group; see `HubLifetimeManager.add_to_group`."""
        await self._membership.add(connection_id, group)

    async def remove_from_group(self, connection_id: str, group: str) -> None:
        """Remove a connection, wherever it lives, from a group; see `HubLifetimeManager.remove_from_group`."""
        await self._membership.remove(connection_id, group)

    def connections(self) -> Iterator[HubConnection]:
        """A snapshot of the connections of this node."""
        return iter(tuple(self._table.connections.values()))

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, audience: Audience, target: str, arguments: Sequence[object]) -> Awaitable[None]:
        """Send an invocation to everybody in `audience`; see `HubLifetimeManager.send`.

        Several groups, users or connections get one envelope, published once for each name in order: a name given twice
        twice, an empty one not at all (for connections it is).
        """
        if not target:
            raise ValueError("The value cannot be an empty string. (Parameter 'target')")
        kind = audience.kind
        names = audience.names
        message = Invocation(target, arguments)
        if kind is AudienceKind.CONNECTION and (connection := self._table.connections.get(names[0])) is not None:
            connection.write(connection.protocol.encode(message))
            return Taken(connection) if connection.crowded else DONE
        serialized = SerializedHubMessage.of(message, self._protocols)
        payload = encode_invocation(audience.excluded, serialized.payloads)
        channels = self.channels
        if kind is AudienceKind.ALL:
            return self._publish(channels.all, payload)
        if kind is AudienceKind.GROUP:
            return self._publish(channels.group(names[0]), payload)
        if kind is AudienceKind.USER:
            return self._publish(channels.user(names[0]), payload)
        if kind is AudienceKind.CONNECTION:
            return self._publish(channels.connection(names[0]), payload)
        if kind is AudienceKind.CONNECTIONS:
            wanted = [channels.connection(name) for name in names]
        else:
            channel_of = channels.group if kind is AudienceKind.GROUPS else channels.user
            wanted = [channel_of(name) for name in names if name]
        return AllOf([self._publish(channel, payload) for channel in wanted])

    def _publish(self, channel: str, payload: bytes) -> Awaitable[None]:
        # The receiver count that it ends with is a hint, and not for senders.
        return cast("Awaitable[None]", self._line.publish(channel, payload))

    # -- what the backplane brings ------------------------------------------------------------------------------

    def _on_all(self, _name: str, payload: bytes) -> None:
        redis_log.received_from_channel(self.channels.all)
        if (envelope := _read(payload)) is not None:
            self._table.to_all(SerializedHubMessage(envelope.payloads), envelope.excluded)

    def _on_group(self, group: str, payload: bytes) -> None:
        if (envelope := _read(payload)) is not None:
            self._table.to_group(group, SerializedHubMessage(envelope.payloads), envelope.excluded)

    def _on_user(self, user: str, payload: bytes) -> None:
        # The excluded are not looked at here, nor on a connection's channel (2.2).
        if (envelope := _read(payload)) is not None:
            self._table.to_user(user, SerializedHubMessage(envelope.payloads))

    def _on_connection(self, connection_id: str, payload: bytes) -> None:
        connection = self._table.connections.get(connection_id)
        if connection is None:
            return
        try:
            envelope = decode_invocation(payload)
        except EnvelopeError as error:
            # The original drops it without a word, so this is no event of .NET's.
            logger.debug("Dropped a malformed message for connection %s: %s", connection_id, error)
            return
        if envelope.invocation_id is not None:
            self._questions.ask_for(connection, envelope.invocation_id, envelope.return_channel)
        connection.write_serialized(SerializedHubMessage(envelope.payloads))

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
        """Ask one client, on any node, and wait for its answer; see `HubLifetimeManager.invoke_connection`."""
        return await self._questions.invoke(connection_id, target, arguments, result_type, timeout=timeout)

    def set_connection_result(self, connection: HubConnection, completion: Completion) -> bool:
        """A client answered; see `HubLifetimeManager.set_connection_result`."""
        return self._questions.results.answer(connection, completion)


def _read(payload: bytes) -> InvocationEnvelope | None:
    try:
        return decode_invocation(payload)
    except EnvelopeError as error:
        redis_log.failed_writing_message(error)
        return None
