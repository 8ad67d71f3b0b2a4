"""Nodes of one hub while Redis goes and comes: what fails, what goes on, what is logged, and how all is whole again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.clock import SystemClock
from hubplane.errors import BackplaneError, BackplaneUnavailableError
from hubplane.ids import SystemIds
from hubplane.lifetime.audience import ALL, Audience, AudienceKind
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion, Invocation
from hubplane.testing.recording import RecordedClient
from hubplane.testing.redis_server import RedisServer

JSON = JsonHubProtocol()
GROUP = Audience(AudienceKind.GROUP, ("g",))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to be stopped and started."""
    with RedisServer() as server:
        yield server


class Changes:
    """Hears of losses and returns."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.restored = asyncio.Event()

    def backplane_lost(self, error: BackplaneError) -> None:
        self.lost.set()

    def backplane_restored(self, *, gap: bool) -> None:
        self.restored.set()


class Node:
    """A node with one client, ``c1`` or ``c2``, of user ``u``."""

    def __init__(self, server: RedisServer, name: str) -> None:
        options = RedisOptions(
            endpoints=(Endpoint(server.host, server.port),), channel_prefix="App:", async_timeout=2.0
        )
        self.routes = BackplaneRoutes()
        self.changes = Changes()
        self.routes.listen(self.changes)
        self.backplane = RedisBackplane(options)
        self.manager = ScaleoutHubLifetimeManager(
            "Hub",
            backplane=self.backplane,
            routes=self.routes,
            protocols=(JSON,),
            clock=SystemClock(),
            ids=SystemIds(),
        )
        self.client = RecordedClient(name, JSON, user="u")

    @asynccontextmanager
    async def run(self) -> AsyncIterator[ScaleoutHubLifetimeManager]:
        """Run it, with its client."""
        async with self.backplane.run(self.routes), self.manager.run():
            await self.manager.on_connected(self.client.connection)
            yield self.manager

    async def back(self) -> None:
        """The node has Redis again."""
        async with asyncio.timeout(10):
            await self.changes.restored.wait()


def events(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The ids of the events above DEBUG."""
    return [
        record.__dict__["event_id"]
        for record in caplog.records
        if record.name == "hubplane.lifetime.redis_log" and record.levelno > logging.DEBUG
    ]


async def assert_whole(nodes: list[Node], server: RedisServer) -> None:
    """Everything works in both directions, and Redis counts what it should."""
    for channel in ("all", "internal:groups", "user:u", "group:g"):
        assert server.command("PUBSUB", "NUMSUB", f"App:Hub:{channel}") == [f"App:Hub:{channel}".encode(), 2]
    for node in nodes:
        for channel in (
            node.manager.channels.ack,
            node.manager.channels.returns,
            node.manager.channels.connection(node.client.connection_id),
        ):
            assert server.command("PUBSUB", "NUMSUB", f"App:{channel}") == [f"App:{channel}".encode(), 1]
    clients = [node.client for node in nodes]
    for node, other in zip(nodes, reversed(nodes), strict=True):
        before = [len(client.received()) for client in clients]
        for audience in (ALL, GROUP, Audience(AudienceKind.USER, ("u",))):
            await node.manager.send(audience, "m", [])
        for client, count in zip(clients, before, strict=True):
            await client.wait_for(count + 3)
        # A remote command and its acknowledgement need the groups and the ack channel of both.
        await node.manager.add_to_group(other.client.connection_id, "remote")
        await node.manager.remove_from_group(other.client.connection_id, "remote")


@pytest.mark.row("S37", "S40", "S43")
async def test_redis_restarts(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """While Redis is away sends raise, clients stay and new ones are served; when it is back, empty, all is whole."""
    caplog.set_level(logging.INFO)
    nodes = [Node(server, "c1"), Node(server, "c2")]
    async with nodes[0].run() as a, nodes[1].run() as b:
        await a.add_to_group("c1", "g")
        await b.add_to_group("c2", "g")
        assert events(caplog) == [1, 2, 1, 2]
        caplog.clear()
        server.kill()
        for node in nodes:
            await node.changes.lost.wait()
        with pytest.raises(BackplaneUnavailableError):
            await a.send(GROUP, "lost", [])
        with pytest.raises(BackplaneUnavailableError):
            await a.add_to_group("c2", "h")
        with pytest.raises(BackplaneUnavailableError):
            await a.add_to_group("c1", "first member")
        late = RecordedClient("late", JSON, user="late")
        async with asyncio.timeout(1.5):  # it does not wait for Redis
            await a.on_connected(late.connection)
        for name in ("c1", "late"):
            await a.send(Audience(AudienceKind.CONNECTION, (name,)), "local", [])
        assert [target for target, _ in late.invocations()] == ["local"]
        leaves = RecordedClient("leaves", JSON, user="leaves")
        await b.on_connected(leaves.connection)
        await b.on_disconnected(leaves.connection)
        server.start()
        for node in nodes:
            await node.back()
        await assert_whole(nodes, server)
        await b.send(Audience(AudienceKind.CONNECTION, ("late",)), "remote", [])
        while "remote" not in [target for target, _ in late.invocations()]:
            await late.wait_for(len(late.received()) + 1)
        assert server.command("PUBSUB", "NUMSUB", "App:Hub:connection:leaves") == [b"App:Hub:connection:leaves", 0]
        assert server.command("PUBSUB", "NUMSUB", "App:Hub:group:first member") == [b"App:Hub:group:first member", 0]
        assert sorted(events(caplog)) == [8, 8, 9, 9]
        assert not any(node.client.connection.closed for node in nodes)


async def test_answer_given_while_redis_is_away_arrives(server: RedisServer) -> None:
    """A client that answers during an outage is heard by the node that asked, whichever of the two is back first."""
    asker, answerer = Node(server, "c1"), Node(server, "c2")
    async with asker.run() as a, answerer.run() as b:
        asking = asyncio.create_task(a.invoke_connection("c2", "ask", [], int, timeout=15))
        await answerer.client.wait_for(1)
        asked = answerer.client.messages()[0]
        assert isinstance(asked, Invocation)
        # The client may hear the question before its node learns that Redis took it; answers come in order.
        await asker.backplane.publish("behind the question", b"")
        server.kill()
        for node in (asker, answerer):
            await node.changes.lost.wait()
        assert b.set_connection_result(answerer.client.connection, Completion(asked.invocation_id or "", result=7))
        server.start()
        assert await asking == 7


@pytest.mark.row("X10", "S47", "S51")
async def test_redis_is_away_at_the_start(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A node that starts without Redis serves its clients, says so once, and is whole without a restart later."""
    caplog.set_level(logging.INFO)
    server.kill()
    nodes = [Node(server, "c1"), Node(server, "c2")]
    async with asyncio.timeout(20), nodes[0].run() as a, nodes[1].run() as b:
        await a.send(Audience(AudienceKind.CONNECTION, ("c1",)), "local", [])
        with pytest.raises(BackplaneUnavailableError):
            await a.send(ALL, "lost", [])
        with pytest.raises(BackplaneUnavailableError):
            await a.add_to_group("c1", "g")
        assert sorted(events(caplog)) == [1, 1, 7, 7, 14, 14]
        caplog.clear()
        server.start()
        for node in nodes:
            await node.back()
        await a.add_to_group("c1", "g")
        await b.add_to_group("c2", "g")
        await assert_whole(nodes, server)
        assert sorted(events(caplog)) == [2, 2, 8, 8]
        assert nodes[0].client.invocations()[0] == ("local", [])


async def test_subscriber_socket_is_killed(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Killed subscriber sockets are replaced, with every subscription, and nobody has to do anything."""
    caplog.set_level(logging.INFO)
    nodes = [Node(server, "c1"), Node(server, "c2")]
    async with nodes[0].run() as a, nodes[1].run() as b:
        await a.add_to_group("c1", "g")
        await b.add_to_group("c2", "g")
        caplog.clear()
        server.command("CLIENT", "KILL", "TYPE", "pubsub")
        for node in nodes:
            await node.back()
        await assert_whole(nodes, server)
        assert sorted(events(caplog)) == [8, 8, 9, 9]


async def test_lost_acknowledgement(server: RedisServer) -> None:
    """A group command whose acknowledgement nobody heard is sent again, and ends well as soon as it is heard."""
    asker, other = Node(server, "c1"), Node(server, "c2")
    async with asyncio.timeout(20), asker.run() as a, other.run() as b:
        await asker.backplane.unsubscribe([a.channels.ack])
        joining = asyncio.create_task(a.add_to_group("c2", "g"))
        # The second of them is behind the command, and what the other node then does is behind its acknowledgement.
        for _ in range(2):
            await a.send(Audience(AudienceKind.CONNECTION, ("c2",)), "m", [])
        await other.client.wait_for(2)
        await b.add_to_group("c2", "g")
        await b.send(Audience(AudienceKind.USER, ("nobody",)), "m", [])
        assert not joining.done()
        await asker.backplane.subscribe([a.channels.ack], keep=True)
        await joining
        await a.send(GROUP, "once", [])
        await other.client.wait_for(3)
        assert [target for target, _ in other.client.invocations()] == ["m", "m", "once"]
