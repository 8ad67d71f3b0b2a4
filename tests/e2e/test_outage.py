"""Redis goes away and comes back: what callers are told, and that everything is whole again by itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from itertools import permutations

import pytest
from tests.e2e.clients import ClientError, JsClient, JsDriver
from tests.e2e.nodes import HubNode
from tests.e2e.processes import eventually

from hubplane.testing.redis_server import RedisServer

both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])

Nodes = tuple[HubNode, HubNode]


def configuration(redis: RedisServer) -> str:
    """Commands wait less than a second for Redis instead of five, so that the tests need not."""
    return f"{redis.configuration},asyncTimeout=700"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A server of the test's own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def nodes(redis: RedisServer) -> Iterator[Nodes]:
    """Two nodes on it."""
    with (
        HubNode(configuration(redis), "outage:", "one") as one,
        HubNode(configuration(redis), "outage:", "two", detailed_errors=True) as two,
    ):
        yield one, two


def heal(*clients: JsClient) -> list[list[object]]:
    """Wait until what each client sends is read by every other; return what else they had heard until then."""

    def crosses(sender: JsClient, receiver: JsClient) -> bool:
        try:
            sender.invoke("Broadcast", "Fence", [sender.name])
        except ClientError:
            return False
        return receiver.message("Fence", timeout=0.5) == [sender.name]

    for sender, receiver in permutations(clients, 2):
        assert eventually(partial(crosses, sender, receiver), 15.0)
    for sender in clients:
        sender.invoke("Broadcast", "Fence", ["last", sender.name])
    for receiver in clients:
        for sender in clients:
            while receiver.message("Fence") != ["last", sender.name]:
                pass
    return [message for client in clients for message in client.untaken()]


def assert_whole(here: JsClient, there: JsClient, tag: str) -> None:
    """Every kind of channel carries messages both ways again, and groups change across nodes."""
    for sender, receiver in ((here, there), (there, here)):
        sender.invoke("AddOther", receiver.connection_id, f"new {tag}")
        for hearers, method, *name in (
            ((sender, receiver), "SendMessage"),
            ((sender, receiver), "SendToGroup", "old"),
            ((receiver,), "SendToGroup", f"new {tag}"),
            ((sender, receiver), "SendToUser", "ann"),
            ((receiver,), "SendToConnection", receiver.connection_id),
        ):
            sender.invoke(method, *name, method, tag)
            for hearer in hearers:
                assert hearer.message() == [method, tag]
        sender.invoke("RemoveOther", receiver.connection_id, f"new {tag}")


def assert_not_sent(client: JsClient, call: int, method: str, detail: str = "") -> None:
    """A call has failed with the text of a method that threw, and with what was thrown only where details are on."""
    with pytest.raises(ClientError) as failed:
        client.end(call)
    text = f"An unexpected error occurred invoking '{method}' on the server."
    assert str(failed.value).startswith(f"{text} {detail}") if detail else str(failed.value) == text


@pytest.mark.row("S37", "S39", "S40", "S43")
@both_protocols
def test_fleet_survives_a_restart_of_redis(driver: JsDriver, redis: RedisServer, nodes: Nodes, protocol: str) -> None:
    """Redis away: sends fail with the reference's error, connections and their calls stay; Redis back: all is whole."""
    here, there = (driver.connect(node.chat, protocol, user="ann") for node in nodes)
    for client in (here, there):
        client.invoke("Join", "old")
    for round_number in range(2):
        assert_whole(here, there, f"round {round_number}")
        redis.kill()

        for method, *arguments in (
            ("SendMessage", "lost", "lost"),
            ("SendToGroup", "old", "lost", "lost"),
            ("SendToUser", "ann", "lost", "lost"),
            ("Join", "a group without members"),
        ):
            calls = [client.begin(method, *arguments) for client in (here, there)]
            assert_not_sent(here, calls[0], method)
            assert_not_sent(there, calls[1], method, "BackplaneUnavailableError: ")
        for client in (here, there):
            assert client.invoke("Add", 1, 2) == 3
            client.invoke("SendToConnection", client.connection_id, "to", "myself")
            assert client.message() == ["to", "myself"]
            # A group with a member on this node needs no Redis to be joined or left.
            client.invoke("Join", "old")
        late = driver.connect(nodes[0].chat, protocol, user="late")
        assert late.invoke("Add", 2, 2) == 4, "new clients are served"

        redis.start()
        assert heal(here, there, late) == [], "what could not be sent is lost, as the caller was told"
        assert_whole(here, there, f"after {round_number}")
        late.stop()
    for client in (here, there):
        assert client.state == "Connected"
        assert client.event("reconnecting", timeout=0) is None
        client.stop()
    for node in nodes:
        assert node.stderr.count("Connection to Redis failed.") == 2, "once per outage"
        assert node.stderr.count("Connection to Redis restored.") == 2
        assert "Failed to invoke hub method 'SendMessage'." in node.stderr


@both_protocols
def test_send_shortly_before_redis_is_back_waits_for_it(driver: JsDriver, redis: RedisServer, protocol: str) -> None:
    """A send during an outage waits for Redis as long as a command may take, and arrives when Redis comes in time."""
    with HubNode(redis.configuration, "waits:") as node:
        client = driver.connect(node.chat, protocol)
        client.invoke("SendMessage", "before", "")
        assert client.message() == ["before", ""]
        redis.kill()
        assert node.logged("Connection to Redis failed.")
        call = client.begin("SendMessage", "during", "")
        assert client.state == "Connected"
        redis.start()
        client.end(call)
        assert client.message() == ["during", ""]
        client.stop()


@pytest.mark.row("S47", "S51", "X10")
@both_protocols
def test_node_that_started_without_redis_is_whole_when_it_comes(
    driver: JsDriver, protocol: str, free_port: int
) -> None:
    """Nodes start and serve while Redis is away, and need no restart when it comes."""
    redis = RedisServer(port=free_port)
    where = f"127.0.0.1:{free_port},asyncTimeout=1000"
    with HubNode(where, "late:", "one") as one, HubNode(where, "late:", "two") as two:
        here, there = (driver.connect(node.chat, protocol, user="ann") for node in (one, two))
        for client in (here, there):
            assert client.invoke("Add", 1, 2) == 3
            client.invoke("SendToCaller", "to", "myself")
            assert client.message() == ["to", "myself"]
            with pytest.raises(ClientError, match="An unexpected error occurred invoking 'SendMessage'"):
                client.invoke("SendMessage", "lost", "lost")
            with pytest.raises(ClientError):
                client.invoke("Join", "old")
        assert one.stderr.count("Not connected to Redis.") == 1
        with redis:
            assert heal(here, there) == []
            for client in (here, there):
                client.invoke("Join", "old")
            assert_whole(here, there, "whole")
            for channel in ("all", "internal:groups"):
                name = f"late:Interop.ChatHub:{channel}"
                assert redis.command("PUBSUB", "NUMSUB", name) == [name.encode(), 2]
            for kind in ("ack", "return"):
                channels = redis.command("PUBSUB", "CHANNELS", f"late:Interop.ChatHub:internal:{kind}:*")
                assert isinstance(channels, list)
                assert len(channels) == 2, "one for each node"
            newcomer = driver.connect(one.chat, protocol, user="ann")
            newcomer.invoke("Join", "old")
            assert_whole(newcomer, there, "also for newcomers")
            for client in (here, there, newcomer):
                assert client.state == "Connected"
                client.stop()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
