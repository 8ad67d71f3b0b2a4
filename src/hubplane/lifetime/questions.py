"""Asking one client for a result, across nodes.

Source: redis-backplane section 3.11.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import (
    BackplaneError,
    BackplaneUnavailableError,
    ClientResultError,
    EnvelopeError,
    LocalProtocolError,
    RemoteProtocolError,
)
from hubplane.ids import IdSource
from hubplane.lifetime import redis_log
from hubplane.lifetime.envelope import decode_completion, encode_completion, encode_invocation
from hubplane.lifetime.line import HubLine
from hubplane.lifetime.results import ClientResults
from hubplane.lifetime.table import ConnectionTable
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.messages import Completion, Invocation
from hubplane.protocol.serialized import SerializedHubMessage

__all__ = ["Questions"]

logger = logging.getLogger(__name__)

# Seconds between two looks at whether the asked clients of other nodes are still there.
_LOOK_EVERY = 2.0
# Seconds between attempts to hand an answer to the node that asked: after an outage it may be back later than this one.
_FORWARD_PAUSES = (0.25, 0.5, 1.0, 2.0)


class Questions:
    """Asks clients anywhere, and clients of this node for other nodes.

    Args:
        table: The connections of this node.
        line: Carries questions and answers.
        protocols: The hub protocols, in order.
        ids: Makes invocation ids.
        clock: Sleeps between attempts to pass an answer on.

    Attributes:
        results: What is pending.
    """

    def __init__(
        self,
        table: ConnectionTable,
        line: HubLine,
        *,
        protocols: Sequence[HubProtocol],
        ids: IdSource,
        clock: Clock,
    ) -> None:
        self.results = ClientResults()
        self._table = table
        self._line = line
        self._channels = line.channels
        self._protocols = {protocol.name: protocol for protocol in protocols}
        self._ids = ids
        self._clock = clock
        self._looking = False
        self._next_look = 0.0

    # -- asking -------------------------------------------------------------------------------------------------

    async def invoke(
        self,
        connection_id: str,
        target: str,
        arguments: Sequence[object],
        result_type: object,
        *,
        timeout: float | None,
    ) -> object:
        """Ask a client and return its answer; see `HubLifetimeManager.invoke_connection`."""
        invocation = Invocation(target, arguments, self._ids.invocation_id())
        connection = self._table.connections.get(connection_id)
        try:
            async with asyncio.timeout(timeout) as limit:
                if connection is not None:
                    return await self._ask_here(connection, invocation, result_type)
                return await self._ask_afar(connection_id, invocation, result_type)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ClientResultError(f"Connection '{connection_id}' did not answer within {timeout:g} s.") from None

    async def _ask_here(self, connection: HubConnection, invocation: Invocation, result_type: object) -> object:
        payload = connection.protocol.encode(invocation)
        return await self.results.ask_local(
            invocation.invocation_id or "", connection, result_type, lambda: connection.write(payload)
        )

    async def _ask_afar(self, connection_id: str, invocation: Invocation, result_type: object) -> object:
        invocation_id = invocation.invocation_id or ""
        channel = self._channels.connection(connection_id)
        message = SerializedHubMessage.of(invocation, self._protocols.values())
        payload = encode_invocation((), message.payloads, invocation_id, self._channels.returns)
        answer = self.results.expect(invocation_id, connection_id, result_type)
        try:
            receivers = await self._line.publish(channel, payload)
            # The count alone proves nothing: in a cluster it is that of one node, and may be wrong after a failover.
            if receivers == 0 and not answer.done() and not await self._exists(channel):
                raise ClientResultError(f"Connection '{connection_id}' does not exist.")
            return await answer
        finally:
            self.results.forget(invocation_id)

    async def _exists(self, channel: str) -> bool:
        counts = await self._line.backplane.count_subscribers((channel,))
        return counts is not None and counts.get(channel, 0) > 0

    def tick(self, now: float) -> None:
        """Every two seconds: see whether the asked clients of other nodes are still served by anybody."""
        if now < self._next_look or self._looking:
            return
        asked = self.results.asked_afar()
        if asked:
            self._next_look = now + _LOOK_EVERY
            self._looking = True
            self._line.supervisor.start(self._look(asked), "look for asked clients")

    async def _look(self, asked: Sequence[str]) -> None:
        channels = {connection_id: self._channels.connection(connection_id) for connection_id in asked}
        try:
            counts = await self._line.backplane.count_subscribers(tuple(channels.values()))
        except BackplaneError:
            self.results.pardon()
        else:
            if counts is not None:
                self.results.seen({name: counts.get(channel, 0) for name, channel in channels.items()})
        finally:
            self._looking = False

    def on_completion(self, _name: str, payload: bytes) -> None:
        """The answer of a client of another node."""
        try:
            envelope = decode_completion(payload)
        except EnvelopeError as error:
            # Silent in the original, so no event of .NET's.
            logger.debug("Dropped a malformed client result: %s", error)
            return
        protocol = self._protocols.get(envelope.protocol)
        if protocol is None:
            redis_log.mismatched_servers(envelope.protocol)
            return
        try:
            bodies, _rest = protocol.split(envelope.payload, None)
            message = protocol.decode(bodies[0]) if bodies else None
        except RemoteProtocolError as error:
            redis_log.error_parsing_result(protocol.name, error)
            return
        if not bodies:
            redis_log.error_parsing_result(protocol.name, None)
        elif isinstance(message, Completion):
            self.results.answer_from_afar(message, protocol)

    # -- asking for others --------------------------------------------------------------------------------------

    def ask_for(self, connection: HubConnection, invocation_id: str, return_channel: str | None) -> None:
        """Another node asks a client of this one: let the answer go where that node wants it."""

        def forward(sender: HubConnection, completion: Completion) -> None:
            work = self._forward(sender.protocol, completion, return_channel)
            try:
                self._line.supervisor.start(work, "forward a client result")
            except RuntimeError:
                logger.debug("The hub is shutting down; the answer %s is not forwarded.", invocation_id)

        self.results.run_errand(invocation_id, connection, forward)

    async def _forward(self, protocol: HubProtocol, completion: Completion, return_channel: str | None) -> None:
        try:
            if return_channel is None:
                raise LocalProtocolError("The node that asked named no channel for the answer.")
            # An empty error is none: the original forwards neither error nor result (2.5).
            if completion.error == "":
                completion = Completion(completion.invocation_id, headers=completion.headers)
            payload = encode_completion(protocol.name, protocol.encode(completion))
            await self._hand_over(return_channel, payload)
        except (BackplaneError, LocalProtocolError, TypeError, ValueError, OverflowError) as error:
            redis_log.error_forwarding_result(completion.invocation_id, error)

    async def _hand_over(self, channel: str, payload: bytes) -> None:
        """Publish an answer until somebody heard it, or nobody is likely to be there any more.

        The node that asked may wait for ever, and ignores an answer that it has already.

        Raises:
            BackplaneUnavailableError: The broker did not confirm the last attempt.
        """
        for pause in _FORWARD_PAUSES:
            with contextlib.suppress(BackplaneUnavailableError):
                if await self._line.publish(channel, payload) != 0:
                    return
            await self._clock.sleep(pause)
        await self._line.publish(channel, payload)

    # -- the broker ---------------------------------------------------------------------------------------------

    def backplane_lost(self, error: BackplaneError) -> None:
        """Nobody can be counted while the broker is away."""
        self.results.pardon()

    def backplane_restored(self, *, gap: bool) -> None:
        """Other nodes may be back a little later than this one."""
        self.results.pardon()

    def close(self) -> None:
        """The node stops: end all questions."""
        self.results.close()
