"""The application's own redis-py client: its settings count, for each connect anew, and who made it closes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Connection, ConnectionPool, Redis, RedisCluster, Sentinel
from redis.credentials import CredentialProvider

from hubplane import (
    BackplaneUnavailableError,
    ConfigurationError,
    Hub,
    HubApp,
    RedisConnectionFailed,
    RedisFailure,
    RedisOptions,
)
from hubplane.backplane.redis.client import ClientSource
from hubplane.backplane.redis.options import Endpoint
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.clock import SystemClock
from hubplane.ids import SystemIds
from hubplane.lifetime.audience import ALL, Audience, AudienceKind
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.recording import RecordedClient
from hubplane.testing.redis_server import RedisServer

JSON = JsonHubProtocol()
PATIENCE = 20.0
FAST = RedisOptions(async_timeout=1.0, retry_max=0.1)

if TYPE_CHECKING:
    LogAdapter = logging.LoggerAdapter[logging.Logger]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own."""
    with RedisServer() as server:
        yield server


def client_of(server: RedisServer, **settings: Any) -> Redis:  # what Redis() takes
    """An application's client."""
    return Redis(host=server.host, port=server.port, **settings)


@asynccontextmanager
async def running(source: ClientSource, options: RedisOptions = FAST) -> AsyncIterator[tuple[RedisBackplane, Any]]:
    """A backplane with that client, subscribed to "room"."""
    node, sink = RedisBackplane(options, source=source), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"], keep=True)
        yield node, sink


async def exchange(node: RedisBackplane, sink: RecordingSink, payload: bytes) -> None:
    """A message goes out and comes back."""
    assert await node.publish("room", payload) == 1
    await sink.message("room", payload)


async def connected(hubs: HubApp) -> None:
    """Wait until the app has Redis: entering its lifespan does not wait for long."""
    async with asyncio.timeout(PATIENCE):
        while not hubs.is_connected:  # noqa: ASYNC110 - a good start is no event
            await asyncio.sleep(0.01)


class ChatHub(Hub):
    async def ping(self) -> None: ...


@pytest.mark.row("S52", "X14")
async def test_client_of_the_application_is_left_open(server: RedisServer) -> None:
    """A client given to HubApp lends its settings, and works on after the app has ended, its connections untouched."""
    client = client_of(server, client_name="mine")
    async with client:
        assert await client.ping()
        mine = await client.client_id()
        for _ in range(2):
            hubs = HubApp(client)
            hubs.add_hub("/chat", ChatHub)
            async with hubs.lifespan():
                await connected(hubs)
                names = [line["name"] for line in await client.client_list()]
                assert names.count("mine") == 3  # the client's own, and our two
            assert await client.client_id() == mine


@pytest.mark.row("S45", "S52")
async def test_factory_makes_one_client_that_is_closed_at_the_end(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A factory is called once for both connections, logs under .NET's event 100, and its client is closed for it."""
    caplog.set_level(logging.DEBUG)
    made: list[Redis] = []

    async def factory(log: LogAdapter) -> Redis:
        log.info("connecting to %s", server.port)
        await asyncio.sleep(0)
        made.append(client_of(server, client_name="factory"))
        return made[-1]

    hubs = HubApp()
    hubs.add_redis(connection_factory=factory, channel_prefix="App:")
    hubs.add_hub("/chat", ChatHub, hub_name="ChatHub")
    for runs in (1, 2):
        async with hubs.lifespan():
            await connected(hubs)
            assert len(made) == runs
            assert await made[-1].ping()  # it is open, and has a connection of its own to close
            assert server.command("PUBSUB", "NUMSUB", "App:ChatHub:all") == [b"App:ChatHub:all", 1]
        async with asyncio.timeout(PATIENCE):
            while b"name=factory" in server.command("CLIENT", "LIST"):  # type: ignore[operator]  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    lines = [record for record in caplog.records if record.__dict__.get("event_id") == 100]
    assert [line.getMessage() for line in lines] == [f"connecting to {server.port}"] * 2
    assert {line.__dict__["event_name"] for line in lines} == {"RedisConnectionLog"}


@pytest.mark.row("R37")
async def test_clients_of_a_node_whose_factory_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Clients come and go though no Redis client can be made; senders get the reason, and it is logged once.

    In the original the client's connect fails; here a node serves its clients without Redis.
    """
    error = LookupError("no Redis in the registry")

    async def factory(_: LogAdapter) -> Redis:
        raise error

    routes = BackplaneRoutes()
    node = RedisBackplane(RedisOptions(async_timeout=0.3, retry_max=0.05), source=ClientSource(factory=factory))
    manager = ScaleoutHubLifetimeManager(
        "Hub", backplane=node, routes=routes, protocols=(JSON,), clock=SystemClock(), ids=SystemIds(), patience=0.2
    )
    async with node.run(routes), manager.run():
        client = RecordedClient("c1", JSON, user="ann")
        await manager.on_connected(client.connection)
        for audience in (ALL, Audience(AudienceKind.USER, ("ann",))):
            with pytest.raises(BackplaneUnavailableError, match="no Redis in the registry"):
                await manager.send(audience, "news", [])
        await manager.send(Audience(AudienceKind.CONNECTION, ("c1",)), "direct", [])
        assert client.invocations() == [("direct", [])]
        await manager.on_disconnected(client.connection)
    logged = [record for record in caplog.records if record.getMessage() == "Error connecting to Redis."]
    assert [record.__dict__["event_id"] for record in logged] == [14]
    assert logged[0].exc_info is not None
    assert logged[0].exc_info[1] is not None
    assert logged[0].exc_info[1].__cause__ is error


@pytest.mark.row("R37")
async def test_factory_that_fails_is_logged_once_and_tried_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What a factory raises is the cause of what senders get, is logged once, harms no client's end, and is retried."""
    error = LookupError("no Redis in the registry")
    calls = 0
    fails = True

    async def factory(_: LogAdapter) -> Redis:
        nonlocal calls
        calls += 1
        if fails:
            raise error
        return client_of(server)

    routes = BackplaneRoutes()
    node = RedisBackplane(RedisOptions(async_timeout=0.3, retry_max=0.05), source=ClientSource(factory=factory))
    async with node.run(routes):
        with pytest.raises(BackplaneUnavailableError, match="no Redis in the registry") as caught:
            await node.subscribe(["Hub:connection:1"])
        cause: BaseException | None = caught.value
        while cause is not None and cause is not error:
            cause = cause.__cause__
        assert cause is error
        with pytest.raises(BackplaneUnavailableError, match="no Redis in the registry"):
            await node.publish("Hub:all", b"x")
        await node.unsubscribe(["Hub:connection:1"])
        assert calls > 1
        logged = [record for record in caplog.records if record.getMessage() == "Error connecting to Redis."]
        assert [record.__dict__["event_id"] for record in logged] == [14]
        assert logged[0].exc_info is not None
        assert logged[0].exc_info[1] is not None
        assert logged[0].exc_info[1].__cause__ is error
        fails = False
        async with asyncio.timeout(PATIENCE):
            while not node.is_connected:  # noqa: ASYNC110 - the routes tell nobody here
                await asyncio.sleep(0.01)
        assert await node.publish("Hub:all", b"x") == 0


async def test_factory_that_returns_something_else_is_told(server: RedisServer) -> None:
    """What is no redis-py client is refused by name: at once if it was given, as a failed connect if it was made."""

    async def factory(_: LogAdapter) -> Redis:
        return "redis://localhost"  # type: ignore[return-value]  # on purpose

    failures: list[RedisConnectionFailed] = []
    hubs = HubApp()
    hubs.add_redis(connection_factory=factory, on_connection_failed=failures.append)
    hubs.add_hub("/chat", ChatHub)
    async with hubs.lifespan(), asyncio.timeout(PATIENCE):
        while not failures:  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.01)
    assert failures[0].failure is RedisFailure.INTERNAL_FAILURE
    assert failures[0].endpoint is None
    assert "takes a client of redis.asyncio" in str(failures[0].error)
    with pytest.raises(ConfigurationError, match=r"takes a client of redis\.asyncio"):
        HubApp(3.5)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigurationError, match="RedisCluster client cannot"):
        HubApp(RedisCluster(host="localhost"))  # type: ignore[arg-type]  # on purpose
    async with client_of(server) as client:
        with pytest.raises(ConfigurationError, match="exclude each other"):
            HubApp().add_redis(client, connection_factory=factory)

    class Tunnel(Connection):
        pass

    with pytest.raises(ConfigurationError, match="connections of the class Tunnel"):
        HubApp(Redis(connection_pool=ConnectionPool(connection_class=Tunnel)))


class Tokens(CredentialProvider):
    """Gives out a new token for each connect, as a provider for Azure does; the server takes the last one only."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.given: list[str] = []

    async def get_credentials_async(self) -> tuple[str, str]:
        await asyncio.sleep(0)
        self.given.append(f"token-{len(self.given)}")
        self.server.command("ACL", "SETUSER", "node", "on", "resetpass", f">{self.given[-1]}", "+@all", "&*")
        return "node", self.given[-1]


@pytest.mark.parametrize("kind", ["valkey", "redis"])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_credentials_are_asked_for_at_each_connect(kind: Any, protocol: int) -> None:
    """A provider's new token is used at each connect, so a node whose old one has expired comes back by itself."""
    with RedisServer(kind=kind) as server:
        tokens = Tokens(server)
        client = Redis(host=server.host, port=server.port, credential_provider=tokens, protocol=protocol)
        async with client, running(ClientSource(client)) as (node, sink):
            await exchange(node, sink, b"one")
            assert len(tokens.given) == 2
            server.command("CLIENT", "KILL", "TYPE", "pubsub")
            await sink.event("restored with a gap")
            server.command("CLIENT", "KILL", "TYPE", "normal")
            await sink.until(lambda: len(sink.events) == 4)
            await exchange(node, sink, b"two")
            assert len(tokens.given) == 4


async def test_credentials_of_a_function(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Options take a plain function too; when it fails the node says so, shows no secret, and asks again."""
    caplog.set_level(logging.DEBUG)
    server.command("ACL", "SETUSER", "node", "on", ">hunter2", "+@all", "&*")
    answers: list[tuple[str, str] | Exception] = [OSError("identity service away")] * 3

    def credentials() -> tuple[str, str]:
        answer = answers.pop() if answers else ("node", "hunter2")
        if isinstance(answer, Exception):
            raise answer
        return answer

    options = RedisOptions(
        endpoints=(Endpoint(server.host, server.port),), credential_provider=credentials, retry_max=0.1
    )
    node, sink = RedisBackplane(options), RecordingSink()
    async with node.run(sink):
        await sink.event("lost")
        assert "the credential provider failed: OSError: identity service away" in str(sink.errors[0])
        await sink.event("restored")
        await node.subscribe(["room"])
        await exchange(node, sink, b"x")
        assert b"user=node" in server.command("CLIENT", "LIST")  # type: ignore[operator]
    assert "hunter2" not in caplog.text + repr(options)


async def test_settings_of_the_client_are_used() -> None:
    """User, password, database, name and protocol of the client are those of our connections; a socket's path, too."""
    with RedisServer(unix=True, password="pw") as server:
        server.command("ACL", "SETUSER", "node", "on", ">npw", "+@all", "~*", "&*")
        url = f"unix://node:npw@{server.path}?db=3&protocol=2&client_name=shared"
        async with Redis.from_url(url) as client, running(ClientSource(client)) as (node, sink):
            await exchange(node, sink, b"x")
            text = server.command("CLIENT", "LIST")
            assert isinstance(text, bytes)
            ours = [line for line in text.decode().splitlines() if "name=shared" in line]
            assert len(ours) == 2
            assert all("user=node" in line for line in ours)
            assert not [line for line in ours if "resp=3" in line]


class Told(Sentinel):
    """Sentinels whose answer the test decides."""

    def __init__(self, answer: tuple[str, int]) -> None:
        super().__init__([("sentinel.invalid", 26379)])  # type: ignore[no-untyped-call]  # redis-py's is not typed
        self.answer = answer

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        assert service_name == "mymaster"
        return self.answer


async def test_sentinels_of_the_client_are_asked() -> None:
    """A client made by a Sentinel leads to the primary that the Sentinels name, found anew at each connect."""
    with RedisServer(kind="redis") as primary, RedisServer(kind="redis") as other:
        sentinel = Told((primary.host, primary.port))
        async with sentinel.master_for("mymaster") as client, running(ClientSource(client)) as (node, sink):
            await exchange(node, sink, b"x")
            assert primary.command("PUBSUB", "NUMSUB", "room") == [b"room", 1]
            sentinel.answer = (other.host, other.port)
            primary.kill()
            await sink.event("restored with a gap")
            assert other.command("PUBSUB", "NUMSUB", "room") == [b"room", 1]
            await exchange(node, sink, b"y")


@pytest.mark.parametrize("answer", ["token", (), ("a", "b", "c"), (b"token",), None])
async def test_credentials_of_another_shape_are_told(server: RedisServer, answer: Any) -> None:
    """What is neither a password nor a user with one is refused as such; it is never tried on the server."""
    options = RedisOptions(endpoints=(Endpoint(server.host, server.port),), credential_provider=lambda: answer)
    sink = RecordingSink()
    async with RedisBackplane(options).run(sink):
        await sink.event("lost")
        assert "the credential provider failed" in str(sink.errors[0])
    with pytest.raises(ConfigurationError, match="is a function or a provider"):
        RedisOptions(credential_provider="token")  # type: ignore[arg-type]  # on purpose


async def test_unusable_client_of_a_factory_is_closed(server: RedisServer) -> None:
    """A client that is made and cannot be used leaves no connection behind."""

    class Tunnel(Connection):
        pass

    pool = ConnectionPool(connection_class=Tunnel, host=server.host, port=server.port, client_name="tunnel")
    client = Redis.from_pool(pool)
    assert await client.ping()

    async def factory(_: LogAdapter) -> Redis:
        return client

    sink = RecordingSink()
    async with RedisBackplane(FAST, source=ClientSource(factory=factory)).run(sink):
        await sink.event("lost")
        assert "connections of the class Tunnel" in str(sink.errors[0])
        async with asyncio.timeout(PATIENCE):
            while b"name=tunnel" in server.command("CLIENT", "LIST"):  # type: ignore[operator]  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("asked", ["credential provider", "connection factory"])
async def test_what_the_application_awaited_was_cancelled(server: RedisServer, asked: str) -> None:
    """A provider or factory that awaits something cancelled has failed, is asked again, and the node heals."""
    token: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    token.cancel()
    cancelled = True

    async def provide() -> tuple[str]:
        if cancelled:
            await token
        return ("",)

    async def make(_: LogAdapter) -> Redis:
        if cancelled:
            await token
        return client_of(server)

    if asked == "credential provider":
        server.command("ACL", "SETUSER", "default", "nopass")
        endpoint = Endpoint(server.host, server.port)
        node = RedisBackplane(RedisOptions(endpoints=(endpoint,), credential_provider=provide, retry_max=0.05))
    else:
        node = RedisBackplane(RedisOptions(retry_max=0.05), source=ClientSource(factory=make))
    sink = RecordingSink()
    async with node.run(sink):
        await sink.event("lost")
        assert f"he {asked} failed: CancelledError" in str(sink.errors[0])
        cancelled = False
        await sink.event("restored")


async def test_health_tells_the_newest_reason(server: RedisServer) -> None:
    """A Redis that comes back and refuses the login is not reported as one that has closed a connection."""
    endpoint = Endpoint(server.host, server.port)
    password: list[str] = []

    def credentials() -> tuple[str, ...]:
        if not password:
            raise LookupError("the vault is sealed")
        return ("default", password[0])

    server.command("CONFIG", "SET", "requirepass", "pw")
    node = RedisBackplane(RedisOptions(endpoints=(endpoint,), credential_provider=credentials, retry_max=0.05))  # type: ignore[arg-type]  # one or two
    sink = RecordingSink()
    async with node.run(sink):
        await sink.event("lost")
        assert "the vault is sealed" in node.health().error
        password.append("wrong")
        async with asyncio.timeout(PATIENCE):
            while "WRONGPASS" not in node.health().error:  # noqa: ASYNC110 - an attempt tells nobody
                await asyncio.sleep(0.01)
        password[0] = "pw"
        await sink.event("restored")
        assert node.health().error == ""
