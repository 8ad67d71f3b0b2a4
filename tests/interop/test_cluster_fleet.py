"""One fleet of hubplane and ASP.NET Core on a real Redis Cluster: everything crosses, also when the Cluster changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any  # JSON of another process

import pytest
from tests.interop.dotnet import AspNetNode, DotnetClient, DotnetError

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.backplane.redis.slots import slot_of
from hubplane.clock import SystemClock
from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import HubplaneError
from hubplane.ids import SystemIds
from hubplane.lifetime.audience import ALL, Audience, AudienceKind
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion, HubMessage, Invocation
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.testing.recording import RecordedClient
from hubplane.testing.redis_cluster import RedisCluster
from hubplane.testing.redis_fleets import wait_until
from hubplane.testing.redis_server import RedisServerKind, find_redis_server

pytestmark = pytest.mark.timeout(120)
JSON = JsonHubProtocol()
PREFIX = "Cluster:"
HUB = "Interop.ChatHub"


@pytest.fixture(scope="module")
def cluster(run: str) -> Iterator[RedisCluster]:
    """Three primaries with a replica each."""
    # Without the option Valkey does not tell .NET's client, which asks for redis_mode, that it is a Cluster.
    kind: RedisServerKind = "redis" if find_redis_server("redis") else "valkey"
    arguments = ["--extended-redis-compatibility", "yes"] if kind == "valkey" else []
    with RedisCluster(replicas=1, kind=kind, arguments=arguments) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def theirs(run: str, cluster: RedisCluster) -> Iterator[AspNetNode]:
    """The ASP.NET Core node, with all servers as seeds."""
    with AspNetNode(run, f"{cluster.configuration},abortConnect=false", PREFIX) as node:
        wait_until(node.redis_connected, "the ASP.NET Core node is connected")
        yield node


@pytest.fixture(scope="module")
def net(run: str, theirs: AspNetNode) -> Iterator[DotnetClient]:
    """A .NET client on that node, which answers questions."""
    with DotnetClient(run, theirs.chat, user="net") as client:
        client.on("ReceiveMessage", 2)
        client.do("on_result", method="Ask", args=1, value="blue")
        yield client


class Ours:
    """A hubplane node in this process, with one client that answers questions."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.backplane = RedisBackplane(parse(f"{cluster.configuration},abortConnect=false,channelPrefix={PREFIX}"))
        self.routes = BackplaneRoutes()
        self.manager = ScaleoutHubLifetimeManager(
            HUB,
            backplane=self.backplane,
            routes=self.routes,
            protocols=(JSON, MessagePackHubProtocol()),
            clock=SystemClock(),
            ids=SystemIds(),
        )
        self.client = RecordedClient("our-client", JSON, user="ours", on_answer=self._answered)
        self._taken = 0

    def _answered(self, connection: HubConnection, message: HubMessage) -> None:
        if isinstance(message, Completion):
            self.manager.set_connection_result(connection, message)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run it."""
        async with self.backplane.run(self.routes), self.manager.run():
            await self.manager.on_connected(self.client.connection)
            yield

    async def message(self) -> list[object]:
        """The arguments of the next call of its client."""
        self._taken += 1
        await self.client.wait_for(self._taken)
        return list(self.client.invocations()[self._taken - 1][1])

    async def question(self) -> str:
        """The invocation id of the next question to its client."""
        self._taken += 1
        await self.client.wait_for(self._taken)
        message = self.client.messages()[self._taken - 1]
        assert isinstance(message, Invocation)
        assert message.invocation_id
        return message.invocation_id


@pytest.fixture
async def ours(cluster: RedisCluster) -> AsyncIterator[Ours]:
    """The hubplane node."""
    node = Ours(cluster)
    async with node.run():
        yield node


async def said(call: Callable[..., Any], *arguments: Any) -> Any:
    """What another process says, without stopping the event loop meanwhile."""
    return await asyncio.to_thread(call, *arguments)


async def everything_crosses(ours: Ours, theirs: AspNetNode, net: DotnetClient, tag: str) -> None:
    """All, a user, a single connection, a group joined from afar, and questions, in both directions."""
    manager, mine = ours.manager, ours.client.connection_id
    group = Audience(AudienceKind.GROUP, (tag,))
    for audience in (
        ALL,
        Audience(AudienceKind.USER, ("net",)),
        Audience(AudienceKind.CONNECTION, (net.connection_id,)),
    ):
        await manager.send(audience, "ReceiveMessage", ["us", tag])
        assert await said(net.message) == ["us", tag]
    assert await ours.message() == ["us", tag]
    for to in ({"all": True}, {"user": "ours"}, {"connection": mine}):
        await said(theirs.send, to, "they", tag)
        assert await ours.message() == ["they", tag]
    assert await said(net.message) == ["they", tag]
    await manager.add_to_group(net.connection_id, tag)
    body = {"connectionId": mine, "group": tag, "timeoutMs": 8000}
    await said(theirs.ask, "/groups/add", body)
    await manager.send(group, "ReceiveMessage", ["us", "group"])
    await said(theirs.send, {"group": tag}, "they", "group")
    found = [await ours.message(), await ours.message()]
    assert sorted(found) == [["they", "group"], ["us", "group"]]
    heard = [await said(net.message), await said(net.message)]
    assert sorted(heard, key=str) == [["they", "group"], ["us", "group"]]
    for _ in range(3):
        assert await manager.invoke_connection(net.connection_id, "Ask", ["colour?"], str, timeout=10) == "blue"
        body = {"connectionId": mine, "method": "Ask", "args": ["?"], "resultType": "string", "timeoutMs": 8000}
        asking = asyncio.ensure_future(said(theirs.ask, "/invoke", body))
        ours.client.send(Completion(await ours.question(), result="green"))
        assert (await asking)["result"] == "green"


@pytest.mark.row("S53", "S54", "S55")
async def test_mixed_fleet_on_a_cluster(
    cluster: RedisCluster, ours: Ours, theirs: AspNetNode, net: DotnetClient
) -> None:
    """Sends, groups and client results cross both ways, also when slots have moved with the channels on them."""
    await everything_crosses(ours, theirs, net, "healthy")
    mine = ours.manager.channels.connection(ours.client.connection_id)
    for channel in (ours.manager.channels.connection(net.connection_id), mine):
        slot = slot_of(channel.encode())
        owners = [await said(cluster.owner, number) for number in range(0, 16_384, 5_461)]
        target = next(server for server in owners if server is not cluster.owner(slot))
        await said(cluster.move_slot, slot, target)
    # Our channel follows its slot at once; .NET's client does not know of any move for up to a minute.
    wire = (PREFIX + mine).encode()
    await said(wait_until, lambda: target.command("PUBSUB", "NUMSUB", wire) == [wire, 1], "our channel follows")
    await everything_crosses(ours, theirs, net, "moved")


@pytest.mark.row("S53", "S55")
async def test_mixed_fleet_when_a_primary_dies(
    cluster: RedisCluster, ours: Ours, theirs: AspNetNode, net: DotnetClient
) -> None:
    """A primary dies and comes back; questions are answered both ways, wherever .NET is subscribed by then."""
    victim = cluster.owner(slot_of(f"{HUB}:all".encode()))
    mine = ours.client.connection_id
    victim.kill()
    await said(wait_until, lambda: cluster.owner(slot_of(f"{HUB}:all".encode())), "a replica is the primary")
    await said(wait_until, theirs.redis_connected, "the ASP.NET Core node has Redis again")
    await said(wait_until, lambda: ours.backplane.is_connected, "our node is whole")
    victim.start()
    await said(cluster.wait_until_well)

    async def asked_by_us() -> bool:
        try:
            answer = await ours.manager.invoke_connection(net.connection_id, "Ask", ["colour?"], str, timeout=2)
        except HubplaneError:
            return False
        return answer == "blue"

    # What a .NET node hears while it finds its feet is its own affair (reference 4.5); then all must be well.
    async with asyncio.timeout(60):
        while not await asked_by_us():
            pass
    for _ in range(10):
        assert await ours.manager.invoke_connection(net.connection_id, "Ask", ["colour?"], str, timeout=5) == "blue"
    await ours.manager.send(ALL, "ReceiveMessage", ["us", "after"])
    messages = [await said(net.message)]
    while messages[-1] != ["us", "after"]:
        messages.append(await said(net.message))
    await said(theirs.send, {"connection": mine}, "they", "after")
    while await ours.message() != ["they", "after"]:
        pass
    # .NET judges by the count of the one server it asks: it must find our channels there.
    body = {"connectionId": mine, "method": "Ask", "args": ["?"], "resultType": "string", "timeoutMs": 5000}

    async def asked_by_them() -> bool:
        asking = asyncio.ensure_future(said(theirs.ask, "/invoke", body))
        question = asyncio.ensure_future(ours.question())
        await asyncio.wait({asking, question}, return_when=asyncio.FIRST_COMPLETED)
        if not question.done():
            question.cancel()
            ours._taken -= 1
        else:
            ours.client.send(Completion(question.result(), result="green"))
        try:
            return bool((await asking)["result"] == "green")
        except DotnetError:
            return False

    # A .NET node that still changes servers may ask the wrong one once more: it is well when ten in a row succeed.
    async with asyncio.timeout(60):
        in_a_row = 0
        while in_a_row < 10:
            in_a_row = in_a_row + 1 if await asked_by_them() else 0
