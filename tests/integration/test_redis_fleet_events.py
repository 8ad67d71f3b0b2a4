"""What an application hears, and what its health says, while servers of a Cluster or behind Sentinels come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
import trustme
from tests.integration.ears import Ears

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.events import RedisFailure, RedisHandlers
from hubplane.backplane.redis.options import Endpoint, RedisMode, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.backplane.redis.slots import SLOTS, slot_of
from hubplane.errors import BackplaneAuthenticationError, BackplanePermissionError, BackplaneUnavailableError
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_cluster import RedisCluster
from hubplane.testing.redis_fleets import wait_until
from hubplane.testing.redis_sentinels import RedisSentinels
from hubplane.testing.redis_server import RedisServer

pytestmark = pytest.mark.timeout(120)
GAP = "restored with a gap"
PATIENCE = 20.0
prefixes = count()


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisCluster]:
    """Three primaries with a replica each."""
    with RedisCluster(replicas=1) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: RedisCluster) -> RedisCluster:
    """The same, well again after what the test before did to it."""
    shared.resume()
    return shared


def options_for(fleet: RedisCluster | RedisSentinels, mode: RedisMode = "compat") -> RedisOptions:
    """How to reach it, with a prefix of the test's own."""
    return replace(parse(fleet.configuration), channel_prefix=f"E{next(prefixes)}:", mode=mode)


def where(server: RedisServer) -> Endpoint:
    """A server's address."""
    return Endpoint(server.host, server.port)


def channel_in(options: RedisOptions, third: int) -> str:
    """A channel whose slot is in one third of them."""
    prefix = options.channel_prefix.encode() if options.mode == "sharded" else b""
    names = (f"room {number}" for number in count())
    return next(name for name in names if slot_of(prefix + name.encode()) * 3 // SLOTS == third)


async def until(check: Callable[[], object]) -> None:
    """Wait for what this process finds out by itself."""
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110 - health is asked, it does not tell
            await asyncio.sleep(0.01)


@pytest.mark.row("S42", "S44", "S50", "S53")
@pytest.mark.parametrize("mode", ["compat", "sharded"])
async def test_dead_primary_is_told_and_its_heir_restores(cluster: RedisCluster, mode: RedisMode) -> None:
    """A killed primary is one failure of each connection; its heir restores both, and the gap names the channels."""
    options, ears = options_for(cluster, mode), Ears()
    names = [channel_in(options, third) for third in range(3)]
    node, sink = RedisBackplane(options, handlers=ears.handlers), RecordingSink()
    async with node.run(sink):
        await node.subscribe(names)
        for name in names:
            await node.publish(name, b"")  # all connections are up
        victim = cluster.owner(0)
        before = datetime.now(UTC)
        victim.kill()
        await ears.until(lambda: len(ears.restored) == 2 and len(ears.gaps) == 1)
        heir = where(cluster.owner(0))
        await until(lambda: node.is_connected)
        health = node.health()
        assert {server.endpoint for server in health.servers} == {
            where(cluster.owner(third * SLOTS // 3 + 1)) for third in range(3)
        }
        assert all(server.publishing and server.subscription and not server.error for server in health.servers)
    assert sorted(event.connection for event in ears.failed) == ["publishing", "subscription"]
    assert {event.endpoint for event in ears.failed} == {where(victim)}
    assert sorted(event.connection for event in ears.restored) == ["publishing", "subscription"]
    assert {event.endpoint for event in ears.restored} == {heir}
    assert all(0 < event.seconds < PATIENCE for event in ears.restored)
    gap = ears.gaps[0]
    assert gap.channels == (names[0],)
    assert gap.since <= ears.failed[0].at <= gap.until
    assert (before - gap.since).total_seconds() < 3
    assert sink.events == ["lost", GAP]


async def test_frozen_primary_is_told_by_its_silence(cluster: RedisCluster) -> None:
    """A primary that stops answering fails on both connections, its heir restores them; the gap covers the silence."""
    options, ears = replace(options_for(cluster), liveness_interval=0.3), Ears()
    names = [channel_in(options, third) for third in range(3)]
    node = RedisBackplane(options, handlers=ears.handlers)
    async with node.run(RecordingSink()):
        await node.subscribe(names)
        for name in names:
            await node.publish(name, b"")  # all connections are up
        victim = cluster.owner(0)
        before = datetime.now(UTC)
        victim.pause()
        try:
            await ears.until(lambda: len(ears.restored) == 2 and bool(ears.gaps))
            heir = where(cluster.owner(0))
        finally:
            victim.resume()
        await until(lambda: node.is_connected)
    assert sorted(event.connection for event in ears.failed) == ["publishing", "subscription"]
    assert {event.endpoint for event in ears.failed} == {where(victim)}
    assert {event.failure for event in ears.failed} == {RedisFailure.SOCKET_FAILURE}
    assert {event.endpoint for event in ears.restored} == {heir}
    assert ears.gaps[0].channels == (names[0],)
    # What was published into the silence is within the gap, although it was noticed a second later.
    assert ears.gaps[0].since <= before < ears.failed[0].at <= ears.gaps[0].until


async def test_missing_shard_shows_in_the_health() -> None:
    """A primary without a replica that dies is the one that the health names, until it is back and restores itself."""
    with RedisCluster() as cluster:
        options, ears = options_for(cluster, "sharded"), Ears()
        names = [channel_in(options, third) for third in range(3)]
        node = RedisBackplane(options, handlers=ears.handlers)
        async with node.run(RecordingSink()):
            await node.subscribe(names)
            await until(lambda: all(server.round_trip is not None for server in node.health().servers))
            health = node.health()
            assert health.is_connected
            assert health.channels == 3
            assert health.unconfirmed == health.refused == 0
            assert [server.endpoint for server in health.servers] == [where(server) for server in cluster.servers]
            assert all(server.server == health.server != "" for server in health.servers)
            cluster.servers[1].kill()
            await ears.until(lambda: len(ears.failed) == 2)
            health = node.health()
            assert not health.is_connected
            assert str(where(cluster.servers[1])) in health.error
            assert [(s.publishing, s.subscription) for s in health.servers] == [
                (True, True),
                (False, False),
                (True, True),
            ]
            assert str(where(cluster.servers[1])) in health.servers[1].error
            assert health.unconfirmed == 1
            cluster.start()
            await ears.until(lambda: len(ears.restored) == 2 and bool(ears.gaps))
            await until(lambda: node.health().is_connected)
            assert node.health().error == ""
    assert {event.endpoint for event in ears.failed} == {where(cluster.servers[1])}
    assert {event.endpoint for event in ears.restored} == {where(cluster.servers[1])}
    assert [gap.channels for gap in ears.gaps] == [(names[1],)]


@pytest.mark.parametrize("url", [False, True])
async def test_cluster_that_was_away_at_the_start(url: bool) -> None:
    """A Cluster that is not there at the start is one failure of each connection, restored when it comes."""
    with RedisCluster() as cluster:
        cluster.interrupt()
        ears = Ears()
        options = replace(parse(cluster.url if url else cluster.configuration), async_timeout=1.0)
        node, sink = RedisBackplane(options, handlers=ears.handlers), RecordingSink()
        await node.subscribe(["early"], keep=True)
        async with node.run(sink):
            await sink.event("lost")
            await node.subscribe(["room"], keep=True)
            await ears.until(lambda: len(ears.failed) == 2)
            health = node.health()
            assert (health.is_connected, health.publishing, health.subscription) == (False, None, None)
            assert health.error
            cluster.start()
            await ears.until(lambda: len(ears.restored) == 2 and bool(ears.gaps))
            await sink.event(GAP)
    assert sorted(event.connection for event in ears.failed) == ["publishing", "subscription"]
    assert {event.failure for event in ears.failed} == {RedisFailure.UNABLE_TO_CONNECT}
    assert sorted(event.connection for event in ears.restored) == ["publishing", "subscription"]
    assert [sorted(gap.channels) for gap in ears.gaps] == [["early", "room"]]


async def test_orderly_handover_is_no_event(cluster: RedisCluster) -> None:
    """A replica that takes over by agreement, with the old primary alive, is neither failure nor gap."""
    options, ears = options_for(cluster), Ears()
    name = channel_in(options, 0)
    node, sink = RedisBackplane(options, handlers=ears.handlers), RecordingSink()
    async with node.run(sink):
        await node.subscribe([name])
        old = cluster.owner(0)
        replica = next(s for s in cluster.servers if cluster.role(s) == "slave" and cluster.primary_of(s) is old)
        await asyncio.to_thread(cluster.fail_over, replica)
        await until(lambda: where(replica) in {server.endpoint for server in node.health().servers})
        await until(lambda: node.is_connected)
        assert await node.publish(name, b"x") >= 1
        await sink.message(name, b"x")
    assert ears.gaps == []
    assert len(ears.failed) == len(ears.restored)


@pytest.mark.parametrize("mode", ["compat", "sharded"])
async def test_refused_channel_shows_in_the_health(cluster: RedisCluster, mode: RedisMode) -> None:
    """A channel that access rules forbid is counted in the health; the error names the rule of this mode."""
    options = replace(options_for(cluster, mode), user="narrow", password="pw")
    prefix = options.channel_prefix
    commands = "+@connection +pubsub +cluster +ssubscribe +sunsubscribe +spublish +subscribe +unsubscribe +publish"
    for server in cluster.servers:
        server.command("ACL", "SETUSER", "narrow", "reset", *f"on >pw resetchannels &{prefix}ok* {commands}".split())
    node = RedisBackplane(options)
    async with node.run(RecordingSink()):
        await node.subscribe(["ok"])
        word = "ssubscribe" if mode == "sharded" else "subscribe"
        with pytest.raises(BackplanePermissionError) as caught:
            await node.subscribe(["forbidden"])
        assert caught.value.command == word.upper()
        assert f"+{word} &{prefix}*" in str(caught.value)
        with pytest.raises(BackplanePermissionError) as caught:
            await node.publish("forbidden", b"x")
        assert caught.value.command == ("SPUBLISH" if mode == "sharded" else "PUBLISH")
        await until(lambda: node.is_connected)
        await node.subscribe(["forbidden"], keep=True)
        await until(lambda: node.health().refused == 1)
        assert not node.is_connected
        assert "refuses 1 of 2 channels" in node.health().error
        for server in cluster.servers:
            server.command("ACL", "SETUSER", "narrow", f"&{prefix}forbidden")
        await until(lambda: node.is_connected)
        assert node.health().refused == 0


async def test_wrong_password_is_said_so(cluster: RedisCluster) -> None:
    """A Cluster that refuses the login is a failure of that kind, and a typed error where the start is to fail."""
    options = replace(options_for(cluster), user="stranger", password="pw")
    for topology in ("auto", "cluster"):
        ears = Ears()
        node = RedisBackplane(
            replace(options, topology=topology, abort_on_connect_fail=True, connect_retry=1), handlers=ears.handlers
        )
        with pytest.raises(BackplaneAuthenticationError, match="not possible to connect"):
            async with node.run(RecordingSink()):
                raise AssertionError
        assert {event.failure for event in ears.failed} == {RedisFailure.AUTHENTICATION_FAILURE}


async def test_credentials_come_from_a_provider(cluster: RedisCluster) -> None:
    """Every connection to every server of a Cluster asks the credential provider anew."""
    for server in cluster.servers:
        server.command("ACL", "SETUSER", "token", "reset", *["on", ">one", ">two", "allchannels", "+@all"])
    tokens = iter(["one", "two"] * 100)
    asked: list[str] = []

    async def provide() -> tuple[str, str]:
        asked.append(next(tokens))
        return "token", asked[-1]

    options = replace(options_for(cluster), credential_provider=provide)
    node, sink = RedisBackplane(options), RecordingSink()
    async with node.run(sink):
        for third in range(3):
            name = channel_in(options, third)
            await node.subscribe([name])
            assert await node.publish(name, b"x") == 1
            await sink.message(name, b"x")
    assert len(asked) >= 6


async def test_tls_in_a_cluster(tmp_path: Path) -> None:
    """With TLS every server of a Cluster is spoken to encrypted, and its certificate is checked."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours = authority.issue_cert("127.0.0.1")
    ours.private_key_pem.write_to_path(tmp_path / "server.key")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    files = ["--tls-cert-file", str(tmp_path / "server.pem"), "--tls-key-file", str(tmp_path / "server.key")]
    files += ["--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "no"]
    with RedisCluster(kind="redis", tls=files) as cluster:
        ports = cluster.tls_ports
        options = RedisOptions(
            endpoints=(Endpoint("127.0.0.1", ports[0]),), tls=True, tls_ca_file=str(tmp_path / "ca.pem")
        )
        node, sink = RedisBackplane(options), RecordingSink()
        async with node.run(sink):
            for third in range(3):
                name = channel_in(options, third)
                await node.subscribe([name])
                assert await node.publish(name, b"x") == 1
                await sink.message(name, b"x")
            assert sorted(server.endpoint.port for server in node.health().servers) == sorted(ports)


@pytest.mark.row("S44", "S50")
async def test_sentinels_failover_is_told() -> None:
    """Behind Sentinels a dead primary fails at its address, is restored at the new one, and leaves one gap."""
    with RedisSentinels() as sentinels:
        options, ears = options_for(sentinels), Ears()
        node, sink = RedisBackplane(options, handlers=ears.handlers), RecordingSink()
        async with node.run(sink):
            await node.subscribe(["a", "b"])
            await node.publish("nobody", b"")  # both connections are up
            old = sentinels.primary()
            old.kill()
            await ears.until(lambda: len(ears.restored) == 2 and len(ears.gaps) == 1)
            await sink.event(GAP)
            # One Sentinel that knows it is enough for the node; the others need a moment.
            await asyncio.to_thread(wait_until, sentinels.primary, "most Sentinels agree")
            new = where(sentinels.primary())
            health = node.health()
            assert (health.is_connected, health.publishing, health.subscription) == (True, new, new)
            assert health.server
            assert health.servers == ()
    assert {(event.connection, event.endpoint) for event in ears.failed} == {
        ("publishing", where(old)),
        ("subscription", where(old)),
    }
    assert len(ears.failed) == 2
    assert {event.endpoint for event in ears.restored} == {new}
    assert sorted(ears.gaps[0].channels) == ["a", "b"]


async def test_sentinels_choice_is_told() -> None:
    """When the Sentinels choose another primary, the old one is told as closed and the new as restored."""
    with RedisSentinels() as sentinels:
        ears = Ears()
        node = RedisBackplane(options_for(sentinels), handlers=ears.handlers)
        async with node.run(RecordingSink()):
            await node.subscribe(["a"])
            old = where(sentinels.primary())
            sentinels.fail_over()
            await ears.until(
                lambda: {e.connection for e in ears.restored if e.endpoint != old} == {"publishing", "subscription"}
            )
    assert {event.endpoint for event in ears.failed} >= {old}
    assert ears.gaps


async def test_sentinels_that_refuse_the_login_are_said_so() -> None:
    """A password that the Sentinels refuse is a failure of that kind; a credential provider serves them, too."""
    with RedisSentinels(password="pw", sentinel_password="pw") as sentinels:
        wrong = replace(options_for(sentinels), sentinel_password="guess", abort_on_connect_fail=True, connect_retry=1)
        ears = Ears()
        with pytest.raises(BackplaneUnavailableError) as caught:
            async with RedisBackplane(wrong, handlers=ears.handlers).run(RecordingSink()):
                raise AssertionError
        assert isinstance(caught.value, BackplaneAuthenticationError)
        assert {event.failure for event in ears.failed} == {RedisFailure.AUTHENTICATION_FAILURE}
        provided = replace(
            options_for(sentinels), password=None, sentinel_password=None, credential_provider=lambda: ("pw",)
        )
        node, sink = RedisBackplane(provided, handlers=RedisHandlers()), RecordingSink()
        async with node.run(sink):
            await node.subscribe(["room"])
            assert await node.publish("room", b"x") == 1
        own = replace(provided, sentinel_password="pw")
        node = RedisBackplane(own)
        async with node.run(sink):
            await node.subscribe(["room"])
            assert await node.publish("room", b"x") == 1
