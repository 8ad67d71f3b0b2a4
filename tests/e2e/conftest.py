"""What the end-to-end tests share: one Redis-compatible server, one Node process with Microsoft's client, two nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.e2e.clients import JsDriver
from tests.e2e.nodes import HubNode

from hubplane.testing.redis_server import RedisServer

PREFIX = "e2e:"


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """A server that stays up for the whole run; tests of outages start their own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def driver(part: Callable[[str], str]) -> Iterator[JsDriver]:
    """Microsoft's JavaScript client in Node."""
    part("node-modules")
    with JsDriver(part("node")) as running:
        yield running


@pytest.fixture(scope="session")
def pair(redis: RedisServer) -> Iterator[tuple[HubNode, HubNode]]:
    """Two nodes of one fleet; the second shows detailed errors."""
    with (
        HubNode(redis.configuration, PREFIX, "one") as one,
        HubNode(redis.configuration, PREFIX, "two", detailed_errors=True) as two,
    ):
        yield one, two
