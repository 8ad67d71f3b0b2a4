"""Microsoft's .NET client on a hubplane node."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.e2e.breaks import BreakingProxy
from tests.e2e.nodes import HubNode
from tests.interop.dotnet import AspNetNode, DotnetClient, DotnetError

both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])

Connect = Callable[..., DotnetClient]


@pytest.fixture
def connect(run: str) -> Iterator[Connect]:
    """Starts .NET clients that end with the test."""
    made: list[DotnetClient] = []

    def start(url: str, protocol: str = "json", *, user: str = "", options: tuple[str, ...] = ()) -> DotnetClient:
        client = DotnetClient(run, url, protocol, user=user, options=options)
        made.append(client)
        client.on("ReceiveMessage", 2)
        return client

    yield start
    for client in made:
        client.__exit__()


@pytest.mark.row("B158", "R39")
@both_protocols
@pytest.mark.parametrize("options", [(), ("--skip-negotiation",)], ids=["negotiated", "direct"])
def test_dotnet_client_connects_and_calls(
    connect: Connect, ours: HubNode, protocol: str, options: tuple[str, ...]
) -> None:
    """The .NET client connects, with and without negotiation, calls, is called, and closes without an error."""
    client = connect(ours.chat, protocol, user="net", options=options)
    assert client.invoke("Add", 1, 2, resultType="int") == 3
    for value in ("żółć 🎉", "", 1.5, None, [1, "two"], {"a": {"b": None}}):
        assert client.invoke("Echo", value) == value
    identity = client.invoke("WhoAmI")
    assert (identity["userId"], identity["node"]) == ("net", "ours")
    client.invoke("SendToCaller", "to", "myself")
    assert client.message() == ["to", "myself"]
    client.do("stop")
    closed = client.event("closed")
    assert closed is not None
    assert closed["error"] is None


@pytest.mark.row("B88", "B91")
@both_protocols
def test_dotnet_client_reads_our_errors(connect: Connect, ours: HubNode, protocol: str) -> None:
    """Failed calls are .NET's HubException with the reference's texts, and the connection stays usable."""
    client = connect(ours.chat, protocol)
    for method, arguments, text in (
        ("Nope", [], "Failed to invoke 'Nope' due to an error on the server. HubException: Method does not exist."),
        ("add", [1], "Failed to invoke 'Add' due to an error on the server."),
        ("Add", ["one", 2], "Failed to invoke 'Add' due to an error on the server."),
        ("Fail", ["hub"], "An unexpected error occurred invoking 'Fail' on the server. HubException: a hub failure"),
        ("Fail", ["other"], "An unexpected error occurred invoking 'Fail' on the server."),
    ):
        with pytest.raises(DotnetError) as failed:
            client.invoke(method, *arguments)
        assert failed.value.kind == "Microsoft.AspNetCore.SignalR.HubException"
        assert failed.value.text == text
        assert client.invoke("Add", 1, 2, resultType="int") == 3


@pytest.mark.row("R40", "R41", "R20")
@both_protocols
def test_dotnet_clients_meet_across_the_fleet(
    connect: Connect, ours: HubNode, theirs: AspNetNode, protocol: str
) -> None:
    """.NET clients on both nodes share groups and users, and add each other to groups."""
    one, two = connect(ours.chat, protocol, user="gil"), connect(theirs.chat, protocol, user="gil")
    group = f"dotnet {protocol}"
    for here, there in ((one, two), (two, one)):
        here.invoke("Join", group)
        here.invoke("AddOther", there.connection_id, group)
        here.invoke("SendToGroup", group, "to", "both")
        assert here.message() == there.message() == ["to", "both"]
        here.invoke("RemoveOther", there.connection_id, group)
        here.invoke("SendToGroup", group, "to", "me")
        assert here.message() == ["to", "me"]
        here.invoke("SendToUser", "gil", "to", "gil")
        assert here.message() == there.message() == ["to", "gil"]
        here.invoke("Leave", group)


@pytest.mark.row("B128")
@both_protocols
def test_aborted_dotnet_client_does_not_come_back(connect: Connect, ours: HubNode, protocol: str) -> None:
    """After `abort` the .NET client closes without trying to reconnect, though it would."""
    client = connect(ours.chat, protocol, options=("--auto-reconnect=0,0",))
    client.tell(cmd="send", id=999, method="Abort", args=[])
    closed = client.event("closed")
    assert closed is not None
    assert closed["error"] is None
    assert client.event("reconnecting", timeout=0) is None


@pytest.mark.row("B23")
def test_dotnet_client_without_a_token_is_refused(connect: Connect, ours: HubNode) -> None:
    """A hub behind authentication answers 401, which the .NET client reports; with a token it is let in."""
    with pytest.raises(DotnetError, match="401"):
        connect(f"{ours.url}/strict")
    assert connect(f"{ours.url}/strict", user="ann").invoke("WhoAmI")["userId"] == "ann"


@pytest.mark.row("B143", "B147", "B153", "R45")
@both_protocols
@pytest.mark.parametrize("how", ["reset", "half_open"])
def test_dotnet_client_loses_its_socket(
    connect: Connect, ours: HubNode, theirs: AspNetNode, protocol: str, how: str
) -> None:
    """With stateful reconnect a .NET client loses its socket again and again, and no call, item or message."""
    # The stream outlives the breaks: one that ended just before a break disturbs this client's count, with the original
    # server as with ours (docs/how-to/stateful-reconnect.md).
    rounds = 40
    with BreakingProxy(int(ours.url.rsplit(":", 1)[1])) as proxy:
        client = connect(f"{proxy.url}/chat", protocol, user="net", options=("--stateful",))
        far = connect(theirs.chat, protocol)
        group = f"stateful {protocol} {how}"
        client.invoke("Join", group)
        client.tell(cmd="stream", id="stream", method="Counter", args=[1_000_000, 5], itemType="int")
        for number in range(rounds):
            assert client.invoke("Add", number, 1, resultType="int") == number + 1
            client.tell(cmd="send", id=f"send {number}", method="SendToCaller", args=["self", str(number)])
            far.invoke("SendToGroup", group, "far", str(number))
            if number % 8 == 3:
                getattr(proxy, how)()
        assert proxy.breaks >= 5
        client.tell(cmd="cancel", id="stream")
        assert client.take(lambda e: e["event"] == "stream_end" and e["id"] == "stream", 30.0) is not None
        items = [e["value"] for e in client.events if e["event"] == "stream_item" and e["id"] == "stream"]
        assert len(items) > proxy.breaks  # it went on behind each break
        assert items == list(range(len(items)))
        told = [client.message() for _ in range(2 * rounds)]
        for source in ("self", "far"):
            heard = [message[1] for message in told if message is not None and message[0] == source]
            assert heard == [str(number) for number in range(rounds)]
        assert client.invoke("WhoAmI")["connectionId"] == client.connection_id
        assert client.message(timeout=0) is None
        assert client.event("reconnecting", timeout=0) is None
        client.leave()
