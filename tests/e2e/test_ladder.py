"""The client ladder: Microsoft's JavaScript client in each version, over each transport, in each hub protocol.

5.0 does not run in Node (it wants a browser's names there), so it runs in Chromium; all others in one Node process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple  # options of a connection, whatever they are
from urllib.parse import quote

import pytest
from tests.e2e.clients import ClientError, JsClient, JsDriver, PageDriver
from tests.e2e.nodes import HubNode
from tests.e2e.processes import eventually

VERSIONS = ("3.1", "5.0", "6.0", "7.0", "8.0", "9.0", "10.0")
WAYS = (("ws", "json"), ("ws", "messagepack"), ("sse", "json"), ("lp", "json"), ("lp", "messagepack"))
IN_CHROMIUM = ("5.0",)
# It reports the end of the event stream as an error, if that comes before it has stopped for the Close message.
MISTAKES_THE_END_OF_EVENTS = ("3.1",)
# The default limit of a hub message is 32,768 bytes, with everything around the text.
NEARLY_TOO_LONG = "x" * 32_600
TOO_LONG = "x" * 32_800


class Rung(NamedTuple):
    """One step of the ladder."""

    version: str
    transport: str
    protocol: str


Connect = Callable[..., JsClient]


def rungs(*, since: str = "3.1", protocols: tuple[str, ...] = ("json", "messagepack")) -> pytest.MarkDecorator:
    """Parametrises a test with every rung from a version upwards."""
    chosen = [
        Rung(version, transport, protocol)
        for version in VERSIONS[VERSIONS.index(since) :]
        for transport, protocol in WAYS
        if protocol in protocols
    ]
    return pytest.mark.parametrize("rung", chosen, ids="-".join)


@pytest.fixture(scope="module")
def node() -> Iterator[HubNode]:
    """One node in memory."""
    with HubNode(name="ladder") as running:
        yield running


@pytest.fixture(scope="module")
def in_node(part: Callable[[str], str]) -> Iterator[JsDriver]:
    """The Node process of all versions that run there."""
    part("node-modules")
    with JsDriver(part("node")) as running:
        yield running


@pytest.fixture(scope="module")
def page(part: Callable[[str], str], node: HubNode) -> Iterator[JsDriver]:
    """The page of the version that runs in Chromium only."""
    part("node-modules")
    with PageDriver(part("node"), part("chromium"), node.url, *IN_CHROMIUM) as running:
        yield running


@pytest.fixture
def connect(request: pytest.FixtureRequest, node: HubNode) -> Iterator[Connect]:
    """Connects clients that end with the test; to the chat hub unless told otherwise."""
    made: list[JsClient] = []

    def start(rung: Rung, url: str | None = None, **options: Any) -> JsClient:
        driver: JsDriver = request.getfixturevalue("page" if rung.version in IN_CHROMIUM else "in_node")
        client = driver.connect(
            url or node.chat, rung.protocol, version=rung.version, transport=rung.transport, **options
        )
        made.append(client)
        return client

    yield start
    for client in made:
        client.stop()
        client.driver.forget()


@pytest.mark.parametrize("version", VERSIONS)
def test_version_is_the_one_it_is_said_to_be(request: pytest.FixtureRequest, version: str) -> None:
    """Each step of the ladder is tried with the release of that name, not with what npm put in its place."""
    driver: JsDriver = request.getfixturevalue("page" if version in IN_CHROMIUM else "in_node")
    assert driver.ask("version", version=version).startswith(f"{version}.")


@rungs()
def test_version_calls(connect: Connect, rung: Rung) -> None:
    """Calls with and without results, errors, text of every kind and size."""
    client = connect(rung)
    assert client.connection_id
    assert client.invoke("Add", 1, 2) == 3
    assert client.invoke("SendToCaller", "to", "myself") is None
    client.send("SendToCaller", "no", "answer")
    assert [client.message(), client.message()] == [["to", "myself"], ["no", "answer"]]
    for value in ("żółć 🎉 \x1e\r\n", "", True, None, 1.5, [1, "two", [None]], {"a": {"b": [1]}}):
        assert client.invoke("Echo", value) == value
    assert client.invoke("Echo", NEARLY_TOO_LONG) == NEARLY_TOO_LONG
    assert client.invoke("Repeat", "żółć", 50_000) == "żółć" * 50_000
    with pytest.raises(ClientError, match="a hub failure"):
        client.invoke("Fail", "hub")
    with pytest.raises(ClientError, match="Method does not exist"):
        client.invoke("Nothing")


@rungs()
def test_version_hears_everything_addressed_to_it(connect: Connect, rung: Rung) -> None:
    """The caller, all, others, a group and a user: exactly those that are meant hear it."""
    user, group = "ann of " + "-".join(rung), "group of " + "-".join(rung)
    one, two = connect(rung, user=user), connect(rung)
    assert one.invoke("WhoAmI")["userId"] == user
    two.invoke("Join", group)
    one.invoke("SendMessage", "to", "all")
    one.invoke("SendToOthers", "to", "others")
    one.invoke("SendToGroup", group, "to", "the group")
    one.invoke("SendToUser", user, "to", "the user")
    one.invoke("SendToConnection", two.connection_id, "to", "one")
    one.invoke("Broadcast", "Fence", [])
    for client, heard in ((one, ["all", "the user"]), (two, ["all", "others", "the group", "one"])):
        assert client.message("Fence") == []
        assert client.untaken() == [["to", text] for text in heard]


@rungs()
def test_version_reads_streams(connect: Connect, rung: Rung) -> None:
    """Streams end by themselves, with an error, or when the client cancels, which stops the method."""
    client, name = connect(rung), "-".join(rung)
    assert client.stream("Counter", 100, 0) == (list(range(100)), None)
    assert client.stream("Counter", 0, 0) == ([], None)
    items, error = client.stream("FailingStream", 3)
    assert items == [0, 1, 2]
    assert error is not None
    assert error.endswith("HubException: the stream failed")
    endless = client.begin_stream("Endless", name)
    assert [client.item(endless) for _ in range(3)] == [0, 1, 2]
    assert client.invoke("Running", name)
    client.cancel(endless)
    assert eventually(lambda: not client.invoke("Running", name))


@rungs()
def test_version_uploads_streams(connect: Connect, rung: Rung) -> None:
    """A method reads the client's stream, and its error; one that streams back does both at once."""
    client = connect(rung)
    texts = [f"żółć {number}" for number in range(50)]
    assert client.upload("Upload", items=texts) == ",".join(texts)
    assert client.upload("Upload", items=[]) == ""
    with pytest.raises(ClientError, match="the client's stream broke"):
        client.upload("Upload", items=["a"], fails="the client's stream broke")
    assert client.echo_stream("EchoStream", items=texts) == (texts, None)
    assert client.invoke("Add", 1, 2) == 3


@rungs(protocols=("messagepack",))
def test_version_sends_and_takes_bytes(connect: Connect, rung: Rung) -> None:
    """Bytes stay bytes in MessagePack, as arguments, results, messages and items."""
    client = connect(rung)
    blob = {"$bytes": "AAECgP//"}
    assert client.invoke("Echo", blob) == blob
    assert client.invoke("Echo", {"deep": [blob]}) == {"deep": [blob]}
    client.invoke("Broadcast", "ReceiveMessage", [blob, 1])
    assert client.message() == [blob, 1]
    assert client.echo_stream("EchoStream", items=[blob, blob]) == ([blob, blob], None)


@pytest.mark.row("B130")
@rungs()
def test_version_reconnects_exactly_when_it_may(connect: Connect, rung: Rung) -> None:
    """After a protocol error the Close message permits a reconnect, and the client comes back; after an abort not."""
    client = connect(rung, reconnect=[0, 0, 0])
    before = client.connection_id
    client.send("Echo", TOO_LONG)
    assert client.event("reconnecting") is not None
    again = client.event("reconnected")
    assert again is not None
    assert again["connectionId"] not in {before, None}
    assert client.invoke("WhoAmI")["connectionId"] == again["connectionId"]
    client.send("Abort")
    closed = client.event("closed")
    assert closed is not None
    if rung.transport != "sse" or rung.version not in MISTAKES_THE_END_OF_EVENTS:
        assert closed["error"] is None
    assert client.event("reconnecting", timeout=0) is None


@pytest.mark.row("B24")
@rungs()
def test_version_brings_its_token(connect: Connect, node: HubNode, rung: Rung) -> None:
    """A hub for users only lets the client in with its token, in the header or the query, and answers 401 without."""
    strict = f"{node.url}/strict"
    with pytest.raises(ClientError, match=r"401|Unauthorized"):
        connect(rung, strict)
    assert connect(rung, strict, user="ann").invoke("WhoAmI")["userId"] == "ann"


@pytest.mark.row("B26", "B27")
@rungs()
def test_version_is_sent_elsewhere(connect: Connect, node: HubNode, rung: Rung) -> None:
    """A redirect is followed, with its query and its token; an error in the answer to negotiate is shown."""
    there = quote(f"{node.url}/strict?room=7&note=a%20b")
    client = connect(rung, f"{node.url}/door?as=bob&to={there}", user="ann")
    assert client.invoke("WhoAmI")["userId"] == "bob"
    assert [client.invoke("Query", name) for name in ("room", "note")] == ["7", "a b"]
    with pytest.raises(ClientError, match=r"Nobody is let in here\."):
        connect(rung, f"{node.url}/door")


@pytest.fixture(scope="module")
def other(in_node: JsDriver, pair: tuple[HubNode, HubNode]) -> Iterator[JsClient]:
    """A client of the first of two nodes on one Redis."""
    client = in_node.connect(pair[0].chat)
    yield client
    client.stop()


@pytest.mark.row("B115", "B116", "B117")
@pytest.mark.parametrize("place", ["same node", "other node"])
@rungs(since="7.0")
def test_version_answers_the_server(
    connect: Connect, pair: tuple[HubNode, HubNode], other: JsClient, rung: Rung, place: str
) -> None:
    """What a client answers reaches the asking method on any node: values, errors, wrong types, silence."""
    client = connect(rung, pair[place == "other node"].chat)

    def ask(method: str = "Ask", *more: object) -> object:
        return other.invoke(method, client.connection_id, *(more or ("who?",)))

    client.answer("Ask", "żółć 🎉")
    assert ask() == "żółć 🎉"
    assert client.asked() == ["who?"]
    client.answer("Ask", error="not telling")
    assert "not telling" in str(ask("AskWithin", 5000))
    client.answer("AskInt", 7)
    assert ask("AskInt") == 7
    client.answer("AskInt", "seven")
    with pytest.raises(ClientError, match="Error trying to deserialize result to"):
        ask("AskInt")
    client.answer("Ask", wait=True)
    assert str(ask("AskWithin", 300)).startswith("ClientResultError: Connection")
    # Its own method may ask it, too: the call does not hold the reading up.
    client.answer("Ask", "me")
    assert client.invoke("Ask", client.connection_id, "who?") == "me"


@pytest.mark.row("B116")
@pytest.mark.parametrize("place", ["same node", "other node"])
@rungs(since="7.0")
def test_version_that_was_asked_and_leaves(
    connect: Connect, pair: tuple[HubNode, HubNode], other: JsClient, rung: Rung, place: str
) -> None:
    """A method that waits for a client learns at once that it left, and after that, that it is not there."""
    client = connect(rung, pair[place == "other node"].chat)
    client.answer("Ask", wait=True)
    question = other.begin("AskWithin", client.connection_id, 10_000)
    assert client.asked() == ["anybody?"]
    client.stop()
    assert other.end(question) == f"ClientResultError: Connection '{client.connection_id}' disconnected."
    # Until its node has told the broker, it is only "gone".
    gone = f"ClientResultError: Connection '{client.connection_id}' does not exist."
    assert eventually(lambda: other.invoke("AskWithin", client.connection_id, 5_000) == gone)


@pytest.mark.row("B119")
@pytest.mark.parametrize("place", ["same node", "other node"])
@pytest.mark.parametrize("transport", ["ws", "sse", "lp"])
def test_answer_of_somebody_else(
    connect: Connect, pair: tuple[HubNode, HubNode], other: JsClient, transport: str, place: str
) -> None:
    """Whoever answers a question that was put to another client of the node is disconnected; the question stays."""
    asked = connect(Rung("10.0", "ws", "json"), pair[place == "other node"].chat)
    intruder = connect(Rung("10.0", transport, "json"), pair[place == "other node"].chat, reconnect=[0])
    asked.overhear()
    asked.answer("Ask", wait=True)
    question = other.begin("AskWithin", asked.connection_id, 10_000)
    invocation_id = re.findall(r'"invocationId":("[^"]+")', asked.heard('"target":"Ask"'))[0]
    intruder.raw(f'{{"type":3,"invocationId":{invocation_id},"result":"mine"}}\x1e')
    assert intruder.event("reconnecting") is not None
    asked.raw(f'{{"type":3,"invocationId":{invocation_id},"result":"the true one"}}\x1e')
    assert other.end(question) == "the true one"
    assert intruder.event("reconnected") is not None
