"""The contract of lifetime managers, over each of them and each carrier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import count

import pytest

from hubplane.backplane.base import Backplane
from hubplane.backplane.memory import MemoryBackplane, MemoryBus
from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.options import Endpoint, RedisMode, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.clock import SystemClock
from hubplane.ids import SystemIds
from hubplane.lifetime.base import HubLifetimeManager
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.testing.lifetime_contract import CONTRACT_PROTOCOLS, LifetimeContract
from hubplane.testing.redis_cluster import RedisCluster
from hubplane.testing.redis_sentinels import RedisSentinels
from hubplane.testing.redis_server import RedisServer
from hubplane.testing.scaleout_contract import ScaleoutLifetimeContract


@asynccontextmanager
async def local() -> AsyncIterator[HubLifetimeManager]:
    """One node without a backplane."""
    manager = LocalHubLifetimeManager(protocols=CONTRACT_PROTOCOLS, ids=SystemIds())
    async with manager.run():
        yield manager


@asynccontextmanager
async def scaleout(backplane: Backplane) -> AsyncIterator[HubLifetimeManager]:
    """One node of a fleet."""
    routes = BackplaneRoutes()
    manager = ScaleoutHubLifetimeManager(
        "Tests.Hub",
        backplane=backplane,
        routes=routes,
        protocols=CONTRACT_PROTOCOLS,
        clock=SystemClock(),
        ids=SystemIds(),
    )
    async with backplane.run(routes), manager.run():
        yield manager


class TestLocal(LifetimeContract):
    def make_manager(self) -> AbstractAsyncContextManager[HubLifetimeManager]:
        return local()


class TestScaleoutOverMemory(ScaleoutLifetimeContract):
    @pytest.fixture(autouse=True)
    def bus(self) -> None:
        """A bus for each test."""
        self.memory = MemoryBus()

    def make_manager(self) -> AbstractAsyncContextManager[HubLifetimeManager]:
        return scaleout(MemoryBackplane(self.memory))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One server for all tests."""
    with RedisServer() as server:
        yield server


class TestScaleoutOverRedis(ScaleoutLifetimeContract):
    prefixes = count()

    @pytest.fixture(autouse=True)
    def options(self, server: RedisServer) -> None:
        """A prefix for each test."""
        self.redis = RedisOptions(
            endpoints=(Endpoint(server.host, server.port),), channel_prefix=f"Test{next(self.prefixes)}:"
        )

    def make_manager(self) -> AbstractAsyncContextManager[HubLifetimeManager]:
        return scaleout(RedisBackplane(self.redis))


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """One Cluster for all tests."""
    with RedisCluster() as cluster:
        yield cluster


class OverCluster(ScaleoutLifetimeContract):
    prefixes = count()
    mode: RedisMode

    @pytest.fixture(autouse=True)
    def options(self, cluster: RedisCluster) -> None:
        """A prefix for each test."""
        prefix = f"{self.mode}{next(self.prefixes)}:"
        self.redis = replace(parse(cluster.configuration), channel_prefix=prefix, mode=self.mode)

    def make_manager(self) -> AbstractAsyncContextManager[HubLifetimeManager]:
        return scaleout(RedisBackplane(self.redis))


class TestScaleoutOverCluster(OverCluster):
    mode = "compat"


class TestScaleoutOverShardChannels(OverCluster):
    mode = "sharded"


@pytest.fixture(scope="module")
def sentinels() -> Iterator[RedisSentinels]:
    """A primary, a replica and three Sentinels for all tests."""
    with RedisSentinels() as sentinels:
        yield sentinels


class TestScaleoutOverSentinels(ScaleoutLifetimeContract):
    prefixes = count()

    @pytest.fixture(autouse=True)
    def options(self, sentinels: RedisSentinels) -> None:
        """A prefix for each test."""
        self.redis = replace(parse(sentinels.configuration), channel_prefix=f"Test{next(self.prefixes)}:")

    def make_manager(self) -> AbstractAsyncContextManager[HubLifetimeManager]:
        return scaleout(RedisBackplane(self.redis))
