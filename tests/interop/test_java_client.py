"""The client ladder: Microsoft's Java client over the transports it has, in JSON.

Its MessagePack protocol is a package of its own, which the package repositories have in no version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any  # options of a connection, whatever they are
from urllib.parse import quote

import pytest
from tests.e2e.clients import ClientError, JsClient, JsDriver
from tests.e2e.nodes import HubNode
from tests.e2e.processes import eventually

DRIVER = Path(__file__).parent / "java" / "Driver.java"
NEARLY_TOO_LONG = "x" * 32_600
TOO_LONG = "x" * 32_800

WAYS = (("ws", "json"), ("lp", "json"))
transports = pytest.mark.parametrize("transport", [transport for transport, _ in WAYS])

Connect = Callable[..., JsClient]


@pytest.fixture(scope="module")
def node() -> Iterator[HubNode]:
    """One node in memory."""
    with HubNode(name="ladder") as running:
        yield running


@pytest.fixture(scope="module")
def java(part: Callable[[str], str]) -> Iterator[JsDriver]:
    """One Java process with any number of connections; it obeys like the JavaScript driver."""
    with JsDriver(part("java"), "-cp", f"{part('java-client')}/*", str(DRIVER)) as running:
        yield running


@pytest.fixture
def connect(java: JsDriver, node: HubNode) -> Iterator[Connect]:
    """Connects clients that end with the test."""
    made: list[JsClient] = []

    def start(transport: str, url: str | None = None, **options: Any) -> JsClient:
        client = java.connect(url or node.chat, transport=transport, **options)
        made.append(client)
        return client

    yield start
    for client in made:
        client.stop()
    java.forget()


@pytest.mark.row("B157")
@transports
def test_java_calls(connect: Connect, transport: str) -> None:
    """Calls with and without results, errors, text of every kind and size; JSON goes out in binary frames."""
    client = connect(transport)
    assert client.connection_id
    assert client.invoke("Add", 1, 2) == 3
    assert client.invoke("SendToCaller", "to", "myself") is None
    client.send("SendToCaller", "no", "answer")
    assert [client.message(), client.message()] == [["to", "myself"], ["no", "answer"]]
    for value in ("żółć 🎉 \x1e\r\n", "", True, 1.5, [1, "two", [None]], {"a": {"b": [1]}}):
        assert client.invoke("Echo", value) == value
    assert client.invoke("Echo", NEARLY_TOO_LONG) == NEARLY_TOO_LONG
    assert client.invoke("Repeat", "żółć", 50_000) == "żółć" * 50_000
    with pytest.raises(ClientError, match="a hub failure"):
        client.invoke("Fail", "hub")
    with pytest.raises(ClientError, match="Method does not exist"):
        client.invoke("Nothing")


@transports
def test_java_hears_everything_addressed_to_it(connect: Connect, transport: str) -> None:
    """The caller, all, others, a group and a user: exactly those that are meant hear it."""
    one, two = connect(transport, user="ann"), connect(transport)
    assert one.invoke("WhoAmI")["userId"] == "ann"
    two.invoke("Join", "room")
    one.invoke("SendMessage", "to", "all")
    one.invoke("SendToOthers", "to", "others")
    one.invoke("SendToGroup", "room", "to", "the group")
    one.invoke("SendToUser", "ann", "to", "the user")
    one.invoke("SendToConnection", two.connection_id, "to", "one")
    one.invoke("Broadcast", "Fence", [])
    for client, heard in ((one, ["all", "the user"]), (two, ["all", "others", "the group", "one"])):
        assert client.message("Fence") == []
        assert client.untaken() == [["to", text] for text in heard]


@transports
def test_java_reads_streams(connect: Connect, transport: str) -> None:
    """Streams end by themselves, with an error, or when the client cancels, which stops the method."""
    client, name = connect(transport), f"Java {transport}"
    assert client.stream("Counter", 100, 0) == (list(range(100)), None)
    items, error = client.stream("FailingStream", 3)
    assert items == [0, 1, 2]
    assert error is not None
    assert error.endswith("HubException: the stream failed")
    endless = client.begin_stream("Endless", name)
    assert [client.item(endless) for _ in range(3)] == [0, 1, 2]
    assert client.invoke("Running", name)
    client.cancel(endless)
    assert eventually(lambda: not client.invoke("Running", name))


def test_java_uploads_streams(connect: Connect) -> None:
    """A method reads the client's stream, and its error; one that streams back does both at once.

    Over long polling the client sends each item in a request of its own, all at the same time: they arrive in any
    order, and behind the end of the stream, at an ASP.NET Core server too.
    """
    client = connect("ws")
    texts = [f"żółć {number}" for number in range(50)]
    assert client.upload("Upload", items=texts) == ",".join(texts)
    with pytest.raises(ClientError, match="the client's stream broke"):
        client.upload("Upload", items=["a"], fails="the client's stream broke")
    assert client.echo_stream("EchoStream", items=texts) == (texts, None)


@pytest.mark.row("B115", "B116")
@transports
def test_java_answers_the_server(connect: Connect, transport: str) -> None:
    """What the client answers reaches the asking method: values, errors, wrong types, silence, leaving."""
    asking, asked = connect("ws"), connect(transport)
    me = asked.connection_id
    asked.answer("Ask", "żółć 🎉")
    assert asking.invoke("Ask", me, "who?") == "żółć 🎉"
    asked.answer("Ask", error="not telling")
    assert "not telling" in asking.invoke("AskWithin", me, 5000)
    asked.answer("AskInt", "seven")
    with pytest.raises(ClientError, match="Error trying to deserialize result to"):
        asking.invoke("AskInt", me, "how many?")
    asked.answer("Ask", wait=True)
    assert asking.invoke("AskWithin", me, 300).startswith("ClientResultError: Connection")
    while asked.asked(timeout=0):
        pass
    question = asking.begin("AskWithin", me, 10_000)
    assert asked.asked() == ["anybody?"]
    asked.stop()
    assert asking.end(question) == f"ClientResultError: Connection '{me}' disconnected."


@pytest.mark.row("B128")
@transports
def test_java_obeys_the_close_message(connect: Connect, transport: str) -> None:
    """An abort by the hub ends the client without an error, a protocol error with one; it never reconnects."""
    client = connect(transport)
    client.send("Abort")
    closed = client.event("closed")
    assert closed is not None
    # Over long polling the client may go on polling while it stops, and then reports the 404; ASP.NET Core's, too.
    assert closed["error"] is None or (transport == "lp" and "404" in closed["error"]["message"])
    client = connect(transport)
    client.send("Echo", TOO_LONG)
    closed = client.event("closed")
    assert closed is not None
    assert "Connection closed with an error." in closed["error"]["message"]
    assert client.state == "DISCONNECTED"


@pytest.mark.row("B24")
@transports
def test_java_brings_its_token(connect: Connect, node: HubNode, transport: str) -> None:
    """A hub for users only lets the client in with its token and answers 401 without."""
    with pytest.raises(ClientError, match="401"):
        connect(transport, f"{node.url}/strict")
    assert connect(transport, f"{node.url}/strict", user="ann").invoke("WhoAmI")["userId"] == "ann"


@pytest.mark.row("B26", "B27")
@transports
def test_java_is_sent_elsewhere(connect: Connect, node: HubNode, transport: str) -> None:
    """A redirect is followed, with its query; an error in the answer to negotiate is shown.

    The token that comes with the redirect is used over WebSockets; this client polls with its own, so over long polling
    both must be of the same user.
    """
    there = quote(f"{node.url}/strict?room=7")
    if transport == "lp":
        with pytest.raises(ClientError):
            connect(transport, f"{node.url}/door?as=bob&to={there}", user="ann")
    user = "bob" if transport == "ws" else "ann"
    client = connect(transport, f"{node.url}/door?as={user}&to={there}", user="ann")
    assert client.invoke("WhoAmI")["userId"] == user
    assert client.invoke("Query", "room") == "7"
    with pytest.raises(ClientError, match=r"Nobody is let in here\."):
        connect(transport, f"{node.url}/door")
