"""Microsoft's JavaScript client over each transport it has, in both hub protocols where the transport carries them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from tests.e2e.clients import ClientError, JsClient, JsDriver
from tests.e2e.nodes import HubNode
from tests.e2e.processes import eventually

ways = pytest.mark.parametrize(
    ("transport", "protocol"),
    [("ws", "json"), ("ws", "messagepack"), ("sse", "json"), ("lp", "json"), ("lp", "messagepack")],
)
over_http = pytest.mark.parametrize(("transport", "protocol"), [("sse", "json"), ("lp", "json"), ("lp", "messagepack")])


@pytest.fixture(scope="module")
def node() -> Iterator[HubNode]:
    """One node in memory."""
    with HubNode(name="alone") as running:
        yield running


@pytest.mark.row("B73", "B74")
@ways
def test_calls_and_results(driver: JsDriver, node: HubNode, transport: str, protocol: str) -> None:
    """Calls are answered over every transport, large ones too, and the user's token arrives."""
    client = driver.connect(node.chat, protocol, transport=transport, user="ann")
    assert client.invoke("Add", 1, 2) == 3
    assert client.invoke("Echo", "żółć 🎉 \x1e\r\n") == "żółć 🎉 \x1e\r\n"
    assert client.invoke("Echo", "x" * 30_000) == "x" * 30_000
    assert client.invoke("WhoAmI") == {"connectionId": client.connection_id, "userId": "ann", "node": "alone"}
    with pytest.raises(ClientError, match="a hub failure"):
        client.invoke("Fail", "hub")
    client.stop()


@pytest.mark.row("B57", "B59")
@ways
def test_many_calls_keep_their_order(driver: JsDriver, node: HubNode, transport: str, protocol: str) -> None:
    """Two hundred sends at once, and a broadcast for each of them, arrive whole and in order at every client."""
    sender = driver.connect(node.chat, protocol, transport=transport)
    listener = driver.connect(node.chat, "json", transport="lp" if transport == "ws" else "ws")
    assert listener.invoke("Add", 1, 1) == 2
    calls = [sender.begin("SendMessage", "me", str(number)) for number in range(200)]
    for call in calls:
        sender.end(call)
    for client in (sender, listener):
        assert [client.message() for _ in range(200)] == [["me", str(number)] for number in range(200)]
        client.stop()


@ways
def test_streams(driver: JsDriver, node: HubNode, transport: str, protocol: str) -> None:
    """A stream's items arrive over every transport, in order, whether they come at once or one by one."""
    client = driver.connect(node.chat, protocol, transport=transport)
    assert client.stream("Counter", 500, 0) == (list(range(500)), None)
    assert client.stream("Counter", 5, 20) == (list(range(5)), None)
    client.stop()


@over_http
def test_client_that_stops_leaves_its_groups(driver: JsDriver, node: HubNode, transport: str, protocol: str) -> None:
    """After a client's stop the hub does not know it any more, and others are not disturbed."""
    leaver = driver.connect(node.chat, protocol, transport=transport, user="leaver")
    stayer = driver.connect(node.chat, protocol, transport=transport, user="stayer")
    for client in (leaver, stayer):
        client.invoke("Join", f"room-{transport}-{protocol}")
    leaver.stop()
    assert leaver.state == "Disconnected"
    stayer.invoke("SendToGroup", f"room-{transport}-{protocol}", "stayer", "still here")
    assert stayer.message() == ["stayer", "still here"]
    assert leaver.untaken() == []
    stayer.stop()


@over_http
def test_abort_by_the_hub_ends_the_client(driver: JsDriver, node: HubNode, transport: str, protocol: str) -> None:
    """When the hub aborts the connection, the client gets the Close message and stops without an error."""
    client = driver.connect(node.chat, protocol, transport=transport, reconnect=[0])
    client.send("Abort")
    closed = client.event("closed")
    assert closed is not None
    assert closed["error"] is None
    assert client.event("reconnecting", timeout=0) is None


@pytest.mark.row("B42")
def test_client_does_not_take_events_for_messagepack(driver: JsDriver, node: HubNode) -> None:
    """Negotiate tells that events carry text only, so the client does not try them with the binary protocol."""
    with pytest.raises(ClientError, match="does not support Binary"):
        driver.connect(node.chat, "messagepack", transport="sse")


def test_idle_clients_stay(driver: JsDriver, node: HubNode) -> None:
    """Clients that say nothing for longer than the disconnect timeout are still connected, over each transport."""
    clients = [driver.connect(node.chat, "json", transport=transport) for transport in ("ws", "sse", "lp")]
    for client in clients:
        assert client.invoke("Add", 1, 1) == 2
    time.sleep(17)  # the time itself is the matter: polls and pings have to bridge the timeout of 15 s
    clients[0].invoke("SendMessage", "first", "after a while")
    for client in clients:
        assert client.message() == ["first", "after a while"]
        assert client.state == "Connected"
        client.stop()


@pytest.mark.row("B129")
@over_http
def test_clients_of_a_node_that_stops(driver: JsDriver, transport: str, protocol: str) -> None:
    """SIGTERM lets clients over HTTP reconnect and ends the process in time, whatever they do."""
    with HubNode(name="stopping") as node:
        client = driver.connect(node.chat, protocol, transport=transport, reconnect=[60_000])
        assert client.invoke("Add", 1, 1) == 2
        started = time.monotonic()
        assert node.stop() == 0
        assert client.event("reconnecting") is not None
        assert time.monotonic() - started < 15
        eventually(lambda: client.state == "Reconnecting")
        client.stop()


def test_negotiate_offers_all_transports(node: HubNode) -> None:
    """All three transports are offered, in the order in which clients prefer them."""
    answer = httpx.post(f"{node.chat}/negotiate?negotiateVersion=1", trust_env=False).json()
    assert [each["transport"] for each in answer["availableTransports"]] == [
        "WebSockets",
        "ServerSentEvents",
        "LongPolling",
    ]


@pytest.mark.row("R39", "R40", "R41", "R42", "R43", "R44")
@ways
def test_two_nodes_over_one_redis(
    driver: JsDriver, pair: tuple[HubNode, HubNode], transport: str, protocol: str
) -> None:
    """On every transport groups and users span both nodes, what is left of a user hears on, and a star is a name."""
    name = f"{transport}-{protocol}"

    def connect(node: HubNode, user: str) -> JsClient:
        return driver.connect(node.chat, protocol, transport=transport, user=user)

    one, two = connect(pair[0], name), connect(pair[1], name)
    for client in (one, two):
        assert client.invoke("Echo", "Hello, World!") == "Hello, World!"
        client.invoke("Join", f"group {name}")
    one.invoke("SendToGroup", f"group {name}", "one", "to the group")
    two.invoke("SendToUser", name, "two", "to the user")
    for client in (one, two):
        assert [client.message(), client.message()] == [["one", "to the group"], ["two", "to the user"]]
    one.stop()
    starred, named = connect(pair[0], "*"), connect(pair[1], f"{name}-too")
    starred.invoke("SendToUser", name, "starred", "to who is left")
    assert two.message() == ["starred", "to who is left"]
    starred.invoke("Join", "*")
    named.invoke("Join", f"named {name}")
    for sender in (starred, named):
        for method, other in (("SendToGroup", f"named {name}"), ("SendToUser", f"{name}-too")):
            sender.invoke(method, other, "named", method)
            assert named.message() == ["named", method]
            sender.invoke(method, "*", "starred", method)
            assert starred.message() == ["starred", method]
    for client in (two, starred, named):
        client.invoke("SendToCaller", "the", "fence")
        assert client.message() == ["the", "fence"]
        assert client.untaken() == []
        client.stop()
