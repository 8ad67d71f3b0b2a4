"""The client ladder: the two clients for Python, which are not Microsoft's, over the transports they have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from queue import Queue
from typing import Any  # arguments and results are whatever a hub method takes and gives

import pytest
from pysignalr.client import SignalRClient
from pysignalr.protocol.json import JSONProtocol
from pysignalr.protocol.messagepack import MessagepackProtocol
from signalrcore.hub_connection_builder import HubConnectionBuilder  # type: ignore[import-untyped]
from signalrcore.types import HttpTransportType, HubProtocolEncoding  # type: ignore[import-untyped]
from tests.e2e.nodes import HubNode
from tests.interop.dotnet import AspNetNode

WAYS_OF_PYSIGNALR = (("ws", "json"), ("ws", "messagepack"))
WAYS_OF_SIGNALRCORE = (("ws", "json"), ("ws", "messagepack"), ("sse", "json"))


@pytest.fixture(scope="module")
def node() -> Iterator[HubNode]:
    """One node in memory."""
    with HubNode(name="ladder") as running:
        yield running


# -- pysignalr ----------------------------------------------------------------------------------------------------


class Pysignalr:
    """A client whose callbacks can be awaited."""

    def __init__(self, url: str, protocol: str, user: str) -> None:
        self.client = SignalRClient(
            url,
            JSONProtocol() if protocol == "json" else MessagepackProtocol(),
            # Its own access_token_factory is asked only after it has connected for the first time.
            headers={"Authorization": f"Bearer user:{user}"} if user else None,
        )
        self.messages: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.errors: asyncio.Queue[str | None] = asyncio.Queue()
        self.opened = asyncio.Event()
        self.client.on("ReceiveMessage", self.messages.put)
        self.client.on_open(self._open)
        self.client.on_error(lambda message: self.errors.put(message.error))

    async def _open(self) -> None:
        self.opened.set()

    async def notify(self, method: str, *arguments: Any, done: Any = None) -> None:
        """Call; `done` hears of the result."""
        values: Any = list(arguments)  # annotated as mappings there, though anything goes
        await self.client.send(method, values, done)

    async def invoke(self, method: str, *arguments: Any) -> Any:
        """Call and wait for the result."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def done(message: Any) -> None:
            answer.set_result(message.result)

        await self.notify(method, *arguments, done=done)
        return await asyncio.wait_for(answer, 10)

    async def stream(self, method: str, *arguments: Any) -> list[Any]:
        """All items of a stream that ends well."""
        items: list[Any] = []
        ended = asyncio.Event()

        async def take(item: Any) -> None:
            items.append(item)

        async def end(_: Any) -> None:
            ended.set()

        await self.client.stream(method, list(arguments), take, end)
        await asyncio.wait_for(ended.wait(), 10)
        return items


@asynccontextmanager
async def pysignalr(url: str, protocol: str, user: str = "") -> AsyncIterator[Pysignalr]:
    """A connected client."""
    client = Pysignalr(url, protocol, user)
    running = asyncio.create_task(client.client.run())
    try:
        await asyncio.wait_for(client.opened.wait(), 10)
        yield client
    finally:
        running.cancel()
        await asyncio.wait((running,))
        # It has no way to stop, and a cancelled run() leaves its socket open.
        if (socket := client.client._transport._ws) is not None:
            await socket.close()


@pytest.mark.parametrize("protocol", [protocol for _, protocol in WAYS_OF_PYSIGNALR])
async def test_pysignalr(node: HubNode, protocol: str) -> None:
    """pysignalr, over WebSockets: calls, errors, messages, groups, users, streams, client results."""
    async with pysignalr(node.chat, protocol, "ann") as one, pysignalr(node.chat, protocol) as two:
        assert await one.invoke("Add", 1, 2) == 3
        assert await one.invoke("Echo", "żółć 🎉") == "żółć 🎉"
        assert (await one.invoke("WhoAmI"))["userId"] == "ann"
        await one.notify("Fail", "hub", done=one.errors.put)
        assert str(await asyncio.wait_for(one.errors.get(), 10)).endswith("HubException: a hub failure")
        await two.invoke("Join", f"room-{protocol}")
        await one.notify("SendToGroup", f"room-{protocol}", "to", "the group")
        await one.invoke("SendToUser", "ann", "to", "ann")
        await one.invoke("SendMessage", "to", "all")
        for client, heard in ((one, ["ann", "all"]), (two, ["the group", "all"])):
            assert [await asyncio.wait_for(client.messages.get(), 10) for _ in heard] == [
                ["to", text] for text in heard
            ]
        assert await one.stream("Counter", 100, 0) == list(range(100))
        two.client.on("Ask", answer)
        me = (await two.invoke("WhoAmI"))["connectionId"]
        assert await one.invoke("Ask", me, "who?") == "two"


async def answer(arguments: list[Any]) -> str:
    """What the second client says when it is asked."""
    assert arguments == ["who?"]
    return "two"


# -- signalrcore --------------------------------------------------------------------------------------------------

Connect = Callable[..., "Signalrcore"]

TRANSPORTS = {"ws": HttpTransportType.web_sockets, "sse": HttpTransportType.server_sent_events}


class Signalrcore:
    """A client whose callbacks, on threads of its own, fill queues."""

    def __init__(self, url: str, transport: str, protocol: str, user: str = "") -> None:
        options: dict[str, Any] = {"transport": TRANSPORTS[transport]}
        encoding = HubProtocolEncoding.text if protocol == "json" else HubProtocolEncoding.binary
        if user:
            options["access_token_factory"] = lambda: f"user:{user}"
        self.messages: Queue[list[Any]] = Queue()
        self.errors: Queue[str] = Queue()
        self.closed: Queue[None] = Queue()
        opened: Queue[None] = Queue()
        self.client = HubConnectionBuilder().with_url(url, options=options).with_hub_protocol(encoding).build()
        self.client.on_open(lambda: opened.put(None))
        self.client.on_close(lambda: self.closed.put(None))
        self.client.on_error(lambda message: self.errors.put(message.error))
        self.client.on("ReceiveMessage", self.messages.put)
        self.client.start()
        opened.get(timeout=10)

    def invoke(self, method: str, *arguments: Any) -> Any:
        """Call and wait for the result."""
        done: Queue[Any] = Queue()
        self.client.invoke(method, list(arguments), on_invocation=done.put)
        return done.get(timeout=10).result

    def leave(self) -> None:
        """End the connection from the server's side; its own stop() waits for the server's next ping."""
        socket = self.client.transport._client.sock
        self.client.invoke("Abort", [])
        self.closed.get(timeout=10)
        socket.close()  # over events it leaves that to the collector

    def stream(self, method: str, *arguments: Any) -> list[Any]:
        """All items of a stream that ends well, and does not begin at once: it starts before one can listen to it."""
        items: list[Any] = []
        done: Queue[Any] = Queue()
        self.client.stream(method, list(arguments)).subscribe(
            {"next": items.append, "complete": done.put, "error": done.put}
        )
        done.get(timeout=10)
        return items


@pytest.fixture
def connect(node: HubNode) -> Iterator[Connect]:
    """Connects clients that end with the test."""
    made: list[Signalrcore] = []

    def start(transport: str, protocol: str, *, user: str = "", url: str = "") -> Signalrcore:
        client = Signalrcore(url or node.chat, transport, protocol, user)
        made.append(client)
        return client

    yield start
    for client in made:
        client.leave()


@pytest.mark.parametrize("way", WAYS_OF_SIGNALRCORE, ids="-".join)
def test_signalrcore(connect: Connect, way: tuple[str, str]) -> None:
    """signalrcore, over WebSockets and events: calls, errors, messages, groups, users, streams."""
    one, two = connect(*way, user="ann"), connect(*way)
    assert one.invoke("Add", 1, 2) == 3
    assert one.invoke("Echo", "żółć 🎉") == "żółć 🎉"
    assert one.invoke("WhoAmI")["userId"] == "ann"
    one.client.invoke("Fail", ["hub"])
    assert one.errors.get(timeout=10).endswith("HubException: a hub failure")
    two.invoke("Join", f"room-{way}")
    one.invoke("SendToGroup", f"room-{way}", "to", "the group")
    one.invoke("SendToUser", "ann", "to", "ann")
    one.invoke("SendMessage", "to", "all")
    for client, heard in ((one, ["ann", "all"]), (two, ["the group", "all"])):
        assert [client.messages.get(timeout=10) for _ in heard] == [["to", text] for text in heard]
    assert one.stream("Counter", 4, 100) == [0, 1, 2, 3]


@pytest.mark.row("B2", "B63")
@pytest.mark.parametrize("server", ["ours", "theirs"])
def test_signalrcore_says_the_negotiate_version_in_its_handshake(
    request: pytest.FixtureRequest, connect: Connect, server: str
) -> None:
    """It asks for no negotiate version, gets 0, and sends that as its hub protocol's version: both servers take it."""
    node: HubNode | AspNetNode = request.getfixturevalue("node" if server == "ours" else "theirs")
    client = connect("ws", "json", url=node.chat)
    assert client.client.protocol.version == 0
    assert client.invoke("Add", 1, 2) == 3
