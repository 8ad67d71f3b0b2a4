"""The client ladder: Microsoft's .NET client over each transport, in each hub protocol."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.e2e.nodes import HubNode
from tests.e2e.processes import eventually
from tests.interop.dotnet import DotnetClient, DotnetError

WAYS = (("ws", "json"), ("ws", "messagepack"), ("sse", "json"), ("lp", "json"), ("lp", "messagepack"))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "clients.md"
NEARLY_TOO_LONG = "x" * 32_600
TOO_LONG = "x" * 32_800

Way = tuple[str, str]


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest) -> Way:
    """Transport and protocol."""
    found: Way = request.param
    return found


@pytest.fixture(scope="module")
def node() -> Iterator[HubNode]:
    """One node in memory."""
    with HubNode(name="ladder") as running:
        yield running


@pytest.fixture(scope="module")
def two(run: str, node: HubNode, way: Way) -> Iterator[tuple[DotnetClient, DotnetClient]]:
    """Two clients; the first is a user."""
    transport, protocol = way
    with (
        DotnetClient(run, node.chat, protocol, transport=transport, user=f"ann of {way}") as one,
        DotnetClient(run, node.chat, protocol, transport=transport) as another,
    ):
        for client in (one, another):
            client.on("ReceiveMessage", 2)
            client.on("Fence", 0)
        yield one, another


@pytest.fixture
def client(two: tuple[DotnetClient, DotnetClient]) -> DotnetClient:
    """The first of them."""
    return two[0]


def test_dotnet_client_is_the_one_on_the_page(run: str) -> None:
    """docs/reference/clients.md names the version of the client that these tests use."""
    told = subprocess.run([run, "version"], capture_output=True, text=True, check=True, timeout=60).stdout
    version = json.loads(told)["signalrClient"]
    assert f"| Microsoft's .NET client | {version} |" in PAGE.read_text(encoding="utf-8")


@pytest.mark.row("B158")
def test_dotnet_calls(client: DotnetClient) -> None:
    """Calls with and without results, errors, text of every kind and size."""
    assert client.invoke("Add", 1, 2, resultType="int") == 3
    assert client.invoke("SendToCaller", "to", "myself") is None
    client.do("send", method="SendToCaller", args=["no", "answer"])
    assert [client.message(), client.message()] == [["to", "myself"], ["no", "answer"]]
    for value in ("żółć 🎉 \x1e\r\n", "", True, None, 1.5, [1, "two", [None]], {"a": {"b": [1]}}):
        assert client.invoke("Echo", value) == value
    assert client.invoke("Echo", NEARLY_TOO_LONG) == NEARLY_TOO_LONG
    assert client.invoke("Repeat", "żółć", 50_000) == "żółć" * 50_000
    with pytest.raises(DotnetError, match="a hub failure"):
        client.invoke("Fail", "hub")
    with pytest.raises(DotnetError, match="Method does not exist"):
        client.invoke("Nothing")


def test_dotnet_hears_everything_addressed_to_it(two: tuple[DotnetClient, DotnetClient], way: Way) -> None:
    """The caller, all, others, a group and a user: exactly those that are meant hear it."""
    one, another = two
    another.invoke("Join", "room")
    one.invoke("SendMessage", "to", "all")
    one.invoke("SendToOthers", "to", "others")
    one.invoke("SendToGroup", "room", "to", "the group")
    one.invoke("SendToUser", f"ann of {way}", "to", "the user")
    one.invoke("SendToConnection", another.connection_id, "to", "one")
    one.invoke("Broadcast", "Fence", [])
    for client, heard in ((one, ["all", "the user"]), (another, ["all", "others", "the group", "one"])):
        assert client.message("Fence") == []
        for text in heard:
            assert client.message() == ["to", text]
        assert client.message(timeout=0) is None
    another.invoke("Leave", "room")


def test_dotnet_reads_streams(client: DotnetClient, way: Way) -> None:
    """Streams end by themselves, with an error, or when the client cancels, which stops the method."""
    name = f".NET {way}"
    stream = client.begin("stream", method="Counter", args=[100, 0], itemType="int")
    assert client.streamed(stream) == (list(range(100)), None)
    items, error = client.streamed(client.begin("stream", method="FailingStream", args=[3], itemType="int"))
    assert items == [0, 1, 2]
    assert error is not None
    assert error.endswith("HubException: the stream failed")
    endless = client.begin("stream", method="Endless", args=[name], itemType="int")
    assert [client.item(endless) for _ in range(3)] == [0, 1, 2]
    assert client.invoke("Running", name, resultType="bool")
    client.tell(cmd="cancel", id=endless)
    assert eventually(lambda: not client.invoke("Running", name, resultType="bool"))


def test_dotnet_uploads_streams(client: DotnetClient) -> None:
    """A method reads the client's stream, and its error; one that streams back does both at once."""
    texts = [f"żółć {number}" for number in range(50)]
    assert client.do("upload", method="Upload", args=[], items=texts, resultType="string") == ",".join(texts)
    broken = client.begin("upload", method="Upload", args=[], items=["a"], open=True)
    client.tell(cmd="complete", id=broken, error="the client's stream broke")
    with pytest.raises(DotnetError, match="the client's stream broke"):
        client.end(broken)
    echoed = client.begin("upload", method="EchoStream", args=[], items=texts, stream=True)
    assert client.streamed(echoed) == (texts, None)


def test_dotnet_sends_and_takes_bytes(client: DotnetClient, way: Way) -> None:
    """Bytes stay bytes in MessagePack; in JSON they are base64 text."""
    answer = client.invoke("Echo", {"$bytes": "AAECgP//"})
    assert answer == ({"$bytes": "AAECgP//"} if way[1] == "messagepack" else "AAECgP//")


@pytest.mark.row("B115", "B116")
def test_dotnet_answers_the_server(two: tuple[DotnetClient, DotnetClient]) -> None:
    """What the client answers reaches the asking method: values, errors, wrong types, silence."""
    asking, asked = two
    me = asked.connection_id
    asked.do("on_result", method="Ask", args=1, value="żółć 🎉")
    assert asking.invoke("Ask", me, "who?") == "żółć 🎉"
    asked.do("off", method="Ask")
    asked.do("on_result", method="Ask", args=1, error="not telling")
    assert "not telling" in asking.invoke("AskWithin", me, 5000)
    asked.do("off", method="Ask")
    assert "Client failed to parse argument(s)." in asking.invoke("AskWithin", me, 5000), "it has no such method now"
    asked.do("on_result", method="AskInt", args=1, value="seven")
    with pytest.raises(DotnetError, match="Error trying to deserialize result to"):
        asking.invoke("AskInt", me, "how many?")
    asked.do("on_result", method="Ask", args=1, manual=True)
    assert asking.invoke("AskWithin", me, 300).startswith("ClientResultError: Connection")
    asked.do("off", method="Ask")
    asked.do("off", method="AskInt")


def test_dotnet_reconnects_exactly_when_it_may(run: str, node: HubNode, way: Way) -> None:
    """After a protocol error the Close message permits a reconnect, and the client comes back; after an abort not."""
    with DotnetClient(run, node.chat, way[1], transport=way[0], options=("--auto-reconnect=0,0,0",)) as client:
        before = client.connection_id
        client.tell(cmd="send", id=999, method="Echo", args=[TOO_LONG])
        assert client.event("reconnecting") is not None
        again = client.event("reconnected")
        assert again is not None
        assert again["connectionId"] != before
        assert client.invoke("WhoAmI")["connectionId"] == again["connectionId"]
        client.tell(cmd="send", id=1000, method="Abort", args=[])
        closed = client.event("closed")
        assert closed is not None
        assert closed["error"] is None
        assert client.event("reconnecting", timeout=0) is None


def test_dotnet_brings_its_token(run: str, node: HubNode, way: Way) -> None:
    """A hub for users only lets the client in with its token and answers 401 without."""
    with pytest.raises(DotnetError, match="401"):
        DotnetClient(run, f"{node.url}/strict", way[1], transport=way[0])
    with DotnetClient(run, f"{node.url}/strict", way[1], transport=way[0], user="ann") as client:
        assert client.invoke("WhoAmI")["userId"] == "ann"
        client.do("stop")
        closed = client.event("closed")
        assert closed is not None
        assert closed["error"] is None


@pytest.mark.row("B26", "B27")
def test_dotnet_is_sent_elsewhere(run: str, node: HubNode, way: Way) -> None:
    """A redirect is followed, with its query and its token; an error in the answer to negotiate is shown."""
    door = f"{node.url}/door?as=bob&to={quote(f'{node.url}/strict?room=7')}"
    with DotnetClient(run, door, way[1], transport=way[0], user="ann") as client:
        assert client.invoke("WhoAmI")["userId"] == "bob"
        assert client.invoke("Query", "room") == "7"
    with pytest.raises(DotnetError, match=r"Nobody is let in here\."):
        DotnetClient(run, f"{node.url}/door", way[1], transport=way[0])
