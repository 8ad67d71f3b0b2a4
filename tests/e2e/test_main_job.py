"""The main job: Microsoft's JavaScript client on two nodes, over a real Redis-compatible server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any  # arguments of hub methods

import httpx
import pytest
from tests.e2e.clients import ClientError, JsClient, JsDriver
from tests.e2e.conftest import PREFIX
from tests.e2e.nodes import HubNode
from tests.e2e.processes import eventually

from hubplane.testing.redis_server import RedisServer

Pair = tuple[HubNode, HubNode]

both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])


@pytest.fixture
def clients(driver: JsDriver, pair: Pair) -> Iterator[dict[str, JsClient]]:
    """Four connections: two on each node, of both protocols; Ann has one on each node."""
    one, two = pair
    made = {
        "ann-one": driver.connect(one.chat, "json", user="ann"),
        "bob-one": driver.connect(one.chat, "messagepack", user="bob"),
        "ann-two": driver.connect(two.chat, "messagepack", user="ann"),
        "cid-two": driver.connect(two.chat, "json", user="cid"),
    }
    yield made
    for client in made.values():
        client.stop()


@pytest.mark.row("R39", "B73", "B74")
@both_protocols
@pytest.mark.parametrize(
    "value", ["Hello, World!", "żółć 🎉 \x1e \\u001e", "", 0, -1, 2.5, True, None, [1, "a"], {"k": [None]}]
)
def test_invoke_gives_back_what_the_method_returns(driver: JsDriver, pair: Pair, protocol: str, value: Any) -> None:
    """A hub method's arguments and its result arrive unchanged in both hub protocols."""
    client = driver.connect(pair[0].chat, protocol)
    assert client.invoke("Echo", value) == value
    client.stop()


def settle(*clients: JsClient) -> None:
    """A client counts itself connected before its node does; the answer to a call means that both do."""
    for client in clients:
        assert client.invoke("Add", 1, 1) == 2


BINDING = (
    "Error binding arguments. Make sure that the types of the provided values match the types of the hub method being "
    "invoked."
)

# The text without detailed errors, and what they add; None where that is nothing.
ERRORS = [
    ("_user", [], "Failed to invoke '_user' due to an error on the server. HubException: Method does not exist.", None),
    ("Nope", [], "Failed to invoke 'Nope' due to an error on the server. HubException: Method does not exist.", None),
    (
        "OnConnected",
        [],
        "Failed to invoke 'OnConnected' due to an error on the server. HubException: Method does not exist.",
        None,
    ),
    (
        "add",
        [1],
        "Failed to invoke 'Add' due to an error on the server.",
        " InvalidDataException: Invocation provides 1 argument(s) but target expects 2.",
    ),
    (
        "Add",
        [1, "two"],
        "Failed to invoke 'Add' due to an error on the server.",
        " InvalidDataException: " + BINDING,
    ),
    ("Fail", ["hub"], "An unexpected error occurred invoking 'Fail' on the server. HubException: a hub failure", None),
    ("Fail", ["other"], "An unexpected error occurred invoking 'Fail' on the server.", " ValueError: a failure"),
    (
        "Counter",
        [1, 0],
        "The client attempted to invoke the streaming 'Counter' method with a non-streaming invocation.",
        None,
    ),
]


@pytest.mark.row("B88", "B89", "B91", "B105")
@both_protocols
@pytest.mark.parametrize(("method", "arguments", "text", "detail"), ERRORS, ids=lambda value: str(value)[:12])
def test_failed_call_tells_the_reference_text(
    driver: JsDriver, pair: Pair, protocol: str, method: str, arguments: list[Any], text: str, detail: str | None
) -> None:
    """A failed call has ASP.NET Core's text, longer with detailed errors, and the connection stays usable."""
    for node, expected in zip(pair, (text, text + (detail or "")), strict=True):
        client = driver.connect(node.chat, protocol)
        with pytest.raises(ClientError) as failed:
            client.invoke(method, *arguments)
        assert str(failed.value) == expected
        assert client.invoke("Add", 1, 2) == 3
        client.stop()


@pytest.mark.row("B105")
@both_protocols
def test_plain_method_called_as_a_stream_tells_the_reference_text(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """A streaming call of a method that returns a value ends with ASP.NET Core's text."""
    client = driver.connect(pair[0].chat, protocol)
    items, error = client.stream("Add", 1, 2)
    assert items == []
    assert error == "The client attempted to invoke the non-streaming 'Add' method with a streaming invocation."
    client.stop()


@pytest.mark.row("B89")
def test_empty_method_name_is_an_unknown_method_in_json_and_an_end_in_messagepack(driver: JsDriver, pair: Pair) -> None:
    """A call without a name is answered in JSON, and breaks the protocol in MessagePack."""
    client = driver.connect(pair[0].chat, "json")
    with pytest.raises(ClientError) as failed:
        client.invoke("")
    assert (
        str(failed.value) == "Failed to invoke '' due to an error on the server. HubException: Method does not exist."
    )
    client.stop()
    client = driver.connect(pair[0].chat, "messagepack")
    call = client.begin("")
    closed = client.event("closed")
    assert closed is not None
    assert closed["error"]["message"] == "Server returned an error on close: Connection closed with an error."
    with pytest.raises(ClientError):
        client.end(call)


@pytest.mark.row("B92")
@both_protocols
def test_method_without_result_gives_null(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """A method that returns nothing completes with null."""
    client = driver.connect(pair[0].chat, protocol)
    assert client.invoke("SendToCaller", "me", "to myself") is None
    assert client.message() == ["me", "to myself"]
    client.stop()


ALL = {"ann-one", "bob-one", "ann-two", "cid-two"}

# Who calls what, and who hears it. Names of clients stand for their connection ids.
SELECTORS: list[tuple[str, list[Any], set[str] | list[str]]] = [
    ("SendMessage", [], ALL),
    ("SendToOthers", [], ALL - {"ann-one"}),
    ("SendToCaller", [], {"ann-one"}),
    ("SendToAllExcept", [["ann-one", "cid-two"]], {"bob-one", "ann-two"}),
    ("SendToConnection", ["cid-two"], {"cid-two"}),
    ("SendToConnection", ["bob-one"], {"bob-one"}),
    ("SendToConnection", ["nobody"], set()),
    ("SendToConnections", [["bob-one", "ann-two"]], {"bob-one", "ann-two"}),
    ("SendToGroup", ["red"], {"ann-one", "ann-two"}),
    ("SendToGroup", ["Red"], set()),
    ("SendToGroups", [["red", "blue"]], ["ann-one", "ann-two", "bob-one", "ann-two"]),
    ("SendToGroupExcept", ["red", ["ann-two"]], {"ann-one"}),
    ("SendToOthersInGroup", ["red"], {"ann-two"}),
    ("SendToUser", ["ann"], {"ann-one", "ann-two"}),
    ("SendToUser", ["Ann"], set()),
    ("SendToUsers", [["bob", "cid"]], {"bob-one", "cid-two"}),
]


@pytest.mark.row("B133", "B135", "B136", "R13", "R15", "R16", "R40", "R41", "S11")
def test_every_selector_reaches_exactly_its_connections_on_both_nodes(clients: dict[str, JsClient]) -> None:
    """All, others, groups, users and connections, with and without exceptions, are the same on either node."""
    for name, group in [("ann-one", "red"), ("ann-two", "red"), ("bob-one", "blue"), ("ann-two", "blue")]:
        clients[name].invoke("Join", group)

    def with_ids(value: Any) -> Any:
        if isinstance(value, list):
            return [with_ids(item) for item in value]
        return clients[value].connection_id if value in clients else value

    for number, (method, arguments, expected) in enumerate(SELECTORS):
        clients["ann-one"].invoke(method, *with_ids(arguments), "ann", f"message {number}")
        # Behind everything that was sent before, in the order of one publisher.
        clients["ann-one"].invoke("Broadcast", "Fence", [])
        heard = []
        for name, client in clients.items():
            assert client.message("Fence") == []
            while (message := client.message("ReceiveMessage", timeout=0)) is not None:
                assert message == ["ann", f"message {number}"]
                heard.append(name)
        assert sorted(heard) == sorted(expected), method


@pytest.mark.row("R20", "R23", "R19")
@both_protocols
def test_connection_on_the_other_node_joins_and_leaves_a_group(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """A group command for a connection on another node has taken effect when the call returns."""
    here, there = (driver.connect(node.chat, protocol) for node in pair)
    settle(here, there)
    group = f"late-{protocol}"
    for round_number in range(3):
        here.invoke("AddOther", there.connection_id, group)
        here.invoke("SendToGroup", group, "here", f"in {round_number}")
        assert there.message() == ["here", f"in {round_number}"]
        here.invoke("RemoveOther", there.connection_id, group)
        here.invoke("SendToGroup", group, "here", "out")
        here.invoke("SendToConnection", there.connection_id, "here", "fence")
        assert there.message() == ["here", "fence"]
    here.invoke("RemoveOther", there.connection_id, "never joined")
    here.stop()
    there.stop()


@pytest.mark.row("B134", "S36", "R21", "R18")
@both_protocols
def test_membership_belongs_to_one_connection(driver: JsDriver, redis: RedisServer, pair: Pair, protocol: str) -> None:
    """Joining twice counts once, leaving twice is no error, and the client's next connection is in no group."""
    group = f"once {protocol}"
    client = driver.connect(pair[0].chat, protocol, user="ann")
    client.invoke("Join", group)
    client.invoke("Join", group)
    client.invoke("SendToGroup", group, "heard", "once")
    client.invoke("SendToGroup", group.upper(), "another", "group")
    client.invoke("Broadcast", "Fence", [])
    assert client.message("Fence") == []
    assert client.untaken() == [["heard", "once"]]
    client.invoke("Leave", group)
    client.invoke("Leave", group)
    client.invoke("Join", group)
    client.stop()
    channel = f"{PREFIX}Interop.ChatHub:group:{group}"
    assert eventually(lambda: redis.command("PUBSUB", "NUMSUB", channel) == [channel.encode(), 0])
    again = driver.connect(pair[1].chat, protocol, user="ann")
    again.invoke("SendToGroup", group, "nobody", "here")
    again.invoke("Broadcast", "Fence", [])
    assert again.message("Fence") == []
    assert again.untaken() == []
    again.stop()


@pytest.mark.row("R42")
@both_protocols
def test_user_with_two_connections_keeps_hearing_after_one_closed(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """The connection of a user that stays hears the user's messages, whichever node the other one was on."""
    for first, second in (pair, pair[::-1]):
        leaving = driver.connect(first.chat, protocol, user="dora")
        staying = driver.connect(second.chat, protocol, user="dora")
        leaving.stop()
        for node in pair:
            sender = driver.connect(node.chat, protocol)
            sender.invoke("SendToUser", "dora", "to", "dora")
            assert staying.message() == ["to", "dora"]
            sender.stop()
        staying.stop()


@pytest.mark.row("R43", "R44", "R38")
@both_protocols
@pytest.mark.parametrize("kind", ["group", "user"])
def test_star_is_a_name_like_any_other(
    driver: JsDriver, redis: RedisServer, pair: Pair, protocol: str, kind: str
) -> None:
    """A group or a user called ``*`` matches only itself, and no pattern is ever subscribed."""
    one, two = pair
    starred = driver.connect(one.chat, protocol, user="*")
    named = driver.connect(two.chat, protocol, user="userA")
    method, name = ("SendToUser", "userA") if kind == "user" else ("SendToGroup", "G")
    if kind == "group":
        starred.invoke("Join", "*")
        named.invoke("Join", "G")
    for sender in (starred, named):
        sender.invoke(method, name, "to", "named")
        sender.invoke(method, "*", "to", "star")
        for client in (starred, named):
            sender.invoke("SendToConnection", client.connection_id, "the", "fence")
        assert [starred.message(), starred.message()] == [["to", "star"], ["the", "fence"]]
        assert [named.message(), named.message()] == [["to", "named"], ["the", "fence"]]
    assert redis.command("PUBSUB", "NUMPAT") == 0
    starred.stop()
    named.stop()


@pytest.mark.row("S28")
@both_protocols
def test_two_apps_with_two_prefixes_do_not_hear_each_other(
    driver: JsDriver, redis: RedisServer, pair: Pair, protocol: str
) -> None:
    """The same hub on the same Redis under another channel prefix is another app: messages, users and groups."""
    with HubNode(redis.configuration, "other:", "stranger") as stranger:
        ours = [driver.connect(node.chat, protocol, user="eve") for node in pair]
        theirs = driver.connect(stranger.chat, protocol, user="eve")
        for client in (*ours, theirs):
            client.invoke("Join", "shared name")
        for sender, text in ((ours[0], "ours"), (theirs, "theirs")):
            sender.invoke("SendMessage", "all", text)
            sender.invoke("SendToUser", "eve", "user", text)
            sender.invoke("SendToGroup", "shared name", "group", text)
            sender.invoke("SendToConnections", [c.connection_id for c in (*ours, theirs)], "ids", text)
        kinds = ["all", "user", "group", "ids"]
        for client in ours:
            assert [client.message() for _ in kinds] == [[kind, "ours"] for kind in kinds]
        assert [theirs.message() for _ in kinds] == [[kind, "theirs"] for kind in kinds]
        # Whatever could have strayed was published before these, on the same two sockets.
        ours[0].invoke("Broadcast", "Fence", [])
        theirs.invoke("Broadcast", "Fence", [])
        for client in (*ours, theirs):
            assert client.message("Fence") == []
            assert client.untaken() == []
            client.stop()


@pytest.mark.row("S30")
def test_two_apps_without_prefixes_share_a_hub_of_the_same_name(driver: JsDriver, redis: RedisServer) -> None:
    """Without prefixes, hubs with the same full name hear each other, whichever app they belong to."""
    with HubNode(redis.configuration, name="app 1") as first, HubNode(redis.configuration, name="app 2") as second:
        sender, receiver = driver.connect(first.chat), driver.connect(second.chat)
        strict = driver.connect(f"{second.url}/strict", user="x")
        sender.invoke("SendMessage", "from", "app 1")
        assert receiver.message() == ["from", "app 1"]
        strict.invoke("SendToCaller", "the", "fence")
        assert strict.message() == ["the", "fence"], "a hub of another name does not hear it"
        for client in (sender, receiver, strict):
            client.stop()


@pytest.mark.row("B24")
@both_protocols
def test_token_makes_the_user(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """The bearer token that the client sends is the user's id on the server; without one there is no user."""
    for user in ("ann", "Ann", None):
        client = driver.connect(pair[0].chat, protocol, user=user)
        assert client.invoke("WhoAmI") == {"connectionId": client.connection_id, "userId": user, "node": "one"}
        client.stop()
    # The query, as a browser's WebSocket has it, and the header.
    negotiate = f"{pair[0].url}/strict/negotiate"
    assert httpx.post(negotiate).status_code == 401
    assert httpx.post(negotiate, params={"access_token": "user:ann"}).status_code == 200
    assert httpx.post(negotiate, headers={"Authorization": "Bearer user:ann"}).status_code == 200


@pytest.mark.row("B23")
@both_protocols
def test_hub_for_users_only_refuses_everybody_else(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """A hub behind authentication answers every request of nobody with 401, WebSockets too, and lets users in."""
    strict = f"{pair[0].url}/strict"
    with pytest.raises(ClientError, match="401"):
        driver.connect(strict, protocol)
    with pytest.raises(ClientError):
        driver.connect(strict, protocol, skipNegotiation=True)
    for method in ("GET", "POST", "DELETE"):
        assert httpx.request(method, strict, params={"id": "some"}).status_code == 401
    allowed = driver.connect(strict, protocol, user="ann")
    assert allowed.invoke("WhoAmI")["userId"] == "ann"
    allowed.stop()


@pytest.mark.row("B15")
@both_protocols
def test_client_may_skip_negotiation(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """A WebSocket without an id is a new connection."""
    client = driver.connect(pair[0].chat, protocol, skipNegotiation=True)
    assert client.connection_id is None
    assert client.invoke("Add", 2, 3) == 5
    client.stop()


@pytest.mark.row("B102")
@both_protocols
def test_stream_gives_its_items_in_order(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """An async generator streams its items to the client and then completes."""
    client = driver.connect(pair[0].chat, protocol)
    assert client.stream("Counter", 50, 0) == (list(range(50)), None)
    assert client.stream("Counter", 0, 0) == ([], None)
    client.stop()


@pytest.mark.row("B94")
@both_protocols
def test_calls_of_one_connection_run_in_order(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """Calls that are sent together are answered one after the other, and their sends arrive in that order."""
    client = driver.connect(pair[0].chat, protocol)
    other = driver.connect(pair[1].chat, protocol)
    calls = [client.begin("SendMessage", "n", str(number)) for number in range(100)]
    for call in calls:
        client.end(call)
    for receiver in (client, other):
        assert [receiver.message() for _ in calls] == [["n", str(number)] for number in range(100)]
    slow, fast = client.begin("Sleep", 150), client.begin("Add", 1, 1)
    assert (client.end(fast), client.end(slow)) == (2, 150)
    answers = [e["id"] for e in driver.events if e["event"] == "result" and e["id"] in {slow, fast}]
    assert answers == [slow, fast], "the second call began when the first had ended"
    client.stop()
    other.stop()


@pytest.mark.row("B128")
@both_protocols
def test_aborted_client_is_told_not_to_come_back(driver: JsDriver, pair: Pair, protocol: str) -> None:
    """After `abort` the client's connection ends without an attempt to reconnect, though it would."""
    client = driver.connect(pair[0].chat, protocol, reconnect=[0, 0, 0])
    call = client.begin("Abort")
    closed = client.event("closed")
    assert closed is not None
    assert closed["error"] is None
    assert client.event("reconnecting", timeout=0) is None
    with pytest.raises(ClientError):
        client.end(call)


@pytest.mark.row("S1")
def test_nothing_is_stored_in_redis(redis: RedisServer, clients: dict[str, JsClient]) -> None:
    """The compatible mode uses publish and subscribe only: no key is ever written."""
    clients["ann-one"].invoke("Join", "room")
    clients["cid-two"].invoke("SendToGroup", "room", "a", "b")
    assert clients["ann-one"].message() == ["a", "b"]
    assert redis.command("DBSIZE") == 0
    channels = redis.command("PUBSUB", "CHANNELS", f"{PREFIX}Interop.ChatHub:group:room")
    assert channels == [f"{PREFIX}Interop.ChatHub:group:room".encode()]
