"""Facts about what telemetry is told when the server gives a client up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import TransportKind
from hubplane.endpoint.endpoint import HubEndpoint, HubRuntime, HubSettings
from hubplane.hubs.hub import Hub
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.telemetry.base import DROPPED_CONNECTIONS, Telemetry
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingTransport


class QuietHub(Hub):
    """Has no methods."""


class Told(Telemetry):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.log: list[object] = []

    def connection_started(self, transport: str) -> None:
        self.log.append(transport)

    def connection_stopped(self, transport: str, status: str, seconds: float) -> None:
        self.log.append((transport, status, seconds))

    def count(self, name: str, tags: Mapping[str, str]) -> None:
        self.log.append((name, dict(tags)))


class Served:
    """One connection of a hub, on a fake clock."""

    def __init__(self, **transport_options: Any) -> None:
        self.clock = FakeClock()
        self.told = Told()
        runtime = HubRuntime(
            protocols=(JsonHubProtocol(),), cork=Cork(), clock=self.clock, ids=SeededIds(), telemetry=self.told
        )
        self.endpoint = HubEndpoint(
            QuietHub,
            "QuietHub",
            lifetime=LocalHubLifetimeManager(protocols=runtime.protocols, ids=runtime.ids),
            settings=HubSettings(options=HubOptions(), transport_options=TransportOptions(**transport_options)),
            runtime=runtime,
        )
        self.transport = RecordingTransport()

    async def connect(self) -> tuple[HubConnection, asyncio.Task[None]]:
        """A client that has shaken hands."""
        request = ConnectionRequest({"type": "websocket", "path": "/quiet", "headers": [], "query_string": b""})
        entry = self.endpoint.registry.add("token", "c1")
        self.endpoint.registry.claim(entry, TransportKind.WEB_SOCKETS)
        connection = entry.connection = self.endpoint.connect(request, "c1")
        connection.attach(self.transport)
        connection.data_received(b'{"protocol":"json","version":1}\x1e')
        task = asyncio.get_running_loop().create_task(self.endpoint.serve(connection))
        for _ in range(10):
            await asyncio.sleep(0)
        return connection, task


async def test_a_slow_client_is_counted() -> None:
    """A client over its outbound limit is dropped as a slow consumer."""
    served = Served(outbound_buffer_limit=100)
    async with served.endpoint.run(grace=1):
        connection, task = await served.connect()
        connection.pause_writing()
        connection.write(b"x" * 101)
        await task
    assert served.told.log[:2] == ["web_sockets", (DROPPED_CONNECTIONS, {"hubplane.reason": "slow_consumer"})]


@pytest.mark.parametrize(
    ("reason", "seconds"), [("send_timeout", 10.5), ("client_timeout", 30.5), ("authentication_expired", 5)]
)
async def test_a_client_that_is_given_up_is_counted(reason: str, seconds: float) -> None:
    """So is one that takes no bytes, is silent, or whose login has expired."""
    served = Served()
    async with served.endpoint.run(grace=1):
        connection, task = await served.connect()
        if reason == "send_timeout":
            connection.pause_writing()
        elif reason == "client_timeout":
            connection.data_received(b'{"type":6}\x1e')
        else:
            connection.expires_at = served.clock.monotonic() + seconds
        connection.tick(served.clock.monotonic())
        served.clock.advance(seconds)
        connection.tick(served.clock.monotonic())
        await task
    assert (DROPPED_CONNECTIONS, {"hubplane.reason": reason}) in served.told.log


@pytest.mark.row("B154")
async def test_a_client_that_left_before_the_shutdown_left_by_itself() -> None:
    """Who ends first decides: a shutdown counts for those who were there; each is counted out once."""
    served = Served()
    async with served.endpoint.run(grace=1):
        connection, task = await served.connect()
        served.clock.advance(2)
        connection.transport_lost(None)
        connection.shutting_down()
        await task
    assert served.told.log == ["web_sockets", ("web_sockets", "normal_closure", 2.0)]
    served = Served()
    async with served.endpoint.run(grace=1):
        connection, task = await served.connect()
    await task
    assert served.told.log == ["web_sockets", ("web_sockets", "app_shutdown", 0.0)]
