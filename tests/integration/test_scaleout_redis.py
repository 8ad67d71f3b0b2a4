"""Nodes of one hub on a real Redis: what stands on the wire, who hears whom, and what is left behind."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.clock import SystemClock
from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import BackplaneUnavailableError, ClientResultError
from hubplane.ids import SystemIds
from hubplane.lifetime.audience import ALL, Audience, AudienceKind
from hubplane.lifetime.envelope import decode_completion, decode_invocation
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion, HubMessage
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.supervisor import Supervisor
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.fakes import FakeClock
from hubplane.testing.recording import RecordedClient
from hubplane.testing.redis_server import RedisServer

JSON = JsonHubProtocol()
PROTOCOLS: tuple[HubProtocol, ...] = (JSON, MessagePackHubProtocol())
BARRIER: tuple[str, list[object]] = ("barrier", [])


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One server for all tests that leave it as it was."""
    with RedisServer() as server:
        yield server


def options_for(server: RedisServer, prefix: str) -> RedisOptions:
    """How to reach it."""
    return RedisOptions(endpoints=(Endpoint(server.host, server.port),), channel_prefix=prefix, async_timeout=2.0)


class Node:
    """A node of the hub ``App.ChatHub``."""

    def __init__(
        self,
        options: RedisOptions,
        *,
        hub_name: str = "App.ChatHub",
        protocols: tuple[HubProtocol, ...] = PROTOCOLS,
        clock: FakeClock | None = None,
    ) -> None:
        self.backplane = RedisBackplane(options)
        self.routes = BackplaneRoutes()
        self.manager = ScaleoutHubLifetimeManager(
            hub_name,
            backplane=self.backplane,
            routes=self.routes,
            protocols=protocols,
            clock=clock or SystemClock(),
            ids=SystemIds(),
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[ScaleoutHubLifetimeManager]:
        """Run it."""
        async with self.backplane.run(self.routes), self.manager.run():
            yield self.manager

    async def connect(self, name: str, user: str | None = None) -> RecordedClient:
        """A client that the node knows."""

        def answered(connection: HubConnection, message: HubMessage) -> None:
            if isinstance(message, Completion):
                self.manager.set_connection_result(connection, message)

        client = RecordedClient(name, JSON, user=user, on_answer=answered)
        await self.manager.on_connected(client.connection)
        return client


async def heard(manager: ScaleoutHubLifetimeManager, *clients: RecordedClient) -> list[list[str]]:
    """The targets of everything that each client has heard, once the last message sent before has arrived."""
    await manager.send(ALL, *BARRIER)
    targets: list[list[str]] = []
    for client in clients:
        while not client.received() or client.invocations()[-1][0] != "barrier":
            await client.wait_for(len(client.received()) + 1)
        targets.append([target for target, _ in client.invocations() if target != "barrier"])
    return targets


def group(name: str) -> Audience:
    """One group."""
    return Audience(AudienceKind.GROUP, (name,))


def user(name: str) -> Audience:
    """One user."""
    return Audience(AudienceKind.USER, (name,))


@pytest.mark.row("R38", "R43", "R44", "S25")
async def test_stars_are_data(server: RedisServer) -> None:
    """Groups, users and prefixes with stars and question marks match only themselves: no pattern is subscribed."""
    options = options_for(server, "Stars*?:")
    async with Node(options).run() as a, Node(options).run() as b:
        clients: dict[str, RecordedClient] = {}
        for manager, name in ((a, "*"), (b, "G")):
            client = RecordedClient(f"connection {name}", JSON, user=name)
            await manager.on_connected(client.connection)
            await manager.add_to_group(client.connection_id, name)
            clients[name] = client
        assert server.command("PUBSUB", "NUMPAT") == 0
        await a.send(group("G"), "group G", [])
        await a.send(group("*"), "group *", [])
        await a.send(user("G"), "user G", [])
        await a.send(user("*"), "user *", [])
        assert await heard(a, clients["*"], clients["G"]) == [["group *", "user *"], ["group G", "user G"]]


@pytest.mark.row("S28", "S29", "S30")
async def test_prefixes(server: RedisServer) -> None:
    """Apps of other prefixes, and hubs of other names, hear nothing; the same name and prefix hears everything."""
    same = [Node(options_for(server, "A:")), Node(options_for(server, "A:"))]
    others = [
        Node(options_for(server, "B:")),
        Node(options_for(server, "")),
        Node(options_for(server, "A:"), hub_name="X"),
    ]
    async with same[0].run() as sender, same[1].run(), others[0].run(), others[1].run(), others[2].run():
        near, far = [await node.connect(f"near {number}", "u") for number, node in enumerate(same)]
        strangers = [await node.connect(f"far {number}", "u") for number, node in enumerate(others)]
        await same[1].manager.add_to_group("near 1", "g")
        for node, stranger in zip(others, strangers, strict=True):
            await node.manager.add_to_group(stranger.connection_id, "g")
        await sender.send(ALL, "all", [])
        await sender.send(user("u"), "user", [])
        await sender.send(group("g"), "group", [])
        assert await heard(sender, near, far) == [["all", "user"], ["all", "user", "group"]]
        for node, stranger in zip(others, strangers, strict=True):
            assert await heard(node.manager, stranger) == [[]]


@pytest.mark.row("X13")
async def test_return_channel_has_no_prefix(server: RedisServer) -> None:
    """On the wire every channel has the prefix; the return channel inside a question has none."""
    asking, asked = Node(options_for(server, "Wire:")), Node(options_for(server, "Wire:"))
    spy = RecordingSink()
    raw = RedisBackplane(options_for(server, ""))
    returns = asking.manager.channels.returns
    callers = Supervisor("caller")
    async with raw.run(spy), asking.run() as manager, asked.run():
        client = await asked.connect("c1")
        await raw.subscribe(["Wire:App.ChatHub:connection:c1", f"Wire:{returns}", returns])
        call = callers.start(manager.invoke_connection("c1", "Ask", [], int, timeout=10), "ask")
        await client.wait_for(1)
        client.send(Completion(client.questions()[0], result=5))
        assert await call == 5
    (question_channel, question), (answer_channel, answer) = spy.messages
    assert question_channel == "Wire:App.ChatHub:connection:c1"
    assert decode_invocation(question).return_channel == returns
    assert answer_channel == f"Wire:{returns}"
    assert decode_completion(answer).protocol == "json"


class ShoutingProtocol(JsonHubProtocol):
    """JSON in a spelling of its own."""

    def encode(self, message: HubMessage) -> bytes:
        return super().encode(message).replace(b'"type":1', b'"type" : 1')


@pytest.mark.row("R36")
async def test_payloads_are_forwarded_as_they_are(server: RedisServer) -> None:
    """A client gets the bytes that the sending node wrote, however the serving node would write them."""
    options = options_for(server, "Bytes:")
    odd, plain = Node(options, protocols=(ShoutingProtocol(),)), Node(options)
    async with odd.run() as sender, plain.run():
        client = await plain.connect("c1")
        await sender.send(ALL, "m", [{"OneProperty": 1}])
        await client.wait_for(1)
        assert client.transport.sent == b'{"type" : 1,"target":"m","arguments":[{"OneProperty":1}]}\x1e'


@pytest.mark.row("S1")
async def test_nothing_is_left_behind(server: RedisServer) -> None:
    """Whatever a node did, it writes no key, and after its end nobody is subscribed to anything of its hub."""
    node = Node(options_for(server, "Left:"))
    async with node.run() as manager:
        client = await node.connect("c1", "alice")
        await manager.add_to_group("c1", "g")
        channels = server.command("PUBSUB", "CHANNELS", "Left:*")
        assert isinstance(channels, list)
        assert len(channels) == 7
        await manager.on_disconnected(client.connection)
        await node.connect("c2", "bob")
        await manager.add_to_group("c2", "g2")
    assert server.command("PUBSUB", "CHANNELS", "Left:*") == []
    assert server.command("DBSIZE") == 0


@pytest.mark.row("S38")
async def test_message_that_cannot_be_written_is_logged(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """What Redis brings and no client can get is .NET's event 10, with its text and cause; what follows is served."""
    options = options_for(server, "Broken:")
    node, writer = Node(options), RedisBackplane(options)
    with caplog.at_level(logging.DEBUG, logger="hubplane.lifetime.redis_log"):
        async with node.run() as manager, writer.run(RecordingSink()):
            client = await node.connect("c1")
            assert await writer.publish("App.ChatHub:all", b"\x91\x90") == 1
            assert await heard(manager, client) == [[]]
    (record,) = [each for each in caplog.records if each.__dict__.get("event_id") == 10]
    assert (record.getMessage(), record.levelno) == ("Failed writing message.", logging.DEBUG)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "Insufficient items in Invocation array."


@pytest.mark.row("X9")
async def test_last_one_leaves_while_another_joins(server: RedisServer) -> None:
    """However joins and leaves of one group overlap, the group is subscribed exactly when it has a member."""
    options = options_for(server, "Race:")
    node = Node(options)
    workers = Supervisor("members")
    channel = "Race:App.ChatHub:group:g"
    async with node.run() as manager, Node(options).run() as other:
        clients = [await node.connect(f"c{number}") for number in range(4)]

        async def come_and_go(name: str, times: int, near: ScaleoutHubLifetimeManager) -> None:
            for _ in range(times):
                await near.add_to_group(name, "g")
                await near.remove_from_group(name, "g")

        members = [
            workers.start(come_and_go(client.connection_id, 25, (manager, other)[number % 2]), "member")
            for number, client in enumerate(clients)
        ]
        for member in members:
            await member
        assert server.command("PUBSUB", "NUMSUB", channel) == [channel.encode(), 0]
        joins = [workers.start(manager.add_to_group(client.connection_id, "g"), "join") for client in clients]
        leaves = [
            workers.start(manager.remove_from_group(client.connection_id, "g"), "leave") for client in clients[1:]
        ]
        for change in (*joins, *leaves):
            await change
        assert server.command("PUBSUB", "NUMSUB", channel) == [channel.encode(), 1]
        await other.send(group("g"), "m", [])
        assert await heard(other, *clients) == [["m"], [], [], []]


@pytest.mark.row("X11")
async def test_refused_group(server: RedisServer) -> None:
    """A group whose channel the access rules refuse cannot be joined, and can as soon as they allow it."""
    server.command("ACL", "SETUSER", "node", "on", ">pw", "+@all", "resetchannels", "&Rules:App.ChatHub:[^g]*")
    node = Node(replace(options_for(server, "Rules:"), user="node", password="pw"))
    async with node.run() as manager:
        client = await node.connect("c1")
        with pytest.raises(BackplaneUnavailableError, match="NOPERM"):
            await manager.add_to_group("c1", "room")
        await manager.send(ALL, "all", [])
        server.command("ACL", "SETUSER", "node", "allchannels")
        await manager.add_to_group("c1", "room")
        await manager.send(group("room"), "room", [])
        assert await heard(manager, client) == [["all", "room"]]


class SlowLink:
    """A proxy that delays what passes, in each direction."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port = port
        self._seconds = seconds
        self._supervisor = Supervisor("link")
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def run(self) -> AsyncIterator[int]:
        """Its port."""
        listener = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
            await self._supervisor.close()
            for writer in self._writers:
                writer.close()
                await writer.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += (writer, back)
        for source, target in ((reader, back), (onward, writer)):
            self._supervisor.start(self._pump(source, target), "pump")

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await source.read(65_536):
            loop.call_later(self._seconds, target.write, data)
        loop.call_later(self._seconds, target.close)


@pytest.mark.row("S4")
async def test_joins_do_not_wait_for_one_another(server: RedisServer) -> None:
    """A thousand joins of different groups over a link of 20 ms take little longer than one (the original: 40 s)."""
    workers = Supervisor("joins")
    async with SlowLink(server.port, 0.02).run() as port:
        node = Node(replace(options_for(server, "Slow:"), endpoints=(Endpoint("127.0.0.1", port),)))
        async with node.run() as manager:
            await node.connect("c1")
            began = time.perf_counter()
            for join in [workers.start(manager.add_to_group("c1", f"g{number}"), "join") for number in range(1_000)]:
                await join
            assert time.perf_counter() - began < 10


async def test_node_of_the_asked_client_dies(server: RedisServer) -> None:
    """A caller learns within seconds that the node which served the asked client is dead; in the original never."""
    options = options_for(server, "Death:")
    clock = FakeClock()
    asking, asked = Node(options, clock=clock), Node(options)
    callers = Supervisor("caller")
    async with asking.run() as manager:
        async with asked.backplane.run(asked.routes):
            # Without leaving the manager's own block: it has no chance to say goodbye.
            life = asked.manager.run()
            await life.__aenter__()
            client = await asked.connect("c1")
            call = callers.start(manager.invoke_connection("c1", "Ask", [], int, timeout=None), "ask")
            await client.wait_for(1)
        seconds = 0
        while not call.done() and seconds < 10:
            clock.advance(1)
            seconds += 1
            manager.tick(clock.monotonic())
            await manager._supervisor.close(grace=5)
            manager._supervisor.open()
        with pytest.raises(ClientResultError, match="'c1' is gone"):
            await call
        assert seconds <= 5
        await life.__aexit__(None, None, None)
