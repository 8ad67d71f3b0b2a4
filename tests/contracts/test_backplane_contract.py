"""Every backplane keeps the contract of `hubplane.backplane.base`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest

from hubplane.backplane.memory import MemoryBackplane, MemoryBus
from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.backplane.redis.slots import SLOTS, slot_of
from hubplane.testing.backplane_contract import BackplaneContract, BackplaneFleet
from hubplane.testing.redis_cluster import RedisCluster
from hubplane.testing.redis_sentinels import RedisSentinels
from hubplane.testing.redis_server import RedisServer, RedisServerKind, find_redis_server


class TestMemoryBackplane(BackplaneContract):
    """The reference implementation."""

    @pytest.fixture
    def fleet(self) -> BackplaneFleet:
        bus = MemoryBus()
        return BackplaneFleet(node=lambda: MemoryBackplane(bus), interrupt=bus.interrupt, resume=bus.resume)


def redis_servers() -> list[object]:
    """The kinds of server to run against; a missing one is skipped with the reason, and fails where all is required."""
    kinds: tuple[RedisServerKind, ...] = ("valkey", "redis")
    required = os.environ.get("HUBPLANE_REQUIRE_ALL") == "1"
    return [
        pytest.param(
            kind,
            marks=pytest.mark.skipif(
                find_redis_server(kind) is None and not required, reason=f"no server of kind {kind} is installed"
            ),
        )
        for kind in kinds
    ]


@pytest.fixture(scope="module", params=redis_servers())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One server process for all tests of its kind; those that end it start it again."""
    with RedisServer(kind=request.param) as server:
        yield server


class TestRedisBackplane(BackplaneContract):
    """Redis pub/sub, over both protocols, on the embedded Valkey and on Redis itself."""

    @pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
    def fleet(self, server: RedisServer, request: pytest.FixtureRequest) -> BackplaneFleet:
        server.start()
        options = RedisOptions(
            endpoints=(Endpoint(server.host, server.port),),
            channel_prefix="Contract:",
            protocol=request.param,
            async_timeout=2.0,
        )
        return BackplaneFleet(node=lambda: RedisBackplane(options), interrupt=server.kill, resume=server.start)


@pytest.fixture(scope="module")
def sentinels() -> Iterator[RedisSentinels]:
    """A primary without a replica, so that it is away as long as it is."""
    with RedisSentinels(replicas=0, sentinels=1) as sentinels:
        yield sentinels


class TestRedisOverSentinels(BackplaneContract):
    """One primary that Sentinels name."""

    @pytest.fixture
    def fleet(self, sentinels: RedisSentinels) -> BackplaneFleet:
        primary = sentinels.servers[0]
        primary.start()
        options = replace(parse(sentinels.configuration), channel_prefix="Contract:", async_timeout=2.0)
        return BackplaneFleet(node=lambda: RedisBackplane(options), interrupt=primary.kill, resume=primary.start)


@pytest.fixture(scope="module", params=redis_servers())
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """One Cluster for all tests of its kind; those that end it start it again."""
    with RedisCluster(kind=request.param) as cluster:
        yield cluster


class TestRedisCluster(BackplaneContract):
    """Three primaries, plain and shard channels: order holds in each channel, but not across channels."""

    ordered_across_channels = False

    @pytest.fixture(params=["compat", "sharded"])
    def fleet(self, cluster: RedisCluster, request: pytest.FixtureRequest) -> BackplaneFleet:
        if any(server.pid is None for server in cluster.servers):
            cluster.resume()
        options = replace(
            parse(cluster.configuration), channel_prefix="Contract:", async_timeout=2.0, mode=request.param
        )

        prefix = b"Contract:" if request.param == "sharded" else b""
        fences = [
            next(f"fence {n}" for n in count() if slot_of(prefix + b"fence %d" % n) * 3 // SLOTS == third)
            for third in range(3)
        ]

        def resume() -> None:
            for server in cluster.servers:
                server.start()

        return BackplaneFleet(
            node=lambda: RedisBackplane(options), interrupt=cluster.interrupt, resume=resume, fences=tuple(fences)
        )


class TestShardChannelsOnOneServer(BackplaneContract):
    """Shard channels need no Cluster; here a server is taken for one."""

    @pytest.fixture(params=["auto", "cluster"])
    def fleet(self, server: RedisServer, request: pytest.FixtureRequest) -> BackplaneFleet:
        server.start()
        options = RedisOptions(
            endpoints=(Endpoint(server.host, server.port),),
            channel_prefix="Contract:",
            async_timeout=2.0,
            mode="sharded",
            topology=request.param,
        )
        return BackplaneFleet(node=lambda: RedisBackplane(options), interrupt=server.kill, resume=server.start)
