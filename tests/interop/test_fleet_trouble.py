"""The mixed fleet in trouble: outages of Redis, nodes that die, broken payloads, and nodes of older releases."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any  # what a coroutine of a test returns

import pytest
from tests.e2e.clients import JsClient, JsDriver
from tests.e2e.processes import eventually
from tests.interop.dotnet import AspNetNode
from tests.interop.fleet import FLEET_ERRORS, FleetNode, Node

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.lifetime.channels import HubChannels
from hubplane.lifetime.envelope import (
    ADD_TO_GROUP,
    REMOVE_FROM_GROUP,
    GroupCommand,
    decode_ack,
    decode_invocation,
    encode_group_command,
    encode_invocation,
)
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_server import RedisServer

PREFIX = "Trouble:"
HUB = "Interop.ChatHub"
BURST = 50


@dataclass
class Fleet:
    """Two nodes on a Redis of their own, and how to reach all of it."""

    redis: RedisServer
    ours: FleetNode
    theirs: AspNetNode

    def count(self, channel: str) -> int:
        """Subscribers of a channel of the chat hub."""
        reply = self.redis.command("PUBSUB", "NUMSUB", f"{PREFIX}{HUB}:{channel}")
        assert isinstance(reply, list)
        assert isinstance(reply[1], int)
        return reply[1]

    def whole(self) -> bool:
        """Both nodes hear everything again."""
        return (
            self.ours.redis_connected()
            and self.theirs.redis_connected()
            and all(self.count(name) == 2 for name in ("all", "internal:groups"))
        )


@pytest.fixture(scope="module")
def troubled(run: str) -> Iterator[Fleet]:
    """Nodes that wait for a second only, so that an outage is felt soon."""
    with RedisServer() as redis:
        hurried = f"{redis.configuration},abortConnect=false,syncTimeout=1000,asyncTimeout=1000,connectTimeout=1000"
        with FleetNode(hurried, PREFIX) as ours, AspNetNode(run, hurried, PREFIX) as theirs:
            made = Fleet(redis, ours, theirs)
            assert eventually(made.whole)
            yield made


class Crowd:
    """A client on each node; both are in group ``mixed``, and of user ``una``."""

    def __init__(self, driver: JsDriver, fleet: Fleet) -> None:
        self.fleet = fleet
        self.clients = {
            node: driver.connect(node.chat, protocol, user="una")
            for node, protocol in ((fleet.ours, "json"), (fleet.theirs, "messagepack"))
        }
        for client in self.clients.values():
            client.invoke("Join", "mixed")
            client.answer("Ask", "well")

    def other(self, node: Node) -> JsClient:
        """The client of the other node."""
        return next(client for owner, client in self.clients.items() if owner is not node)

    def is_one_fleet(self, text: str) -> None:
        """Every flow works in both directions."""
        for node in self.clients:
            audiences: list[dict[str, object]] = [{"all": True}, {"group": "mixed"}, {"user": "una"}]
            for to in audiences:
                node.send(to, text, next(iter(to)))
                for client in self.clients.values():
                    assert client.message() == [text, next(iter(to))]
            away = self.other(node)
            body = {"connectionId": away.connection_id, "group": text, "timeoutMs": 10_000}
            node.ask("/groups/add", body)
            node.send({"group": text}, text, "added")
            assert away.message() == [text, "added"]
            node.ask("/groups/remove", body)
            node.send({"connection": away.connection_id}, text, "alone")
            assert away.message() == [text, "alone"]
            body = {"connectionId": away.connection_id, "method": "Ask", "args": [""], "timeoutMs": 10_000}
            assert node.ask("/invoke", body)["result"] == "well"
        for client in self.clients.values():
            assert client.untaken() == []

    def leave(self) -> None:
        """End both connections."""
        for client in self.clients.values():
            client.stop()


@pytest.fixture
def crowd(driver: JsDriver, troubled: Fleet) -> Iterator[Crowd]:
    """Clients on both nodes, who stay connected whatever happens to Redis."""
    made = Crowd(driver, troubled)
    yield made
    made.leave()


# -- Redis goes and comes ----------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
@pytest.mark.row("S37", "S41", "S43")
def test_fleet_survives_a_redis_that_dies(crowd: Crowd) -> None:
    """Redis dies and comes back empty: sends fail meanwhile, no client is lost, and it is one fleet again."""
    fleet = crowd.fleet
    crowd.is_one_fleet("before")
    fleet.redis.kill()
    for node, client in crowd.clients.items():
        with pytest.raises(FLEET_ERRORS):
            node.send({"all": True}, "lost", "")
        node.send({"connection": client.connection_id}, "local", "")
        assert client.message() == ["local", ""]
    fleet.redis.start()
    assert eventually(lambda: fleet.whole() and fleet.count("group:mixed") == fleet.count("user:una") == 2, 30.0)
    crowd.is_one_fleet("after")


@pytest.mark.timeout(120)
def test_fleet_survives_lost_subscriptions(crowd: Crowd) -> None:
    """Only the subscribed sockets of both nodes are cut, as for reading too slowly: both come back by themselves."""
    fleet = crowd.fleet
    fleet.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    assert eventually(lambda: fleet.whole() and fleet.count("group:mixed") == fleet.count("user:una") == 2, 30.0)
    crowd.is_one_fleet("cut")


@pytest.mark.timeout(120)
def test_fleet_survives_a_frozen_redis(crowd: Crowd) -> None:
    """Redis freezes for longer than the nodes wait and goes on: both nodes are one fleet again."""
    fleet = crowd.fleet
    fleet.redis.pause()
    try:
        for node in crowd.clients:
            with pytest.raises(FLEET_ERRORS):
                node.send({"connection": "nobody"}, "frozen", "")
    finally:
        fleet.redis.resume()
    assert eventually(lambda: fleet.whole() and fleet.count("group:mixed") == fleet.count("user:una") == 2, 30.0)
    crowd.is_one_fleet("thawed")


# -- nodes go and come -------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
@pytest.mark.row("R14", "R17", "R42")
@pytest.mark.parametrize("dying", ["ours", "theirs"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_node_that_goes_leaves_a_whole_fleet(
    run: str, driver: JsDriver, troubled: Fleet, crowd: Crowd, dying: str, how: signal.Signals
) -> None:
    """A third node goes in the middle of a burst: its channels go with it, and the others are one fleet without it."""
    configuration = f"{troubled.redis.configuration},abortConnect=false"
    start: Callable[[], Node] = (
        (lambda: FleetNode(configuration, PREFIX))
        if dying == "ours"
        else lambda: AspNetNode(run, configuration, PREFIX)
    )
    with start() as node:
        assert eventually(lambda: troubled.count("all") == 3)
        leaving = driver.connect(node.chat, user="ulla")
        leaving.invoke("Join", "mixed")
        assert troubled.count("group:mixed") == 3

        def burst() -> None:
            for number in range(BURST):
                troubled.ours.send({"group": "mixed"}, "burst", str(number))

        bursting = threading.Thread(target=burst)
        bursting.start()
        assert leaving.message() is not None
        node.process.send_signal(how)
        bursting.join(30)
        node.wait()
    for client in crowd.clients.values():
        assert [client.message() for _ in range(BURST)] == [["burst", str(n)] for n in range(BURST)]
    assert eventually(lambda: troubled.count("all") == troubled.count("group:mixed") == 2)
    assert troubled.count("user:ulla") == troubled.count(f"connection:{leaving.connection_id}") == 0
    with pytest.raises(FLEET_ERRORS):
        troubled.ours.ask("/groups/add", {"connectionId": leaving.connection_id, "group": "mixed", "timeoutMs": 10_000})
    crowd.is_one_fleet("two")
    back = driver.connect(troubled.theirs.chat, user="ulla")
    troubled.ours.send({"user": "ulla"}, "welcome", "back")
    assert back.message() == ["welcome", "back"]
    back.stop()
    crowd.is_one_fleet("two again")


# -- what others write -------------------------------------------------------------------------------------------------


class Writer:
    """A node made of bytes: it says what it likes, and hears what is sent to the channels it subscribes."""

    def __init__(self, backplane: RedisBackplane, sink: RecordingSink) -> None:
        self.channels = HubChannels(HUB, "old_0123456789abcdef0123456789abcdef")
        self.backplane = backplane
        self.sink = sink

    async def say(self, channel: str, payload: bytes) -> None:
        """Publish, and see that somebody heard."""
        assert await self.backplane.publish(channel, payload) > 0


def written(fleet: Fleet, work: Callable[[Writer], Coroutine[Any, Any, None]]) -> None:
    """Run `work` as a writer on the fleet's Redis."""

    async def run() -> None:
        backplane, sink = RedisBackplane(parse(f"{fleet.redis.configuration},channelPrefix={PREFIX}")), RecordingSink()
        async with backplane.run(sink):
            await work(Writer(backplane, sink))

    asyncio.run(run())


BROKEN = [
    b"", b"\x90", b"\x91\x90", b"\x80", b"\xc0", b"\x2a", b"plain text", b"\x92\x90", b"\x92\xc0\x80",
    b"\x92\x90\x81\xa4json\xd9\x02ab", b"\x94\x90\x80\x2a\xc0", b"\x95\x01\xa1s\xcd\x01\x2c\xa1g\xa1c",
    b"\x94\x01\xa1s\x01\xa1g", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc1" * 100, b"\x91" * 5_000,
    b"\x92\xa4json\xc4\x02{}", b"\x92\xa4JSON\xc4\x03{}\x1e", b'\x92\xa4json\xc4\x0b{"type":6}\x1e',
]  # fmt: skip


@pytest.mark.row("X4")
def test_broken_payloads_harm_neither_kind_of_node(crowd: Crowd) -> None:
    """Nonsense on every channel of both nodes is dropped by both, and everything works as before."""
    fleet = crowd.fleet
    listed = fleet.redis.command("PUBSUB", "CHANNELS", f"{PREFIX}{HUB}:*")
    assert isinstance(listed, list)
    channels = [bytes(name).decode().removeprefix(PREFIX) for name in listed]  # type: ignore[arg-type]
    kinds = {":all", ":group:", ":user:", ":connection:", ":internal:groups", ":internal:ack:", ":internal:return:"}
    assert all(any(kind in name for name in channels) for kind in kinds)

    async def nonsense(writer: Writer) -> None:
        for channel in channels:
            for payload in BROKEN:
                await writer.say(channel, payload)

    before = len(fleet.ours.errors)
    written(fleet, nonsense)
    crowd.is_one_fleet("still")
    errors = [line for line in fleet.ours.errors[before:] if " ERROR " in line]
    # .NET's event 12; nothing else in there is worth an error.
    assert all("Received a client result for protocol JSON" in line for line in errors), errors


@pytest.mark.row("X5")
def test_writer_without_messagepack(crowd: Crowd, driver: JsDriver) -> None:
    """A node without MessagePack sends JSON only: other clients of ours stay, ASP.NET Core's are disconnected."""
    fleet = crowd.fleet
    spared = driver.connect(fleet.ours.chat, "messagepack")
    doomed = driver.connect(fleet.theirs.chat, "messagepack")
    json_only = encode_invocation((), {"json": b'{"type":1,"target":"ReceiveMessage","arguments":["old","1"]}\x1e'})

    async def speak(writer: Writer) -> None:
        for client in (spared, doomed):
            await writer.say(writer.channels.connection(client.connection_id), json_only)
        await writer.say(writer.channels.connection(crowd.clients[fleet.ours].connection_id), json_only)

    written(fleet, speak)
    assert crowd.clients[fleet.ours].message() == ["old", "1"]
    assert doomed.event("closed") is not None
    fleet.theirs.send({"connection": spared.connection_id}, "still", "here")
    assert spared.message() == ["still", "here"]
    spared.stop()


@pytest.mark.row("S10", "S13")
def test_node_before_client_results(crowd: Crowd) -> None:
    """A node as of ASP.NET Core 2.1 to 6 (two items, no return channel) is served by both kinds, and serves both."""
    fleet = crowd.fleet
    blob = b'{"type":1,"target":"ReceiveMessage","arguments":["old","2"]}\x1e'
    packed = b"\x95\x01\x80\xc0\xaeReceiveMessage\x92\xa3old\xa12"
    both = encode_invocation((), {"json": blob, "messagepack": bytes((len(packed),)) + packed})

    async def be_old(writer: Writer) -> None:
        channels, sink = writer.channels, writer.sink
        await writer.backplane.subscribe(
            [channels.all, channels.groups, channels.ack, channels.connection("old-client"), channels.group("mixed")]
        )
        # It sends, and all hear it; a MessagePack invocation without stream ids was the form before 3.0.
        await writer.say(channels.group("mixed"), both)
        await sink.message(channels.group("mixed"), both)
        for client in crowd.clients.values():
            assert await asyncio.to_thread(client.message) == ["old", "2"]
        # It changes groups of connections of both kinds of nodes, and each acknowledges.
        number = 0
        for client in crowd.clients.values():
            for action in (ADD_TO_GROUP, REMOVE_FROM_GROUP):
                number += 1
                command = GroupCommand(number, channels.node_name, action, "of the old", client.connection_id)
                await writer.say(channels.groups, encode_group_command(command))
                assert decode_ack(await heard(sink, channels.ack)) == number
        # It is sent to, and asked: the first two items of whatever comes are all it knows of.
        for node in crowd.clients:
            await asyncio.to_thread(node.send, {"connection": "old-client"}, "to the", "old")
            message = await heard(sink, channels.connection("old-client"))
            assert set(decode_invocation(message).payloads) == {"json", "messagepack"}
            assert message[:2] == b"\x92\x90"
            body = {"connectionId": "old-client", "method": "Ask", "args": [""], "timeoutMs": 500}
            with pytest.raises(FLEET_ERRORS):
                await asyncio.to_thread(node.ask, "/invoke", body)
            question = await heard(sink, channels.connection("old-client"))
            assert question[:2] == b"\x94\x90"

    written(fleet, be_old)
    crowd.is_one_fleet("with the old")


async def heard(sink: RecordingSink, channel: str) -> bytes:
    """The next payload on a channel."""
    await sink.until(lambda: any(name == channel for name, _ in sink.messages))
    return sink.messages.pop(next(n for n, (name, _) in enumerate(sink.messages) if name == channel))[1]
