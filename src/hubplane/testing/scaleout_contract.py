"""What every lifetime manager of many nodes does besides: Microsoft's specification tests for scale-out, as a suite.

Source: redis-backplane sections 7.2 and 7.8.
"""

from __future__ import annotations

import pytest

from hubplane.errors import ClientResultError, ConnectionClosedError, HubException
from hubplane.lifetime.audience import ALL, Audience, AudienceKind
from hubplane.options import TransportOptions
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.messages import Completion
from hubplane.testing.lifetime_contract import HELLO, LifetimeContract, group, hello, one, user

__all__ = ["ScaleoutLifetimeContract"]


class ScaleoutLifetimeContract(LifetimeContract):
    """R1 to R35: nodes that reach each other's connections."""

    @pytest.mark.row("R13")
    async def test_send_to_all_nodes(self, protocol: HubProtocol) -> None:
        """A message to all reaches the connections of every node."""
        async with self.nodes(2) as (a, b):
            clients = [await self.connect(a, "c1", protocol), await self.connect(b, "c2", protocol)]
            await hello(a, ALL)
            for client in clients:
                await client.wait_for(1)
                assert self.got(client) == [HELLO]

    @pytest.mark.row("R14")
    async def test_send_to_all_nodes_after_one_left(self, protocol: HubProtocol) -> None:
        """A connection that has left another node gets nothing."""
        async with self.nodes(2) as (a, b):
            stays = await self.connect(a, "c1", protocol)
            leaves = await self.connect(b, "c2", protocol)
            witness = await self.connect(b, "c3", protocol)
            await b.on_disconnected(leaves.connection)
            await hello(b, ALL)
            await self.barrier(b, stays, witness)
            assert self.got(stays) == [HELLO]
            assert leaves.received() == []

    @pytest.mark.row("R15")
    async def test_send_to_connection_elsewhere(self, protocol: HubProtocol) -> None:
        """A message to a connection finds it on another node."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            await hello(b, one("c1"))
            await client.wait_for(1)
            assert self.got(client) == [HELLO]

    @pytest.mark.row("R16")
    async def test_send_to_group_elsewhere(self, protocol: HubProtocol) -> None:
        """A message to a group reaches members on other nodes."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            await a.add_to_group("c1", "name")
            await hello(b, group("name"))
            await client.wait_for(1)
            assert self.got(client) == [HELLO]

    @pytest.mark.row("R17")
    async def test_membership_ends_with_the_connection(self, protocol: HubProtocol) -> None:
        """A connection that has left is in no group."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            witness = await self.connect(manager, "c2", protocol)
            await manager.add_to_group("c1", "name")
            await manager.on_disconnected(client.connection)
            await hello(manager, group("name"))
            await self.barrier(manager, witness)
            assert client.received() == []

    @pytest.mark.row("R18")
    async def test_leave_a_group_one_is_not_in(self, protocol: HubProtocol) -> None:
        """Leaving a group that one is not in is no error."""
        async with self.nodes(1) as (manager,):
            await self.connect(manager, "c1", protocol)
            await manager.remove_from_group("c1", "name")

    @pytest.mark.row("R19")
    async def test_leave_a_group_elsewhere(self, protocol: HubProtocol) -> None:
        """The same for a connection of another node: it is acknowledged."""
        async with self.nodes(2) as (a, b):
            await self.connect(a, "c1", protocol)
            await b.remove_from_group("c1", "name")

    @pytest.mark.row("R20")
    async def test_join_elsewhere(self, protocol: HubProtocol) -> None:
        """A connection of another node is in the group once the call returns."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            await b.add_to_group("c1", "name")
            await hello(b, group("name"))
            await client.wait_for(1)
            assert self.got(client) == [HELLO]

    @pytest.mark.row("R21")
    async def test_join_twice(self, protocol: HubProtocol) -> None:
        """A member that joins again gets each message once."""
        async with self.nodes(1) as (manager,):
            client = await self.connect(manager, "c1", protocol)
            await manager.add_to_group("c1", "name")
            await manager.add_to_group("c1", "name")
            await hello(manager, group("name"))
            await self.barrier(manager, client)
            assert self.got(client) == [HELLO]

    @pytest.mark.row("R22")
    async def test_join_twice_here_and_elsewhere(self, protocol: HubProtocol) -> None:
        """The same when the second join comes from another node."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            await a.add_to_group("c1", "name")
            await b.add_to_group("c1", "name")
            await hello(b, group("name"))
            await self.barrier(b, client)
            assert self.got(client) == [HELLO]

    @pytest.mark.row("R23")
    async def test_removed_elsewhere(self, protocol: HubProtocol) -> None:
        """A connection that another node removed gets no further message."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            await a.add_to_group("c1", "name")
            await hello(b, group("name"))
            await client.wait_for(1)
            await b.remove_from_group("c1", "name")
            await hello(b, group("name"))
            await self.barrier(b, client)
            assert self.got(client) == [HELLO]

    @pytest.mark.row("R24")
    async def test_one_connection_on_two_nodes(self, protocol: HubProtocol) -> None:
        """A node that has the connection itself writes to it directly, and publishes nothing."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            await b.on_connected(client.connection)
            await hello(a, one("c1"))
            assert self.got(client) == [HELLO]
            await self.barrier(b, client)
            assert self.got(client) == [HELLO]

    @pytest.mark.row("R25")
    async def test_send_to_a_broken_connection_elsewhere(self, protocol: HubProtocol) -> None:
        """That writing fails on another node is no error of the sender."""
        async with self.nodes(2) as (a, b):
            broken = await self.connect(b, "c1", protocol, options=TransportOptions(outbound_buffer_limit=1))
            witness = await self.connect(b, "c2", protocol)
            broken.stop_reading()
            await hello(a, one("c1"))
            await self.barrier(a, witness)
            assert broken.connection.closed

    @pytest.mark.row("R26")
    async def test_send_to_a_group_with_a_broken_member(self, protocol: HubProtocol) -> None:
        """A member that cannot be written to costs the others nothing."""
        async with self.nodes(1) as (manager,):
            broken = await self.connect(manager, "c1", protocol, options=TransportOptions(outbound_buffer_limit=1))
            client = await self.connect(manager, "c2", protocol)
            broken.stop_reading()
            await manager.add_to_group("c1", "group")
            await manager.add_to_group("c2", "group")
            await hello(manager, group("group"))
            await hello(manager, group("group"))
            await client.wait_for(2)
            assert self.got(client) == [HELLO, HELLO]
            assert broken.transport.aborted

    @pytest.mark.row("R27")
    async def test_send_to_user(self, protocol: HubProtocol) -> None:
        """A message to a user reaches all connections of that user and no others."""
        async with self.nodes(1) as (manager,):
            clients = [
                await self.connect(manager, name, protocol, user_id=user_id)
                for name, user_id in (("c1", "userA"), ("c2", "userA"), ("c3", "userB"))
            ]
            await hello(manager, user("userA"))
            await self.barrier(manager, *clients)
            assert [self.got(client) for client in clients] == [[HELLO], [HELLO], []]

    @pytest.mark.row("R28")
    async def test_send_to_user_after_one_connection_left(self, protocol: HubProtocol) -> None:
        """A user's other connections go on hearing when one has left."""
        async with self.nodes(1) as (manager,):
            leaves = await self.connect(manager, "c1", protocol, user_id="userA")
            stays = await self.connect(manager, "c2", protocol, user_id="userA")
            await self.leave(manager, leaves)
            await hello(manager, user("userA"))
            await self.barrier(manager, stays)
            assert self.got(stays) == [HELLO]
            assert leaves.received() == []

    @pytest.mark.row("R29")
    async def test_client_result_from_elsewhere(self, protocol: HubProtocol) -> None:
        """A client of another node can be asked."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            async with self.asking(b, "c1") as call:
                client.send(Completion(await self.question(client), result=10))
                assert await call == 10

    @pytest.mark.row("R30")
    async def test_client_result_error_from_elsewhere(self, protocol: HubProtocol) -> None:
        """The error of a client of another node becomes a `HubException` here."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            async with self.asking(b, "c1") as call:
                client.send(Completion(await self.question(client), error="Error from client"))
                with pytest.raises(HubException, match=r"^Error from client$"):
                    await call

    @pytest.mark.row("R31")
    async def test_client_result_of_nobody_anywhere(self, protocol: HubProtocol) -> None:
        """A connection that no node has cannot be asked."""
        async with self.nodes(2) as (a, _b):
            await self.connect(a, "c1", protocol)
            with pytest.raises(ClientResultError, match="does not exist"):
                await self.ask(a, "none", int)

    @pytest.mark.row("R32")
    async def test_client_result_and_the_client_elsewhere_leaves(self, protocol: HubProtocol) -> None:
        """If a client of another node leaves without an answer the caller learns it."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(b, "c1", protocol)
            async with self.asking(a, "c1") as call:
                await self.question(client)
                await self.leave(b, client)
                with pytest.raises(ConnectionClosedError, match=r"^Connection 'c1' disconnected\.$"):
                    await call

    @pytest.mark.row("R33")
    async def test_client_results_for_two_nodes(self, protocol: HubProtocol) -> None:
        """Two nodes may ask one client; each gets its own answer."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            async with self.asking(a, "c1") as call_a:
                id_a = await self.question(client)
                async with self.asking(b, "c1") as call_b:
                    id_b = await self.question(client, 2)
                    assert id_a != id_b
                    client.send(Completion(id_b, result=5))
                    client.send(Completion(id_a, result=2))
                    assert (await call_a, await call_b) == (2, 5)

    @pytest.mark.row("R34")
    async def test_client_result_of_nobody_text(self) -> None:
        """The error names the connection, in .NET's words."""
        async with self.nodes(2) as (a, _b):
            with pytest.raises(ClientResultError) as caught:
                await self.ask(a, "1234", int)
            assert str(caught.value) == "Connection '1234' does not exist."

    @pytest.mark.row("R35")
    async def test_client_result_of_another_type(self, protocol: HubProtocol) -> None:
        """An answer of another type is a `HubException`: .NET's words, with Python's name of the type."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol)
            async with self.asking(b, "c1") as call:
                client.send(Completion(await self.question(client), result="ten"))
                with pytest.raises(HubException, match=r"^Error trying to deserialize result to int\. "):
                    await call

    @pytest.mark.row("X1")
    async def test_order(self, protocol: HubProtocol) -> None:
        """A thousand messages to one group arrive in order on every node."""
        async with self.nodes(2) as (a, b):
            clients = [await self.connect(a, "c1", protocol), await self.connect(b, "c2", protocol)]
            for manager, client in zip((a, b), clients, strict=True):
                await manager.add_to_group(client.connection_id, "g")
            sends = [a.send(group("g"), "Number", [number]) for number in range(1_000)]
            for sent in sends:
                await sent
            for client in clients:
                await client.wait_for(1_000)
                assert [arguments[0] for _, arguments in self.got(client)] == list(range(1_000))

    @pytest.mark.row("X6")
    async def test_users_and_connections_have_no_exceptions(self, protocol: HubProtocol) -> None:
        """Excluded ids mean nothing for users and single connections."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol, user_id="u")
            await hello(b, Audience(AudienceKind.USER, ("u",), ("c1",)))
            await hello(b, Audience(AudienceKind.CONNECTION, ("c1",), ("c1",)))
            await client.wait_for(2)

    @pytest.mark.row("X17")
    async def test_empty_names(self, protocol: HubProtocol) -> None:
        """The empty group and the empty connection id are names like others; several groups or users skip them."""
        async with self.nodes(2) as (a, b):
            client = await self.connect(a, "c1", protocol, user_id="u")
            await a.add_to_group("c1", "")
            await hello(b, group(""))
            await hello(b, Audience(AudienceKind.GROUPS, ("", "g")))
            await hello(b, Audience(AudienceKind.USERS, ("", "u")))
            await hello(b, Audience(AudienceKind.CONNECTIONS, ("", "c1", "c1")))
            await self.barrier(b, client)
            assert self.got(client) == [HELLO] * 4
