"""Facts about `HubApp`: its life, its hubs' addresses, the backplane it was given, and what frameworks make of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any  # ASGI messages and JSON

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import SimpleUser
from starlette.routing import Mount
from starlette.testclient import TestClient, WebSocketTestSession

from hubplane import HubConnectionContext
from hubplane.asgi.app import HubApp
from hubplane.backplane.base import BackplaneSink
from hubplane.backplane.memory import MemoryBackplane, MemoryBus
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.errors import ConfigurationError
from hubplane.hubs.filters import HubFilter, HubInvocationContext, NextInvocation
from hubplane.hubs.hub import Hub
from hubplane.lifetime.envelope import decode_invocation
from hubplane.options import HttpTransportType, HubOptions, TransportOptions
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingBackplane


class ChatHub(Hub):
    """Repeats, and tells everybody."""

    async def echo(self, text: str) -> str:
        return text

    async def tell_all(self, text: str) -> None:
        await self.clients.all.send("told", text)

    async def who(self) -> str | None:
        return self.context.user_identifier


class NewsHub(ChatHub):
    """A second hub, otherwise the same."""


# -- an ASGI server for one request ------------------------------------------------------------------------------------


async def settle() -> None:
    """Let everything that can happen now happen."""
    for _ in range(30):
        await asyncio.sleep(0)


async def request(app: HubApp, method: str, path: str, *, root_path: str = "", query: str = "") -> tuple[int, bytes]:
    """One HTTP request: status and body of the answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("no request of a hub's has a body that matters")

    async def send(message: Any) -> None:
        sent.append(message)

    await app(
        {
            "type": "http",
            "method": method,
            "path": path,
            "root_path": root_path,
            "query_string": query.encode(),
            "headers": [],
        },
        receive,
        send,
    )
    start, body = sent
    return start["status"], body["body"]


class Client:
    """A WebSocket to the app, from the server's and the client's point of view at once.

    Attributes:
        sent: What the app has sent, as ASGI messages.
        task: The app's call.
    """

    def __init__(self, app: HubApp, path: str = "/chat", **scope: Any) -> None:
        self.sent: list[Any] = []
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        whole = {"type": "websocket", "path": path, "query_string": b"", "headers": [], **scope}
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(
            app(whole, self._incoming.get, self._send)
        )

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "websocket.close":
            self._incoming.put_nowait({"type": "websocket.disconnect", "code": message["code"]})

    def say(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self._incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(message) + "\x1e"})

    async def hear(self) -> list[dict[str, Any]]:
        """Everything received so far, the handshake's answer first."""
        await settle()
        text = "".join(message["text"] for message in self.sent if message["type"] == "websocket.send")
        return [json.loads(record) for record in text.split("\x1e")[:-1]]

    async def invoke(self, target: str, *arguments: object) -> dict[str, Any]:
        """Call a method; its completion."""
        self.say({"type": 1, "invocationId": "1", "target": target, "arguments": arguments})
        return [message for message in await self.hear() if message.get("type") == 3][-1]

    async def news(self) -> list[Any]:
        """The arguments of all calls that were heard."""
        return [message["arguments"] for message in await self.hear() if message.get("type") == 1]

    async def leave(self) -> None:
        """Close the socket and wait for the app."""
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.task


async def connect(app: HubApp, path: str = "/chat", **scope: Any) -> Client:
    """A client that has shaken hands."""
    client = Client(app, path, **scope)
    client.say({"protocol": "json", "version": 1})
    assert await client.hear() == [{}]
    return client


def make(redis: MemoryBackplane | RecordingBackplane | None = None, **options: Any) -> HubApp:
    """An app with a ChatHub at /chat, on a clock that stands still."""
    app = HubApp(redis, clock=FakeClock(), ids=SeededIds(), **options)
    app.add_hub("/chat", ChatHub)
    return app


class Lifespan:
    """The server's side of the lifespan protocol.

    Attributes:
        said: The types of the messages that the app has sent, and their texts.
        task: The app's call.
    """

    def __init__(self, app: HubApp) -> None:
        self.said: list[Any] = []
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(
            app({"type": "lifespan"}, self._incoming.get, self._send)
        )

    async def _send(self, message: Any) -> None:
        self.said.append(message)

    async def tell(self, what: str) -> None:
        """Send ``lifespan.startup`` or ``lifespan.shutdown``."""
        self._incoming.put_nowait({"type": f"lifespan.{what}"})
        await settle()


# -- life --------------------------------------------------------------------------------------------------------------


async def test_lifespan() -> None:
    """The app serves between startup and shutdown, says when each is complete, and leaves no task behind."""
    before = asyncio.all_tasks()
    app = make(MemoryBackplane())
    lifespan = Lifespan(app)
    await lifespan.tell("startup")
    assert lifespan.said == [{"type": "lifespan.startup.complete"}]
    client = await connect(app)
    assert await client.invoke("Echo", "hello") == {"type": 3, "invocationId": "1", "result": "hello"}
    await lifespan.tell("shutdown")
    await lifespan.task
    assert lifespan.said[1:] == [{"type": "lifespan.shutdown.complete"}]
    assert (await client.hear())[-1] == {"type": 7, "allowReconnect": True}
    assert client.sent[-1] == {"type": "websocket.close", "code": 1000}
    await client.task
    assert asyncio.all_tasks() == before


async def test_start_that_fails() -> None:
    """A start that fails is told to the server with its reason, and the app can be asked for nothing."""
    app = HubApp(MemoryBackplane())
    app.add_hub("/chat", ChatHub, hub_name="Chat")
    app.add_hub("/news", NewsHub, hub_name="Chat")
    lifespan = Lifespan(app)
    await lifespan.tell("startup")
    (failed,) = lifespan.said
    assert failed["type"] == "lifespan.startup.failed"
    assert "two hubs share one hub_name" in failed["message"]
    with pytest.raises(ConfigurationError, match="two hubs share one hub_name"):
        await lifespan.task
    with pytest.raises(ConfigurationError, match="is not running"):
        await request(app, "POST", "/chat/negotiate")


class StuckBackplane(MemoryBackplane):
    """A carrier that cannot be left in peace."""

    def run(self, sink: BackplaneSink) -> AbstractAsyncContextManager[None]:
        @asynccontextmanager
        async def run() -> AsyncIterator[None]:
            async with super(StuckBackplane, self).run(sink):
                yield
            raise OSError("the socket is stuck")

        return run()


async def test_shutdown_that_fails() -> None:
    """So is a shutdown that fails."""
    app = make(StuckBackplane())
    lifespan = Lifespan(app)
    await lifespan.tell("startup")
    await lifespan.tell("shutdown")
    assert lifespan.said[-1] == {"type": "lifespan.shutdown.failed", "message": "the socket is stuck"}
    with pytest.raises(OSError, match="stuck"):
        await lifespan.task


async def test_server_that_gives_up() -> None:
    """A server that cancels the lifespan instead of shutting down ends the app all the same."""
    app = make()
    lifespan = Lifespan(app)
    await lifespan.tell("startup")
    client = await connect(app)
    lifespan.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lifespan.task
    await client.task
    assert (await client.hear())[-1] == {"type": 7, "allowReconnect": True}


async def test_not_running() -> None:
    """Without its lifespan the app refuses every request, and the error says what to write."""
    app = make()
    with pytest.raises(ConfigurationError, match=r"FastAPI\(lifespan=hubs\.lifespan\)"):
        await request(app, "POST", "/chat/negotiate")
    with pytest.raises(ConfigurationError, match="is not running"):
        await Client(app).task


async def test_entered_twice() -> None:
    """A running app cannot be started again, and goes on."""
    app = make()
    async with app.lifespan():
        with pytest.raises(ConfigurationError, match="entered twice"):
            async with app.lifespan():
                pass
        assert (await request(app, "POST", "/chat/negotiate"))[0] == 200


async def test_started_again() -> None:
    """After its shutdown an app can be started again, for new clients."""
    app = make(MemoryBackplane())
    for _ in range(2):
        async with app.lifespan():
            client = await connect(app)
            await client.invoke("TellAll", "here")
            assert await client.news() == [["here"]]
        await client.task
        with pytest.raises(ConfigurationError, match="is not running"):
            await request(app, "POST", "/chat/negotiate")


async def test_heartbeat_reaches_the_clients() -> None:
    """The app's heartbeat pings the clients of all hubs, and forgets negotiated connections that nobody opened."""
    clock = FakeClock()
    app = HubApp(clock=clock)
    app.add_hub("/chat", ChatHub)
    app.add_hub("/news", NewsHub)
    async with app.lifespan():
        clients = [await connect(app), await connect(app, "/news")]
        status, body = await request(app, "POST", "/chat/negotiate")
        assert status == 200
        for _ in range(17):
            clock.advance(1)
            await settle()
        for client in clients:
            assert {"type": 6} in await client.hear()
        status, body = await request(app, "POST", "/chat", query=f"id={json.loads(body)['connectionId']}")
        assert (status, body) == (404, b"No Connection with that ID")


async def test_shutdown_waits_as_long_as_told() -> None:
    """A hub method that does not end is cancelled after `shutdown_timeout`."""
    cancelled = asyncio.Event()

    class StuckHub(Hub):
        async def wait(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    app = HubApp(shutdown_timeout=0.01)
    app.add_hub("/chat", StuckHub)
    async with app.lifespan():
        client = await connect(app)
        client.say({"type": 1, "target": "Wait", "arguments": []})
        await settle()
    assert cancelled.is_set()
    await client.task


# -- hubs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["chat", "/chat/", "", "/"])
def test_path_of_a_hub(path: str) -> None:
    """A hub's path begins with a slash and does not end with one."""
    with pytest.raises(ConfigurationError, match="starts with '/' and does not end with it"):
        HubApp().add_hub(path, ChatHub)


def test_path_that_is_taken() -> None:
    """Two hubs cannot have one path."""
    app = make()
    with pytest.raises(ConfigurationError, match="already a hub at '/chat'"):
        app.add_hub("/chat", NewsHub)


def test_hub_that_is_served_already() -> None:
    """A hub class has one path."""
    app = make()
    with pytest.raises(ConfigurationError, match="ChatHub is already served"):
        app.add_hub("/again", ChatHub)


async def test_hub_that_comes_late() -> None:
    """No hub can be added while the app runs."""
    app = make()
    async with app.lifespan():
        with pytest.raises(ConfigurationError, match="before the app starts"):
            app.add_hub("/news", NewsHub)


def test_hub_with_a_mistake() -> None:
    """A hub that cannot be served is refused where it is added, and its path stays free."""

    class WrongHub(Hub):
        async def join(self, room: str = "lobby") -> None: ...

    app = HubApp()
    with pytest.raises(ConfigurationError, match=r"'room' of .*WrongHub\.join has a default"):
        app.add_hub("/chat", WrongHub)
    app.add_hub("/chat", ChatHub)


def test_protocol_that_is_not_there() -> None:
    """A name in `supported_protocols` that nobody registered is refused, for a typo must not silence clients."""
    with pytest.raises(ConfigurationError, match="names mesagepack, but only json, messagepack are registered"):
        HubApp().add_hub("/chat", ChatHub, options=HubOptions(supported_protocols=("json", "mesagepack")))


async def test_context_of_a_hub() -> None:
    """Each hub has one context; a hub that was not added has none."""
    app = make()
    assert app.context(ChatHub) is app.context(ChatHub)
    with pytest.raises(ConfigurationError, match="NewsHub has not been added"):
        app.context(NewsHub)


async def test_sending_from_outside() -> None:
    """A hub's context reaches its clients: all of them, one, and a group that it has put one into."""
    app = make()
    chat = app.context(ChatHub)
    async with app.lifespan():
        ann, bob = await connect(app), await connect(app)
        await chat.clients.all.send("told", "all")
        await chat.clients.client("a-connection-2").send("told", "bob")
        await chat.groups.add("a-connection-1", "lobby")
        await chat.clients.group("lobby").send("told", "lobby")
        assert await ann.news() == [["all"], ["lobby"]]
        assert await bob.news() == [["all"], ["bob"]]
        await bob.leave()
        await chat.clients.all.send("told", "who is left")
        assert (await ann.news())[2:] == [["who is left"]]


@pytest.mark.row("B22")
async def test_negotiated_and_never_opened() -> None:
    """A token that no transport claims is good for 15 seconds, on a running app; then it is unknown."""
    clock = FakeClock()
    app = HubApp(clock=clock, ids=SeededIds())
    app.add_hub("/chat", ChatHub)
    async with app.lifespan():
        await settle()
        _, body = await request(app, "POST", "/chat/negotiate", query="negotiateVersion=1")
        claim = f"id={json.loads(body)['connectionToken']}"
        for _ in range(15):
            clock.advance(1)
            await settle()
        assert (await request(app, "DELETE", "/chat", query=claim))[0] == 400, "it is known, and has no transport yet"
        clock.advance(1)
        await settle()
        assert await request(app, "GET", "/chat", query=claim) == (404, b"No Connection with that ID")


@pytest.mark.row("B140")
async def test_choices_for_one_hub() -> None:
    """Options, transports, filters, the factory and the user's id are each hub's own; the app's are the default."""

    class Shout(HubFilter):
        async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
            return str(await next_(invocation)).upper()

    made: list[NewsHub] = []

    def make_news() -> NewsHub:
        made.append(NewsHub())
        return made[-1]

    def from_header(connection: HubConnectionContext) -> str | None:
        return connection.request.header("x-user")

    app = HubApp(options=HubOptions(enable_detailed_errors=True))
    app.add_hub("/chat", ChatHub)
    app.add_hub(
        "/news",
        NewsHub,
        options=HubOptions(),
        transport_options=TransportOptions(transports=HttpTransportType.NONE),
    )
    app.add_hub(
        "/quiet", type("QuietHub", (ChatHub,), {}), options=HubOptions(enable_detailed_errors=False), filters=[Shout()]
    )
    app.add_hub("/made", type("MadeHub", (NewsHub,), {}), hub_factory=make_news, user_id_provider=from_header)
    async with app.lifespan():
        chat, quiet = await connect(app), await connect(app, "/quiet")
        made_client = await connect(app, "/made", headers=[(b"x-user", b"ann")])
        assert (await chat.invoke("Echo"))["error"].endswith(
            "InvalidDataException: Invocation provides 0 argument(s) but target expects 1."
        )
        assert (await quiet.invoke("Echo"))["error"] == "Failed to invoke 'Echo' due to an error on the server."
        assert (await quiet.invoke("Echo", "hello"))["result"] == "HELLO"
        assert (await made_client.invoke("Who"))["result"] == "ann"
        assert made
        assert json.loads((await request(app, "POST", "/news/negotiate"))[1])["availableTransports"] == []


async def test_user_of_the_framework() -> None:
    """By default the user's id is that of ``scope["user"]``."""
    app = make()
    async with app.lifespan():
        client = await connect(app, user=SimpleUser("ann"))
        assert (await client.invoke("Who"))["result"] == "ann"


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root_path", "path", "served"),
    [
        ("", "/chat", True),
        ("", "/chat/", True),
        ("", "/rooms/big", True),
        ("", "/chat/room", False),
        ("", "/Chat", False),
        ("", "/", False),
        ("", "", False),
        ("", "/rooms", False),
        ("/hubs", "/hubs/chat", True),
        ("/app/hubs", "/app/hubs/rooms/big", True),
        ("/hubs", "/chat", True),  # a server or framework that leaves the prefix out of the path
        ("/hubs", "/hubs", False),
        ("/ch", "/chat", True),  # no prefix, for it ends within a name
        ("/hubs", "/hubs/hubs/chat", False),
    ],
)
async def test_addresses(root_path: str, path: str, served: bool) -> None:
    """A hub is found under its path, wherever the app is mounted; any other WebSocket or request gets 404."""
    app = HubApp()
    app.add_hub("/chat", ChatHub)
    app.add_hub("/rooms/big", NewsHub)
    async with app.lifespan():
        client = Client(app, path, root_path=root_path, extensions={"websocket.http.response": {}})
        client.say({"protocol": "json", "version": 1})
        status, body = await request(app, "GET", path, root_path=root_path)
        negotiated, _ = await request(app, "POST", f"{path.rstrip('/')}/negotiate", root_path=root_path)
        if served:
            assert await client.hear() == [{}]
            assert (status, body) == (400, b"Connection ID required")
            assert negotiated == 200
        else:
            await client.task
            assert client.sent[0]["type"] == "websocket.http.response.start"
            assert client.sent[0]["status"] == 404
            assert (status, negotiated) == (404, 404)


async def test_websocket_below_a_hub() -> None:
    """A hub's negotiate address is for HTTP only."""
    app = make()
    async with app.lifespan():
        client = Client(app, "/chat/negotiate", extensions={"websocket.http.response": {}})
        await client.task
        assert client.sent[0]["status"] == 404
        assert (await request(app, "POST", "/chat/negotiate/"))[0] == 200


async def test_scope_that_is_unknown() -> None:
    """A kind of scope that ASGI has not yet, or not any more, is an error that names it."""
    app = make()
    async with app.lifespan():
        with pytest.raises(ConfigurationError, match="not 'webtransport'"):
            await app({"type": "webtransport", "path": "/chat"}, _nothing, _nothing)


async def _nothing(*_: object) -> Any:
    raise AssertionError("nothing is received, and nothing sent")


# -- the backplane -----------------------------------------------------------------------------------------------------


def endpoints(app: HubApp) -> list[str]:
    """Where its Redis is; empty without one."""
    backplane = app._backplane
    if backplane is None:
        return []
    assert isinstance(backplane, RedisBackplane)
    return list(backplane.endpoints)


def test_redis_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """HUBPLANE_REDIS counts when the code names no Redis; empty, it is none."""
    monkeypatch.delenv("HUBPLANE_REDIS", raising=False)
    assert endpoints(HubApp()) == []
    monkeypatch.setenv("HUBPLANE_REDIS", "")
    assert endpoints(HubApp()) == []
    monkeypatch.setenv("HUBPLANE_REDIS", "redis.internal,channelPrefix=MyApp")
    assert endpoints(HubApp()) == ["redis.internal:6379"]
    assert endpoints(HubApp("other.internal:7000")) == ["other.internal:7000"]


@pytest.mark.parametrize(
    ("redis", "expected"),
    [
        ("redis.internal,channelPrefix=MyApp", "redis.internal:6379"),
        ("redis://redis.internal:7000/?channelPrefix=MyApp", "redis.internal:7000"),
        (RedisOptions(endpoints=(Endpoint("redis.internal"),), tls=True), "redis.internal:6380"),
    ],
)
def test_forms_of_redis(redis: str | RedisOptions, expected: str) -> None:
    """Redis is given as a StackExchange.Redis string, a URL or options."""
    assert endpoints(HubApp(redis)) == [expected]


def test_redis_with_a_mistake() -> None:
    """A wrong Redis configuration is refused at once."""
    with pytest.raises(ConfigurationError, match="Keyword 'channelPrefx' is not supported"):
        HubApp("localhost,channelPrefx=MyApp")


@pytest.mark.row("S18")
def test_without_the_extra() -> None:
    """Without the extra for Redis hubplane imports and serves; naming a Redis is then an error that names the extra."""
    program = """
import sys
sys.modules["hiredis"] = None
import hubplane
hubplane.HubApp()
hubplane.RedisOptions()
try:
    hubplane.HubApp(redis="localhost")
except hubplane.ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert "pip install 'hubplane[redis]'" in done.stdout


async def test_two_nodes() -> None:
    """Two apps on one bus are one hub: a broadcast on one reaches the clients of both, also from its context."""
    bus = MemoryBus()
    nodes = [HubApp(MemoryBackplane(bus)), HubApp(MemoryBackplane(bus))]
    for node in nodes:
        node.add_hub("/chat", ChatHub)
    async with nodes[0].lifespan(), nodes[1].lifespan():
        ann, bob = await connect(nodes[0]), await connect(nodes[1])
        await ann.invoke("TellAll", "from ann")
        await nodes[1].context(ChatHub).clients.all.send("told", "from the second")
        assert await ann.news() == await bob.news() == [["from ann"], ["from the second"]]


@pytest.mark.row("S31")
async def test_what_needs_sticky_sessions() -> None:
    """A client that negotiated has to come back to the same node; one that skips negotiation may go to any."""
    bus = MemoryBus()
    nodes = [make(MemoryBackplane(bus)), make(MemoryBackplane(bus))]
    async with nodes[0].lifespan(), nodes[1].lifespan():
        _, body = await request(nodes[0], "POST", "/chat/negotiate", query="negotiateVersion=1")
        token = f"id={json.loads(body)['connectionToken']}".encode()
        lost = Client(nodes[1], query_string=token, extensions={"websocket.http.response": {}})
        await lost.task
        assert lost.sent[0]["status"] == 404
        negotiated = await connect(nodes[0], query_string=token)
        skipping = [await connect(node) for node in nodes]
        await negotiated.invoke("TellAll", "here")
        assert [await client.news() for client in (negotiated, *skipping)] == [[["here"]]] * 3


@pytest.mark.row("X15")
@pytest.mark.parametrize("backplane", [None, MemoryBackplane], ids=["alone", "backplane"])
async def test_two_hubs(backplane: Callable[[], MemoryBackplane] | None) -> None:
    """Two hubs of one app never hear each other: not by all, not by a group of one name, not by a user."""
    app = HubApp(backplane and backplane(), ids=SeededIds())
    app.add_hub("/chat", ChatHub)
    app.add_hub("/news", NewsHub)
    chat, news = app.context(ChatHub), app.context(NewsHub)
    async with app.lifespan():
        ann, bob = await connect(app, user={"sub": "ann"}), await connect(app, "/news", user={"sub": "ann"})
        await chat.groups.add("a-connection-1", "lobby")
        await news.groups.add("a-connection-2", "lobby")
        await chat.clients.all.send("told", "all")
        await chat.clients.group("lobby").send("told", "group")
        await chat.clients.user("ann").send("told", "user")
        assert await ann.news() == [["all"], ["group"], ["user"]]
        assert await bob.news() == []
        await news.clients.group("lobby").send("told", "news")
        assert await bob.news() == [["news"]]


@pytest.mark.parametrize("name", [None, "MyApp.Hubs.ChatHub"])
async def test_name_on_the_backplane(name: str | None) -> None:
    """Channels are named after `hub_name`, else after the class's module and name."""
    backplane = RecordingBackplane()
    app = HubApp(backplane)
    app.add_hub("/chat", ChatHub, hub_name=name)
    async with app.lifespan():
        assert f"{name or f'{__name__}.ChatHub'}:all" in backplane.subscribed


@pytest.mark.row("S46")
@pytest.mark.parametrize(
    ("protocols", "supported", "expected"),
    [
        (None, None, ["json", "messagepack"]),
        ([JsonHubProtocol()], None, ["json"]),
        (None, ("messagepack",), ["messagepack"]),
    ],
)
async def test_protocols_on_the_backplane(
    protocols: list[JsonHubProtocol] | None, supported: tuple[str, ...] | None, expected: list[str]
) -> None:
    """A message is published in every registered protocol, or in those alone that its hub supports."""
    backplane = RecordingBackplane()
    app = HubApp(backplane, protocols=protocols)
    app.add_hub("/chat", ChatHub, options=HubOptions(supported_protocols=supported))
    async with app.lifespan():
        await app.context(ChatHub).clients.all.send("told", "all")
    ((_, payload),) = backplane.published
    assert list(decode_invocation(payload).payloads) == expected


@pytest.mark.row("R62")
async def test_the_hubs_protocols_win_over_the_apps() -> None:
    """Where the app names JSON and a hub MessagePack, that hub's messages are MessagePack's, others' JSON."""
    backplane = RecordingBackplane()
    app = HubApp(backplane, options=HubOptions(supported_protocols=("json",)))
    app.add_hub("/chat", ChatHub, options=HubOptions(supported_protocols=("messagepack",)))
    app.add_hub("/news", NewsHub)
    async with app.lifespan():
        for hub in (ChatHub, NewsHub):
            await app.context(hub).clients.all.send("told", "all")
    assert [list(decode_invocation(payload).payloads) for _, payload in backplane.published] == [
        ["messagepack"],
        ["json"],
    ]


# -- in a framework ----------------------------------------------------------------------------------------------------


def messages(text: str) -> list[dict[str, Any]]:
    """The messages of a frame."""
    return [json.loads(record) for record in text.split("\x1e")[:-1]]


def chat_in(socket: WebSocketTestSession) -> None:
    """Shake hands and call."""
    socket.send_text('{"protocol":"json","version":1}\x1e')
    assert messages(socket.receive_text()) == [{}]
    socket.send_text('{"type":1,"invocationId":"7","target":"echo","arguments":["hello"]}\x1e')
    assert messages(socket.receive_text()) == [{"type": 3, "invocationId": "7", "result": "hello"}]


def test_in_fastapi() -> None:
    """Mounted in FastAPI with its lifespan, a hub is served beside ordinary routes, which may send to its clients."""
    hubs = make()
    app = FastAPI(lifespan=hubs.lifespan)
    app.mount("/hubs", hubs)

    @app.post("/announce")
    async def announce(text: str) -> None:
        await hubs.context(ChatHub).clients.all.send("told", text)

    with TestClient(app) as browser, browser.websocket_connect("/hubs/chat") as socket:
        chat_in(socket)
        assert browser.post("/announce", params={"text": "closing"}).status_code == 200
        assert messages(socket.receive_text()) == [{"type": 1, "target": "told", "arguments": ["closing"]}]
        assert browser.post("/hubs/chat/negotiate?negotiateVersion=1").json()["negotiateVersion"] == 1
        assert browser.get("/hubs/nothing").status_code == 404


def test_in_starlette() -> None:
    """So it is in Starlette, also two mounts deep."""
    hubs = make()
    app = Starlette(lifespan=hubs.lifespan, routes=[Mount("/v1", routes=[Mount("/hubs", hubs)])])
    with TestClient(app) as browser, browser.websocket_connect("/v1/hubs/chat") as socket:
        chat_in(socket)


def test_in_a_framework_without_its_lifespan() -> None:
    """Mounted without the framework's lifespan the first request fails, and the error says what to write."""
    app = Starlette(routes=[Mount("/hubs", make())])
    with TestClient(app) as browser, pytest.raises(ConfigurationError, match="needs the framework's lifespan"):
        browser.post("/hubs/chat/negotiate")


def test_on_its_own() -> None:
    """An app is an ASGI application itself, lifespan included."""
    with TestClient(make()) as browser, browser.websocket_connect("/chat") as socket:
        chat_in(socket)
