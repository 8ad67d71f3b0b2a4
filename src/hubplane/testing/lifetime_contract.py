"""What every lifetime manager does: Microsoft's own specification tests for hub lifetime managers, as pytest suites.

Subclass `LifetimeContract` for a manager of one node, `hubplane.testing.scaleout_contract.ScaleoutLifetimeContract` for
one of many, and name the class ``Test...``. .NET's I/O errors are `ConnectionClosedError` (the client left) and
`ClientResultError` (it was never there), and a cancelled caller gets Python's own `CancelledError`.

Source: redis-backplane section 7.1.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import (
    ClientResultError,
    ConnectionClosedError,
    HubException,
    RemoteProtocolError,
)
from hubplane.lifetime.audience import ALL, Audience, AudienceKind
from hubplane.lifetime.base import HubLifetimeManager
from hubplane.options import TransportOptions
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion, HubMessage
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.supervisor import Supervisor
from hubplane.testing.recording import RecordedClient

__all__ = ["CONTRACT_PROTOCOLS", "HELLO", "LifetimeContract", "group", "hello", "one", "user"]

CONTRACT_PROTOCOLS: tuple[HubProtocol, ...] = (JsonHubProtocol(), MessagePackHubProtocol())
"""The hub protocols that the managers of the suites must speak."""

HELLO: tuple[str, list[object]] = ("Hello", ["World"])
_BARRIER: tuple[str, list[object]] = ("Barrier", [])


def group(*names: str, excluded: tuple[str, ...] = ()) -> Audience:
    """One group."""
    return Audience(AudienceKind.GROUP, names, excluded)


def user(name: str) -> Audience:
    """One user."""
    return Audience(AudienceKind.USER, (name,))


def one(connection_id: str) -> Audience:
    """One connection."""
    return Audience(AudienceKind.CONNECTION, (connection_id,))


async def hello(manager: HubLifetimeManager, audience: Audience) -> None:
    """Send the message of all these tests."""
    await manager.send(audience, *HELLO)


class LifetimeContract:
    """R1 to R12: one node."""

    @abstractmethod
    def make_manager(self) -> AbstractAsyncContextManager[HubLifetimeManager]:
        """A running manager for a hub, of `CONTRACT_PROTOCOLS`; those made in one test are nodes of one fleet."""

    @pytest.fixture(params=CONTRACT_PROTOCOLS, ids=lambda protocol: str(protocol.name))
    def protocol(self, request: pytest.FixtureRequest) -> HubProtocol:
        """The hub protocol that the clients of the test speak."""
        protocol: HubProtocol = request.param
        return protocol

    @asynccontextmanager
    async def nodes(self, count: int) -> AsyncIterator[list[HubLifetimeManager]]:
        """So many nodes of one fleet."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self.make_manager()) for _ in range(count)]

    async def connect(
        self,
        manager: HubLifetimeManager,
        connection_id: str,
        protocol: HubProtocol,
        *,
        user_id: str | None = None,
        options: TransportOptions | None = None,
    ) -> RecordedClient:
        """A client that the manager knows."""

        def answered(connection: HubConnection, message: HubMessage) -> None:
            if isinstance(message, Completion):
                manager.set_connection_result(connection, message)

        client = RecordedClient(connection_id, protocol, user=user_id, transport_options=options, on_answer=answered)
        await manager.on_connected(client.connection)
        return client

    async def leave(self, manager: HubLifetimeManager, client: RecordedClient) -> None:
        """The client goes away."""
        client.disconnect()
        await manager.on_disconnected(client.connection)

    async def barrier(self, manager: HubLifetimeManager, *clients: RecordedClient) -> None:
        """Everything that was sent before has reached these clients, or never will."""
        expected = [len(client.received()) for client in clients]
        await manager.send(ALL, *_BARRIER)
        for client, count in zip(clients, expected, strict=True):
            await client.wait_for(count + 1)
            while client.invocations()[-1] != _BARRIER:
                await client.wait_for(len(client.received()) + 1)

    @staticmethod
    def got(client: RecordedClient) -> list[tuple[str, list[object]]]:
        """What has reached a client, barriers left out."""
        return [(target, list(arguments)) for target, arguments in client.invocations() if target != "Barrier"]

    @pytest.mark.row("R1")
    async def test_send_to_all(self, protocol: HubProtocol) -> None:
        """A message to all reaches every connection."""
        async with self.nodes(1) as (manager,):
            clients = [await self.connect(manager, name, protocol) for name in ("c1", "c2")]
            await hello(manager, ALL)
            for client in clients:
                await client.wait_for(1)
                assert self.got(client) == [HELLO]

    @pytest.mark.row("R2")
    async def test_send_to_all_after_one_left(self, protocol: HubProtocol) -> None:
        """A connection that has left gets nothing."""
        async with self.nodes(1) as (manager,):
            stays = await self.connect(manager, "c1", protocol)
            leaves = await self.connect(manager, "c2", protocol)
            await manager.on_disconnected(leaves.connection)
            await hello(manager, ALL)
            await self.barrier(manager, stays)
            assert self.got(stays) == [HELLO]
            assert leaves.received() == []

    @pytest.mark.row("R3")
    async def test_send_to_group(self, protocol: HubProtocol) -> None:
        """A message to a group reaches its members only."""
        async with self.nodes(1) as (manager,):
            member = await self.connect(manager, "c1", protocol)
            other = await self.connect(manager, "c2", protocol)
            await manager.add_to_group("c1", "group")
            await hello(manager, group("group"))
            await self.barrier(manager, member, other)
            assert self.got(member) == [HELLO]
            assert self.got(other) == []

    @pytest.mark.row("R4")
    async def test_send_to_group_except(self, protocol: HubProtocol) -> None:
        """An excluded member gets nothing."""
        async with self.nodes(1) as (manager,):
            member = await self.connect(manager, "c1", protocol)
            excluded = await self.connect(manager, "c2", protocol)
            await manager.add_to_group("c1", "group1")
            await manager.add_to_group("c2", "group1")
            await hello(manager, group("group1", excluded=("c2",)))
            await self.barrier(manager, member, excluded)
            assert self.got(member) == [HELLO]
            assert self.got(excluded) == []

    @pytest.mark.row("R5")
    async def test_send_to_connection(self, protocol: HubProtocol) -> None:
        """A message to a connection reaches it."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            await hello(manager, one("c1"))
            await client.wait_for(1)
            assert self.got(client) == [HELLO]

    async def question(self, client: RecordedClient, number: int = 1) -> str:
        """The invocation id of the client's so-many-th question, once it is there."""
        while len(client.questions()) < number:
            await client.wait_for(len(client.received()) + 1)
        return client.questions()[number - 1]

    @asynccontextmanager
    async def asking(
        self, manager: HubLifetimeManager, connection_id: str, result_type: object = int
    ) -> AsyncIterator[asyncio.Task[object]]:
        """A question under way; in the end nobody waits for it any more."""
        callers = Supervisor("caller")
        try:
            yield callers.start(self.ask(manager, connection_id, result_type), "ask a client")
        finally:
            await callers.close()

    @staticmethod
    async def ask(manager: HubLifetimeManager, connection_id: str, result_type: object) -> object:
        """Ask a client, and wait."""
        return await manager.invoke_connection(connection_id, "Result", ["test"], result_type, timeout=None)

    @pytest.mark.row("R6")
    async def test_client_result(self, protocol: HubProtocol) -> None:
        """A question to a client has an id, and its answer is the call's result."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            async with self.asking(manager, "c1") as call:
                invocation_id = await self.question(client)
                assert invocation_id
                assert client.invocations() == [("Result", ["test"])]
                client.send(Completion(invocation_id, result=10))
                assert await call == 10

    @pytest.mark.row("R7")
    async def test_client_result_error(self, protocol: HubProtocol) -> None:
        """A client's error becomes a `HubException` with its text."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            async with self.asking(manager, "c1") as call:
                client.send(Completion(await self.question(client), error="Error from client"))
                with pytest.raises(HubException, match=r"^Error from client$"):
                    await call

    @pytest.mark.row("R8")
    async def test_client_result_from_the_wrong_client(self, protocol: HubProtocol) -> None:
        """An answer from another connection is that connection's fault, and the right one can still answer."""
        async with self.nodes(1) as (manager,):
            asked = await self.connect(manager, "c1", protocol)
            wrong = await self.connect(manager, "c2", protocol)
            async with self.asking(manager, "c1") as call:
                invocation_id = await self.question(asked)
                assert manager.set_connection_result(wrong.connection, Completion(invocation_id, result=9)) is False
                fault = wrong.connection.error
                assert isinstance(fault, RemoteProtocolError)
                assert str(fault) == f"Connection ID 'c2' is not valid for invocation ID '{invocation_id}'."
                assert fault.error_type == "InvalidOperationException"
                assert (wrong.connection.ended, wrong.connection.allow_reconnect) == (True, True)
                asked.send(Completion(invocation_id, result=10))
                assert await call == 10

    @pytest.mark.row("R9")
    async def test_client_result_of_nobody(self) -> None:
        """A connection that does not exist cannot be asked."""
        async with self.nodes(1) as (manager,):
            with pytest.raises(ClientResultError, match=r"^Connection 'none' does not exist\.$"):
                await self.ask(manager, "none", int)

    @pytest.mark.row("R10")
    async def test_two_client_results(self, protocol: HubProtocol) -> None:
        """The failure of one question leaves another one alone."""
        async with self.nodes(1) as (manager,):
            client1 = await self.connect(manager, "c1", protocol)
            client2 = await self.connect(manager, "c2", protocol)
            async with self.asking(manager, "c1") as call1, self.asking(manager, "c2") as call2:
                id1 = await self.question(client1)
                client2.send(Completion(await self.question(client2), error="no"))
                with pytest.raises(HubException, match=r"^no$"):
                    await call2
                assert not call1.done()
                client1.send(Completion(id1, result=3))
                assert await call1 == 3

    @pytest.mark.row("R11")
    async def test_client_result_and_the_client_leaves(self, protocol: HubProtocol) -> None:
        """If the client leaves without an answer the caller learns it."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            async with self.asking(manager, "c1") as call:
                await self.question(client)
                await self.leave(manager, client)
                with pytest.raises(ConnectionClosedError, match=r"^Connection 'c1' disconnected\.$"):
                    await call

    @pytest.mark.row("R12")
    async def test_client_result_and_the_caller_leaves(self, protocol: HubProtocol) -> None:
        """A caller may give up; the answer that comes later is nobody's and no fault."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            async with self.asking(manager, "c1") as call:
                invocation_id = await self.question(client)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                late = Completion(invocation_id, result=10)
                assert manager.set_connection_result(client.connection, late) is False

    async def test_client_result_timeout(self, protocol: HubProtocol) -> None:
        """A call with a timeout fails when the client has not answered by then."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            with pytest.raises(ClientResultError, match=r"^Connection 'c1' did not answer within 0\.01 s\.$"):
                await manager.invoke_connection("c1", "Result", [], int, timeout=0.01)
            late = Completion(client.questions()[0], result=1)
            assert manager.set_connection_result(client.connection, late) is False

    async def test_client_result_without_value(self, protocol: HubProtocol) -> None:
        """An answer without a value, or with an empty error, is None; .NET would raise, but some clients answer so."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            for number, answer in enumerate((Completion(""), Completion("", error="")), start=1):
                async with self.asking(manager, "c1") as call:
                    answer.invocation_id = await self.question(client, number)
                    client.send(answer)
                    assert await call is None

    async def test_empty_target(self) -> None:
        """A message needs a target."""
        async with self.nodes(1) as (manager,):
            with pytest.raises(ValueError, match=r"^The value cannot be an empty string\. \(Parameter 'target'\)$"):
                manager.send(ALL, "", [])

    @pytest.mark.row("X18")
    async def test_what_cannot_be_written(self, protocol: HubProtocol) -> None:
        """An argument that one of the protocols cannot write fails the call, and nobody gets anything."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            for audience in (ALL, one("c1"), group("g"), user("u"), one("elsewhere")):
                with pytest.raises((TypeError, ValueError, OverflowError)):
                    manager.send(audience, "Hello", [object()])
            await self.barrier(manager, client)
            assert self.got(client) == []
            assert not client.connection.closed

    async def test_snapshot_of_connections(self, protocol: HubProtocol) -> None:
        """`connections` gives those that are here, and may be walked while they leave."""
        async with self.nodes(1) as (manager,):
            clients = [await self.connect(manager, name, protocol) for name in ("c1", "c2")]
            seen = []
            for connection in manager.connections():
                seen.append(connection)
                await manager.on_disconnected(connection)
            assert seen == [client.connection for client in clients]
            assert list(manager.connections()) == []
