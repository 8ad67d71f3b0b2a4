"""Names across the mixed fleet: prefixes, hubs, groups and users, and sending from outside any hub method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.e2e.clients import JsClient, JsDriver
from tests.e2e.processes import eventually
from tests.interop.conftest import PREFIX
from tests.interop.dotnet import AspNetNode
from tests.interop.fleet import FLEET_ERRORS, FleetNode, Node, pair

from hubplane.testing.redis_server import RedisServer

both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])
both_ways = pytest.mark.parametrize("direction", ["from ours", "from theirs"])


@pytest.fixture
def nodes(direction: str, fleet: FleetNode, theirs: AspNetNode) -> tuple[Node, Node]:
    """The node that sends, and the other one."""
    return pair(direction, fleet, theirs)


@pytest.fixture
def start(run: str, redis: RedisServer) -> Iterator[ExitStack]:
    """Nodes of a fleet of their own end with the test."""
    with ExitStack() as stack:
        yield stack


def hears(client: JsClient, *senders: Node, to: dict[str, object], text: str) -> None:
    """Each of the nodes reaches the client, in turn."""
    for number, sender in enumerate(senders):
        sender.send(to, text, str(number))
        assert client.message() == [text, str(number)]


@pytest.mark.row("R13", "R15", "R16", "B136")
@both_ways
@both_protocols
def test_every_audience_from_outside_a_method(driver: JsDriver, nodes: tuple[Node, Node], protocol: str) -> None:
    """Sent outside any call, each audience reaches exactly its clients, on both nodes."""
    source, other = nodes
    ann, bob = driver.connect(source.chat, protocol, user="ann-o"), driver.connect(other.chat, protocol, user="bob-o")
    for client in (ann, bob):
        client.invoke("Join", "outside")
    bob.invoke("Join", "outside too")
    everybody: list[tuple[dict[str, object], list[JsClient]]] = [
        ({"all": True}, [ann, bob]),
        ({"except": [ann.connection_id]}, [bob]),
        ({"except": [bob.connection_id]}, [ann]),
        ({"connection": bob.connection_id}, [bob]),
        ({"connections": [ann.connection_id, bob.connection_id, "nobody"]}, [ann, bob]),
        ({"group": "outside"}, [ann, bob]),
        ({"groups": ["outside", "outside too"]}, [ann, bob, bob]),
        ({"groupExcept": {"group": "outside", "except": [bob.connection_id]}}, [ann]),
        ({"user": "bob-o"}, [bob]),
        ({"users": ["ann-o", "bob-o"]}, [ann, bob]),
    ]
    for to, hearers in everybody:
        text = next(iter(to))
        source.send(to, text, "")
        for client in hearers:
            assert client.message() == [text, ""], (to, client.name)
    source.send({"all": True}, method="Fence")
    for client in (ann, bob):
        assert client.message("Fence") == []
        assert client.untaken() == []
        client.stop()


GROUPS = ["*", "a:b:internal:groups", "Zürich 🎉", "Room", "room", "?[x]\\", "x" * 300, " ", "all"]


@pytest.mark.row("R20", "R23", "R38")
@both_ways
def test_any_group_name_works_across_nodes(driver: JsDriver, nodes: tuple[Node, Node]) -> None:
    """Whatever a group is called, either node adds the other's client, reaches it, and takes it out again."""
    source, other = nodes
    client = driver.connect(other.chat, "messagepack")
    for name in GROUPS:
        body = {"connectionId": client.connection_id, "group": name, "timeoutMs": 10_000}
        source.ask("/groups/add", body)
        hears(client, source, other, to={"group": name}, text=name)
        source.ask("/groups/remove", body)
        source.send({"group": name}, "nobody", "hears this")
        hears(client, source, other, to={"connection": client.connection_id}, text="fence")
    assert client.untaken() == []
    client.stop()


@pytest.mark.row("X17")
def test_group_without_a_name(driver: JsDriver, fleet: FleetNode, theirs: AspNetNode) -> None:
    """ASP.NET Core takes the empty name for a group; ours adds no one to it by itself, and is its equal otherwise."""
    client = driver.connect(fleet.chat)
    theirs.ask("/groups/add", {"connectionId": client.connection_id, "group": "", "timeoutMs": 10_000})
    hears(client, fleet, theirs, to={"group": ""}, text="nameless")
    theirs.ask("/groups/remove", {"connectionId": client.connection_id, "group": "", "timeoutMs": 10_000})
    for node in (fleet, theirs):
        node.send({"group": ""}, "nobody", "hears this")
        node.send({"groups": ["", ""]}, "nobody", "hears this")
    hears(client, fleet, theirs, to={"connection": client.connection_id}, text="fence")
    client.stop()


@both_ways
def test_any_user_name_works_across_nodes(driver: JsDriver, nodes: tuple[Node, Node]) -> None:
    """User ids may hold separators and wildcards; they are compared exactly."""
    source, other = nodes
    for name in ("*", "a:b", "Case", "case", "a@b.example", "?[x]"):
        client = driver.connect(other.chat, user=name)
        hears(client, source, other, to={"user": name}, text=name)
        if name != name.swapcase():
            source.send({"user": name.swapcase()}, "nobody", "hears this")
        hears(client, source, to={"connection": client.connection_id}, text="fence")
        client.stop()


@pytest.mark.row("X2")
def test_client_that_exists_nowhere_joins_nothing(fleet: FleetNode, theirs: AspNetNode) -> None:
    """Ours says at once that no node has the connection; ASP.NET Core waits for the asker's own limit."""
    for node in (fleet, theirs):
        with pytest.raises(FLEET_ERRORS) as failed:
            node.ask("/groups/add", {"connectionId": "nowhere", "group": "g", "timeoutMs": 1000})
        if node is fleet:
            assert failed.value.kind == "AckTimeoutError"  # type: ignore[attr-defined]


@both_ways
def test_large_message_crosses(driver: JsDriver, nodes: tuple[Node, Node]) -> None:
    """A message of a megabyte reaches clients of both protocols on the other node."""
    clients = [driver.connect(nodes[1].chat, protocol) for protocol in ("json", "messagepack")]
    nodes[0].send({"connections": [client.connection_id for client in clients]}, "big", "x" * 1_000_000)
    for client in clients:
        assert client.message() == ["big", "x" * 1_000_000]
        client.stop()


@pytest.mark.row("X15")
@both_ways
def test_two_hubs_do_not_hear_each_other_across_nodes(driver: JsDriver, nodes: tuple[Node, Node]) -> None:
    """What one hub sends on one node never reaches clients of the other hub on the other node."""
    source, other = nodes
    strict = driver.connect(f"{other.url}/strict", user="eve")
    chat = driver.connect(other.chat, user="eve")
    for to in ({"all": True}, {"user": "eve"}):
        source.ask("/send", {"to": to, "method": "ReceiveMessage", "args": ["chat", ""]})
        assert chat.message() == ["chat", ""]
        source.ask("/send", {"to": to, "method": "ReceiveMessage", "args": ["strict", ""], "hub": "strict"})
        assert strict.message() == ["strict", ""]
    assert chat.untaken() == strict.untaken() == []
    strict.stop()
    chat.stop()


@pytest.mark.row("S28", "S29")
def test_prefix_separates_and_joins(driver: JsDriver, redis: RedisServer, theirs: AspNetNode, start: ExitStack) -> None:
    """On one Redis a hubplane node with another prefix, or none, neither hears nor reaches the ASP.NET Core node."""
    foreign = [
        start.enter_context(FleetNode(redis.configuration, "Other")),
        start.enter_context(FleetNode(redis.configuration)),
    ]
    inside = driver.connect(theirs.chat, user="ann-p")
    outside = [driver.connect(node.chat, user="ann-p") for node in foreign]
    audiences: list[dict[str, object]] = [{"all": True}, {"user": "ann-p"}]
    for to in audiences:
        for node, client in zip(foreign, outside, strict=True):
            hears(client, node, to=to, text="foreign")
        hears(inside, theirs, to=to, text="inside")
    for node in foreign:
        with pytest.raises(FLEET_ERRORS, match="does not exist"):
            node.ask("/invoke", {"connectionId": inside.connection_id, "method": "Ask", "args": [], "timeoutMs": 5000})
    for client in (inside, *outside):
        assert client.untaken() == []
        client.stop()


@pytest.mark.row("S30")
@pytest.mark.parametrize(
    ("prefix", "hub_name", "one_fleet"),
    [
        ("", "Interop.ChatHub", True),
        ("Inter", "op.ChatHub", True),
        ("", "Interop.OtherHub", False),
        ("", "interop.chathub", False),
    ],
    ids=["same names", "same when joined", "another hub", "another case"],
)
def test_without_prefixes_the_full_name_decides(
    run: str, driver: JsDriver, redis: RedisServer, start: ExitStack, prefix: str, hub_name: str, one_fleet: bool
) -> None:
    """Prefix and hub name are one name on the wire: two apps hear each other when, and only when, it is the same."""
    ours = start.enter_context(FleetNode(redis.configuration, prefix, hub_name))
    bare = start.enter_context(AspNetNode(run, f"{redis.configuration},abortConnect=false", ""))
    assert eventually(ours.redis_connected)
    assert eventually(bare.redis_connected)
    mine, other = driver.connect(ours.chat), driver.connect(bare.chat)
    if one_fleet:
        for client in (mine, other):
            hears(client, ours, bare, to={"connection": client.connection_id}, text="joined")
    for sender in (ours, bare):
        sender.send({"all": True}, "all", sender.url)
        for client, node in ((mine, ours), (other, bare)):
            if one_fleet or node is sender:
                assert client.message() == ["all", sender.url]
    for client, node in ((mine, ours), (other, bare)):
        hears(client, node, to={"connection": client.connection_id}, text="fence")
        assert client.untaken() == []
        client.stop()


def test_prefix_of_the_fleet_is_on_every_channel(redis: RedisServer, fleet: FleetNode, theirs: AspNetNode) -> None:
    """Nodes of both kinds subscribe nothing outside their prefix."""
    channels = redis.command("PUBSUB", "CHANNELS", "*")
    assert isinstance(channels, list)
    assert {bytes(name)[: len(PREFIX)] for name in channels} == {PREFIX.encode()}  # type: ignore[arg-type]
