"""The smallest access rule for a node: enough for everything a hub does, and a wall towards other prefixes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.clock import SystemClock
from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import AckTimeoutError, BackplanePermissionError
from hubplane.ids import SystemIds
from hubplane.lifetime.audience import ALL, Audience, AudienceKind
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion, HubMessage, Invocation
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.recording import RecordedClient
from hubplane.testing.redis_server import RedisServer

JSON = JsonHubProtocol()
# What docs/how-to/redis.md names. AUTH and HELLO come before any user is known, and cannot be forbidden.
RULE = ("+subscribe", "+unsubscribe", "+publish", "+pubsub|numsub", "+ping", "+client")


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server with a user for the prefix ``App:``, and nothing else that it may do."""
    with RedisServer(kind=request.param) as server:
        server.command("ACL", "SETUSER", "node", "on", ">pw", "resetchannels", "&App:*", *RULE)
        yield server


def options_for(server: RedisServer, prefix: str = "App:", protocol: int | None = None) -> RedisOptions:
    """How that user logs in."""
    return RedisOptions(
        endpoints=(Endpoint(server.host, server.port),),
        user="node",
        password="pw",
        channel_prefix=prefix,
        async_timeout=2.0,
        protocol=protocol,  # type: ignore[arg-type]  # 2 or 3
    )


@asynccontextmanager
async def node(options: RedisOptions, name: str) -> AsyncIterator[tuple[ScaleoutHubLifetimeManager, RecordedClient]]:
    """A node of the hub ``ChatHub`` with one client of user ``u``."""
    backplane, routes = RedisBackplane(options), BackplaneRoutes()
    manager = ScaleoutHubLifetimeManager(
        "ChatHub", backplane=backplane, routes=routes, protocols=(JSON,), clock=SystemClock(), ids=SystemIds()
    )

    def answered(connection: HubConnection, message: HubMessage) -> None:
        if isinstance(message, Completion):
            manager.set_connection_result(connection, message)

    client = RecordedClient(name, JSON, user="u", on_answer=answered)
    async with backplane.run(routes), manager.run():
        await manager.on_connected(client.connection)
        async with asyncio.timeout(20):
            while not backplane.is_connected:  # noqa: ASYNC110 - the connection that publishes may be the later one
                await asyncio.sleep(0.01)
        yield manager, client


@pytest.mark.row("S29")
@pytest.mark.parametrize("protocol", [2, 3])
async def test_everything_a_hub_does(server: RedisServer, protocol: int) -> None:
    """With these rights alone two nodes broadcast, serve groups, users and results across, and Redis denies nothing."""
    options = options_for(server, protocol=protocol)
    async with node(options, "c1") as (one, first), node(options, "c2") as (two, second):
        await one.add_to_group("c2", "g")
        await two.add_to_group("c1", "g")
        for audience, target in (
            (ALL, "all"),
            (Audience(AudienceKind.GROUP, ("g",)), "group"),
            (Audience(AudienceKind.USER, ("u",)), "user"),
            (Audience(AudienceKind.CONNECTION, ("c2",)), "connection"),
        ):
            await one.send(audience, target, [])
        await second.wait_for(4)
        await first.wait_for(3)
        assert [target for target, _ in second.invocations()] == ["all", "group", "user", "connection"]
        asking = asyncio.create_task(one.invoke_connection("c2", "ask", [], int, timeout=15))
        await second.wait_for(5)
        asked = second.messages()[4]
        assert isinstance(asked, Invocation)
        assert two.set_connection_result(second.connection, Completion(asked.invocation_id or "", result=7))
        assert await asking == 7
        await one.remove_from_group("c2", "g")
        with pytest.raises(AckTimeoutError):
            await one.add_to_group("nobody", "g")
        await two.on_disconnected(second.connection)
    log = server.command("ACL", "LOG")
    assert isinstance(log, list)
    denied = {entry[entry.index(b"object") + 1] for entry in log if isinstance(entry, list)}
    # In RESP2 a server tells its version only to who may ask; nothing is missed without.
    assert denied == (set() if protocol == 3 else {b"info", b"cluster|nodes"})


@pytest.mark.row("S29")
async def test_other_prefixes_are_out_of_reach(server: RedisServer) -> None:
    """A node of this user with another prefix neither hears nor is heard, and each error says what it would need."""
    other, sink = RedisBackplane(options_for(server, "Other:")), RecordingSink()
    async with other.run(sink):
        with pytest.raises(BackplanePermissionError, match=r"\+subscribe &Other:\*") as caught:
            await other.subscribe(["room"])
        assert caught.value.channel == "Other:room"
        with pytest.raises(BackplanePermissionError, match=r"\+publish &Other:\*") as caught:
            await other.publish("room", b"x")
        assert caught.value.channel == "Other:room"
        await other.subscribe(["kept"], keep=True)
        health = other.health()
        assert (health.is_connected, health.refused) == (False, 1)
        assert "refuses 1 of 1 channels" in health.error


async def test_special_characters_of_a_prefix_are_escaped_in_the_advice(server: RedisServer) -> None:
    """The rule that an error advises is for this very prefix, also where it has characters that mean something."""
    async with (backplane := RedisBackplane(options_for(server, "[A*]?:"))).run(RecordingSink()):
        with pytest.raises(BackplanePermissionError) as caught:
            await backplane.publish("room", b"x")
        server.command(*str(caught.value).rpartition("needs: ")[2].split())
        assert await backplane.publish("room", b"x") == 0
    async with (backplane := RedisBackplane(options_for(server, "A:"))).run(RecordingSink()):
        with pytest.raises(BackplanePermissionError):
            await backplane.publish("room", b"x")
