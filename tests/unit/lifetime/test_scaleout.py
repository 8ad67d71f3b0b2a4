"""Facts about one node among many, beyond the contract."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest

from hubplane.backplane.memory import MemoryBackplane, MemoryBus
from hubplane.errors import (
    AckTimeoutError,
    BackplaneUnavailableError,
    ClientResultError,
    ConfigurationError,
)
from hubplane.lifetime.audience import ALL, Audience, AudienceKind
from hubplane.lifetime.base import HubLifetimeManager
from hubplane.lifetime.envelope import GroupCommand, decode_ack, encode_ack, encode_group_command
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion
from hubplane.supervisor import Supervisor
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordedClient, RecordingBackplane

JSON = JsonHubProtocol()
OWN = ["Hub:all", "Hub:internal:groups", "Hub:internal:ack:a-node-1", "Hub:internal:return:a-node-1"]
GROUP = Audience(AudienceKind.GROUP, ("g",))
AWAY = BackplaneUnavailableError("away")


class Node:
    """A manager over a backplane that records."""

    def __init__(self, backplane: RecordingBackplane | None = None, *, patience: float = 1.0) -> None:
        self.backplane = backplane or RecordingBackplane()
        self.routes = BackplaneRoutes()
        self.clock = FakeClock()
        self.manager = self.make("Hub", patience=patience)
        self.callers = Supervisor("caller")

    def make(self, hub_name: str, *, patience: float = 1.0) -> ScaleoutHubLifetimeManager:
        """One hub of this node."""
        return ScaleoutHubLifetimeManager(
            hub_name,
            backplane=self.backplane,
            routes=self.routes,
            protocols=(JSON,),
            clock=self.clock,
            ids=SeededIds(),
            patience=patience,
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[ScaleoutHubLifetimeManager]:
        """Run it."""
        async with self.backplane.run(self.routes), self.manager.run():
            self.backplane.commands.clear()
            yield self.manager

    async def connect(self, name: str, user: str | None = None) -> RecordedClient:
        """A client that the manager knows."""
        client = RecordedClient(name, JSON, user=user)
        await self.manager.on_connected(client.connection)
        return client

    def deliver(self, channel: str, payload: bytes) -> None:
        """Bring a message."""
        assert self.backplane.sink is not None
        self.backplane.sink.deliver(channel, payload)


class StubbornBackplane(RecordingBackplane):
    """Never answers an unsubscription."""

    async def unsubscribe(self, channels: Collection[str]) -> None:
        await asyncio.get_running_loop().create_future()


class LateBackplane(RecordingBackplane):
    """A carrier that breaks its word."""

    async def publish(self, channel: str, payload: bytes) -> int | None:
        raise TimeoutError("not ours")


def events(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The ids of the logged events."""
    return [record.__dict__["event_id"] for record in caplog.records if record.name == "hubplane.lifetime.redis_log"]


async def test_own_channels() -> None:
    """A node subscribes its four hub-wide channels in the original's order, and leaves nothing subscribed behind."""
    node = Node()
    contract: HubLifetimeManager = node.manager
    assert contract is node.manager
    async with node.backplane.run(node.routes), node.manager.run():
        assert node.backplane.commands == [("subscribe", channel) for channel in OWN]
        await node.connect("c1", "alice")
        await node.manager.add_to_group("c1", "g")
        assert node.backplane.subscribed == {*OWN, "Hub:connection:c1", "Hub:user:alice", "Hub:group:g"}
    assert node.backplane.subscribed == set()
    assert len(node.routes) == 0


async def test_runs_again() -> None:
    """A node that was stopped can be started again and is whole."""
    node = Node()
    async with node.run():
        pass
    async with node.run() as manager:
        client = await node.connect("c1")
        await manager.add_to_group("c1", "g")
        await manager.send(GROUP, "m", [1])
        node.deliver(*node.backplane.published[0])
        assert client.invocations() == [("m", [1])]


async def test_start_does_not_wait_for_ever() -> None:
    """A broker that does not answer the subscriptions delays the start no longer than told; they are not given up."""
    node = Node(patience=0.01)
    node.backplane.hold()
    async with node.backplane.run(node.routes), node.manager.run():
        assert node.backplane.subscribed == set()
        node.backplane.let_go()
        await node.backplane.confirmed_count(len(OWN))
        assert node.backplane.subscribed == set(OWN)


async def test_stop_does_not_wait_for_ever() -> None:
    """Neither does a broker that does not confirm the last unsubscription delay the end."""
    node = Node(StubbornBackplane(), patience=0.01)
    async with asyncio.timeout(5):
        async with node.run():
            pass
    assert len(node.routes) == 0


@pytest.mark.row("X15")
async def test_two_hubs() -> None:
    """Two hubs of a process do not hear each other; two of one name cannot be served."""
    node = Node()
    other = node.make("Hub2")
    async with node.run() as manager, other.run():
        ours = await node.connect("c1")
        theirs = RecordedClient("c2", JSON)
        await other.on_connected(theirs.connection)
        await manager.send(ALL, "m", [])
        for channel, payload in node.backplane.published:
            node.deliver(channel, payload)
        assert (len(ours.received()), len(theirs.received())) == (1, 0)
        with pytest.raises(ConfigurationError, match="two hubs share one hub_name"):
            async with node.make("Hub2").run():
                pass
        await other.send(ALL, "m", [])
        node.deliver(*node.backplane.published[-1])
        assert len(theirs.received()) == 1


async def test_one_subscription_call_for_connection_and_user() -> None:
    """A new connection is known before its channel and its user's are subscribed, together."""
    node = Node()
    async with node.run() as manager:
        node.backplane.hold()
        connecting = node.callers.start(node.connect("c1", "alice"), "connect")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [connection.connection_id for connection in manager.connections()] == ["c1"]
        node.backplane.let_go()
        await connecting
        assert node.backplane.commands == [("subscribe", "Hub:connection:c1"), ("subscribe", "Hub:user:alice")]


async def test_connect_while_the_broker_is_away() -> None:
    """A client that comes while the broker is away is served, and local messages reach it."""
    node = Node()
    async with node.run() as manager:
        node.backplane.refusal = AWAY
        client = await node.connect("c1")
        await manager.send(Audience(AudienceKind.CONNECTION, ("c1",)), "m", [])
        assert len(client.received()) == 1
        with pytest.raises(BackplaneUnavailableError):
            await manager.send(ALL, "m", [])
        with pytest.raises(BackplaneUnavailableError):
            await manager.send(Audience(AudienceKind.GROUPS, ("a", "b")), "m", [])


async def test_user_channel() -> None:
    """A user's channel stays subscribed until the user's last connection has left."""
    node = Node()
    async with node.run() as manager:
        one = await node.connect("c1", "alice")
        two = await node.connect("c2", "alice")
        await manager.on_disconnected(one.connection)
        await settled(node)
        assert "Hub:user:alice" in node.backplane.subscribed
        assert "Hub:connection:c1" not in node.backplane.subscribed
        await manager.on_disconnected(two.connection)
        await manager.on_disconnected(two.connection)
        await settled(node)
        assert node.backplane.subscribed == set(OWN)


async def settled(node: Node) -> None:
    """Everything in the background has ended."""
    await node.manager._supervisor.close(grace=5)
    node.manager._supervisor.open()


async def pass_pauses(node: Node, count: int) -> None:
    """Let so many pauses between attempts go by."""
    for _ in range(count):
        for _ in range(5):
            await asyncio.sleep(0)
        node.clock.advance(2.0)


async def test_user_comes_back_while_leaving() -> None:
    """A user who is back before the unsubscription has left stays subscribed."""
    node = Node()
    async with node.run() as manager:
        one = await node.connect("c1", "alice")
        await manager.on_disconnected(one.connection)
        await node.connect("c2", "alice")
        await settled(node)
        assert node.backplane.subscribed == {*OWN, "Hub:connection:c2", "Hub:user:alice"}


async def test_connection_comes_back_while_leaving() -> None:
    """So does a connection whose id is back by then."""
    node = Node()
    async with node.run() as manager:
        one = await node.connect("c1")
        await manager.on_disconnected(one.connection)
        await node.connect("c1")
        await settled(node)
        assert node.backplane.subscribed == {*OWN, "Hub:connection:c1"}


async def test_many_leave_together() -> None:
    """Connections that leave while one unsubscription is under way share the next one."""
    node = Node()
    async with node.run() as manager:
        clients = [await node.connect(f"c{number}") for number in range(5)]
        node.backplane.hold()
        for client in clients:
            await manager.on_disconnected(client.connection)
            await asyncio.sleep(0)
        node.backplane.let_go()
        await settled(node)
        assert node.backplane.subscribed == set(OWN)


async def test_leave_after_the_end() -> None:
    """A connection that is removed when the hub has stopped is no error."""
    node = Node()
    async with node.run():
        client = await node.connect("c1", "alice")
        await node.manager.add_to_group("c1", "g")
    await node.manager.on_disconnected(client.connection)
    assert list(node.manager.connections()) == []
    assert node.backplane.subscribed == set()


@pytest.mark.row("X8")
async def test_join_while_leaving() -> None:
    """A connection that has ended joins nothing, and one that leaves while it joins leaves no subscription behind."""
    node = Node()
    async with node.run() as manager:
        ended = await node.connect("c1")
        ended.disconnect()
        await manager.add_to_group("c1", "g")
        assert node.backplane.commands == [("subscribe", "Hub:connection:c1")]
        leaves = await node.connect("c2")
        node.backplane.hold()
        joining = node.callers.start(manager.add_to_group("c2", "g"), "join")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaves.disconnect()
        await manager.on_disconnected(leaves.connection)
        node.backplane.let_go()
        await joining
        await settled(node)
        assert "Hub:group:g" not in node.backplane.subscribed
        assert not manager._table.has_group("g")


@pytest.mark.row("X11")
async def test_join_refused() -> None:
    """A join that the broker refused is rolled back, and a retry subscribes."""
    node = Node()
    async with node.run() as manager:
        client = await node.connect("c1")
        node.backplane.refusal = AWAY
        with pytest.raises(BackplaneUnavailableError):
            await manager.add_to_group("c1", "g")
        assert not manager._table.has_group("g")
        assert "Hub:group:g" not in node.backplane.subscribed
        node.backplane.refusal = None
        await manager.add_to_group("c1", "g")
        await manager.send(GROUP, "m", [])
        node.deliver(*node.backplane.published[-1])
        assert len(client.received()) == 1


async def test_leave_while_the_broker_is_away() -> None:
    """Leaving a group, and joining one that has members here, need no broker."""
    node = Node()
    async with node.run() as manager:
        await node.connect("c1")
        await node.connect("c2")
        await manager.add_to_group("c1", "g")
        node.backplane.refusal = AWAY
        await manager.add_to_group("c2", "g")
        await manager.remove_from_group("c1", "g")
        await manager.remove_from_group("c2", "g")
        assert "Hub:group:g" not in node.backplane.subscribed


async def test_remote_command_fails_at_the_broker() -> None:
    """If the broker does not take a group command, the call fails with its error and nothing stays pending."""
    node = Node()
    async with node.run() as manager:
        node.backplane.refusal = AWAY
        with pytest.raises(BackplaneUnavailableError):
            await manager.add_to_group("elsewhere", "g")
        assert len(manager._membership._acks) == 0


async def test_remote_command_times_out() -> None:
    """A command that no node acknowledges fails at its deadline."""
    node = Node()
    async with node.run() as manager:
        call = node.callers.start(manager.add_to_group("elsewhere", "g"), "join")
        await node.backplane.published_count(1)
        node.clock.advance(30)
        manager.tick(node.clock.monotonic())
        with pytest.raises(AckTimeoutError, match="No node acknowledged within 30 s"):
            await call


async def test_remote_command_to_one_who_leaves() -> None:
    """A command whose connection leaves before its node has carried it out fails as soon as nobody serves it."""
    node = Node()
    async with node.run() as manager:
        call = node.callers.start(manager.add_to_group("elsewhere", "g"), "join")
        await node.backplane.counted_count(1)
        node.backplane.default_count = 0
        async with asyncio.timeout(10):
            with pytest.raises(AckTimeoutError, match="'elsewhere' is served by no node any more"):
                await call


async def test_remote_command_over_an_outage() -> None:
    """That the broker cannot be asked again does not end a command that waits for its acknowledgement."""
    node = Node()
    async with node.run() as manager:
        call = node.callers.start(manager.add_to_group("elsewhere", "g"), "join")
        await node.backplane.counted_count(1)
        node.backplane.refusal = AWAY
        await node.backplane.counted_count(2)
        node.deliver("Hub:internal:ack:a-node-1", encode_ack(1))
        async with asyncio.timeout(10):
            await call


async def test_remote_command_that_is_lost() -> None:
    """A command that is not acknowledged, though its connection is there, is sent again as it was."""
    node = Node()
    async with node.run() as manager:
        call = node.callers.start(manager.remove_from_group("elsewhere", "g"), "leave")
        await node.backplane.published_count(2)
        first, second = node.backplane.published
        assert first == second
        node.deliver("Hub:internal:ack:a-node-1", encode_ack(1))
        async with asyncio.timeout(10):
            await call
        assert len(manager._membership._acks) == 0


async def test_stop_while_waiting() -> None:
    """When the hub stops, whoever waits for another node learns it."""
    node = Node()
    async with node.run() as manager:
        command = node.callers.start(manager.add_to_group("elsewhere", "g"), "join")
        question = node.callers.start(manager.invoke_connection("elsewhere", "Ask", [], int, timeout=None), "ask")
        await node.backplane.published_count(2)
    with pytest.raises(BackplaneUnavailableError, match="shutting down"):
        await command
    with pytest.raises(ClientResultError, match="shutting down"):
        await question


def command(number: int, action: int, group: str = "g", connection_id: str = "c1") -> bytes:
    """A group command of another node."""
    return encode_group_command(GroupCommand(number, "far", action, group, connection_id))


async def test_commands_in_order() -> None:
    """Commands of other nodes take effect in the order of their arrival, whatever the broker does meanwhile."""
    node = Node()
    async with node.run() as manager:
        await node.connect("c1")
        node.backplane.hold()
        for number, action in enumerate((1, 2, 1, 2, 1), start=1):
            node.deliver("Hub:internal:groups", command(number, action))
            await asyncio.sleep(0)
        assert manager._table.has_group("g")
        node.backplane.let_go()
        await node.backplane.published_count(5)
        assert sorted(decode_ack(payload) for _, payload in node.backplane.published) == [1, 2, 3, 4, 5]
        assert {channel for channel, _ in node.backplane.published} == {"Hub:internal:ack:far"}
        assert "Hub:group:g" in node.backplane.subscribed


async def test_command_is_acknowledged_after_the_subscription() -> None:
    """The acknowledgement waits until the broker has confirmed the group's channel."""
    node = Node()
    async with node.run():
        await node.connect("c1")
        node.backplane.hold()
        node.deliver("Hub:internal:groups", command(1, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert node.backplane.published == []
        node.backplane.let_go()
        await node.backplane.published_count(1)


@pytest.mark.row("X7")
async def test_unknown_action() -> None:
    """An action other than add and remove changes nothing and is acknowledged."""
    node = Node()
    async with node.run() as manager:
        client = await node.connect("c1")
        node.deliver("Hub:internal:groups", command(5, 9))
        await node.backplane.published_count(1)
        assert decode_ack(node.backplane.published[0][1]) == 5
        assert not manager._table.has_group("g")
        await manager.add_to_group("c1", "g")
        node.deliver("Hub:internal:groups", command(6, 0))
        await node.backplane.published_count(2)
        await manager.send(GROUP, "m", [])
        node.deliver(*node.backplane.published[-1])
        assert len(client.received()) == 1, "a member is one still"


async def test_command_that_cannot_be_carried_out(caplog: pytest.LogCaptureFixture) -> None:
    """If the broker refuses the group's channel there is no acknowledgement, but an event 11."""
    node = Node()
    async with node.run() as manager:
        await node.connect("c1")
        node.backplane.refusal = AWAY
        node.deliver("Hub:internal:groups", command(1, 1))
        await settled(node)
        assert not manager._table.has_group("g")
    assert node.backplane.published == []
    assert events(caplog) == [11]


async def test_too_many_commands(caplog: pytest.LogCaptureFixture) -> None:
    """Above the limit a command is dropped, unacknowledged, with a warning."""
    node = Node()
    async with node.run() as manager:
        manager._membership._max_unacknowledged = 2
        await node.connect("c1")
        node.backplane.hold()
        for number in range(1, 4):
            node.deliver("Hub:internal:groups", command(number, 1))
        assert "Over 2 group commands are under way; one is dropped." in caplog.text
        node.backplane.let_go()
        await node.backplane.published_count(2)
        await settled(node)
        node.deliver("Hub:internal:groups", command(4, 1))
        await node.backplane.published_count(3)
    assert [decode_ack(payload) for _, payload in node.backplane.published] == [1, 2, 4]


async def test_answer_cannot_be_forwarded(caplog: pytest.LogCaptureFixture) -> None:
    """An answer that the broker does not take is logged as event 13."""
    node = Node()
    async with node.run() as manager:
        client = await node.connect("c1")
        manager._questions.ask_for(client.connection, "q", "somewhere")
        node.backplane.refusal = AWAY
        manager.set_connection_result(client.connection, Completion("q", result=1))
        await pass_pauses(node, 4)
        await settled(node)
    assert events(caplog) == [13]


@pytest.mark.parametrize("trouble", ["not confirmed", "nobody there"])
async def test_answer_survives_an_outage(trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that was not confirmed, or that nobody heard, is sent again until the node that asked is back."""
    node = Node()
    async with node.run() as manager:
        client = await node.connect("c1")
        manager._questions.ask_for(client.connection, "q", "somewhere")
        node.backplane.refusal = AWAY if trouble == "not confirmed" else None
        node.backplane.receivers = 0
        manager.set_connection_result(client.connection, Completion("q", result=1))
        await pass_pauses(node, 2)
        node.backplane.refusal = None
        node.backplane.receivers = 1
        await pass_pauses(node, 1)
        await settled(node)
    assert len(node.backplane.published) == (1 if trouble == "not confirmed" else 3)
    assert {channel for channel, _ in node.backplane.published} == {"somewhere"}
    assert len(set(node.backplane.published)) == 1
    assert events(caplog) == []


async def test_answer_that_nobody_wants_is_given_up() -> None:
    """The node that asked may be gone for good: after five attempts its answer is dropped."""
    node = Node()
    async with node.run() as manager:
        client = await node.connect("c1")
        manager._questions.ask_for(client.connection, "q", "somewhere")
        node.backplane.receivers = 0
        manager.set_connection_result(client.connection, Completion("q", result=1))
        await pass_pauses(node, 4)
        await settled(node)
    assert len(node.backplane.published) == 5


async def test_client_leaves_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves when the hub has stopped is asked for no answer any more, and nothing breaks."""
    node = Node()
    async with node.run() as manager:
        client = await node.connect("c1")
    client.disconnect()
    with caplog.at_level(logging.DEBUG):
        manager._questions.ask_for(client.connection, "q", "somewhere")
    assert "shutting down; the answer q is not forwarded" in caplog.text


async def test_question_times_out() -> None:
    """A question to another node may have a limit; another timeout than its own is passed on as it is."""
    node = Node()
    async with node.run() as manager:
        with pytest.raises(ClientResultError, match=r"^Connection 'x' did not answer within 0\.01 s\.$"):
            await manager.invoke_connection("x", "Ask", [], int, timeout=0.01)
    node = Node(LateBackplane())
    async with node.run() as manager:
        with pytest.raises(TimeoutError, match="not ours"):
            await manager.invoke_connection("x", "Ask", [], int, timeout=5)


async def test_nobody_looks_when_nobody_waits() -> None:
    """The broker is asked about other nodes' connections only while a question waits, and every two seconds at most."""
    node = Node()
    async with node.run() as manager:
        manager.tick(node.clock.monotonic())
        assert node.backplane.counted == []
        call = node.callers.start(manager.invoke_connection("x", "Ask", [], int, timeout=None), "ask")
        await node.backplane.published_count(1)
        for _ in range(2):
            manager.tick(node.clock.monotonic())
            await node.backplane.counted_count(1)
            await settled(node)
        assert node.backplane.counted == [("Hub:connection:x",)]
        node.backplane.counts = None
        node.clock.advance(2)
        manager.tick(node.clock.monotonic())
        await node.backplane.counted_count(2)
        await settled(node)
        node.routes.lost(AWAY)
        node.routes.restored(gap=True)
        assert not call.done()
    with pytest.raises(ClientResultError):
        await call


async def test_silent_drops(caplog: pytest.LogCaptureFixture) -> None:
    """Messages for connections that have left are dropped, and so is nonsense on a connection's channel."""
    node = Node()
    async with node.run() as manager:
        client = await node.connect("c1")
        manager._on_connection("gone", b"")
        with caplog.at_level(logging.DEBUG):
            node.deliver("Hub:connection:c1", b"\xc1")
        assert "Dropped a malformed message for connection c1" in caplog.text
        assert events(caplog) == []
        assert client.received() == []


async def test_endpoints_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A carrier with endpoints is named at the start, as event 1, with the node's name."""

    class WithEndpoints(RecordingBackplane):
        endpoints = ("localhost:6379", "other:6380")

    node = Node(WithEndpoints())
    with caplog.at_level(logging.INFO):
        async with node.run():
            pass
    assert events(caplog) == [1, 2]
    assert caplog.records[0].getMessage() == (
        "Connecting to Redis endpoints: localhost:6379, other:6380. Using Server Name: a-node-1"
    )


async def test_start_while_the_broker_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """A node that starts without its broker says so once, starts, and is whole when the broker is there."""
    bus = MemoryBus()
    bus.interrupt()
    backplane = MemoryBackplane(bus)
    routes = BackplaneRoutes()
    manager = ScaleoutHubLifetimeManager(
        "Hub", backplane=backplane, routes=routes, protocols=(JSON,), clock=FakeClock(), ids=SeededIds()
    )
    with caplog.at_level(logging.INFO):
        async with backplane.run(routes), manager.run():
            client = RecordedClient("c1", JSON)
            await manager.on_connected(client.connection)
            with pytest.raises(BackplaneUnavailableError):
                await manager.send(ALL, "m", [])
            bus.resume()
            await manager.send(ALL, "m", [])
            assert len(client.received()) == 1
    assert events(caplog) == [14, 7, 2, 8]
