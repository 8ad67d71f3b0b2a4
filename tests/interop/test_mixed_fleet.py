"""One fleet of a hubplane node and an ASP.NET Core node: every selector, both ways, in both hub protocols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any  # arguments of hub methods

import pytest
from tests.e2e.clients import JsClient, JsDriver
from tests.e2e.nodes import HubNode
from tests.interop.dotnet import AspNetNode

both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])
both_ways = pytest.mark.parametrize("direction", ["from ours", "from theirs"])

Clients = dict[str, JsClient]


@pytest.fixture
def clients(driver: JsDriver, ours: HubNode, theirs: AspNetNode) -> Iterator[Clients]:
    """Six connections: Ann has one on each node in each protocol, Bob and Cid have one each."""
    made = {
        f"ann-{where}-{protocol}": driver.connect(node.chat, protocol, user="ann")
        for where, node in (("ours", ours), ("theirs", theirs))
        for protocol in ("json", "messagepack")
    }
    made["bob-ours"] = driver.connect(ours.chat, "messagepack", user="bob")
    made["cid-theirs"] = driver.connect(theirs.chat, "messagepack", user="cid")
    yield made
    for client in made.values():
        client.stop()


ANN = {"ann-ours-json", "ann-ours-messagepack", "ann-theirs-json", "ann-theirs-messagepack"}
ALL = ANN | {"bob-ours", "cid-theirs"}
RED = {"ann-ours-json", "ann-theirs-messagepack"}
BLUE = {"bob-ours", "cid-theirs", "ann-theirs-messagepack"}

# The method, its arguments, and who hears it; "me" is the caller. Names of clients stand for their connection ids.
SELECTORS: list[tuple[str, list[Any], set[str] | list[str]]] = [
    ("SendMessage", [], ALL),
    ("SendToOthers", [], ALL - {"me"}),
    ("SendToCaller", [], {"me"}),
    ("SendToAllExcept", [["ann-ours-json", "cid-theirs"]], ALL - {"ann-ours-json", "cid-theirs"}),
    ("SendToConnection", ["bob-ours"], {"bob-ours"}),
    ("SendToConnection", ["cid-theirs"], {"cid-theirs"}),
    ("SendToConnections", [["bob-ours", "cid-theirs"]], {"bob-ours", "cid-theirs"}),
    ("SendToGroup", ["red"], RED),
    ("SendToGroup", ["blue"], BLUE),
    ("SendToGroups", [["red", "blue"]], [*RED, *BLUE]),
    ("SendToGroupExcept", ["red", ["ann-ours-json"]], RED - {"ann-ours-json"}),
    ("SendToGroupExcept", ["blue", ["cid-theirs"]], BLUE - {"cid-theirs"}),
    ("SendToUser", ["ann"], ANN),
    ("SendToUsers", [["bob", "cid"]], {"bob-ours", "cid-theirs"}),
]


@pytest.mark.timeout(60)
@pytest.mark.row("R13", "R15", "R16", "R40", "R41", "B133", "B136")
@pytest.mark.parametrize("caller", ["ann-ours-json", "ann-theirs-json", "bob-ours", "cid-theirs"])
def test_every_selector_reaches_exactly_its_connections_on_both_nodes(clients: Clients, caller: str) -> None:
    """Whoever calls, on either node, in either protocol: the same connections of both nodes hear it."""
    for name in RED:
        clients[name].invoke("Join", "red")
    for name in BLUE:
        clients[name].invoke("Join", "blue")

    def with_ids(value: Any) -> Any:
        if isinstance(value, list):
            return [with_ids(item) for item in value]
        return clients[value].connection_id if value in clients else value

    for number, (method, arguments, expected) in enumerate(SELECTORS):
        wanted = Counter(expected)
        if wanted.pop("me", 0):
            wanted[caller] = 1
        elif method == "SendToOthers":
            del wanted[caller]
        text = f"{number} {method}"
        clients[caller].invoke(method, *with_ids(arguments), caller, text)
        for name, times in wanted.items():
            assert [clients[name].message() for _ in range(times)] == [[caller, text]] * times, (method, name)
    # Nobody else heard any of it: what could have strayed was published before these, and every node hears these.
    for client in (clients["bob-ours"], clients["cid-theirs"]):
        client.invoke("Broadcast", "Fence", [])
        for receiver in clients.values():
            assert receiver.message("Fence") == []
    assert {name: client.untaken() for name, client in clients.items()} == {name: [] for name in clients}


@pytest.mark.row("R20", "R23", "R19", "R22")
@both_protocols
@both_ways
def test_group_commands_cross_with_an_acknowledgement(
    driver: JsDriver, ours: HubNode, theirs: AspNetNode, protocol: str, direction: str
) -> None:
    """Either node changes the groups of the other's connections; the change has taken effect when the call returns."""
    nodes = (ours.chat, theirs.chat) if direction == "from ours" else (theirs.chat, ours.chat)
    here, there = (driver.connect(url, protocol) for url in nodes)
    group = f"crossing {protocol} {direction}"
    assert (here.invoke("Add", 1, 1), there.invoke("Add", 1, 1)) == (2, 2)
    for number in range(3):
        there.invoke("Join", group)
        here.invoke("AddOther", there.connection_id, group)
        if direction == "from ours":
            assert theirs.groups_of(there.connection_id) == [group]
        here.invoke("SendToGroup", group, "in", str(number))
        assert there.message() == ["in", str(number)]
        here.invoke("RemoveOther", there.connection_id, group)
        here.invoke("SendToGroup", group, "out", str(number))
        here.invoke("SendToConnection", there.connection_id, "fence", str(number))
        assert there.message() == ["fence", str(number)]
    here.invoke("RemoveOther", there.connection_id, "a group it was never in")
    assert there.untaken() == []
    here.stop()
    there.stop()


@pytest.mark.row("R42")
@both_protocols
def test_user_is_one_on_both_nodes(driver: JsDriver, ours: HubNode, theirs: AspNetNode, protocol: str) -> None:
    """A user's connections on both nodes are one audience, and what is left of it after one of them closed."""
    for first, second in ((ours, theirs), (theirs, ours)):
        leaving = driver.connect(first.chat, protocol, user="dora")
        staying = driver.connect(second.chat, protocol, user="dora")
        sender = driver.connect(first.chat, protocol)
        sender.invoke("SendToUser", "dora", "both", "")
        assert leaving.message() == staying.message() == ["both", ""]
        leaving.stop()
        sender.invoke("SendToUser", "dora", "one", "")
        assert staying.message() == ["one", ""]
        for client in (staying, sender):
            client.stop()


@pytest.mark.row("R43", "R44")
@both_ways
def test_star_is_a_name_like_any_other(driver: JsDriver, ours: HubNode, theirs: AspNetNode, direction: str) -> None:
    """A group and a user called ``*`` match only themselves, on either node."""
    nodes = (ours.chat, theirs.chat) if direction == "from ours" else (theirs.chat, ours.chat)
    starred, named = (driver.connect(url, user=user) for url, user in zip(nodes, ("*", "userA"), strict=True))
    starred.invoke("Join", "*")
    named.invoke("Join", "G")
    for sender in (starred, named):
        for method, name in (("SendToGroup", "G"), ("SendToUser", "userA")):
            sender.invoke(method, name, "named", method)
            assert named.message() == ["named", method]
            sender.invoke(method, "*", "star", method)
            assert starred.message() == ["star", method]
    assert starred.untaken() == named.untaken() == []
    starred.stop()
    named.stop()


VALUES: list[Any] = [
    "plain", "a \x1e b", "żółć 🎉 \U0001f469\u200d\U0001f680", 'quotes " and \\ and </script> & \u2028',
    "", 0, -1, 2**31, -(2**31),
    1.5, True, False, None, [], [1, "two", None, [3]], {"key": "value", "nested": {"n": None}}, "x" * 20_000,
]  # fmt: skip


@pytest.mark.row("B73", "B74")
@both_ways
def test_values_arrive_unchanged_across_the_fleet(
    driver: JsDriver, ours: HubNode, theirs: AspNetNode, direction: str
) -> None:
    """Whatever a client broadcasts on one node, clients of both protocols on both nodes read the same values."""
    source, other = (ours, theirs) if direction == "from ours" else (theirs, ours)
    for spoken in ("json", "messagepack"):
        sender = driver.connect(source.chat, spoken, on=["Values"])
        receivers = [
            driver.connect(node.chat, p, on=["Values"]) for node in (source, other) for p in ("json", "messagepack")
        ]
        sender.invoke("Broadcast", "Values", VALUES)
        for client in (sender, *receivers):
            assert client.message("Values") == VALUES
            client.stop()


@both_protocols
def test_aspnet_hub_context_reaches_our_clients(
    driver: JsDriver, ours: HubNode, theirs: AspNetNode, protocol: str
) -> None:
    """What .NET code sends outside any call, to all, a group, a user or an id, reaches clients of our node."""
    client = driver.connect(ours.chat, protocol, user="fay")
    client.invoke("Join", "lobby")
    for to in (
        {"all": True},
        {"group": "lobby"},
        {"user": "fay"},
        {"connection": client.connection_id},
        {"groups": ["lobby", "none"]},
        {"groupExcept": {"group": "lobby", "except": ["nobody"]}},
    ):
        theirs.send(to, "to", str(next(iter(to))))
        assert client.message() == ["to", next(iter(to))]
    theirs.ask("/groups/remove", {"connectionId": client.connection_id, "group": "lobby", "timeoutMs": 5000})
    theirs.send({"group": "lobby"}, "nobody", "hears this")
    theirs.ask("/groups/add", {"connectionId": client.connection_id, "group": "lobby", "timeoutMs": 5000})
    theirs.send({"group": "lobby"}, "again", "inside")
    assert client.message() == ["again", "inside"]
    client.stop()


@pytest.mark.row("X1", "S14")
@both_ways
def test_order_of_one_publisher_and_channel_holds(
    driver: JsDriver, ours: HubNode, theirs: AspNetNode, direction: str
) -> None:
    """A thousand messages of one sender to one group arrive in order on the other node."""
    source, other = (ours, theirs) if direction == "from ours" else (theirs, ours)
    sender, receiver = driver.connect(source.chat), driver.connect(other.chat, "messagepack")
    receiver.invoke("Join", "row")
    calls = [sender.begin("SendToGroup", "row", "n", str(number)) for number in range(1000)]
    for call in calls:
        sender.end(call)
    assert [receiver.message() for _ in calls] == [["n", str(number)] for number in range(1000)]
    sender.stop()
    receiver.stop()
