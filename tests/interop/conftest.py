"""A mixed fleet: one node of ours and one ASP.NET Core node on one Redis, with clients of both kinds on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.e2e.clients import JsDriver
from tests.e2e.nodes import HubNode
from tests.e2e.processes import eventually
from tests.interop.dotnet import AspNetNode
from tests.interop.fleet import FleetNode

from hubplane.testing.redis_server import RedisServer

PREFIX = "MyApp"


@pytest.fixture(scope="session")
def run(part: Callable[[str], str]) -> str:
    """The program that starts the node and the .NET client."""
    return part("aspnet-node")


@pytest.fixture(scope="session")
def driver(part: Callable[[str], str]) -> Iterator[JsDriver]:
    """Microsoft's JavaScript client in Node."""
    part("node-modules")
    with JsDriver(part("node")) as running:
        yield running


@pytest.fixture(scope="session")
def redis(run: str) -> Iterator[RedisServer]:
    """The server between them."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def theirs(run: str, redis: RedisServer) -> Iterator[AspNetNode]:
    """The ASP.NET Core node."""
    with AspNetNode(run, f"{redis.configuration},abortConnect=false", PREFIX) as node:
        assert eventually(node.redis_connected)
        yield node


@pytest.fixture(scope="session")
def ours(redis: RedisServer) -> Iterator[HubNode]:
    """The hubplane node."""
    with HubNode(redis.configuration, PREFIX, "ours") as node:
        yield node


@pytest.fixture(scope="session")
def fleet(redis: RedisServer) -> Iterator[FleetNode]:
    """A second hubplane node, which can be told to act from outside a hub method, as the ASP.NET Core node can."""
    with FleetNode(redis.configuration, PREFIX) as node:
        assert eventually(node.redis_connected)
        yield node
